package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"cloakroom/infra/testreport"
)

// whoami is what the demo's sample API says of a call.
type whoami struct {
	Email string
	Token struct{ Number string }
	Seen  struct{ Cookies int } `json:"seen_by_the_api"`
}

// TestDemoKeepsPeopleSignedIn signs in with the account that the demo prints,
// calls its API while tokens come and go, and starts it again.
func TestDemoKeepsPeopleSignedIn(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "demo")
	first, a := startDemo(t, data, "--access-token-lifetime=4s")

	v := newVisitor(t)
	v.signIn(a.URL, a.Email, a.Password)
	ticket := v.cookie(a.URL)
	tokens := map[string]bool{}
	calls := 0
	err := eventually(t.Context(), func() (bool, error) {
		var me whoami
		status, err := v.try("GET", a.URL+a.APIPath, nil, &me)
		if err != nil || status != http.StatusOK || me.Email != a.Email || me.Seen.Cookies != 0 {
			return false, fmt.Errorf("call %d = %d %+v, %v", calls, status, me, err)
		}
		calls++
		tokens[me.Token.Number] = true
		return len(tokens) > 3, nil
	})
	if err != nil {
		t.Fatalf("with %d calls and %d tokens: %v", calls, len(tokens), err)
	}
	if got := v.cookie(a.URL); got != ticket {
		t.Errorf("the cookie changed with the tokens")
	}
	first.stop(syscall.SIGINT)
	if lines := strings.Count(first.stdout.String(), "\n"); lines != 1 {
		t.Errorf("the demo printed %d lines for scripts, want 1:\n%s", lines, first.stdout)
	}
	if log := first.stderr.String(); log != "" {
		t.Errorf("a good day brings warnings:\n%s", log)
	}

	second := start(t, "demo", "--data="+data, "--port=0", "--auth-port=0", "--api-port=0")
	address := second.stdout.find(t, `Open +(http://\S+)`)
	if address == a.URL {
		t.Fatalf("the demo came back at %s, where its ports were to change", address)
	}
	if account := second.stdout.find(t, `(?s)email +(\S+\s+password +\S+)`); strings.Join(strings.Fields(account), " ") != a.Email+" password "+a.Password {
		t.Errorf("the demo came back with another account: %q", account)
	}
	var me whoami
	v.do("GET", address+a.APIPath, nil, &me, http.StatusOK)
	if me.Email != a.Email {
		t.Errorf("after a restart the old cookie is %q, want %q", me.Email, a.Email)
	}
	second.stop(syscall.SIGTERM)
}

// TestTakenPortIsOneSentence starts programs on a port where somebody listens.
func TestTakenPortIsOneSentence(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	address := l.Addr().String()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	for _, flag := range []string{"--port", "--auth-port", "--api-port"} {
		args := []string{"demo", "--output=json", "--data=" + t.TempDir()}
		for _, f := range []string{"--port", "--auth-port", "--api-port"} {
			if f == flag {
				args = append(args, f+"="+port)
			} else {
				args = append(args, f+"=0")
			}
		}
		said := start(t, args...).failed()
		if strings.Count(said, "\n") != 1 || !strings.Contains(said, address+" is taken") || !strings.Contains(said, "("+flag+";") {
			t.Errorf("with %s taken the demo says, want one line with the address and the flag:\n%s", flag, said)
		}
	}
	for _, args := range [][]string{
		{"serve", "--listen=" + address, "--store=memory:", "--auth-url=http://127.0.0.1:9", "--route=/=http://127.0.0.1:9"},
		{"auth-server", "--listen=" + address},
	} {
		said := start(t, args...).failed()
		if last := said[strings.LastIndex(strings.TrimSpace(said), "\n")+1:]; !strings.HasPrefix(last, "cloakroom: ") || !strings.Contains(last, address) {
			t.Errorf("with its port taken %s says, want a line with the address at the end:\n%s", args[0], said)
		}
	}
}

// curlStep is what a command of the README's session has to bring.
type curlStep struct {
	does string // a part of the command
	want func(body string) bool
}

// TestReadmeCurlSession runs the commands of the README as they are printed, in
// their order, but for the demo's address.
func TestReadmeCurlSession(t *testing.T) {
	t.Parallel()
	curl, err := exec.LookPath("curl")
	if err != nil {
		testreport.Missing(t, "curl", "no curl on the path")
	}
	version, err := exec.CommandContext(t.Context(), curl, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	testreport.Real(t, "curl", strings.Join(strings.Fields(string(version))[:2], " "))
	_, a := startDemo(t, t.TempDir())

	commands := readmeCurls(t)
	steps := []curlStep{
		{"/auth/register", func(body string) bool {
			var in struct {
				DeviceID string `json:"device_id"`
			}
			return json.Unmarshal([]byte(body), &in) == nil && in.DeviceID != ""
		}},
		{"/api/whoami", func(body string) bool {
			var me whoami
			return json.Unmarshal([]byte(body), &me) == nil && me.Email == "ada@example.com" && me.Token.Number != ""
		}},
		{"/auth/session", func(body string) bool {
			var session struct{ Email string }
			return json.Unmarshal([]byte(body), &session) == nil && session.Email == "ada@example.com"
		}},
		{"/auth/devices", func(body string) bool {
			var list struct{ Devices []struct{ Current bool } }
			return json.Unmarshal([]byte(body), &list) == nil && len(list.Devices) == 1 && list.Devices[0].Current
		}},
		{"/auth/logout", func(body string) bool { return body == "" }},
		{"/api/whoami", func(body string) bool {
			var refusal struct {
				Error    string
				LoginURL string `json:"login_url"`
			}
			return json.Unmarshal([]byte(body), &refusal) == nil && refusal.Error == "sign_in_required" && refusal.LoginURL == "/auth/login"
		}},
	}
	if len(commands) != len(steps) {
		t.Fatalf("the README has %d commands, and the test %d:\n%s", len(commands), len(steps), strings.Join(commands, "\n"))
	}
	folder := t.TempDir() // of the jar
	for i, step := range steps {
		command := strings.ReplaceAll(commands[i], "http://127.0.0.1:8080", a.URL)
		if command == commands[i] || !strings.Contains(command, step.does) {
			t.Fatalf("step %d in the README is %q, want it to call %s at http://127.0.0.1:8080", i+1, commands[i], step.does)
		}
		sh := exec.CommandContext(t.Context(), "sh", "-c", command)
		sh.Dir = folder
		out, err := sh.Output()
		if err != nil || !step.want(string(out)) || jwt.Match(out) {
			t.Errorf("%s\nbrings %q, %v", command, out, err)
		}
	}
}

// readmeCurls returns the commands of the README's block of curl commands.
func readmeCurls(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(block[1], "curl ") {
			continue
		}
		for line := range strings.Lines(strings.ReplaceAll(block[1], "\\\n", " ")) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				found = append(found, line)
			}
		}
	}
	return found
}
