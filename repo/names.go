package repo

import (
	"encoding/json"
	"strings"
)

// JoinNames makes one text of a list, for stores that have no lists. It is a JSON
// array, or null.
func JoinNames(names []string) string {
	text, err := json.Marshal(names)
	if err != nil {
		panic(err) // strings can always be marshalled
	}
	return string(text)
}

// SplitNames is the reverse of JoinNames. Records are read on the way of every
// request, where decoding JSON would cost more than all the rest of a record, so
// it takes apart by hand what needs no unquoting.
func SplitNames(text string) ([]string, error) {
	if text == "null" {
		return nil, nil
	}
	const open, between, end = `["`, `","`, `"]`
	if inner, ok := strings.CutPrefix(text, open); ok && !strings.Contains(inner, `\`) {
		if inner, ok = strings.CutSuffix(inner, end); ok && strings.Count(inner, `"`) == 2*strings.Count(inner, between) {
			return strings.Split(inner, between), nil
		}
	}
	var names []string
	err := json.Unmarshal([]byte(text), &names)
	return names, err
}
