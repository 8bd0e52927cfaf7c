package schema

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// Input is everything that settings are read from.
type Input struct {
	Flags []Flag   // as the command line gave them
	Stray []string // arguments that are no flag of the command's
	// Environ is the environment as NAME=value.
	Environ []string
	// ReadFile reads the .env file, the YAML file and the files of secrets.
	// A missing file is fs.ErrNotExist.
	ReadFile func(name string) ([]byte, error)
	// Beside are the schemas of other commands, whose variables may stand in
	// the same environment and .env file and are not unknown.
	Beside []*Schema
}

// Flag is one flag as the command line gave it.
type Flag struct {
	Name    string
	Values  []string // one for each time that it was given
	NoValue bool     // it was given without the value that it needs
}

// Problems is what is wrong with the settings, a sentence each: the setting in
// the form in which it was given, what is wrong, and the remedy. No sentence
// repeats a value that was given as text.
type Problems []string

func (p Problems) Error() string { return strings.Join(p, "\n") }

// Value is what became of one setting.
type Value struct {
	Name   string `json:"name"`
	Value  string `json:"value"` // a secret is "[redacted]"
	Origin string `json:"origin"`
}

// Loaded is a struct being filled. Callers add the problems that only they can
// see, of settings that do not go together, and then ask for Err.
type Loaded struct {
	schema   *Schema
	target   reflect.Value
	in       Input
	problems Problems
	sources  []source // the strongest first
	used     map[string]given
	refused  map[string]bool
}

// source is what one place gives, by the names of the settings.
type source map[string]given

// given is a setting as one place gives it.
type given struct {
	where string // the setting in the form in which it is given there
	items []item
}

// item is one value: a text, the keys of a YAML mapping, or, as one of those, a
// list of texts.
type item struct {
	where  string
	text   string
	fields map[string]item
	list   []item
	isList bool
}

// Load fills the struct that target points to, which is of the type that the
// schema was made of. It goes on after every problem.
func (s *Schema) Load(target any, in Input) *Loaded {
	s.Defaults(target)
	l := &Loaded{
		schema: s, target: reflect.ValueOf(target).Elem(), in: in,
		used: map[string]given{}, refused: map[string]bool{},
	}
	l.strayArguments(in.Stray)
	l.sources = append(l.sources, l.flags(in.Flags), l.variables(environ(in.Environ), ""))
	if file, text := l.readNamed(envFileName); file != "" {
		l.sources = append(l.sources, l.variables(l.dotenv(file, text), " in "+file))
	}
	if _, ok := s.row(configName); ok {
		if file, text := l.readNamed(configName); file != "" {
			l.sources = append(l.sources, l.yaml(file, text))
		}
	}
	for _, r := range s.rows {
		if r.field != nil {
			l.set(r)
		}
	}
	return l
}

// Rejectf adds a problem.
func (l *Loaded) Rejectf(format string, args ...any) {
	l.problems = append(l.problems, fmt.Sprintf(format, args...))
}

// Reject adds the problems that errors.Join joined, or one. A text that begins
// with a setting's name and a colon names it in the form in which it was given
// instead.
func (l *Loaded) Reject(err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			l.Reject(err)
		}
		return
	}
	if err == nil {
		return
	}
	text := err.Error()
	if name, rest, found := strings.Cut(text, ": "); found {
		if _, ok := l.schema.row(name); ok {
			text = l.Where(name) + ": " + rest
		}
	}
	l.problems = append(l.problems, text)
}

// Valid reports whether all named settings could be read, so that it makes
// sense to compare them.
func (l *Loaded) Valid(names ...string) bool {
	for _, name := range names {
		if l.refused[name] {
			return false
		}
	}
	return true
}

// Given reports whether a setting does not have its default.
func (l *Loaded) Given(name string) bool { _, ok := l.used[name]; return ok }

// Where names a setting in the form in which it was given.
func (l *Loaded) Where(name string) string {
	if g, ok := l.used[name]; ok {
		return g.where
	}
	return name
}

// WhereItem names the value at an index of a list that was given.
func (l *Loaded) WhereItem(name string, index int) string {
	if g, ok := l.used[name]; ok && index < len(g.items) {
		return g.items[index].where
	}
	return l.Where(name)
}

// Problems returns what was found so far.
func (l *Loaded) Problems() Problems { return l.problems }

// Err returns the Problems, or nil.
func (l *Loaded) Err() error {
	if len(l.problems) == 0 {
		return nil
	}
	return l.problems
}

// ReadFile reads a file that a setting names. The error says what is wrong with
// the setting, without the file's name.
func (l *Loaded) ReadFile(name string) ([]byte, error) {
	data, err := l.in.ReadFile(name)
	if err != nil {
		return nil, errors.New(fileProblem(err))
	}
	return data, nil
}

// Values returns every setting with its value and where that came from.
func (l *Loaded) Values() []Value {
	var values []Value
	for _, r := range l.schema.rows {
		v := Value{Name: r.Name, Origin: "default"}
		if g, ok := l.used[r.Name]; ok {
			v.Origin = g.where
		}
		switch {
		case l.refused[r.Name] && l.Given(r.Name):
			v.Value = "[refused]"
		case r.field != nil:
			v.Value = r.formatValue(l.target.FieldByIndex(r.field))
		case l.Given(r.Name):
			v.Value = l.used[r.Name].items[0].text
		default:
			v.Value = r.Default
		}
		values = append(values, v)
	}
	return values
}

// find returns the strongest source's value of a setting.
func (l *Loaded) find(name string) (given, bool) {
	for _, s := range l.sources {
		if g, ok := s[name]; ok {
			return g, true
		}
	}
	return given{}, false
}

// set fills the field of one setting.
func (l *Loaded) set(r Row) {
	g, ok := l.find(r.Name)
	if r.Secret {
		g, ok = l.orFromFile(r, g, ok)
	}
	if !ok {
		if r.Required && !l.refused[r.Name] {
			l.Rejectf("%s: is missing; %s", r.Name, l.Remedy(r.Name))
			l.refused[r.Name] = true
		}
		return
	}
	l.used[r.Name] = g
	if l.refused[r.Name] && !r.List {
		return // what it is has been said already
	}
	field := l.target.FieldByIndex(r.field)
	field.SetZero()
	if r.List {
		l.setList(r, field, g)
		return
	}
	if len(g.items) != 1 {
		l.refuse(r.Name, "%s: has several values; give one", g.where)
		return
	}
	l.setItem(r, field, g.items[0])
}

// setList appends the values that can be read; used keeps the same ones.
func (l *Loaded) setList(r Row, field reflect.Value, g given) {
	var read []item
	for _, it := range g.items {
		element := reflect.New(field.Type().Elem()).Elem()
		if l.setItem(r, element, it) {
			field.Set(reflect.Append(field, element))
			read = append(read, it)
		}
	}
	if r.Required && len(g.items) == 0 && !l.refused[r.Name] {
		l.refuse(r.Name, "%s: is empty; give at least one value", g.where)
	}
	l.used[r.Name] = given{g.where, read}
}

func (l *Loaded) setItem(r Row, v reflect.Value, it item) bool {
	if splitter, ok := v.Addr().Interface().(Splitter); ok && it.fields == nil {
		var err error
		if it, err = split(splitter, it); err != nil {
			l.refuse(r.Name, "%s: %v", it.where, err)
			return false
		}
	}
	if it.fields != nil {
		return l.setFields(r, v, it)
	}
	if err := r.decode(v, it.text); err != nil {
		l.refuse(r.Name, "%s: %v", it.where, err)
		return false
	}
	return true
}

// Splitter is a value whose fields have names of their own, in YAML as the keys
// of a mapping and elsewhere in one text. Split takes that text apart. Its error
// does not repeat it.
type Splitter interface {
	Split(text string) (map[string]string, error)
}

func split(s Splitter, it item) (item, error) {
	fields, err := s.Split(it.text)
	if err != nil {
		return it, err
	}
	whole := item{where: it.where, fields: map[string]item{}}
	for name, text := range fields {
		whole.fields[name] = item{where: shownName(name) + " of " + it.where, text: text}
	}
	return whole, nil
}

// setFields fills a struct whose fields have names of their own. A field that is
// a secret may be in a file instead, which its name with "-file" gives.
func (l *Loaded) setFields(r Row, v reflect.Value, it item) bool {
	var rows []Row
	if v.Kind() == reflect.Struct {
		rows = structRows(v.Type(), nil)
	}
	if rows == nil {
		l.refuse(r.Name, "%s: is a mapping; write a plain value", it.where)
		return false
	}
	before := len(l.problems)
	var names []string
	for _, f := range rows {
		names = append(names, f.Name)
		value, ok := it.fields[f.Name]
		if f.Secret {
			names = append(names, f.Name+"-file")
			value, ok = l.fieldFromFile(f, it, value, ok)
		}
		switch {
		case !ok && f.Required:
			l.Rejectf("%s: has no %s; add it", it.where, f.Name)
		case !ok:
		default:
			l.setField(f, v.FieldByIndex(f.field), value)
		}
	}
	for _, name := range sortedKeys(it.fields) {
		if !slices.Contains(names, name) {
			l.Rejectf("%s: there is no %s here%s", it.fields[name].where, shownName(name), didYouMean(name, names))
		}
	}
	if len(l.problems) > before {
		l.refused[r.Name] = true
		return false
	}
	return true
}

// setField fills a field of such a struct.
func (l *Loaded) setField(f Row, v reflect.Value, it item) {
	switch {
	case it.isList && !f.List:
		l.Rejectf("%s: is a list; write one value", it.where)
		return
	case f.List && !it.isList:
		it.list = listItems(it.where, it.text)
	case !f.List:
		it.list = []item{it}
	}
	if len(it.list) == 0 {
		l.Rejectf("%s: is empty; give at least one value, or leave it out", it.where)
	}
	for _, it := range it.list {
		if f.List && it.text == "" {
			l.Rejectf("%s: is empty; give a value", it.where)
			continue
		}
		element := v
		if f.List {
			v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
			element = v.Index(v.Len() - 1)
		}
		if err := f.decode(element, it.text); err != nil {
			l.Rejectf("%s: %v", it.where, err)
		}
	}
}

// orFromFile returns the value of a secret, which may be in a file instead.
// Both at once is a mistake, wherever they come from: nobody can tell which of
// two keys was meant.
func (l *Loaded) orFromFile(r Row, g given, ok bool) (given, bool) {
	file, fileOK := l.find(r.Name + "-file")
	if !fileOK || len(file.items) == 0 || file.items[0].text == "" {
		return g, ok
	}
	l.used[r.Name+"-file"] = file
	refuse := func(format string, args ...any) (given, bool) {
		l.refuse(r.Name, format, args...)
		l.refused[r.Name+"-file"] = true // what stands there could be the secret itself
		return g, false
	}
	if ok && len(g.items) > 0 && g.items[0].text != "" {
		l.used[r.Name] = g
		return refuse("%s: is given, and so is %s; keep one of them", g.where, file.where)
	}
	if len(file.items) > 1 {
		return refuse("%s: has several values; give one", file.where)
	}
	data, err := l.in.ReadFile(file.items[0].text)
	if err != nil {
		return refuse("%s: %s", file.where, fileProblem(err))
	}
	where := "the file of " + file.where
	text := strings.TrimRight(string(data), "\r\n")
	if text == "" {
		return refuse("%s: is empty; write the value into it", where)
	}
	if !r.List {
		return given{where, []item{{where: where, text: text}}}, true
	}
	return given{where, listItems(where, strings.ReplaceAll(text, "\n", ","))}, true
}

// fieldFromFile returns the value of a secret among the fields of one value.
func (l *Loaded) fieldFromFile(f Row, of, value item, ok bool) (item, bool) {
	file, fileOK := of.fields[f.Name+"-file"]
	switch {
	case !fileOK || file.text == "":
		return value, ok
	case ok && value.text != "":
		l.Rejectf("%s: is given, and so is %s; keep one of them", value.where, file.where)
		return item{}, false
	}
	data, err := l.in.ReadFile(file.text)
	text := strings.TrimRight(string(data), "\r\n")
	switch {
	case err != nil:
		l.Rejectf("%s: %s", file.where, fileProblem(err))
	case text == "":
		l.Rejectf("the file of %s: is empty; write the value into it", file.where)
	default:
		return item{where: "the file of " + file.where, text: text}, true
	}
	return item{}, false
}

// readNamed reads the file that a setting names. It returns no name if there is
// nothing to read.
func (l *Loaded) readNamed(setting string) (name string, data []byte) {
	row, _ := l.schema.row(setting)
	g, ok := l.find(setting)
	name = row.Default
	if ok {
		if len(g.items) != 1 {
			l.refuse(setting, "%s: has several values; give one", g.where)
			return "", nil
		}
		l.used[setting] = g
		name = g.items[0].text
	}
	if name == "" {
		return "", nil
	}
	data, err := l.in.ReadFile(name)
	if err != nil {
		if ok || !errors.Is(err, fs.ErrNotExist) {
			l.refuse(setting, "%s: %s", l.Where(setting), fileProblem(err))
		}
		return "", nil
	}
	return name, data
}

func (l *Loaded) refuse(name, format string, args ...any) {
	l.Rejectf(format, args...)
	l.refused[name] = true
}

// Remedy says how a setting is given.
func (l *Loaded) Remedy(name string) string {
	r, _ := l.schema.row(name)
	ways := fmt.Sprintf("set --%s or %s", r.Name, r.Env)
	if r.YAML {
		ways = fmt.Sprintf("set --%s, %s or %s in the YAML file", r.Name, r.Env, r.Name)
	}
	if r.Example != "" {
		ways += ", for example to " + r.Example
	}
	return ways
}

// fileProblem says why a file could not be read, without its name: the message
// says which setting names it, and that could be a secret in the wrong place.
func fileProblem(err error) string {
	var pathError *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "names a file that does not exist; correct the path"
	case errors.Is(err, fs.ErrPermission):
		return "names a file that may not be read; allow it for this user"
	case errors.As(err, &pathError):
		return "names a file that cannot be read: " + pathError.Err.Error()
	}
	return "names a file that cannot be read"
}

// nameForm is what a misspelt name looks like. Anything else could be a value
// that slipped into the place of a name and is not shown.
var nameForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,39}$`)

func shownName(name string) string {
	if nameForm.MatchString(name) {
		return name
	}
	return "such name"
}
