package web

import (
	"regexp"
	"strings"

	"github.com/mileusna/useragent"
)

// unknownBrowser stands wherever a browser's name is not known.
const unknownBrowser = "Unknown browser"

// longestUserAgent is how much of a browser's description is looked at, in bytes.
const longestUserAgent = 512

// Browser is what a browser says of itself, in words that are safe to show.
type Browser struct {
	Name    string // never empty
	Version string // digits and dots, at most 24 of them; may be empty
	System  string // the operating system; may be empty
	Kind    string // desktop, phone, tablet or other
}

// String names the browser as people do: "Chrome on macOS".
func (b Browser) String() string {
	switch {
	case b.Name == "" && b.System == "":
		return unknownBrowser
	case b.Name == "":
		return unknownBrowser + " on " + b.System
	case b.System == "":
		return b.Name
	}
	return b.Name + " on " + b.System
}

// The names that Describe gives, by the names of package useragent.
var (
	browserNames = map[string]string{
		useragent.Chrome:           "Chrome",
		useragent.HeadlessChrome:   "Headless Chrome",
		useragent.Firefox:          "Firefox",
		useragent.Safari:           "Safari",
		useragent.Edge:             "Edge",
		useragent.Opera:            "Opera",
		useragent.OperaMini:        "Opera Mini",
		useragent.OperaTouch:       "Opera Touch",
		useragent.Vivaldi:          "Vivaldi",
		useragent.InternetExplorer: "Internet Explorer",
		useragent.SamsungBrowser:   "Samsung Internet",
		"Huawei Browser":           "Huawei Browser",
		"Miui Browser":             "Mi Browser",
		"YaBrowser":                "Yandex Browser",
		"Brave":                    "Brave",
		"DuckDuckGo":               "DuckDuckGo",
		"Ddg":                      "DuckDuckGo",
		"UCBrowser":                "UC Browser",
		"Whale":                    "Whale",
		"Electron":                 "Electron app",
		useragent.FacebookApp:      "Facebook app",
		useragent.InstagramApp:     "Instagram app",
		useragent.TiktokApp:        "TikTok app",
		"curl":                     "curl",
		"Wget":                     "Wget",
		"HTTPie":                   "HTTPie",
		"PostmanRuntime":           "Postman",
		"insomnia":                 "Insomnia",
		"python-requests":          "Python requests",
		"python-httpx":             "Python httpx",
		"Go-http-client":           "Go program",
		"okhttp":                   "OkHttp",
		"axios":                    "axios",
		"node":                     "Node.js",
	}
	systemNames = map[string]string{
		useragent.Windows:      "Windows",
		useragent.WindowsPhone: "Windows Phone",
		useragent.MacOS:        "macOS",
		useragent.IOS:          "iOS",
		useragent.Android:      "Android",
		useragent.Linux:        "Linux",
		useragent.FreeBSD:      "FreeBSD",
		useragent.ChromeOS:     "ChromeOS",
		useragent.BlackBerry:   "BlackBerry",
		useragent.Harmony:      "HarmonyOS",
	}
	versionForm = regexp.MustCompile(`^[0-9]{1,5}(\.[0-9]{1,5}){0,3}`)
)

// Describe reads a User-Agent header. Anybody can send any text there, and an
// intruder would like a card that reads "your own phone" on the victim's page:
// so names are only given, never repeated. A browser that is none of ours has
// the name "Unknown browser", and whatever the header's length, all fields are
// short.
func Describe(userAgent string) Browser {
	ua := useragent.Parse(userAgent[:min(len(userAgent), longestUserAgent)])
	b := Browser{
		Name:   browserNames[ua.Name],
		System: systemNames[ua.OS],
		Kind:   "other",
	}
	if b.Name == "" {
		b.Name = unknownBrowser
	} else {
		b.Version = versionForm.FindString(ua.Version)
	}
	if ua.Device == "iPad" {
		b.System = "iPadOS"
	}
	switch {
	case ua.Tablet, ua.OS == useragent.Android && !strings.Contains(userAgent, "Mobile"):
		b.Kind = "tablet" // on Android, what does not say Mobile is none
	case ua.Mobile:
		b.Kind = "phone"
	case ua.Desktop:
		b.Kind = "desktop"
	}
	return b
}
