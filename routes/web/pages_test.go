package web

import (
	"io"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
)

// hostile is what somebody might send who wants to break out of any place in a page.
const hostile = `"'><script>alert(1)</script><img src=x onerror=alert(1)>` + "`{{.}}\u202e</title></textarea>&amp;"

var (
	long = strings.Repeat("long", 2000)
	noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
)

type example struct {
	name   string
	prefix string
	write  func(p *Pages, w io.Writer) error
}

// examples returns every page, empty, full, hostile and long.
func examples() []example {
	var all []example
	for name, text := range map[string]string{"empty": "", "full": "Some text", "hostile": hostile, "long": long} {
		prefix, filled := "", text != ""
		if filled {
			prefix = "/door"
		}
		device := func(current bool, id, kind string) Device {
			d := Device{
				ID: id, Name: text, GivenName: text, Browser: text, BrowserVersion: text, System: text, Kind: kind,
				Current: current, New: filled, Stale: filled, LastIP: text, FirstIP: text, Method: text,
			}
			if filled {
				d.LastSeen, d.SignedIn, d.FirstSeen, d.EndsAt = noon, noon.AddDate(0, -1, 0), noon.AddDate(-1, 0, 0), noon.AddDate(0, 1, 0)
			}
			return d
		}
		var devices []Device
		if filled {
			devices = []Device{
				device(true, "9f3a02c1-0000-4000-8000-000000000001", "desktop"), device(false, "9f3a02c1-0000-4000-8000-000000000002", "phone"),
				device(false, "9f3a02c1-0000-4000-8000-000000000003", "tablet"), device(false, text, text),
			}
		}
		path := ""
		if filled {
			path = "/" + url.PathEscape(text)
		}
		all = append(all,
			example{"login " + name, prefix, func(p *Pages, w io.Writer) error {
				return p.Login(w, LoginPage{Prefix: prefix, ReturnTo: text, Email: text, Remember: filled, Register: filled, Notice: text, Error: text})
			}},
			example{"register " + name, prefix, func(p *Pages, w io.Writer) error {
				return p.Register(w, RegisterPage{Prefix: prefix, ReturnTo: text, Email: text, Error: text})
			}},
			example{"devices " + name, prefix, func(p *Pages, w io.Writer) error {
				return p.Devices(w, DevicesPage{Prefix: prefix, Home: path, Email: text, Devices: devices, Now: noon, Notice: text, Problem: text})
			}},
			example{"confirm " + name, prefix, func(p *Pages, w io.Writer) error {
				fields := []Field{{Name: text, Value: text}}
				return p.Confirm(w, ConfirmPage{Prefix: prefix, Title: text, Text: text, Action: prefixOr(prefix) + path, Fields: fields, Button: text, Cancel: path})
			}},
			example{"message " + name, prefix, func(p *Pages, w io.Writer) error {
				status := 0
				if filled {
					status = 503
				}
				return p.Message(w, MessagePage{Prefix: prefix, Status: status, Title: text, Text: text, Link: path, LinkText: text, Reference: text})
			}},
		)
	}
	return all
}

// forEachPage renders every example and hands its elements over.
func forEachPage(t *testing.T, check func(t *testing.T, e example, elements []*html.Node)) {
	p := mustNew(t)
	for _, e := range examples() {
		t.Run(e.name, func(t *testing.T) { check(t, e, elements(t, func(w io.Writer) error { return e.write(p, w) })) })
	}
}

// elements renders a page and returns its elements in their order.
func elements(t *testing.T, write func(io.Writer) error) []*html.Node {
	t.Helper()
	var page strings.Builder
	if err := write(&page); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(page.String(), "ZgotmplZ") {
		t.Error("a value was refused by html/template")
	}
	root, err := html.Parse(strings.NewReader(page.String()))
	if err != nil {
		t.Fatal(err)
	}
	var all []*html.Node
	for n := range root.Descendants() {
		if n.Type == html.ElementNode {
			all = append(all, n)
		}
	}
	return all
}

func attr(n *html.Node, name string) (string, bool) {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val, true
		}
	}
	return "", false
}

func value(n *html.Node, name string) string { v, _ := attr(n, name); return v }

// text is what is read in an element, with single spaces.
func text(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

func named(elements []*html.Node, tag string) []*html.Node {
	var found []*html.Node
	for _, n := range elements {
		if n.Data == tag {
			found = append(found, n)
		}
	}
	return found
}

func TestR27_PagesHoldNoStyleOrScriptOfTheirOwn(t *testing.T) {
	forEachPage(t, func(t *testing.T, _ example, elements []*html.Node) {
		for _, n := range elements {
			if slices.Contains([]string{"style", "base", "iframe", "object", "embed"}, n.Data) {
				t.Errorf("there is a <%s>", n.Data)
			}
			if n.Data == "script" && (value(n, "src") == "" || n.FirstChild != nil) {
				t.Errorf("inline script %q", text(n))
			}
			for _, a := range n.Attr {
				if a.Key == "style" || strings.HasPrefix(a.Key, "on") {
					t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
				}
			}
		}
		if n := len(named(elements, "script")); n != 1 {
			t.Errorf("%d scripts, want 1", n)
		}
		if n := len(named(elements, "img")); n != 1 {
			t.Errorf("%d pictures, want the logo alone", n)
		}
	})
}

func TestR21_FormsPostBelowThePrefix(t *testing.T) {
	forEachPage(t, func(t *testing.T, e example, elements []*html.Node) {
		for _, n := range named(elements, "form") {
			if value(n, "method") != "post" {
				t.Errorf("form with method %q", value(n, "method"))
			}
			if want := prefixOr(e.prefix); !strings.HasPrefix(value(n, "action"), want) {
				t.Errorf("form posts to %q, want something below %s", value(n, "action"), want)
			}
		}
		for _, n := range elements {
			for _, name := range []string{"formaction", "formmethod", "formtarget", "target"} {
				if v, ok := attr(n, name); ok {
					t.Errorf("<%s %s=%q>", n.Data, name, v)
				}
			}
		}
	})
}

func TestPagesLinkToNothingOutside(t *testing.T) {
	forEachPage(t, func(t *testing.T, _ example, elements []*html.Node) {
		for _, n := range elements {
			for _, name := range []string{"href", "src", "action"} {
				v, ok := attr(n, name)
				if !ok {
					continue
				}
				u, err := url.Parse(v)
				if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(v, "/") {
					t.Errorf("<%s %s=%q> is no path of ours", n.Data, name, v)
				}
			}
		}
	})
}

func TestPagesCanBeReadByAnybody(t *testing.T) {
	forEachPage(t, func(t *testing.T, e example, elements []*html.Node) {
		if lang := value(named(elements, "html")[0], "lang"); lang != "en" {
			t.Errorf("language %q", lang)
		}
		if title := text(named(elements, "title")[0]); !strings.HasSuffix(title, "· Cloakroom") {
			t.Errorf("title %q", title)
		}
		for _, tag := range []string{"main", "h1", "title"} {
			if n := len(named(elements, tag)); n != 1 {
				t.Errorf("%d of <%s>, want 1", n, tag)
			}
		}

		ids, labelled := map[string]bool{}, map[string]bool{}
		for _, n := range elements {
			if id, ok := attr(n, "id"); ok {
				if ids[id] {
					t.Errorf("id %q is there twice", id)
				}
				ids[id] = true
			}
			if n.Data == "label" {
				labelled[value(n, "for")] = true
			}
		}
		for _, n := range elements {
			for _, name := range []string{"for", "aria-labelledby", "aria-describedby", "data-reveal"} {
				if id, ok := attr(n, name); ok && !ids[id] {
					t.Errorf("<%s %s=%q> points to nothing", n.Data, name, id)
				}
			}
			switch {
			case n.Data == "input" && value(n, "type") != "hidden" && !labelled[value(n, "id")] && n.Parent.Data != "label":
				t.Errorf("input %q has no label", value(n, "name"))
			case n.Data == "button" && text(n) == "" && !strings.HasSuffix(e.name, "empty"):
				t.Error("a button says nothing")
			case n.Data == "time":
				if _, err := time.Parse(time.RFC3339, value(n, "datetime")); err != nil {
					t.Errorf("time: %v", err)
				}
			}
		}
	})
}

func TestPagesShowHostileTextAsText(t *testing.T) {
	p := mustNew(t)
	all := elements(t, func(w io.Writer) error {
		return p.Login(w, LoginPage{Email: hostile, ReturnTo: hostile, Error: hostile})
	})
	got := map[string]string{}
	for _, n := range named(all, "input") {
		got[value(n, "name")] = value(n, "value")
	}
	if got["email"] != hostile || got["return_to"] != hostile {
		t.Errorf("fields come back as %q", got)
	}
	for _, n := range named(all, "p") {
		if value(n, "role") == "alert" && text(n) != strings.Join(strings.Fields(hostile), " ") {
			t.Errorf("error reads %q", text(n))
		}
	}
}

func TestLoginForm(t *testing.T) {
	p := mustNew(t)
	page := LoginPage{ReturnTo: "/app?tab=1&x=2", Remember: true, Register: true}
	all := elements(t, func(w io.Writer) error { return p.Login(w, page) })

	if got := value(named(all, "form")[0], "action"); got != "/auth/login" {
		t.Errorf("posts to %q", got)
	}
	var fields []string
	for _, n := range named(all, "input") {
		fields = append(fields, value(n, "name")+"="+value(n, "value"))
		if _, checked := attr(n, "checked"); value(n, "name") == "remember" && !checked {
			t.Error("remember is not ticked")
		}
	}
	if want := []string{"email=", "password=", "remember=1", "return_to=/app?tab=1&x=2"}; !slices.Equal(fields, want) {
		t.Errorf("fields %q, want %q", fields, want)
	}
	link, err := url.Parse(value(named(all, "a")[0], "href"))
	if err != nil {
		t.Fatal(err)
	}
	if link.Path != "/auth/register" || link.Query().Get("return_to") != page.ReturnTo || len(link.Query()) != 1 {
		t.Errorf("links to %s", link)
	}

	page.Register = false
	all = elements(t, func(w io.Writer) error { return p.Login(w, page) })
	if len(named(all, "a")) != 0 {
		t.Error("links to a registration that there is not")
	}
}

func TestRegisterForm(t *testing.T) {
	p := mustNew(t)
	all := elements(t, func(w io.Writer) error {
		return p.Register(w, RegisterPage{ReturnTo: "/app", Email: "ada@example.com"})
	})
	if got := value(named(all, "form")[0], "action"); got != "/auth/register" {
		t.Errorf("posts to %q", got)
	}
	var fields []string
	for _, n := range named(all, "input") {
		fields = append(fields, value(n, "name")+"="+value(n, "value"))
	}
	if want := []string{"email=ada@example.com", "password=", "return_to=/app"}; !slices.Equal(fields, want) {
		t.Errorf("fields %q, want %q", fields, want)
	}
}

func TestConfirmHasOneButtonAndAWayOut(t *testing.T) {
	p := mustNew(t)
	all := elements(t, func(w io.Writer) error {
		return p.Confirm(w, ConfirmPage{
			Prefix: "/door", Title: "Log out?", Action: "/door/logout", Button: "Log out", Fields: []Field{{"return_to", "/app"}},
		})
	})
	forms, buttons, links, fields := named(all, "form"), named(all, "button"), named(all, "a"), named(all, "input")
	if len(forms) != 1 || value(forms[0], "action") != "/door/logout" {
		t.Errorf("%d forms, the first to %q", len(forms), value(forms[0], "action"))
	}
	if len(buttons) != 1 || text(buttons[0]) != "Log out" {
		t.Errorf("%d buttons", len(buttons))
	}
	if len(links) != 1 || value(links[0], "href") != "/door/devices" {
		t.Errorf("%d links", len(links))
	}
	if len(fields) != 1 || value(fields[0], "name") != "return_to" || value(fields[0], "value") != "/app" {
		t.Errorf("%d fields", len(fields))
	}
}

func TestMessageLinksOnlyIfThereIsALink(t *testing.T) {
	p := mustNew(t)
	for link, want := range map[string]int{"": 0, "/app": 1} {
		all := elements(t, func(w io.Writer) error { return p.Message(w, MessagePage{Link: link, LinkText: "Try again"}) })
		if got := len(named(all, "a")); got != want {
			t.Errorf("link %q: %d links, want %d", link, got, want)
		}
	}
}
