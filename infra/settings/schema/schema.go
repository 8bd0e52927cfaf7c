// Package schema makes one annotated struct the only description of a command's
// settings. From the struct's tags come the flags and their help, the names of
// the environment variables and YAML keys, and the rows of the documents; Load
// fills the struct from all of them and reports every problem at once.
//
// One name serves everywhere: the setting auth-url is the flag --auth-url, the
// variable CLOAKROOM_AUTH_URL in the environment or an .env file, and the key
// auth-url in YAML. A flag wins over the environment, that over the .env file,
// that over YAML, that over the default.
//
// What is being set is not known here: the broker's settings are the package
// above, those of the other commands are beside their code in app. Nothing here
// reads the process's environment or its files but through what Load is given.
package schema

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"time"

	"cloakroom/domain"
)

// Row is one setting.
type Row struct {
	Name        string // auth-url
	Env         string // CLOAKROOM_AUTH_URL
	Default     string // as it would be written; empty if there is none
	Example     string // a value to show where there is no default
	Help        string // one or two sentences
	Group       string
	Placeholder string // what a value looks like: DURATION, URL
	Choices     []string
	Form        string // which texts are allowed, see forms
	Min         string // of a duration or a number

	List     bool // several values: a list in YAML, else separated by commas
	Secret   bool // never shown
	Switch   bool // true or false; a flag without a value means true
	Required bool
	Empty    bool // an empty text is a value of its own
	YAML     bool // may be a key of the YAML file

	// FileOf names the secret that this setting's file holds.
	FileOf string

	field []int // in the struct; nil for those that have none
}

// Schema is the settings of one command.
type Schema struct {
	prefix string
	rows   []Row
}

// The settings that say where other settings are. Every command has the second.
const (
	configName  = "config"
	envFileName = "env-file"
)

// WithYAML makes Of add the setting that names a YAML file.
const WithYAML = true

// Of reads the schema from the tags of the struct that sample points to.
// Environment variables begin with prefix, such as "CLOAKROOM_". These tags
// count:
//
//	name        the setting's name; a field without it is not a setting
//	help        what it does, in plain sentences
//	default     as it would be written; a list is separated by commas
//	example     a value for the documents, where there is no default
//	group       the heading that it stands under
//	placeholder what a value looks like, if the type does not say it
//	enum        the allowed values, separated by commas
//	form        address, path, origin or base
//	min         the least duration or number, else 0
//	required    it has to be given
//	empty       an empty text is a value of its own
//	secret      it is never shown, as every domain.Secret
//
// Anonymous structs are read as if their fields were in their place. A tag that
// makes no sense panics: it is a mistake in the program.
func Of(sample any, prefix string, yaml bool) *Schema {
	s := &Schema{prefix: prefix}
	if yaml {
		s.add(Row{
			Name: configName, Group: "Configuration", Placeholder: "PATH",
			Help: "YAML file with any of these settings, under the same names. What is given in other ways wins over it.",
		})
	}
	s.add(Row{
		Name: envFileName, Group: "Configuration", Placeholder: "PATH", Default: ".env",
		Help: "File with environment variables, one NAME=value a line; the real environment wins over it. The default may be missing.",
	})
	v := reflect.ValueOf(sample).Elem()
	for _, row := range structRows(v.Type(), nil) {
		row.YAML = yaml
		s.add(row)
		if row.Secret {
			s.add(Row{
				Name: row.Name + "-file", Group: row.Group, Placeholder: "PATH", YAML: yaml, FileOf: row.Name, Example: "/run/secrets/" + row.Name,
				Help: fmt.Sprintf("File that holds %s, so that no list of processes or environment shows it.", row.Name),
			})
		}
	}
	s.Defaults(reflect.New(v.Type()).Interface()) // a default that cannot be read panics now, not when it is needed
	return s
}

func (s *Schema) add(r Row) {
	r.Env = s.prefix + strings.ToUpper(strings.ReplaceAll(r.Name, "-", "_"))
	if _, twice := s.row(r.Name); twice {
		panic("schema: two settings are called " + r.Name)
	}
	s.rows = append(s.rows, r)
}

// Rows returns all settings in the order of the struct. Callers do not change them.
func (s *Schema) Rows() []Row { return s.rows }

func (s *Schema) row(name string) (Row, bool) {
	for _, r := range s.rows {
		if r.Name == name {
			return r, true
		}
	}
	return Row{}, false
}

// Defaults fills the struct that target points to with the defaults alone.
func (s *Schema) Defaults(target any) {
	v := reflect.ValueOf(target).Elem()
	for _, r := range s.rows {
		if r.field == nil {
			continue
		}
		if err := r.setDefault(v.FieldByIndex(r.field)); err != nil {
			panic(fmt.Sprintf("schema: the default of %s: %v", r.Name, err))
		}
	}
}

// Differing returns the names of the settings that two structs, to which a and b
// point, do not have in common.
func (s *Schema) Differing(a, b any) (names []string) {
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for _, r := range s.rows {
		if r.field != nil && !reflect.DeepEqual(va.FieldByIndex(r.field).Interface(), vb.FieldByIndex(r.field).Interface()) {
			names = append(names, r.Name)
		}
	}
	return names
}

// structRows reads the tags of a struct's fields, in order.
func structRows(t reflect.Type, at []int) (rows []Row) {
	for i := range t.NumField() {
		f := t.Field(i)
		index := append(append([]int(nil), at...), i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			rows = append(rows, structRows(f.Type, index)...)
			continue
		}
		if name := f.Tag.Get("name"); name != "" {
			rows = append(rows, fieldRow(f, name, index))
		}
	}
	return rows
}

func fieldRow(f reflect.StructField, name string, index []int) Row {
	has := func(tag string) bool { _, ok := f.Tag.Lookup(tag); return ok }
	r := Row{
		Name: name, field: index,
		Default: f.Tag.Get("default"), Example: f.Tag.Get("example"), Help: f.Tag.Get("help"),
		Group: cmp.Or(f.Tag.Get("group"), "Settings"), Placeholder: f.Tag.Get("placeholder"), Form: f.Tag.Get("form"), Min: f.Tag.Get("min"),
		Required: has("required"), Empty: has("empty"), Secret: has("secret"),
	}
	if enum := f.Tag.Get("enum"); enum != "" {
		r.Choices = strings.Split(enum, ",")
	}
	element := f.Type
	if element.Kind() == reflect.Slice {
		r.List, element = true, element.Elem()
	}
	placeholder := "TEXT"
	switch element {
	case reflect.TypeFor[domain.Secret]():
		r.Secret, placeholder = true, "SECRET"
	case reflect.TypeFor[time.Duration]():
		placeholder = "DURATION"
	case reflect.TypeFor[*url.URL]():
		placeholder = "URL"
	case reflect.TypeFor[netip.Prefix]():
		placeholder = "CIDR"
	default:
		switch element.Kind() {
		case reflect.Bool:
			r.Switch, placeholder = !r.List, "BOOL"
			if r.Default == "" {
				r.Default = "false"
			}
		case reflect.Int, reflect.Uint8, reflect.Uint32:
			placeholder = "NUMBER"
		}
	}
	switch {
	case r.Placeholder != "":
	case r.Choices != nil:
		r.Placeholder = strings.Join(r.Choices, "|")
	default:
		r.Placeholder = placeholder
	}
	return r
}
