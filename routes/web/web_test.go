package web

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"testing"
	"testing/fstest"
)

// copyOfFiles returns the embedded files, to be broken.
func copyOfFiles(t *testing.T) fstest.MapFS {
	t.Helper()
	m := fstest.MapFS{}
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := fs.ReadFile(files, name)
		m[name] = &fstest.MapFile{Data: body}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustNew(t *testing.T) *Pages {
	t.Helper()
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNewNeedsEveryFile(t *testing.T) {
	whole := copyOfFiles(t)
	if _, err := newPages(whole); err != nil {
		t.Fatalf("all files: %v", err)
	}
	for name := range whole {
		t.Run(path.Base(name), func(t *testing.T) {
			broken := copyOfFiles(t)
			delete(broken, name)
			if _, err := newPages(broken); err == nil {
				t.Errorf("without %s: no error", name)
			}
		})
	}
}

func TestNewFindsBrokenTemplates(t *testing.T) {
	for name, text := range map[string]string{
		"does not parse":           `{{define "title"}}{{end}}{{define "main"}}{{if}}{{end}}`,
		"defines no main":          `{{define "title"}}{{end}}`,
		"defines no title":         `{{define "main"}}{{end}}`,
		"asks for no field":        `{{define "title"}}{{end}}{{define "main"}}{{.Nonsense}}{{end}}`,
		"links to no file":         `{{define "title"}}{{end}}{{define "main"}}{{asset "none.css"}}{{end}}`,
		"cannot be escaped safely": `{{define "title"}}{{end}}{{define "main"}}<a href="{{if .Title}}x{{else}}"{{end}}>{{end}}`,
	} {
		t.Run(name, func(t *testing.T) {
			broken := copyOfFiles(t)
			broken["templates/message.html"] = &fstest.MapFile{Data: []byte(text)}
			if _, err := newPages(broken); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestNewRefusesStaticFilesOfUnknownKind(t *testing.T) {
	odd := copyOfFiles(t)
	odd["static/notes.txt"] = &fstest.MapFile{Data: []byte("a note")}
	if _, err := newPages(odd); err == nil {
		t.Error("no error")
	}
}

func TestEveryTemplateIsAPage(t *testing.T) {
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"layout": true}
	for _, name := range pageNames {
		known[name] = true
	}
	for _, name := range names {
		if !known[strings.TrimSuffix(path.Base(name), ".html")] {
			t.Errorf("%s is the template of no page", name)
		}
	}
	if len(names) != len(known) {
		t.Errorf("%d templates for %d pages and the layout", len(names), len(pageNames))
	}
}

func TestPageThatFailsWritesNothing(t *testing.T) {
	broken := copyOfFiles(t)
	broken["templates/message.html"] = &fstest.MapFile{
		Data: []byte(`{{define "title"}}{{end}}{{define "main"}}<main>{{if .Text}}{{index .Text 99}}{{end}}{{end}}`),
	}
	p, err := newPages(broken)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := p.Message(&out, MessagePage{Text: "short"}); err == nil {
		t.Error("no error")
	}
	if out.Len() != 0 {
		t.Errorf("%d bytes were written", out.Len())
	}
}

type refusing struct{}

func (refusing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestPageReportsThatItCouldNotBeWritten(t *testing.T) {
	if err := mustNew(t).Message(refusing{}, MessagePage{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error = %v, want %v", err, io.ErrClosedPipe)
	}
}

func TestStatic(t *testing.T) {
	p := mustNew(t)
	for name, want := range map[string]string{
		"cloakroom.css": "text/css; charset=utf-8",
		"cloakroom.js":  "text/javascript; charset=utf-8",
		"logo.svg":      "image/svg+xml",
	} {
		body, contentType, etag, ok := p.Static(name)
		if !ok || len(body) == 0 || contentType != want {
			t.Errorf("Static(%s) = %d bytes, %q, %v, want some, %q, true", name, len(body), contentType, ok, want)
		}
		if len(etag) != 18 || etag[0] != '"' || etag[17] != '"' {
			t.Errorf("Static(%s): entity tag %s", name, etag)
		}
	}
	for _, name := range []string{"", ".", "/", "none.css", "../web.go", "static/logo.svg", "../templates/login.html"} {
		if body, _, _, ok := p.Static(name); ok || body != nil {
			t.Errorf("Static(%q) is a file", name)
		}
	}
}

func TestStaticVersionFollowsTheContent(t *testing.T) {
	changed := copyOfFiles(t)
	changed["static/cloakroom.css"].Data = append(changed["static/cloakroom.css"].Data, '\n')
	p, err := newPages(changed)
	if err != nil {
		t.Fatal(err)
	}
	_, _, old, _ := mustNew(t).Static("cloakroom.css")
	_, _, etag, _ := p.Static("cloakroom.css")
	if etag == old {
		t.Errorf("entity tag stayed %s", etag)
	}
	var out bytes.Buffer
	if err := p.Message(&out, MessagePage{}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "cloakroom.css?v="+strings.Trim(etag, `"`)) {
		t.Error("the page does not link to the new version")
	}
}

// The files are part of what the content policy has to allow: they reach for
// nothing outside, and the pictures bring no style or script along.
func TestStaticFilesStandAlone(t *testing.T) {
	p := mustNew(t)
	forbidden := map[string][]string{
		".css": {"@import", "url(", "//"},
		".js":  {"eval(", "Function(", "innerHTML", "fetch(", "http:", "https:", ".style"},
		".svg": {"<style", "style=", "<script", "href"},
	}
	for name, a := range p.assets {
		for _, word := range forbidden[path.Ext(name)] {
			if bytes.Contains(a.body, []byte(word)) {
				t.Errorf("%s contains %s", name, word)
			}
		}
	}
}
