// Package web is what a person sees of Cloakroom: its pages, their stylesheet,
// script and pictures, and the names by which browsers are called on them.
//
// It turns plain structs into HTML and does nothing else. It knows no request,
// no store and no device record: routes fills the structs, chooses the status
// and the headers, and decides who may see a page. Every page works without
// the script, and none holds a script or style of its own, so that a content
// policy of script-src 'self'; style-src 'self' breaks nothing.
package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"path"
)

//go:embed templates/*.html static/*
var files embed.FS

// defaultPrefix is where the broker's own paths begin if a page does not say.
const defaultPrefix = "/auth"

// pageNames lists the pages. Each is a file under templates that defines
// "title" and "main"; layout.html puts the two in their frame.
var pageNames = []string{"login", "register", "devices", "confirm", "message", "reauthenticate"}

// icons are the pictures of providers, which no page links to by its name.
var icons = []string{"google.svg", "entra.svg", OtherIcon}

// OtherIcon is the picture of a provider that has none of its own.
const OtherIcon = "key.svg"

// assetTypes are the kinds of files that may lie under static.
var assetTypes = map[string]string{
	".css": "text/css; charset=utf-8",
	".js":  "text/javascript; charset=utf-8",
	".svg": "image/svg+xml",
}

type asset struct {
	body        []byte
	contentType string
	version     string // of the content, so that a new one has a new address
}

// Pages writes the pages. It is safe for concurrent use.
type Pages struct {
	templates map[string]*template.Template
	assets    map[string]asset
}

// New parses all pages and reads all static files. It writes each page once,
// from an empty struct, to nowhere: html/template finds some mistakes only
// then, and they have to stop the program, not the first person who comes by.
func New() (*Pages, error) { return newPages(files) }

func newPages(files fs.FS) (*Pages, error) {
	p := &Pages{templates: map[string]*template.Template{}, assets: map[string]asset{}}
	if err := p.readAssets(files); err != nil {
		return nil, err
	}
	for _, icon := range icons {
		if _, err := p.assetPath(icon); err != nil {
			return nil, err
		}
	}
	for _, name := range pageNames {
		t, err := template.New(name).Funcs(template.FuncMap{"asset": p.assetPath}).
			ParseFS(files, "templates/layout.html", "templates/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("page %s: %w", name, err)
		}
		p.templates[name] = t
	}
	return p, errors.Join(
		p.Login(io.Discard, LoginPage{}),
		p.Register(io.Discard, RegisterPage{}),
		p.Devices(io.Discard, DevicesPage{Devices: []Device{{}}}),
		p.Confirm(io.Discard, ConfirmPage{}),
		p.Message(io.Discard, MessagePage{}),
		p.Reauthenticate(io.Discard, ReauthenticatePage{}),
	)
}

func (p *Pages) readAssets(files fs.FS) error {
	entries, err := fs.ReadDir(files, "static")
	if err != nil {
		return fmt.Errorf("static files: %w", err)
	}
	for _, entry := range entries {
		contentType, known := assetTypes[path.Ext(entry.Name())]
		if !known {
			return fmt.Errorf("static file %s: unknown kind", entry.Name())
		}
		body, err := fs.ReadFile(files, "static/"+entry.Name())
		if err != nil {
			return fmt.Errorf("static file %s: %w", entry.Name(), err)
		}
		sum := sha256.Sum256(body)
		p.assets[entry.Name()] = asset{body, contentType, hex.EncodeToString(sum[:8])}
	}
	return nil
}

// assetPath returns what stands after "{Prefix}/static/" in a page. The version
// keeps a page from meeting the stylesheet of another release in a cache.
func (p *Pages) assetPath(name string) (string, error) {
	a, ok := p.assets[name]
	if !ok {
		return "", fmt.Errorf("no static file %s", name)
	}
	return name + "?v=" + a.version, nil
}

// Static returns a file that the pages link to as "{Prefix}/static/{name}", its
// content type and its entity tag with the quotes of RFC 9110, section 8.8.3.
// The links carry the version of the content in their query, so an answer may
// be cached for long. The caller must not change body. ok is false for a name
// that is no file of this package, whatever it looks like.
func (p *Pages) Static(name string) (body []byte, contentType, etag string, ok bool) {
	a, ok := p.assets[name]
	if !ok {
		return nil, "", "", false
	}
	return a.body, a.contentType, `"` + a.version + `"`, true
}

// write renders the whole page before it writes any of it, so that a page that
// fails leaves w as it was and the caller can answer with an error instead.
func (p *Pages) write(w io.Writer, name string, data any) error {
	var page bytes.Buffer
	if err := p.templates[name].ExecuteTemplate(&page, "layout", data); err != nil {
		return fmt.Errorf("page %s: %w", name, err)
	}
	if _, err := w.Write(page.Bytes()); err != nil {
		return fmt.Errorf("page %s: write: %w", name, err)
	}
	return nil
}

func prefixOr(prefix string) string {
	if prefix == "" {
		return defaultPrefix
	}
	return prefix
}
