package main

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/joho/godotenv"

	"cloakroom/infra/settings"
	"cloakroom/infra/settings/schema"
)

var update = flag.Bool("update", false, "write the documents that follow from the schema")

// TestDocumentsFollowTheSchema holds .env.example and the tables of settings in
// the documents against the schema. A table stands between the comments
// "<!-- settings -->", for serve, or "<!-- settings NAME -->", and "<!-- /settings -->".
func TestDocumentsFollowTheSchema(t *testing.T) {
	for _, doc := range []struct {
		path   string
		want   func(have string) string
		tables []string // the places that have to be there
	}{
		{"../.env.example", func(string) string { return envExample() }, nil},
		{"../docs/settings.md", withTables, []string{"<!-- settings auth-server -->", "<!-- settings demo -->"}},
		{"../README.md", withTables, []string{"<!-- settings -->"}},
	} {
		have, err := os.ReadFile(doc.path)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for _, place := range doc.tables {
			if !strings.Contains(string(have), place) {
				t.Errorf("%s has no place %s for a table of settings", doc.path, place)
			}
		}
		want := doc.want(string(have))
		if want == string(have) {
			continue
		}
		if !*update {
			t.Errorf("%s does not follow the schema; run: go generate ./app", doc.path)
		} else if err := os.WriteFile(doc.path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHelpFollowsTheSchema looks for every setting in the help of its command.
func TestHelpFollowsTheSchema(t *testing.T) {
	for _, role := range roles() {
		var out bytes.Buffer
		if status := run(context.Background(), process{args: []string{role.name, "--help"}, stdout: &out, stderr: &out}); status != exitOK {
			t.Fatalf("%s --help ends with %d", role.name, status)
		}
		help := " " + strings.Join(strings.Fields(out.String()), " ") + " "
		for _, r := range role.schema.Rows() {
			name := "--" + r.Name
			if !r.Switch {
				name += "=" + r.Placeholder
			}
			want := fmt.Sprintf(" %s %s (%s", name, r.Help, r.Env)
			if r.Required {
				want = fmt.Sprintf(" %s %s Required. (%s", name, r.Help, r.Env)
			} else if r.Default != "" && !r.Switch {
				want += ", default " + r.Default
			}
			if !strings.Contains(help, want+") ") {
				t.Errorf("%s --help does not say %q", role.name, want+")")
			}
		}
	}
}

// TestTheExampleLoads takes .env.example with every line of serve's in force.
// Its key, which everybody knows, must be the only thing that is wrong with it.
func TestTheExampleLoads(t *testing.T) {
	data, err := os.ReadFile("../.env.example")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^#(CLOAKROOM_)`).ReplaceAllString(string(data), "$1")
	vars, err := godotenv.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	in := schema.Input{ReadFile: func(string) ([]byte, error) { return nil, fs.ErrNotExist }}
	known := map[string]bool{}
	for _, role := range roles() {
		in.Beside = append(in.Beside, role.schema)
		for _, r := range role.schema.Rows() {
			known[r.Env] = true
			_, there := vars[r.Env]
			if cannot := r.Name == "env-file"; there == cannot {
				t.Errorf("%s in the example: %v, want %v", r.Env, there, !cannot)
			}
		}
	}
	for name, value := range vars {
		if !strings.HasSuffix(name, "_FILE") && name != "CLOAKROOM_CONFIG" {
			in.Environ = append(in.Environ, name+"="+value)
		}
		if !known[name] {
			t.Errorf("%s in the example is no setting", name)
		}
	}
	_, _, err = settings.Load(in)
	if err == nil || !strings.HasPrefix(err.Error(), "CLOAKROOM_SEAL_KEY: is the key of the documents") || strings.Contains(err.Error(), "\n") {
		t.Errorf("the example has these problems, want the key's alone:\n%v", err)
	}
}

// TestTheDocumentsYAMLLoads takes the YAML of docs/settings.md.
func TestTheDocumentsYAMLLoads(t *testing.T) {
	data, err := os.ReadFile("../docs/settings.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(data), "```yaml\n")
	yaml, _, found := strings.Cut(after, "```")
	if !found {
		t.Fatal("there is no YAML in docs/settings.md")
	}
	key := "k1:AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA\n"
	_, _, err = settings.Load(schema.Input{
		Flags: []schema.Flag{{Name: "config", Values: []string{"c.yaml"}}},
		ReadFile: func(name string) ([]byte, error) {
			switch name {
			case "c.yaml":
				return []byte(yaml), nil
			case "/run/secrets/seal-key":
				return []byte(key), nil
			}
			return nil, fs.ErrNotExist
		},
	})
	if err != nil {
		t.Error(err)
	}
}

func envExample() string {
	var b strings.Builder
	b.WriteString(`# Every environment variable with its default. Copy this file to .env and put
# what you change in force by taking away the # in front. More about values,
# lists and secrets is in docs/settings.md. CLOAKROOM_ENV_FILE and its like name
# another file than .env, and so cannot stand here.
#
# 'go generate ./app' writes this file; a test compares it with the program.
`)
	for _, role := range roles() {
		fmt.Fprintf(&b, "\n\n%s\n# cloakroom %s\n%[1]s\n", "# "+strings.Repeat("=", 76), role.name)
		group := ""
		for _, r := range role.schema.Rows() {
			if r.Name == "env-file" {
				continue
			}
			if r.Group != group {
				fmt.Fprintf(&b, "\n\n# ---- %s\n", r.Group)
				group = r.Group
			}
			text := r.Help
			if r.Choices != nil {
				text += " One of " + strings.Join(r.Choices, ", ") + "."
			}
			switch {
			case r.Required:
				text += " Required, for example:"
			case r.Default == "" && r.Example != "":
				text += " No default; for example:"
			}
			fmt.Fprintf(&b, "\n%s#%s=%s\n", comment(text), r.Env, cmp.Or(r.Default, r.Example))
		}
	}
	return b.String()
}

// comment breaks a text into comment lines of up to 78 characters.
func comment(text string) string {
	var b strings.Builder
	line := "#"
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > 78 {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	return b.String() + line + "\n"
}

var tablePlace = regexp.MustCompile(`(?s)<!-- settings ?([a-z-]*) -->\n.*?<!-- /settings -->`)

// withTables puts the tables of settings into their places in a document.
func withTables(have string) string {
	return tablePlace.ReplaceAllStringFunc(have, func(place string) string {
		name := tablePlace.FindStringSubmatch(place)[1]
		start, _, _ := strings.Cut(place, "\n")
		for _, role := range roles() {
			if role.name == cmp.Or(name, "serve") {
				return start + "\n" + table(role.schema) + "<!-- /settings -->"
			}
		}
		return place + " there is no command " + name
	})
}

func table(s *schema.Schema) string {
	var b strings.Builder
	b.WriteString("\n| setting | variable | default | |\n| --- | --- | --- | --- |\n")
	for _, r := range s.Rows() {
		def := "`" + r.Default + "`"
		switch {
		case r.Required:
			def = "*required*"
		case r.Default == "":
			def = ""
		}
		help := r.Help
		if r.Choices != nil {
			help += " One of `" + strings.Join(r.Choices, "`, `") + "`."
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", r.Name, r.Env, def, strings.ReplaceAll(help, "|", `\|`))
	}
	return b.String() + "\n"
}
