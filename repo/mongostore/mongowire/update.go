package mongowire

import (
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// updated returns a document as update operators change it. Operators that
// would touch one field twice are refused, as MongoDB refuses them.
func updated(d bson.D, operators bson.D, inserting bool) (bson.D, error) {
	out := slices.Clone(d)
	touched := make(map[string]bool)
	for _, operator := range operators {
		if !strings.HasPrefix(operator.Key, "$") {
			return nil, fail(9, "FailedToParse", "the update must only have operators")
		}
		for _, e := range document(operator.Value) {
			if strings.Contains(e.Key, ".") {
				return nil, fail(2, "BadValue", "mongowire: no paths in updates: %s", e.Key)
			}
			if touched[e.Key] {
				return nil, fail(40, "ConflictingUpdateOperators", "Updating the path '%s' would create a conflict at '%s'", e.Key, e.Key)
			}
			touched[e.Key] = true
			var err error
			if out, err = operate(out, operator.Key, e, inserting); err != nil {
				return nil, err
			}
		}
	}
	if id, found := lookup(d, "_id"); found && compare(id, field(out, "_id")) != 0 {
		return nil, fail(66, "ImmutableField", "Performing an update on the path '_id' would modify the immutable field '_id'")
	}
	return out, nil
}

func operate(d bson.D, operator string, e bson.E, inserting bool) (bson.D, error) {
	old, found := lookup(d, e.Key)
	switch operator {
	case "$set":
		return with(d, e.Key, e.Value), nil
	case "$setOnInsert":
		if inserting {
			return with(d, e.Key, e.Value), nil
		}
	case "$unset":
		return without(d, e.Key), nil
	case "$max":
		if !found || compare(e.Value, old) > 0 {
			return with(d, e.Key, e.Value), nil
		}
	case "$currentDate":
		return with(d, e.Key, bson.NewDateTimeFromTime(time.Now())), nil
	case "$inc":
		if !found {
			return with(d, e.Key, e.Value), nil
		}
		if rank(old) != rank(int64(0)) || !isWhole(old) || !isWhole(e.Value) {
			return nil, fail(14, "TypeMismatch", "Cannot apply $inc to a value of non-numeric type")
		}
		return with(d, e.Key, integer(old)+integer(e.Value)), nil
	case "$pull":
		if !found {
			return d, nil
		}
		a, ok := old.(bson.A)
		if !ok {
			return nil, fail(2, "BadValue", "Cannot apply $pull to a non-array value")
		}
		return with(d, e.Key, slices.DeleteFunc(slices.Clone(a), func(v any) bool { return compare(v, e.Value) == 0 })), nil
	default:
		return nil, fail(9, "FailedToParse", "Unknown modifier: %s", operator)
	}
	return d, nil
}

// upserted returns the document that an upsert makes where its filter has found
// none.
func upserted(filter, operators bson.D) (bson.D, error) {
	base := bson.D{}
	for _, e := range filter {
		condition := document(e.Value)
		if !strings.HasPrefix(e.Key, "$") && (len(condition) == 0 || !strings.HasPrefix(condition[0].Key, "$")) {
			base = append(base, e)
		}
	}
	return updated(base, operators, true)
}
