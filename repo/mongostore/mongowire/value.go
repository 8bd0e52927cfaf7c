package mongowire

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// document, array, text, integer and truth read a value as what it should be,
// or as nothing.
func document(v any) bson.D { d, _ := v.(bson.D); return d }
func array(v any) bson.A    { a, _ := v.(bson.A); return a }
func text(v any) string     { s, _ := v.(string); return s }

func integer(v any) int64 {
	switch n := v.(type) {
	case int32:
		return int64(n)
	case int64:
		return n
	case float64:
		return int64(n)
	}
	return 0
}

func truth(v any) bool {
	if b, ok := v.(bool); ok {
		return b
	}
	return integer(v) != 0
}

// field returns a document's field, or nil.
func field(d bson.D, name string) any {
	v, _ := lookup(d, name)
	return v
}

// lookup follows a path with dots through documents, not into arrays.
func lookup(d bson.D, path string) (any, bool) {
	name, rest, deeper := strings.Cut(path, ".")
	i := index(d, name)
	switch {
	case i < 0:
		return nil, false
	case deeper:
		return lookup(document(d[i].Value), rest)
	}
	return d[i].Value, true
}

func index(d bson.D, name string) int {
	return slices.IndexFunc(d, func(e bson.E) bool { return e.Key == name })
}

// with returns d, changed in place, with a field set.
func with(d bson.D, name string, v any) bson.D {
	if i := index(d, name); i >= 0 {
		d[i].Value = v
		return d
	}
	return append(d, bson.E{Key: name, Value: v})
}

// without returns d, changed in place, without a field.
func without(d bson.D, name string) bson.D {
	return slices.DeleteFunc(d, func(e bson.E) bool { return e.Key == name })
}

// rank is the place of a value's type in MongoDB's order of types.
func rank(v any) int {
	switch v.(type) {
	case nil:
		return 1
	case int32, int64, float64:
		return 2
	case string:
		return 3
	case bson.D:
		return 4
	case bson.A:
		return 5
	case bson.Binary:
		return 6
	case bson.ObjectID:
		return 7
	case bool:
		return 8
	case bson.DateTime:
		return 9
	}
	return 100
}

// compare orders values as MongoDB does. Values of types that it does not know
// are all alike.
func compare(a, b any) int {
	if c := cmp.Compare(rank(a), rank(b)); c != 0 {
		return c
	}
	switch x := a.(type) {
	case int32, int64, float64:
		if isWhole(a) && isWhole(b) {
			return cmp.Compare(integer(a), integer(b))
		}
		return cmp.Compare(float(a), float(b))
	case string:
		return strings.Compare(x, b.(string))
	case bson.D:
		return slices.CompareFunc(x, b.(bson.D), func(e, f bson.E) int {
			return cmp.Or(cmp.Compare(rank(e.Value), rank(f.Value)), strings.Compare(e.Key, f.Key), compare(e.Value, f.Value))
		})
	case bson.A:
		return slices.CompareFunc(x, b.(bson.A), compare)
	case bson.Binary:
		y := b.(bson.Binary)
		return cmp.Or(cmp.Compare(len(x.Data), len(y.Data)), cmp.Compare(x.Subtype, y.Subtype), bytes.Compare(x.Data, y.Data))
	case bson.ObjectID:
		y := b.(bson.ObjectID)
		return bytes.Compare(x[:], y[:])
	case bool:
		return cmp.Compare(map[bool]int{true: 1}[x], map[bool]int{true: 1}[b.(bool)])
	case bson.DateTime:
		return cmp.Compare(x, b.(bson.DateTime))
	}
	return 0
}

func isWhole(v any) bool { _, broken := v.(float64); return !broken }

func float(v any) float64 {
	if f, ok := v.(float64); ok {
		return f
	}
	return float64(integer(v))
}
