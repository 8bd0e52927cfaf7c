package redisstore

import (
	"strings"
	"testing"

	"cloakroom/repo/redisstore/redistest"
)

func TestOpenRefusesALayoutItDoesNotKnow(t *testing.T) {
	s, _ := open(t, redistest.Any(t))
	key := s.config.Prefix + "layout"
	for range 2 { // where there is none, and where there is this one
		if _, err := Open(t.Context(), s.client, s.config); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.client.Get(t.Context(), key).Val(); got != "1" {
		t.Errorf("the layout is %q, want 1", got)
	}
	for found, want := range map[string]string{
		"2":   "written by a newer version of cloakroom (layout 2, this one knows 1); run that version",
		"two": "does not tell what layout",
	} {
		must(t, s.client.Set(t.Context(), key, found, 0).Err())
		if _, err := Open(t.Context(), s.client, s.config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("with layout %s: error %v, want %q", found, err, want)
		}
	}
}
