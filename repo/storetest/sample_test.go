package storetest

import (
	"reflect"
	"strings"
	"testing"

	"cloakroom/domain"
)

// leaves returns the paths of all fields of a record.
func leaves(t reflect.Type, path string) []string {
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[domain.Secret]() || t.String() == "time.Time" {
		return []string{path}
	}
	var all []string
	for i := range t.NumField() {
		all = append(all, leaves(t.Field(i).Type, strings.TrimPrefix(path+"."+t.Field(i).Name, "."))...)
	}
	return all
}

func TestSampleFillsEveryFieldAndDifferencesSeesIt(t *testing.T) {
	all := leaves(reflect.TypeFor[domain.Record](), "")
	if len(all) < 25 {
		t.Fatalf("found only the fields %v", all)
	}
	var zero domain.Record
	found := strings.Join(differences(sample(1), zero), "\n")
	for _, path := range all {
		if !strings.Contains(found, path+" is ") {
			t.Errorf("%s is not filled, or its difference not seen", path)
		}
	}
	if strings.Contains(found, "token 1") {
		t.Error("a difference shows a token")
	}
	if d := differences(sample(1), sample(1)); len(d) != 0 {
		t.Errorf("a record differs from itself: %v", d)
	}
}

func TestSamplesDifferInEveryFieldButTheFlags(t *testing.T) {
	found := strings.Join(differences(sample(1), sample(2)), "\n")
	for _, path := range leaves(reflect.TypeFor[domain.Record](), "") {
		if flag := path == "EmailVerified" || path == "Persistent"; strings.Contains(found, path+" is ") == flag {
			t.Errorf("%s: differs = %v", path, !flag)
		}
	}
}
