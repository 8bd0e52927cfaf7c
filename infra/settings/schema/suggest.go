package schema

import "strings"

// didYouMean returns the end of a message about an unknown name: the nearest
// known one if there is one near enough to be meant, else where to find all.
func didYouMean(name string, known []string) string {
	best, distance := "", max(2, len(squash(name))/4)+1
	for _, k := range known {
		if d := editDistance(squash(name), squash(k)); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return "; take it out, or look the name up with --help"
	}
	return "; did you mean " + best + "?"
}

// squash takes out what people get wrong without meaning another name: capitals,
// and hyphens, underscores and dots between words.
func squash(name string) string {
	return strings.NewReplacer("-", "", "_", "", ".", "").Replace(strings.ToLower(name))
}

// editDistance counts the letters that have to be put in, taken out or changed
// to turn a into b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
