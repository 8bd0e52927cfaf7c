package web

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
)

const (
	laptopID = "9f3a02c1-0000-4000-8000-000000000001"
	phoneID  = "b71e44d0-0000-4000-8000-000000000002"
)

func laptop() Device {
	return Device{
		ID: laptopID, GivenName: "Work laptop", Name: "Chrome on macOS", Browser: "Chrome", BrowserVersion: "131.0.0.0",
		System: "macOS", Kind: "desktop", Current: true, LastSeen: noon.Add(-time.Minute), SignedIn: noon.AddDate(0, 0, -9),
		FirstSeen: noon.AddDate(-1, 0, 0), EndsAt: noon.AddDate(0, 0, 20), LastIP: "203.0.113.77", FirstIP: "198.51.100.4", Method: "Password",
	}
}

func phone() Device {
	return Device{
		ID: phoneID, Name: "Safari on iOS", Browser: "Safari", BrowserVersion: "18.1", System: "iOS", Kind: "phone", New: true,
		LastSeen: noon.Add(-12 * time.Minute), SignedIn: noon, FirstSeen: noon, EndsAt: noon.AddDate(0, 1, 0),
		LastIP: "2001:db8:85a3:8d3:1319:8a2e:370:7348", Method: "Google",
	}
}

func devicesPage(t *testing.T, page DevicesPage) []*html.Node {
	t.Helper()
	p := mustNew(t)
	if page.Now.IsZero() {
		page.Now = noon
	}
	return elements(t, func(w io.Writer) error { return p.Devices(w, page) })
}

// posts returns what the buttons of a page do: "path: words".
func posts(elements []*html.Node) []string {
	var all []string
	for _, form := range named(elements, "form") {
		for n := range form.Descendants() {
			if n.Type == html.ElementNode && n.Data == "button" {
				all = append(all, value(form, "action")+": "+text(n))
			}
		}
	}
	return all
}

func TestDevicesHeading(t *testing.T) {
	for want, devices := range map[string][]Device{
		"You are signed in nowhere.":       nil,
		"Only this device.":                {laptop()},
		"You are signed in on 1 device.":   {phone()},
		"You are signed in on 2 devices.":  {laptop(), phone()},
		"You are signed in on 12 devices.": make([]Device, 12),
	} {
		if got := text(named(devicesPage(t, DevicesPage{Devices: devices}), "h1")[0]); got != want {
			t.Errorf("heading %q, want %q", got, want)
		}
	}
}

func TestR35_DevicesPageLogsOut(t *testing.T) {
	got := posts(devicesPage(t, DevicesPage{Devices: []Device{laptop(), phone()}}))
	want := []string{
		"/auth/devices/sign-out-others: Log out everywhere else",
		"/auth/devices/sign-out-all: Log out everywhere",
		"/auth/devices/" + laptopID + "/rename: Save name",
		"/auth/devices/" + laptopID + "/sign-out: Log out of this device",
		"/auth/devices/" + phoneID + "/rename: Save name",
		"/auth/devices/" + phoneID + "/sign-out: Log out Safari on iOS",
	}
	if !slices.Equal(got, want) {
		t.Errorf("buttons\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	got = posts(devicesPage(t, DevicesPage{Devices: []Device{laptop()}}))
	if slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "sign-out-others") }) {
		t.Error("offers to log out everywhere else where there is nowhere else")
	}
}

func TestCard(t *testing.T) {
	cards := named(devicesPage(t, DevicesPage{Devices: []Device{laptop(), phone()}}), "li")
	if len(cards) != 2 {
		t.Fatalf("%d cards", len(cards))
	}
	for i, words := range [][]string{
		{"Work laptop This device", "Chrome on macOS", "Last active active now", "Address 203.0.113.77", "13 Nov", "12 Dec", "Password",
			"Browser Chrome 131.0.0.0", "Device reference 9f3a02c1", "First seen 22 Nov 2025, 12:00 UTC, from 198.51.100.4"},
		{"Safari on iOS New", "Last active 12 minutes ago", "Address 2001:db8:85a3:8d3::/64", "Last address 2001:db8:85a3:8d3:1319:8a2e:370:7348",
			"Signed in today", "Ends 22 Dec", "Google", "Browser Safari 18.1"},
	} {
		shown := wordsOf(cards[i])
		for _, w := range words {
			if !strings.Contains(shown, w) {
				t.Errorf("card %d lacks %q: %s", i, w, shown)
			}
		}
	}
	if strings.Contains(text(cards[1]), phoneID) {
		t.Error("the whole device id is shown")
	}
}

// wordsOf is the text of an element with a space between its parts.
func wordsOf(n *html.Node) string {
	var words []string
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			words = append(words, d.Data)
		}
	}
	return strings.Join(strings.Fields(strings.ReplaceAll(strings.Join(words, " "), " ,", ",")), " ")
}

func TestCardName(t *testing.T) {
	for _, c := range []struct {
		name   string
		device Device
		want   string
	}{
		{"given", Device{GivenName: "Mine", Name: "Chrome on macOS"}, "Mine"},
		{"by what it is", Device{Name: "Chrome on macOS", Browser: "Edge"}, "Chrome on macOS"},
		{"of its parts", Device{Browser: "Edge", System: "Windows"}, "Edge on Windows"},
		{"system alone", Device{System: "Windows"}, "Unknown browser on Windows"},
		{"nothing known", Device{}, "Unknown browser"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := text(named(devicesPage(t, DevicesPage{Devices: []Device{c.device}}), "h2")[0]); got != c.want {
				t.Errorf("name %q, want %q", got, c.want)
			}
		})
	}
}

func TestCardBadges(t *testing.T) {
	for want, d := range map[string]Device{
		"Edge":                      {Name: "Edge"},
		"Edge This device":          {Name: "Edge", Current: true},
		"Edge New":                  {Name: "Edge", New: true},
		"Edge Not seen for 90 days": {Name: "Edge", Stale: true},
		"Edge This device New":      {Name: "Edge", Current: true, New: true},
	} {
		if got := text(named(devicesPage(t, DevicesPage{Devices: []Device{d}}), "h2")[0]); got != want {
			t.Errorf("title %q, want %q", got, want)
		}
	}
}

func TestCardIconFollowsTheKind(t *testing.T) {
	seen := map[string]string{}
	for _, kind := range []string{"desktop", "phone", "tablet", "other"} {
		icon := named(devicesPage(t, DevicesPage{Devices: []Device{{Kind: kind}}}), "svg")[0]
		var b strings.Builder
		if err := html.Render(&b, icon); err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[b.String()]; ok {
			t.Errorf("%s looks like %s", kind, other)
		}
		seen[b.String()] = kind
	}
}

// Whatever the id, the forms of a card stay below its device.
func TestCardPathIsOneSegment(t *testing.T) {
	d := laptop()
	d.ID = "../sign-out-all?x=/#"
	got := posts(devicesPage(t, DevicesPage{Devices: []Device{d}}))
	if want := "/auth/devices/..%2Fsign-out-all%3Fx=%2F%23/sign-out: Log out of this device"; got[len(got)-1] != want {
		t.Errorf("posts to %q, want %q", got[len(got)-1], want)
	}
}

func TestRenameForm(t *testing.T) {
	for i, n := range named(devicesPage(t, DevicesPage{Devices: []Device{laptop(), phone()}}), "input") {
		if value(n, "name") != "name" || value(n, "maxlength") != "60" {
			t.Errorf("field %q of at most %s", value(n, "name"), value(n, "maxlength"))
		}
		if want := []string{"Work laptop", ""}[i]; value(n, "value") != want {
			t.Errorf("holds %q, want %q", value(n, "value"), want)
		}
	}
}

func TestLoggingOutOthersIsAskedFirst(t *testing.T) {
	for _, form := range named(devicesPage(t, DevicesPage{Devices: []Device{laptop(), phone()}}), "form") {
		action, question := value(form, "action"), value(form, "data-confirm")
		want := strings.Contains(action, "sign-out") && !strings.Contains(action, laptopID)
		if got := question != ""; got != want {
			t.Errorf("%s asks %q", action, question)
		}
		if strings.Contains(action, phoneID+"/sign-out") && !strings.Contains(question, "Safari on iOS") {
			t.Errorf("the question does not name the device: %q", question)
		}
	}
}

func TestNoticeIsALiveRegion(t *testing.T) {
	for _, notice := range []string{"", "Firefox on Linux is signed out."} {
		var regions []*html.Node
		for _, n := range devicesPage(t, DevicesPage{Notice: notice}) {
			if value(n, "role") == "status" {
				regions = append(regions, n)
			}
		}
		if len(regions) != 1 || text(regions[0]) != notice {
			t.Fatalf("notice %q: %d regions", notice, len(regions))
		}
		if _, focused := attr(regions[0], "autofocus"); focused != (notice != "") {
			t.Errorf("notice %q takes the focus: %v", notice, focused)
		}
	}
}

func TestTimesCarryTheirMoment(t *testing.T) {
	for _, n := range named(devicesPage(t, DevicesPage{Devices: []Device{laptop()}}), "time") {
		if _, exact := attr(n, "data-exact"); !exact && !strings.HasSuffix(value(n, "title"), " UTC") {
			t.Errorf("%q has the title %q", text(n), value(n, "title"))
		}
	}
}

func TestNetwork(t *testing.T) {
	for ip, want := range map[string]string{
		"":                          "",
		"203.0.113.77":              "203.0.113.77",
		"2001:db8:1:2:3:4:5:6":      "2001:db8:1:2::/64",
		"::1":                       "::/64",
		"::ffff:203.0.113.77":       "::ffff:203.0.113.77",
		"fe80::1%eth0":              "fe80::/64",
		"not an address":            "not an address",
		"2001:db8:1:2:3:4:5:6:7:8:": "2001:db8:1:2:3:4:5:6:7:8:",
	} {
		if got := network(ip); got != want {
			t.Errorf("network(%q) = %q, want %q", ip, got, want)
		}
	}
}
