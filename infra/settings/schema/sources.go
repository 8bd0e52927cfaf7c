package schema

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/joho/godotenv"
)

// flags turns the flags of the command line into a source.
func (l *Loaded) flags(flags []Flag) source {
	s := source{}
	for _, f := range flags {
		row, ok := l.schema.row(f.Name)
		if !ok {
			panic("schema: there is no setting " + f.Name)
		}
		where := "--" + f.Name
		if f.NoValue {
			l.refuse(f.Name, "%s: has no value; write %s=%s", where, where, row.Placeholder)
			s[f.Name] = given{where: where}
		}
		if len(f.Values) > 0 {
			s[f.Name] = l.texts(row, where, f.Values...)
		}
	}
	return s
}

// strayArguments complains about what is no flag. A value may be among it, so
// that only names are shown.
func (l *Loaded) strayArguments(args []string) {
	var names []string
	for _, r := range l.schema.rows {
		names = append(names, "--"+r.Name)
	}
	for _, arg := range args {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case strings.HasPrefix(arg, "--") && nameForm.MatchString(name):
			l.Rejectf("--%s: there is no such flag%s", name, didYouMean(name, names))
		case strings.HasPrefix(arg, "-"):
			l.Rejectf("an argument that begins with a hyphen is no flag; flags are written --name=value")
		default:
			l.Rejectf("an argument belongs to no flag; values are written --name=value")
		}
	}
}

// environ turns NAME=value lines into a map. The first of two wins, as in most
// programs' getenv.
func environ(lines []string) map[string]string {
	vars := map[string]string{}
	for _, line := range lines {
		name, value, ok := strings.Cut(line, "=")
		if _, twice := vars[name]; ok && !twice {
			vars[name] = value
		}
	}
	return vars
}

// serviceLink matches the variables that Kubernetes puts into every container
// for each service of the namespace, so that a service called cloakroom gives
// CLOAKROOM_PORT_8080_TCP_ADDR.
var serviceLink = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// variableForm matches the part of a variable's name that can be shown; behind
// it may be a value, where somebody forgot the equals sign.
var variableForm = regexp.MustCompile(`^[A-Za-z0-9_]{1,60}`)

// variables turns environment variables into a source. Those that begin with
// the schema's prefix and that no command knows are problems.
func (l *Loaded) variables(vars map[string]string, in string) source {
	s, known := source{}, map[string]bool{}
	for _, other := range l.in.Beside {
		for _, r := range other.rows {
			known[r.Env] = true
		}
	}
	var names []string
	for _, r := range l.schema.rows {
		known[r.Env] = true
		names = append(names, r.Env)
		value, ok := vars[r.Env]
		switch {
		case !ok:
		case in != "" && r.Name == envFileName:
			l.Rejectf("%s%s: a file cannot name itself; take it out, and set it in the environment or by --%s", r.Env, in, r.Name)
		default:
			s[r.Name] = l.texts(r, r.Env+in, value)
		}
	}
	_, inKubernetes := vars["KUBERNETES_SERVICE_HOST"]
	for _, name := range sortedKeys(vars) {
		if known[name] || !strings.HasPrefix(strings.ToUpper(name), l.schema.prefix) || inKubernetes && serviceLink.MatchString(name) {
			continue
		}
		if shown := variableForm.FindString(name); shown != name {
			l.Rejectf("%s%s: is not of the form NAME=value; correct it", shown, in)
			continue
		}
		l.Rejectf("%s%s: there is no such setting%s", name, in, didYouMean(name, names))
	}
	return s
}

// texts is a setting given as text, a list with its values separated by commas.
func (l *Loaded) texts(r Row, where string, values ...string) given {
	g := given{where: where}
	for _, value := range values {
		if r.List {
			g.items = append(g.items, listItems(where, value)...)
		} else {
			g.items = append(g.items, item{where: where, text: value})
		}
	}
	if r.List && len(g.items) > 1 {
		numberItems(g.items)
	}
	return g
}

func listItems(where, text string) (items []item) {
	for _, value := range splitList(text) {
		items = append(items, item{where: where, text: value})
	}
	return items
}

// numberItems tells the values of a list apart in messages.
func numberItems(items []item) {
	for i := range items {
		items[i].where = fmt.Sprintf("%s (value %d)", items[i].where, i+1)
	}
}

// dotenv reads an .env file. The parser's messages quote the file, so the line
// is told instead: the first from which on every longer part of the file fails.
func (l *Loaded) dotenv(file string, data []byte) map[string]string {
	parse := func(data []byte) (map[string]string, bool) {
		vars, err := godotenv.Parse(bytes.NewReader(data))
		_, nameless := vars[""]
		return vars, err == nil && !nameless
	}
	vars, ok := parse(data)
	if ok {
		return vars
	}
	lines := bytes.SplitAfter(bytes.TrimRight(data, "\r\n"), []byte("\n"))
	bad := len(lines)
	for ; bad > 1; bad-- {
		if _, ok := parse(bytes.Join(lines[:bad-1], nil)); ok {
			break
		}
	}
	l.Rejectf("%s, line %d: is not of the form NAME=value; correct it, and put a value with spaces, quotes or # in single quotes", file, bad)
	return nil
}

// yaml reads a YAML file of flat keys. Values keep the text that stands in the
// file, so that they are read like any other.
func (l *Loaded) yaml(file string, data []byte) source {
	at := func(n ast.Node) string { return fmt.Sprintf("%s, line %d", file, n.GetToken().Position.Line) }
	parsed, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		where := file
		var syntax yaml.Error
		if errors.As(err, &syntax) && syntax.GetToken() != nil {
			where = fmt.Sprintf("%s, line %d", file, syntax.GetToken().Position.Line)
		}
		l.Rejectf("%s: is not valid YAML; correct it, and put a value with special characters in single quotes", where)
		return nil
	}
	s := source{}
	var docs int
	for _, doc := range parsed.Docs {
		switch body := doc.Body.(type) {
		case nil, *ast.DirectiveNode:
			continue
		case *ast.MappingNode:
			l.yamlSettings(s, body, at)
		default:
			l.Rejectf("%s: is not a list of settings; write each as name: value", at(body))
		}
		if docs++; docs == 2 {
			l.Rejectf("%s: a second document begins; keep all settings in one", at(doc.Body))
		}
	}
	return s
}

func (l *Loaded) yamlSettings(s source, body *ast.MappingNode, at func(ast.Node) string) {
	var names []string
	for _, r := range l.schema.rows {
		if r.YAML {
			names = append(names, r.Name)
		}
	}
	for _, entry := range body.Values {
		name := entry.Key.GetToken().Value
		where := shownName(name) + " in " + at(entry.Key)
		row, known := l.schema.row(name)
		switch earlier, twice := s[name]; {
		case known && !row.YAML:
			l.Rejectf("%s: cannot stand in this file; set it by --%s or %s", where, name, row.Env)
		case !known:
			l.Rejectf("%s: there is no such setting%s", where, didYouMean(name, names))
		case twice:
			l.refuse(name, "%s: is given already as %s; keep one of them", where, earlier.where)
		default:
			s[name] = l.yamlValue(row, where, entry.Value, at)
		}
	}
}

func (l *Loaded) yamlValue(row Row, where string, value ast.Node, at func(ast.Node) string) given {
	list, isList := value.(*ast.SequenceNode)
	switch {
	case isList && !row.List:
		l.refuse(row.Name, "%s: is a list; write one value", where)
		return given{where: where}
	case isList:
		g := given{where: where}
		for i, element := range list.Values {
			if it, ok := l.yamlItem(row, fmt.Sprintf("%s[%d] in %s", row.Name, i+1, at(element)), element, at); ok {
				g.items = append(g.items, it)
			}
		}
		return g
	}
	it, ok := l.yamlItem(row, where, value, at)
	if !ok {
		return given{where: where}
	}
	if row.List && it.fields == nil {
		return l.texts(row, where, it.text)
	}
	return given{where, []item{it}}
}

func (l *Loaded) yamlItem(row Row, where string, value ast.Node, at func(ast.Node) string) (item, bool) {
	if mapping, ok := value.(*ast.MappingNode); ok {
		it := item{where: where, fields: map[string]item{}}
		for _, entry := range mapping.Values {
			key := entry.Key.GetToken().Value
			place := fmt.Sprintf("%s of %s in %s", shownName(key), row.Name, at(entry.Key))
			value, ok := yamlField(place, entry.Value)
			if _, twice := it.fields[key]; twice {
				l.refuse(row.Name, "%s: is given twice; keep one of them", place)
			} else if !ok {
				l.refuse(row.Name, "%s: is not a plain value; write a text, a number, true or false, or a list of such", place)
			}
			it.fields[key] = value
		}
		return it, true
	}
	text, ok := scalar(value)
	if !ok {
		l.refuse(row.Name, "%s: is not a plain value; write a text, a number, true or false, without anchors and tags", where)
	}
	return item{where: where, text: text}, ok
}

// yamlField reads the value of a key within a mapping: a plain value, or a list
// of them.
func yamlField(where string, value ast.Node) (item, bool) {
	list, isList := value.(*ast.SequenceNode)
	if !isList {
		text, ok := scalar(value)
		return item{where: where, text: text}, ok
	}
	it := item{where: where, isList: true}
	for _, element := range list.Values {
		text, ok := scalar(element)
		if !ok {
			return it, false
		}
		it.list = append(it.list, item{where: where, text: text})
	}
	if len(it.list) > 1 {
		numberItems(it.list)
	}
	return it, true
}

// scalar returns the text of a plain value. A key without a value is empty.
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return strings.TrimRight(n.Value.Value, "\n"), true
	case *ast.NullNode:
		return "", true
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
