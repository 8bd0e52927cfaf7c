package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"strings"
	"testing"

	"cloakroom/infra/seal"
)

const testKey = "k1:AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA"

// typed runs a command line in an environment and files.
func typed(t *testing.T, line string, environ []string, files map[string]string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // whatever starts to serve by mistake ends at once
	status = run(ctx, process{
		args: strings.Fields(line), environ: environ, stdout: &out, stderr: &errs,
		readFile: func(name string) ([]byte, error) {
			if text, ok := files[name]; ok {
				return []byte(text), nil
			}
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		},
	})
	return status, out.String(), errs.String()
}

var enough = []string{"CLOAKROOM_AUTH_URL=https://auth.example", "CLOAKROOM_ROUTE=/api=http://127.0.0.1:9000", "CLOAKROOM_SEAL_KEY=" + testKey}

func TestCommands(t *testing.T) {
	for _, tt := range []struct {
		line    string
		environ []string
		files   map[string]string
		status  int
		stdout  string // "" is nothing, else a part of it
		stderr  string
	}{
		{line: "config check", environ: enough, stdout: "ok\n"},
		{line: "config check --output=json", environ: enough, stdout: `{"ok":true,"problems":[],"notes":[]}` + "\n"},
		{line: "config check --config c.yaml --listen=[::1]:1", environ: enough[2:], stdout: "ok\n",
			files: map[string]string{"c.yaml": "auth-url: https://auth.example\n", ".env": "CLOAKROOM_ROUTE=/=http://127.0.0.1:9000\n"}},
		{line: "config check --idle-timeout=x", environ: enough, status: exitFailed, stdout: "1 problem with the settings:\n  - --idle-timeout: is not a duration"},
		{line: "config check --output=json --lsten=x", environ: enough, status: exitFailed, stdout: `{"ok":false,"problems":["--lsten: there is no such flag; did you mean --listen?"],"notes":[]}`},
		{line: "config show", environ: enough, stdout: "seal-key                        [redacted]                  CLOAKROOM_SEAL_KEY\n"},
		{line: "config show --output=json --log-level=debug", environ: enough, stdout: `{"name":"log-level","value":"debug","origin":"--log-level"}`},
		{line: "config show", environ: enough[:2], status: exitFailed, stdout: "auth-url                        https://auth.example ", stderr: "  - seal-key: is missing"},

		{line: "serve", status: exitFailed, stderr: "3 problems with the settings:\n  - route: is missing"},
		{line: "serve --listn x extra --prefix --no=1 -x --store=memory:", environ: enough, status: exitFailed,
			stderr: "5 problems with the settings:\n" +
				"  - --listn: there is no such flag; did you mean --listen?\n" +
				"  - an argument belongs to no flag; values are written --name=value\n" +
				"  - --no: there is no such flag; take it out, or look the name up with --help\n" +
				"  - an argument that begins with a hyphen is no flag; flags are written --name=value\n" +
				"  - --prefix: has no value; write --prefix=PATH\n"},
		{line: "serve --config=none.yaml --frob --help", stdout: "Usage: cloakroom serve [flags]"},
		{line: "auth-server --hash-passes=0 --listen=9", environ: []string{"CLOAKROOM_AUTH_SERVER_AUDIENCE=", "CLOAKROOM_AUTH_SERVER_ISUER=x", "CLOAKROOM_LISTN=x"}, status: exitFailed,
			stderr: "2 problems with the settings:\n  - CLOAKROOM_AUTH_SERVER_ISUER: there is no such setting; did you mean CLOAKROOM_AUTH_SERVER_ISSUER?\n  - CLOAKROOM_AUTH_SERVER_AUDIENCE: is empty"},
		{line: "auth-server --hash-passes=0", environ: []string{"CLOAKROOM_AUTH_SERVER_REUSE_WINDOW=2h"}, status: exitFailed,
			stderr: "  - CLOAKROOM_AUTH_SERVER_REUSE_WINDOW: 2h0m0s is not between"},
		{line: "demo --access-token-lifetime=0s", environ: []string{"CLOAKROOM_DEMO_PORTS=1"}, status: exitFailed,
			stderr: "2 problems with the settings:\n  - CLOAKROOM_DEMO_PORTS: there is no such setting; did you mean CLOAKROOM_DEMO_PORT?\n  - --access-token-lifetime: is too short"},

		{line: "version", stdout: "cloakroom "},
		{line: "version --output=json", stdout: `{"version":"`},
		{line: "--help", stdout: "Usage: cloakroom <command>"},
		{line: "config --help", stdout: "config check"},
		{line: "", status: exitUsage, stderr: `expected one of "serve"`},
		{line: "srve", status: exitUsage, stderr: `did you mean "serve"?`},
		{line: "version --frob", status: exitUsage, stderr: "unknown flag --frob"},
		{line: "config check --output=xml", status: exitUsage, stderr: "--output must be one of"},
		{line: "config check --output", status: exitUsage, stderr: "--output"},
	} {
		status, stdout, stderr := typed(t, tt.line, tt.environ, tt.files)
		if status != tt.status || !shows(stdout, tt.stdout) || !shows(stderr, tt.stderr) {
			t.Errorf("cloakroom %s (%v)\nstatus %d, want %d\nstdout: %s\n  want: %s\nstderr: %s\n  want: %s",
				tt.line, tt.environ, status, tt.status, stdout, tt.stdout, stderr, tt.stderr)
		}
	}
}

func shows(text, part string) bool {
	if part == "" {
		return text == ""
	}
	return strings.Contains(text, part)
}

func TestGeneratedKeysServe(t *testing.T) {
	_, key, _ := typed(t, "keys generate", nil, nil)
	status, out, _ := typed(t, "config check --seal-key-file=seal.key", enough[:2], map[string]string{"seal.key": key + testKey + "\n"})
	if status != exitOK || out != "ok\n" {
		t.Errorf("config check with a generated key: %d, %s", status, out)
	}
	_, out, _ = typed(t, "keys generate --output=json", nil, nil)
	var answer struct{ Key string }
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.ParseKey(answer.Key); err != nil {
		t.Errorf("the key in JSON: %v", err)
	}
}

// TestConfigShowTellsNoSecret gives a key in each way and looks for it in what
// the commands print.
func TestConfigShowTellsNoSecret(t *testing.T) {
	secret := strings.TrimPrefix(testKey, "k1:")
	for name, tt := range map[string]struct {
		line    string
		environ []string
		files   map[string]string
	}{
		"flag":             {line: "--seal-key=" + testKey},
		"flag, two words":  {line: "--seal-key " + testKey},
		"misspelt flag":    {line: "--seal-kye " + testKey},
		"misspelt, joined": {line: "--seal-kye=" + testKey},
		"no flag at all":   {line: testKey},
		"a hyphen early":   {line: "-" + testKey},
		"variable":         {environ: []string{"CLOAKROOM_SEAL_KEY=" + testKey}},
		".env":             {files: map[string]string{".env": "CLOAKROOM_SEAL_KEY=" + testKey}},
		"file":             {line: "--seal-key-file=k", files: map[string]string{"k": testKey}},
		"YAML":             {line: "--config=c", files: map[string]string{"c": "seal-key: [" + testKey + "]"}},
		"broken YAML":      {line: "--config=c", files: map[string]string{"c": "seal-key: [" + testKey}},
		"both":             {line: "--seal-key=" + testKey + " --seal-key-file=" + testKey},
	} {
		for _, command := range []string{"config show ", "config show --output=json ", "config check ", "serve --log-level=x "} {
			_, stdout, stderr := typed(t, command+tt.line, append(tt.environ, enough[:2]...), tt.files)
			if strings.Contains(stdout+stderr, secret) {
				t.Errorf("%s%s shows the key:\n%s%s", command, name, stdout, stderr)
			}
		}
	}
}

func TestEverySettingHasHelp(t *testing.T) {
	for _, role := range roles() {
		for _, r := range role.schema.Rows() {
			if !strings.HasSuffix(r.Help, ".") {
				t.Errorf("%s: the help of %s is no sentence: %q", role.name, r.Name, r.Help)
			}
		}
	}
}
