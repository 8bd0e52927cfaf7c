package mongowire

import (
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// matches reports whether a document fits a filter.
func matches(d bson.D, filter bson.D) (bool, error) {
	for _, e := range filter {
		var fits bool
		var err error
		switch {
		case e.Key == "$or", e.Key == "$and":
			fits, err = matchesSome(d, array(e.Value), e.Key == "$and")
		case strings.HasPrefix(e.Key, "$"):
			err = fail(2, "BadValue", "unknown top level operator: %s", e.Key)
		default:
			fits, err = fitsCondition(d, e.Key, e.Value)
		}
		if err != nil || !fits {
			return false, err
		}
	}
	return true, nil
}

func matchesSome(d bson.D, filters bson.A, all bool) (bool, error) {
	if len(filters) == 0 {
		return false, fail(2, "BadValue", "$and/$or/$nor must be a nonempty array")
	}
	for _, f := range filters {
		fits, err := matches(d, document(f))
		if err != nil || fits != all {
			return fits, err
		}
	}
	return all, nil
}

func fitsCondition(d bson.D, path string, condition any) (bool, error) {
	value, found := lookup(d, path)
	operators := document(condition)
	if len(operators) == 0 || !strings.HasPrefix(operators[0].Key, "$") {
		return equals(value, condition), nil
	}
	for _, o := range operators {
		var fits bool
		switch o.Key {
		case "$eq":
			fits = equals(value, o.Value)
		case "$ne":
			fits = !equals(value, o.Value)
		case "$lt":
			fits = ordered(value, o.Value, func(c int) bool { return c < 0 })
		case "$lte":
			fits = ordered(value, o.Value, func(c int) bool { return c <= 0 })
		case "$gt":
			fits = ordered(value, o.Value, func(c int) bool { return c > 0 })
		case "$gte":
			fits = ordered(value, o.Value, func(c int) bool { return c >= 0 })
		case "$exists":
			fits = found == truth(o.Value)
		case "$in":
			fits = slices.ContainsFunc(array(o.Value), func(v any) bool { return equals(value, v) })
		default:
			return false, fail(2, "BadValue", "unknown operator: %s", o.Key)
		}
		if !fits {
			return false, nil
		}
	}
	return true, nil
}

// equals reports whether a field's value is the one wanted, or an array that
// holds it. What is missing equals null.
func equals(value, wanted any) bool {
	return compare(value, wanted) == 0 ||
		slices.ContainsFunc(array(value), func(v any) bool { return compare(v, wanted) == 0 })
}

// ordered compares values of one type; those of different types do not compare.
func ordered(value, with any, holds func(int) bool) bool {
	if a, ok := value.(bson.A); ok && rank(with) != rank(value) {
		return slices.ContainsFunc(a, func(v any) bool { return ordered(v, with, holds) })
	}
	return rank(value) == rank(with) && holds(compare(value, with))
}

// sorted orders documents by the fields of a sort specification.
func sorted(documents []bson.D, by bson.D) {
	slices.SortStableFunc(documents, func(a, b bson.D) int {
		for _, k := range by {
			if c := compare(field(a, k.Key), field(b, k.Key)); c != 0 {
				return c * int(integer(k.Value))
			}
		}
		return 0
	})
}

// project returns what a projection leaves of a document: the fields that it
// names with 1, and _id, or all but those that it names with 0.
func project(d bson.D, fields bson.D) bson.D {
	if len(fields) == 0 {
		return d
	}
	including := slices.ContainsFunc(fields, func(e bson.E) bool { return e.Key != "_id" && truth(e.Value) })
	out := bson.D{}
	for _, e := range d {
		named, below := false, bson.D{}
		keep := including && e.Key == "_id"
		for _, f := range fields {
			if f.Key == e.Key {
				named, keep = true, truth(f.Value)
			} else if rest, under := strings.CutPrefix(f.Key, e.Key+"."); under {
				below = append(below, bson.E{Key: rest, Value: f.Value})
			}
		}
		switch {
		case len(below) > 0:
			out = append(out, bson.E{Key: e.Key, Value: project(document(e.Value), below)})
		case keep, !named && !including:
			out = append(out, e)
		}
	}
	return out
}
