package web

import (
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"time"
)

// referenceLength is how much of a device id is shown as its number: enough to
// tell a person's devices apart, short enough to be read aloud.
const referenceLength = 8

// Device is one card of the devices page. An empty text and a zero time are
// not shown, or shown as unknown.
type Device struct {
	ID        string
	Name      string // by what it is: "Chrome on macOS"; empty means made of Browser and System
	GivenName string // by what its owner calls it; empty if that is nothing

	Browser        string
	BrowserVersion string
	System         string
	Kind           string // desktop, phone, tablet; anything else is other

	Current bool // the page is shown on it
	New     bool // it signed in lately
	Stale   bool // it was not seen for a long time

	LastSeen  time.Time
	SignedIn  time.Time
	FirstSeen time.Time
	EndsAt    time.Time // when it is signed out if nothing more is heard of it
	LastIP    string
	FirstIP   string
	Method    string // how it signed in: "Password"
}

// DevicesPage shows where its owner is signed in. Its forms post to
// {Prefix}/devices/sign-out-others, {Prefix}/devices/sign-out-all,
// {Prefix}/devices/{id}/sign-out and, with the field name, to
// {Prefix}/devices/{id}/rename.
type DevicesPage struct {
	Prefix  string    // where the broker's own paths begin; empty means /auth
	Home    string    // where the app is, a local path; empty shows no link
	Email   string    // the owner's
	Devices []Device  // in the order in which they are shown, the current one first
	Now     time.Time // what all times are seen from, and in whose location they are shown
	Notice  string    // what was done: "Firefox on Linux is signed out: …"
	Problem string    // what could not be done
}

// Devices writes the page to w. If it fails, nothing was written.
func (p *Pages) Devices(w io.Writer, page DevicesPage) error {
	view := devicesView{
		DevicesPage: page,
		Heading:     devicesHeading(page.Devices),
		Loaded:      page.Now.UTC().Format(time.RFC3339),
	}
	view.Prefix = prefixOr(page.Prefix)
	for _, d := range page.Devices {
		view.Others = view.Others || !d.Current
		view.Cards = append(view.Cards, newCard(d, view.Prefix, page.Now))
	}
	return p.write(w, "devices", view)
}

// devicesView is what the template sees.
type devicesView struct {
	DevicesPage
	Heading string
	Loaded  string // Now, for the script
	Others  bool   // there are devices beside the current one
	Cards   []card
}

type card struct {
	Device
	Path      string // of the device, to which its forms post
	Title     string
	Generic   string // what it is called without a given name
	Reference string
	Network   string
	Seen      stamp
	Active    bool
	Signed    stamp
	First     stamp
	Ends      stamp
}

func newCard(d Device, prefix string, now time.Time) card {
	c := card{
		Device: d,
		// An id is a UUID. Were it not, escaping keeps it one segment of the path.
		Path:      prefix + "/devices/" + url.PathEscape(d.ID),
		Generic:   d.Name,
		Reference: d.ID[:min(len(d.ID), referenceLength)],
		Network:   network(d.LastIP),
		Seen:      newStamp(d.LastSeen, now, lastActive),
		Active:    !d.LastSeen.IsZero() && now.Sub(d.LastSeen) < activeWithin,
		Signed:    newStamp(d.SignedIn, now, day),
		First:     newStamp(d.FirstSeen, now, day),
		Ends:      newStamp(d.EndsAt, now, day),
	}
	if c.Generic == "" {
		c.Generic = Browser{Name: d.Browser, System: d.System}.String()
	}
	c.Title = d.GivenName
	if c.Title == "" {
		c.Title = c.Generic
	}
	return c
}

func devicesHeading(devices []Device) string {
	switch n := len(devices); {
	case n == 0:
		return "You are signed in nowhere."
	case n == 1 && devices[0].Current:
		return "Only this device."
	case n == 1:
		return "You are signed in on 1 device."
	default:
		return fmt.Sprintf("You are signed in on %d devices.", n)
	}
}

// network shortens an IPv6 address to the half that says where a device is:
// the other half is chosen anew every day (RFC 8981) and says nothing.
func network(ip string) string {
	addr, err := netip.ParseAddr(ip)
	if err != nil || addr.Unmap().Is4() {
		return ip
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return ip
	}
	return prefix.String()
}
