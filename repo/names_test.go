package repo

import (
	"slices"
	"strings"
	"testing"
)

func TestNamesComeBack(t *testing.T) {
	for _, names := range [][]string{
		nil, {""}, {"user"}, {"user", "admin"}, {"", ""}, {`","`}, {`"`, `\`, "<a&b>"}, {"a\nb", "\x00"}, {"ä", "名"}, {",", "["}, {"]"},
	} {
		got, err := SplitNames(JoinNames(names))
		if err != nil || !slices.Equal(got, names) {
			t.Errorf("%q came back as %q, %v", names, got, err)
		}
	}
	for _, text := range []string{"x", `["a`, `["a"b"]`, `["a" "b"]`, "{}", `["a",1]`} {
		if got, err := SplitNames(text); err == nil {
			t.Errorf("%s was read as %q", text, got)
		}
	}
}

func FuzzNames(f *testing.F) {
	f.Add("user", "admin")
	f.Add(`","`, `\`)
	f.Add("<", "\n")
	f.Fuzz(func(t *testing.T, a, b string) {
		names := []string{a, b}
		for i := range names {
			names[i] = strings.ToValidUTF8(names[i], "?")
		}
		got, err := SplitNames(JoinNames(names))
		if err != nil || !slices.Equal(got, names) {
			t.Errorf("%q came back as %q, %v", names, got, err)
		}
	})
}

func BenchmarkSplitNames(b *testing.B) {
	text := JoinNames([]string{"user", "admin"})
	for b.Loop() {
		if _, err := SplitNames(text); err != nil {
			b.Fatal(err)
		}
	}
}
