package schema

import (
	"fmt"
	"reflect"
	"strconv"

	"github.com/alecthomas/kong"
)

// Flags is a schema as the flags of a kong command. Kong judges none of the
// values: it collects their texts, and Load reads them together with all others,
// because kong would stop at the first that is wrong.
type Flags struct {
	// Grammar is for an embedded field of a command: `embed:""`.
	Grammar any
	rows    []Row
}

// Flags returns a flag for every setting.
func (s *Schema) Flags() *Flags {
	var fields []reflect.StructField
	for i, r := range s.rows {
		tag := fmt.Sprintf("name:%q help:%s placeholder:%q group:%q", r.Name, strconv.Quote(r.flagHelp()), r.Placeholder, r.Group)
		typ := reflect.TypeFor[texts]()
		if r.Switch {
			typ = reflect.TypeFor[switches]()
		}
		fields = append(fields, reflect.StructField{Name: "Flag" + strconv.Itoa(i), Type: typ, Tag: reflect.StructTag(tag)})
	}
	return &Flags{Grammar: reflect.New(reflect.StructOf(fields)).Interface(), rows: s.rows}
}

// Given returns the flags that were on the command line, after kong parsed it.
func (f *Flags) Given() (given []Flag) {
	v := reflect.ValueOf(f.Grammar).Elem()
	for i, r := range f.rows {
		var got texts
		switch t := v.Field(i).Interface().(type) {
		case texts:
			got = t
		case switches:
			got = t.texts
		}
		if len(got.values) > 0 || got.noValue {
			given = append(given, Flag{Name: r.Name, Values: got.values, NoValue: got.noValue})
		}
	}
	return given
}

// flagHelp is the help of a flag: the sentences, the variable and the default.
func (r Row) flagHelp() string {
	switch {
	case r.Required:
		return fmt.Sprintf("%s Required. (%s)", r.Help, r.Env)
	case r.Default == "" || r.Switch:
		return fmt.Sprintf("%s (%s)", r.Help, r.Env)
	}
	return fmt.Sprintf("%s (%s, default %s)", r.Help, r.Env, r.Default)
}

// texts collects the values of a flag.
type texts struct {
	values  []string
	noValue bool
}

// Decode implements kong.MapperValue. A flag at the end of the line or before
// another flag has no value; that is for Load to report.
func (t *texts) Decode(ctx *kong.DecodeContext) error {
	token := ctx.Scan.Peek()
	if !token.IsValue() || token.IsEOL() {
		t.noValue = true
		return nil
	}
	t.values = append(t.values, ctx.Scan.Pop().String())
	return nil
}

// switches collects the values of a flag that needs none.
type switches struct{ texts }

// Decode implements kong.MapperValue.
func (s *switches) Decode(ctx *kong.DecodeContext) error {
	value := "true"
	if ctx.Scan.Peek().Type == kong.FlagValueToken {
		value = ctx.Scan.Pop().String()
	}
	s.values = append(s.values, value)
	return nil
}

// IsBool implements kong.BoolMapperValue.
func (*switches) IsBool() bool { return true }
