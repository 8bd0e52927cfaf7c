package web

import (
	"strings"
	"testing"
	"unicode"
)

func TestDescribe(t *testing.T) {
	for _, c := range []struct {
		name      string
		userAgent string
		want      Browser
	}{
		{"Chrome on Windows", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
			Browser{"Chrome", "131.0.0.0", "Windows", "desktop"}},
		{"Chrome on macOS", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
			Browser{"Chrome", "131.0.0.0", "macOS", "desktop"}},
		{"Chrome on Linux", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
			Browser{"Chrome", "131.0.0.0", "Linux", "desktop"}},
		{"Chrome on ChromeOS", "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
			Browser{"Chrome", "131.0.0.0", "ChromeOS", "desktop"}},
		{"Chrome on a phone", "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Mobile Safari/537.36",
			Browser{"Chrome", "131.0.0.0", "Android", "phone"}},
		{"Chrome on a tablet", "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
			Browser{"Chrome", "131.0.0.0", "Android", "tablet"}},
		{"Chrome on an iPhone", "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/131.0.6778.73 Mobile/15E148 Safari/604.1",
			Browser{"Chrome", "131.0.6778.73", "iOS", "phone"}},
		{"headless Chrome", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/131.0.0.0 Safari/537.36",
			Browser{"Headless Chrome", "131.0.0.0", "Linux", "desktop"}},
		{"Firefox on Windows", "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:133.0) Gecko/20100101 Firefox/133.0",
			Browser{"Firefox", "133.0", "Windows", "desktop"}},
		{"Firefox on macOS", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:133.0) Gecko/20100101 Firefox/133.0",
			Browser{"Firefox", "133.0", "macOS", "desktop"}},
		{"Firefox on Linux", "Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0",
			Browser{"Firefox", "133.0", "Linux", "desktop"}},
		{"Firefox on Ubuntu", "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0",
			Browser{"Firefox", "133.0", "Linux", "desktop"}},
		{"Firefox on a phone", "Mozilla/5.0 (Android 14; Mobile; rv:133.0) Gecko/133.0 Firefox/133.0",
			Browser{"Firefox", "133.0", "Android", "phone"}},
		{"Firefox on a tablet", "Mozilla/5.0 (Android 14; Tablet; rv:133.0) Gecko/133.0 Firefox/133.0",
			Browser{"Firefox", "133.0", "Android", "tablet"}},
		{"Firefox on an iPhone", "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/133.0 Mobile/15E148 Safari/605.1.15",
			Browser{"Firefox", "133.0", "iOS", "phone"}},
		{"Safari on macOS", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15",
			Browser{"Safari", "18.1", "macOS", "desktop"}},
		{"Safari on an iPhone", "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1",
			Browser{"Safari", "18.1", "iOS", "phone"}},
		{"Safari on an iPad", "Mozilla/5.0 (iPad; CPU OS 17_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.7 Mobile/15E148 Safari/604.1",
			Browser{"Safari", "17.7", "iPadOS", "tablet"}},
		{"Edge on Windows", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36 Edg/131.0.2903.70",
			Browser{"Edge", "131.0.2903.70", "Windows", "desktop"}},
		{"Edge on macOS", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36 Edg/131.0.2903.70",
			Browser{"Edge", "131.0.2903.70", "macOS", "desktop"}},
		{"Edge on a phone", "Mozilla/5.0 (Linux; Android 10; HD1913) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.6778.81 Mobile Safari/537.36 EdgA/131.0.2903.48",
			Browser{"Edge", "131.0.2903.48", "Android", "phone"}},
		{"Opera on Windows", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36 OPR/115.0.0.0",
			Browser{"Opera", "115.0.0.0", "Windows", "desktop"}},
		{"Samsung Internet", "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/27.0 Chrome/125.0.0.0 Mobile Safari/537.36",
			Browser{"Samsung Internet", "27.0", "Android", "phone"}},
		{"curl", "curl/8.11.0", Browser{"curl", "8.11.0", "", "other"}},
		{"a Go program", "Go-http-client/1.1", Browser{"Go program", "1.1", "", "other"}},

		{"nothing", "", Browser{"Unknown browser", "", "", "other"}},
		{"a lie", "your own phone/1.0", Browser{"Unknown browser", "", "", "other"}},
		{"a lie on a known system", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) safe/1.0", Browser{"Unknown browser", "", "Windows", "desktop"}},
		{"a script", "<script>alert(1)</script>", Browser{"Unknown browser", "", "", "other"}},
		{"a known name with a lie for a version", "curl/1.0<script>", Browser{"curl", "1.0", "", "other"}},
		{"a known name with words for a version", "curl/yours", Browser{"curl", "", "", "other"}},
		{"a number without end", "curl/" + strings.Repeat("9", 400), Browser{"curl", "99999", "", "other"}},
		{"a text without end", strings.Repeat("a", 1<<20), Browser{"Unknown browser", "", "", "other"}},
		{"no text at all", "\xff\xfe\x00\x01", Browser{"Unknown browser", "", "", "other"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Describe(c.userAgent); got != c.want {
				t.Errorf("Describe(%.200q) = %+v, want %+v", c.userAgent, got, c.want)
			}
		})
	}
}

func TestBrowserReadsAsPeopleSayIt(t *testing.T) {
	for want, b := range map[string]Browser{
		"Chrome on macOS":            {Name: "Chrome", System: "macOS"},
		"curl":                       {Name: "curl"},
		"Unknown browser on Windows": {System: "Windows"},
		"Unknown browser":            {},
	} {
		if got := b.String(); got != want {
			t.Errorf("%+v reads %q, want %q", b, got, want)
		}
	}
}

func FuzzDescribe(f *testing.F) {
	for _, seed := range []string{"", "curl/8.0", "Mozilla/5.0 (X11; CrOS x86_64 1) Chrome/1", "Mozilla/5.0 (Linux; Android", "Android (;;;[", "http://x:/ Opera Mini/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, userAgent string) {
		b := Describe(userAgent)
		if b.Name == "" || b.Kind == "" {
			t.Errorf("Describe(%q) = %+v", userAgent, b)
		}
		for _, s := range []string{b.Name, b.Version, b.System, b.Kind} {
			if len(s) > 32 || strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII || strings.ContainsRune(`<>"'&`, r) }) {
				t.Errorf("Describe(%q) gives %q", userAgent, s)
			}
		}
	})
}
