package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for something that takes a moment on a good
// day and some seconds on a machine that is busy.
const patience = 20 * time.Second

// binaries is the folder of the binary that the tests run.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if binaries, err = os.MkdirTemp("", "cloakroom"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(binaries)
		return m.Run()
	}())
}

// binary builds the program as anybody would, the first time that a test asks.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binaries, "cloakroom")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// program is one run of the binary, in an empty folder and an environment
// without settings.
type program struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	stdout *heard
	stderr *heard
	ended  chan struct{}
}

// start runs the binary. When the test ends it is told to stop, if it still
// runs, and if the test failed its log is shown.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, name: "cloakroom " + args[0], cmd: exec.Command(path, args...), stdout: newHeard(), stderr: newHeard(), ended: make(chan struct{})}
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = withoutSettings()
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // the status is in cmd.ProcessState
		p.stdout.end()
		p.stderr.end()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(os.Interrupt)
		select {
		case <-p.ended:
		case <-time.After(patience):
			_ = p.cmd.Process.Kill()
			<-p.ended
		}
		if t.Failed() {
			t.Logf("%s said:\n%s%s", strings.Join(p.cmd.Args[1:], " "), p.stdout, p.stderr)
		}
	})
	return p
}

// withoutSettings is the tests' environment without anything that a broker would
// take for a setting.
func withoutSettings() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "CLOAKROOM_") })
}

// status waits for the end and returns the exit status.
func (p *program) status() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("%s does not end", p.name)
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop asks the program to stop and checks that it does so in good order.
func (p *program) stop(signal syscall.Signal) {
	p.t.Helper()
	begun := time.Now()
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.t.Fatal(err)
	}
	if status := p.status(); status != exitOK {
		p.t.Errorf("%s ends with status %d after %v, want 0", p.name, status, signal)
	}
	if took := time.Since(begun); took > 5*time.Second {
		p.t.Errorf("%s took %v to stop", p.name, took)
	}
}

// failed is for a program that should not even start: it checks how it ended
// and returns what it said.
func (p *program) failed() string {
	p.t.Helper()
	if status := p.status(); status != exitFailed {
		p.t.Errorf("%s ends with status %d, want %d", p.name, status, exitFailed)
	}
	if out := p.stdout.String(); out != "" {
		p.t.Errorf("%s printed %q to standard output, want nothing", p.name, out)
	}
	said := p.stderr.String()
	for _, trace := range []string{"goroutine ", "panic", ".go:"} {
		if strings.Contains(said, trace) {
			p.t.Errorf("%s says %q, which is nothing for people:\n%s", p.name, trace, said)
		}
	}
	return said
}

// heard is what a program has said so far.
type heard struct {
	mu    sync.Mutex
	text  bytes.Buffer
	over  bool
	moved chan struct{} // closed and made anew with every change
}

func newHeard() *heard { return &heard{moved: make(chan struct{})} }

func (h *heard) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text.Write(b)
	close(h.moved)
	h.moved = make(chan struct{})
	return len(b), nil
}

func (h *heard) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	close(h.moved)
	h.moved = make(chan struct{})
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

// find waits until the pattern is there and returns its first group.
func (h *heard) find(t *testing.T, pattern string) string {
	t.Helper()
	re, deadline := regexp.MustCompile(pattern), time.After(patience)
	for {
		h.mu.Lock()
		found, over, moved := re.FindStringSubmatch(h.text.String()), h.over, h.moved
		h.mu.Unlock()
		if found != nil {
			return found[1]
		}
		if over {
			t.Fatalf("the program ended and did not say %s", pattern)
		}
		select {
		case <-moved:
		case <-deadline:
			t.Fatalf("the program does not say %s", pattern)
		}
	}
}

// startDemo starts the demo with data in a folder and on any free ports, and
// returns the line that it prints.
func startDemo(t *testing.T, data string, more ...string) (*program, announcement) {
	t.Helper()
	p := start(t, append([]string{"demo", "--output=json", "--data=" + data, "--port=0", "--auth-port=0", "--api-port=0"}, more...)...)
	line := p.stdout.find(t, `^(.*)\n`)
	var a announcement
	d := json.NewDecoder(strings.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil || a.URL == "" || a.Email == "" || a.Password == "" || a.APIPath == "" {
		t.Fatalf("the demo's line is %q: %v", line, err)
	}
	return p, a
}

// announcement is what scripts are told of the demo.
type announcement struct {
	URL      string `json:"url"`
	Email    string `json:"email"`
	Password string `json:"password"`
	APIPath  string `json:"api_path"`
}

// visitor is a client with a cookie jar, as a script would use the broker.
type visitor struct {
	t    *testing.T
	http *http.Client
}

func newVisitor(t *testing.T) *visitor {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &visitor{t, &http.Client{Jar: jar, Transport: transport, Timeout: patience}}
}

// try sends in as JSON, unless it is nil, and decodes the answer into out,
// unless that is nil.
func (v *visitor) try(method, address string, in, out any) (status int, err error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(v.t.Context(), method, address, body)
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-CSRF", "1")
	req.Header.Set("Content-Type", "application/json")
	res, err := v.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && out != nil {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		err = fmt.Errorf("%s %s: %w in %q", method, address, err, text)
	}
	return res.StatusCode, err
}

// do is try for a request that has to be answered, with the status given.
func (v *visitor) do(method, address string, in, out any, want int) {
	v.t.Helper()
	if got, err := v.try(method, address, in, out); err != nil || got != want {
		v.t.Fatalf("%s %s = %d, %v; want %d", method, address, got, err, want)
	}
}

// signIn signs in and returns the device's id.
func (v *visitor) signIn(broker, email, password string) (device string) {
	v.t.Helper()
	var answer struct {
		DeviceID string `json:"device_id"`
	}
	v.do("POST", broker+"/auth/login", map[string]string{"email": email, "password": password}, &answer, http.StatusOK)
	return answer.DeviceID
}

// cookie returns the one cookie that is kept for an address.
func (v *visitor) cookie(address string) string {
	v.t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		v.t.Fatal(err)
	}
	cookies := v.http.Jar.Cookies(u)
	if len(cookies) != 1 || cookies[0].Name != "device_id" {
		v.t.Fatalf("the cookies are %v, want one device_id", cookies)
	}
	return cookies[0].Value
}

var errTooLong = errors.New("it takes too long")

// eventually asks a question again and again until the answer is yes.
func eventually(ctx context.Context, question func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errTooLong)
	defer cancel()
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	for {
		if yes, err := question(); yes || err != nil {
			return err
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
