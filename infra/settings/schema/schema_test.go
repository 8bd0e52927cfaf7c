package schema_test

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"cloakroom/domain"
	"cloakroom/infra/settings/schema"
)

// shop is a small command's settings, of every kind that Load treats apart.
type shop struct {
	Listen string `name:"listen" default:":1" form:"address" help:"Address."`
	common
	Names    []string        `name:"name" help:"Names."`
	Needed   string          `name:"needed" required:"" help:"Needed."`
	Wait     time.Duration   `name:"wait" default:"1h30m" min:"10s" help:"Wait."`
	Workers  int             `name:"worker-count" default:"4" min:"1" help:"Workers."`
	Open     bool            `name:"open" help:"Open."`
	Password domain.Secret   `name:"password" help:"Password."`
	Keys     []domain.Secret `name:"key" help:"Keys."`
	Token    string          `name:"token" secret:"" help:"Token."`
	Greeting string          `name:"greeting" default:"hello" empty:"" help:"Greeting."`
	Lanes    uint8           `name:"lanes" default:"4" help:"Lanes."`
	_        int
}

type common struct {
	Level string `name:"level" enum:"low,high" default:"low" help:"Level."`
}

func shopSchema() *schema.Schema { return schema.Of(&shop{}, "SHOP_", schema.WithYAML) }

// load loads a shop that has what it needs, with a YAML and an .env file.
func load(in schema.Input, yaml, dotenv string) (shop, *schema.Loaded) {
	in.Environ = append(in.Environ, "SHOP_NEEDED=x", "SHOP_CONFIG=c.yaml")
	if in.ReadFile == nil {
		in.ReadFile = files(map[string]string{"c.yaml": yaml, ".env": dotenv})
	}
	var s shop
	l := shopSchema().Load(&s, in)
	return s, l
}

func files(texts map[string]string) func(string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		if text, ok := texts[name]; ok {
			return []byte(text), nil
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
}

func TestRowsFollowTheStruct(t *testing.T) {
	var names, envs []string
	for _, r := range shopSchema().Rows() {
		names, envs = append(names, r.Name), append(envs, r.Env)
	}
	want := []string{"config", "env-file", "listen", "level", "name", "needed", "wait", "worker-count", "open", "password", "password-file", "key", "key-file", "token", "token-file", "greeting", "lanes"}
	if !slices.Equal(names, want) {
		t.Errorf("names %q, want %q", names, want)
	}
	if envs[7] != "SHOP_WORKER_COUNT" {
		t.Errorf("worker-count is %s in the environment", envs[7])
	}
	if rows := schema.Of(&shop{}, "SHOP_", false).Rows(); rows[0].Name != "env-file" || rows[1].YAML {
		t.Error("a schema without YAML has a YAML file")
	}
}

func TestAMistakeInTheTagsPanics(t *testing.T) {
	for name, sample := range map[string]any{
		"a default that cannot be read": &struct {
			D time.Duration `name:"d" default:"soon"`
		}{},
		"one name twice": &struct {
			A string `name:"a"`
			B string `name:"a"`
		}{},
		"a type that is unknown": &struct {
			A chan int `name:"a" default:"x"`
		}{},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s is accepted", name)
				}
			}()
			schema.Of(sample, "X_", false)
		}()
	}
}

func TestValuesAndOrigins(t *testing.T) {
	s, l := load(schema.Input{
		Flags:   []schema.Flag{{Name: "name", Values: []string{"a, b", "c"}}, {Name: "open", Values: []string{"true"}}},
		Environ: []string{"SHOP_PASSWORD=pass", "SHOP_TOKEN=tok", "SHOP_KEY=k1,k2", "SHOP_GREETING="},
	}, "wait: 90m\nworker-count: 0x8\n", "SHOP_LEVEL='high' # loud\nOTHER=1\n")
	if err := l.Err(); err == nil || !strings.HasPrefix(err.Error(), "worker-count in c.yaml, line 2: is not a whole number") {
		t.Errorf("err = %v, want one about worker-count", err)
	}
	if !slices.Equal(s.Names, []string{"a", "b", "c"}) || !s.Open || s.Password.Reveal() != "pass" || s.Token != "tok" || len(s.Keys) != 2 || s.Greeting != "" || s.Level != "high" || s.Wait != 90*time.Minute {
		t.Errorf("loaded %+v", s)
	}
	want := []schema.Value{
		{"config", "c.yaml", "SHOP_CONFIG"},
		{"env-file", ".env", "default"},
		{"listen", ":1", "default"},
		{"level", "high", "SHOP_LEVEL in .env"},
		{"name", "a,b,c", "--name"},
		{"needed", "x", "SHOP_NEEDED"},
		{"wait", "1h30m", "wait in c.yaml, line 1"},
		{"worker-count", "[refused]", "worker-count in c.yaml, line 2"},
		{"open", "true", "--open"},
		{"password", "[redacted]", "SHOP_PASSWORD"},
		{"password-file", "", "default"},
		{"key", "[redacted],[redacted]", "SHOP_KEY"},
		{"key-file", "", "default"},
		{"token", "[redacted]", "SHOP_TOKEN"},
		{"token-file", "", "default"},
		{"greeting", "", "SHOP_GREETING"},
		{"lanes", "4", "default"},
	}
	if got := l.Values(); !reflect.DeepEqual(got, want) {
		t.Errorf("values\n%v\nwant\n%v", got, want)
	}
}

func TestSecretsFromFiles(t *testing.T) {
	s, l := load(schema.Input{
		Environ:  []string{"SHOP_PASSWORD_FILE=p", "SHOP_KEY_FILE=k", "SHOP_TOKEN_FILE="},
		ReadFile: files(map[string]string{"p": " with, space \r\n", "k": "k1\nk2,k3\n\n", "c.yaml": "password: ''\n"}),
	}, "", "")
	if err := l.Err(); err != nil {
		t.Fatal(err)
	}
	if s.Password.Reveal() != " with, space " || len(s.Keys) != 3 || s.Keys[2].Reveal() != "k3" || s.Token != "" {
		t.Errorf("loaded %q, %d keys, token %q", s.Password.Reveal(), len(s.Keys), s.Token)
	}
}

func TestProblems(t *testing.T) {
	denied := func(name string) ([]byte, error) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	for _, tt := range []struct {
		name         string
		in           schema.Input
		yaml, dotenv string
		want         []string // how each problem begins, in order
	}{
		{name: "a flag without its value", in: schema.Input{Flags: []schema.Flag{{Name: "wait", NoValue: true}}},
			want: []string{"--wait: has no value; write --wait=DURATION"}},
		{name: "a flag given twice", in: schema.Input{Flags: []schema.Flag{{Name: "wait", Values: []string{"1m", "2m"}}}},
			want: []string{"--wait: has several values; give one"}},
		{name: "stray arguments", in: schema.Input{Stray: []string{"--wiat=1m", "-w", "1m", "--no=", "---"}},
			want: []string{"--wiat: there is no such flag; did you mean --wait?", "an argument that begins", "an argument belongs", "--no: there is no such flag; ", "an argument that begins"}},
		{name: "unknown variables", in: schema.Input{Environ: []string{"SHOP_LISTENS=1", "shop_wait=1m", "SHOPPING=1", "SHOP_FOO=1"}},
			want: []string{"SHOP_FOO: there is no such setting; take it out", "SHOP_LISTENS: there is no such setting; did you mean SHOP_LISTEN?", "shop_wait: there is no such setting; did you mean SHOP_WAIT?"}},
		{name: "a value too small", in: schema.Input{Environ: []string{"SHOP_WAIT=9s", "SHOP_WORKER_COUNT=0"}},
			want: []string{"SHOP_WAIT: is too short; give at least 10s", "SHOP_WORKER_COUNT: is too small; give at least 1"}},
		{name: "a number out of range", in: schema.Input{Environ: []string{"SHOP_LANES=256", "SHOP_WORKER_COUNT=-1"}},
			want: []string{"SHOP_WORKER_COUNT: is too small; give at least 1", "SHOP_LANES: is too large; give at most 255"}},
		{name: "nothing where something is needed", in: schema.Input{Environ: []string{"SHOP_WAIT=", "SHOP_NEEDED=", "SHOP_OPEN="}},
			want: []string{"SHOP_NEEDED: is empty; give a value", "SHOP_WAIT: is empty; give a value, or leave it out for 1h30m", "SHOP_OPEN: is empty"}},
		{name: "a secret and its file", in: schema.Input{Flags: []schema.Flag{{Name: "token", Values: []string{"t"}}}}, yaml: "token-file: /t\n",
			want: []string{"--token: is given, and so is token-file in c.yaml, line 1; keep one of them"}},
		{name: "an empty file of a secret", in: schema.Input{Environ: []string{"SHOP_TOKEN_FILE=c.yaml"}}, yaml: "\n",
			want: []string{"the file of SHOP_TOKEN_FILE: is empty"}},
		{name: "files that may not be read", in: schema.Input{Environ: []string{"SHOP_TOKEN_FILE=t"}, ReadFile: denied},
			want: []string{"env-file: names a file that may not be read", "SHOP_CONFIG: names a file that may not be read", "SHOP_TOKEN_FILE: names a file that may not be read"}},

		{name: "an .env line without =", dotenv: "A=1\n# c\n\nSHOP_WAIT 1m\nB=2\n", want: []string{".env, line 4: is not of the form NAME=value"}},
		{name: "a last .env line without =", dotenv: "A=1\nSHOP_WAIT\n", want: []string{".env, line 2: is not of the form NAME=value"}},
		{name: "an .env quote that does not end", dotenv: "A=1\nSHOP_WAIT='1m\nB=2\nC=3", want: []string{".env, line 2: is not of the form NAME=value"}},
		{name: "an .env file that names itself", dotenv: "SHOP_ENV_FILE=x\n", want: []string{"SHOP_ENV_FILE in .env: a file cannot name itself"}},

		{name: "YAML that is none", yaml: "wait: 1m\nname: [a\n", want: []string{"c.yaml, line 2: is not valid YAML"}},
		{name: "YAML that is a list", yaml: "- wait\n", want: []string{"c.yaml, line 1: is not a list of settings"}},
		{name: "YAML with two documents", yaml: "wait: 1m\n---\nlisten: x\n",
			want: []string{"c.yaml, line 3: a second document begins", "listen in c.yaml, line 3: is not an address"}},
		{name: "a YAML key twice", yaml: "wait: 1m\nwait: 2m\n", want: []string{"wait in c.yaml, line 2: is given already as wait in c.yaml, line 1"}},
		{name: "YAML keys of other kinds", yaml: "config: x\nenv-file: y\nWAIT: 1m\nworkerCount: 3\n'a b': 1\n",
			want: []string{"config in c.yaml, line 1: cannot stand in this file; set it by --config or SHOP_CONFIG", "env-file in c.yaml, line 2: cannot",
				"WAIT in c.yaml, line 3: there is no such setting; did you mean wait?", "workerCount in c.yaml, line 4: there is no such setting; did you mean worker-count?", "such name in c.yaml, line 5: "}},
		{name: "YAML values of the wrong shape", yaml: "wait: [1m]\nlisten: {a: b}\nname: [a, [b]]\nlevel: &x low\ntoken: *x\n",
			want: []string{"wait in c.yaml, line 1: is a list; write one value", "name[2] in c.yaml, line 3: is not a plain value", "level in c.yaml, line 4: is not a plain value",
				"token in c.yaml, line 5: is not a plain value", "listen in c.yaml, line 2: is a mapping; write a plain value"}},
	} {
		_, l := load(tt.in, tt.yaml, tt.dotenv)
		var got schema.Problems
		errors.As(l.Err(), &got)
		if !slices.EqualFunc(got, tt.want, strings.HasPrefix) {
			t.Errorf("%s:\n got %q\nwant %q", tt.name, []string(got), tt.want)
		}
	}
}

func TestMissing(t *testing.T) {
	var s shop
	l := shopSchema().Load(&s, schema.Input{ReadFile: files(nil)})
	want := "needed: is missing; set --needed, SHOP_NEEDED or needed in the YAML file"
	if err := l.Err(); err == nil || err.Error() != want {
		t.Errorf("err = %v, want %s", err, want)
	}
	if l.Valid("needed") || !l.Valid("wait", "open") {
		t.Error("Valid does not tell what is missing")
	}
}

func TestOtherVariablesInTheSameEnvironment(t *testing.T) {
	beside := schema.Of(&struct {
		Port int `name:"port" help:"Port."`
	}{}, "SHOP_TILL_", false)
	links := []string{"SHOP_PORT=tcp://10.0.0.1:80", "SHOP_PORT_80_TCP_ADDR=10.0.0.1", "SHOP_SERVICE_HOST=10.0.0.1", "SHOP_SERVICE_PORT_HTTP=80"}
	for _, tt := range []struct {
		name    string
		environ []string
		want    int
	}{
		{"another command's", []string{"SHOP_TILL_PORT=1"}, 0},
		{"another command's, misspelt", []string{"SHOP_TILL_PROT=1"}, 1},
		{"service links of Kubernetes", append(links, "KUBERNETES_SERVICE_HOST=10.0.0.1"), 0},
		{"the same names elsewhere", links, 4},
	} {
		_, l := load(schema.Input{Environ: tt.environ, Beside: []*schema.Schema{beside}}, "", "")
		var got schema.Problems
		errors.As(l.Err(), &got)
		if len(got) != tt.want {
			t.Errorf("%s: problems %q, want %d", tt.name, []string(got), tt.want)
		}
	}
}

func TestKongFlags(t *testing.T) {
	var cli struct {
		Serve struct {
			Settings any `embed:""`
		} `cmd:""`
	}
	for _, tt := range []struct {
		args string
		want []schema.Flag
	}{
		{"serve", nil},
		{"serve --wait 1m --open", []schema.Flag{{Name: "wait", Values: []string{"1m"}}, {Name: "open", Values: []string{"true"}}}},
		{"serve --open=no --name=a --name b,c --listen=", []schema.Flag{{Name: "listen", Values: []string{""}}, {Name: "name", Values: []string{"a", "b,c"}}, {Name: "open", Values: []string{"no"}}}},
		{"serve --wait --listen :2", []schema.Flag{{Name: "listen", Values: []string{":2"}}, {Name: "wait", NoValue: true}}},
		{"serve --token-file=/t --wait", []schema.Flag{{Name: "wait", NoValue: true}, {Name: "token-file", Values: []string{"/t"}}}},
	} {
		flags := shopSchema().Flags()
		cli.Serve.Settings = flags.Grammar
		parser, err := kong.New(&cli)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(strings.Fields(tt.args)); err != nil {
			t.Errorf("%s: %v", tt.args, err)
		}
		if got := flags.Given(); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.args, got, tt.want)
		}
	}
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", 90 * time.Second: "1m30s", 10 * time.Minute: "10m", time.Hour: "1h", 336 * time.Hour: "336h", 61 * time.Minute: "1h1m", 100 * time.Hour: "100h", time.Hour + time.Second: "1h0m1s",
	} {
		if got := schema.FormatDuration(d); got != want {
			t.Errorf("FormatDuration(%v) = %s, want %s", d, got, want)
		}
		if back, err := time.ParseDuration(schema.FormatDuration(d)); back != d {
			t.Errorf("%v comes back as %v, %v", d, back, err)
		}
	}
}

// FuzzFiles looks for an .env or YAML file that makes Load panic.
func FuzzFiles(f *testing.F) {
	f.Add("wait: 1m\nname: [a, {b: c}]\n", "SHOP_WAIT='1m'\n")
	f.Add("? {a: b}\n: - c\n", "export A\n=B\n")
	f.Add("<<: *x\n!!map {}\n", "A=\"$\n")
	f.Fuzz(func(t *testing.T, yaml, dotenv string) {
		_, l := load(schema.Input{}, yaml, dotenv)
		_ = fmt.Sprint(l.Err(), l.Values())
	})
}
