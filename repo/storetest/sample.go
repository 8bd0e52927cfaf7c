package storetest

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"cloakroom/domain"
)

// epoch is where the times of samples begin: far enough ahead that no store's
// server removes them meanwhile.
var epoch = time.Now().UTC().Truncate(time.Millisecond).Add(24 * time.Hour)

// sample returns a record whose every field has a value of its own, different
// from all other fields' and from those of the samples of other numbers. It
// walks the structs by reflection, so that a field added to domain.Record is
// tested without being named here.
func sample(n int) domain.Record {
	var r domain.Record
	leaf := n * 1000
	fill(reflect.ValueOf(&r).Elem(), &leaf)
	return r
}

// samples returns n records of different devices from the number first on.
func samples(first, n int) []domain.Record {
	var all []domain.Record
	for i := range n {
		all = append(all, sample(first+i))
	}
	return all
}

func fill(v reflect.Value, leaf *int) {
	*leaf++
	n := *leaf
	switch v.Addr().Interface().(type) {
	case *domain.Secret:
		// A token is bytes to a store, even before it is sealed.
		v.Set(reflect.ValueOf(domain.NewSecret(fmt.Sprintf("token %d \x00\xff\xfe'\"%%", n))))
		return
	case *time.Time:
		v.Set(reflect.ValueOf(epoch.Add(time.Duration(n) * 1001 * time.Millisecond)))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), leaf)
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d, ünï \"quoted\" 'n' %%_*?{}[]:\\ \t\n 日本 🧥", n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(n))
	case reflect.Array: // of bytes: ids and hashes
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
		reflect.Copy(v, reflect.ValueOf(sum[:v.Len()]))
	case reflect.Slice: // of strings
		v.Set(reflect.ValueOf([]string{fmt.Sprintf("name %d", n), "a, b", "", `["c"]`, "ü"}))
	default:
		panic(fmt.Sprintf("storetest: fill does not know %v", v.Type()))
	}
}

// bare returns a record with nothing in it that can be missing.
func bare(n int) domain.Record {
	full := sample(n)
	return domain.Record{DeviceID: full.DeviceID, TicketHash: full.TicketHash, ExpiresAt: full.ExpiresAt}
}

// listed returns the record as it stands in lists: without its Secrets.
func listed(r domain.Record) domain.Record {
	t := &r.Tokens
	t.Access, t.Refresh, t.ID, t.DPoPKey = domain.Secret{}, domain.Secret{}, domain.Secret{}, domain.Secret{}
	return r
}

// differences tells in which fields two records differ. No slice and an empty
// one are the same; times are the same only if both are in UTC.
func differences(got, want domain.Record) []string {
	var found []string
	compare("", reflect.ValueOf(got), reflect.ValueOf(want), &found)
	return found
}

func compare(path string, got, want reflect.Value, found *[]string) {
	same := true
	switch g := got.Interface().(type) {
	case domain.Secret:
		same = g.Equal(want.Interface().(domain.Secret))
	case time.Time:
		same = g.Equal(want.Interface().(time.Time)) && g.Location() == time.UTC
	case []string:
		same = slices.Equal(g, want.Interface().([]string))
	default:
		if got.Kind() == reflect.Struct {
			for i := range got.NumField() {
				compare(path+"."+got.Type().Field(i).Name, got.Field(i), want.Field(i), found)
			}
			return
		}
		same = got.Interface() == want.Interface()
	}
	if !same {
		*found = append(*found, fmt.Sprintf("%s is %v, want %v", strings.TrimPrefix(path, "."), got, want))
	}
}
