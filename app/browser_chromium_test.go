package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/storage"
	"github.com/chromedp/chromedp"

	"cloakroom/app/broker"
	"cloakroom/domain"
	"cloakroom/infra/settings"
	"cloakroom/infra/testreport"
)

// screenshots names a folder that gets pictures of the pages, to look at.
const screenshots = "CLOAKROOM_TEST_SCREENSHOTS"

// longestDay is how long a browser may live, whatever it waits for.
const longestDay = 2 * time.Minute

const (
	windowWidth  = 1100 // in CSS pixels
	windowHeight = 900
)

// chromium finds the browser, or ends the test.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		version, err := exec.CommandContext(t.Context(), path, "--version").Output()
		if err != nil {
			t.Fatalf("%s --version: %v", path, err)
		}
		testreport.Real(t, "chromium", strings.TrimSpace(string(version)))
		return path
	}
	testreport.Missing(t, "chromium", "no chromium on the path")
	return ""
}

// browser is a Chromium with a profile of its own and one tab open.
type browser struct {
	t    *testing.T
	name string
	ctx  context.Context

	mu         sync.Mutex
	traffic    bytes.Buffer        // every event of the network, as the developer tools get them
	loaded     []network.RequestID // what has a body
	complaints []string            // warnings and errors on the console
}

// openBrowser starts a Chromium; it ends with the test.
func openBrowser(t *testing.T, path, name string) *browser {
	t.Helper()
	b := &browser{t: t, name: name}
	flags := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // it sees pages of ours alone, and containers often allow no sandbox
		chromedp.DisableGPU, chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	day, end := context.WithTimeoutCause(context.Background(), longestDay, errTooLong)
	t.Cleanup(end)
	processes, stop := chromedp.NewExecAllocator(day, flags...)
	t.Cleanup(stop)
	ctx, closeTab := chromedp.NewContext(processes, chromedp.WithListener(b.listen))
	t.Cleanup(closeTab)
	b.ctx = ctx
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(windowWidth, windowHeight)); err != nil {
		t.Fatalf("%s does not start: %v", path, err)
	}
	// Bodies have to be there until audit reads them, wherever the tab has gone.
	room := int64(64 << 20)
	call(b, network.ConfigureDurableMessages, network.ConfigureDurableMessagesParams{MaxTotalBufferSize: &room, MaxResourceBufferSize: &room})
	return b
}

// listen takes down what the browser tells of itself.
func (b *browser) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			b.complaints = append(b.complaints, fmt.Sprintf("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL))
		}
	case *runtime.EventExceptionThrown:
		b.complaints = append(b.complaints, "exception: "+e.ExceptionDetails.Text)
	case *runtime.EventConsoleAPICalled:
		b.complaints = append(b.complaints, "console: "+string(e.Type))
	case *network.EventLoadingFinished:
		b.loaded = append(b.loaded, e.RequestID)
	}
	if strings.HasSuffix(reflect.TypeOf(event).Elem().PkgPath(), "/cdproto/network") {
		if err := json.NewEncoder(&b.traffic).Encode(event); err != nil {
			b.complaints = append(b.complaints, "the test cannot write an event down: "+err.Error())
		}
	}
}

// act does an action and returns what it brings. A test cannot go on without it.
func act[T any](b *browser, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeoutCause(b.ctx, patience, errTooLong)
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	if err != nil {
		b.fatal(err)
	}
	return result
}

func call[P, R any](b *browser, command cdp.Command[P, R], params P) R {
	b.t.Helper()
	result, err := chromedp.Call(b.ctx, command, params)
	if err != nil {
		b.fatal(err)
	}
	return result
}

// fatal ends the test and tells what the browser shows.
func (b *browser) fatal(err error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Second)
	defer cancel()
	at, _ := chromedp.Run(ctx, chromedp.Location())
	text, _ := chromedp.Run(ctx, chromedp.OuterHTML(chromedp.CSS("main")))
	b.t.Fatalf("%s: %v\nat %s, which shows\n%s", b.name, err, at, text)
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	act(b, chromedp.Steps(steps...))
}

// lands does an action that leads to another page, and checks that the page is
// there and is the one at path.
func (b *browser) lands(path string, action chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	response := act(b, func(ctx context.Context, _ *chromedp.Target) (*network.Response, error) {
		return chromedp.RunResponse(ctx, action)
	})
	u, err := url.Parse(response.URL)
	if err != nil || response.Status != 200 || u.Path != path {
		b.fatal(fmt.Errorf("the page is %s with status %d, want %s", response.URL, response.Status, path))
	}
}

func click(css string) chromedp.Action[chromedp.Void] { return chromedp.Click(chromedp.CSS(css)) }

func write(css, text string) chromedp.Action[chromedp.Void] {
	return chromedp.SendKeys(chromedp.CSS(css), text)
}

// fill sends the form of the login page or of the registration, which leads to
// the sample page.
func (b *browser) fill(email, password string) {
	b.t.Helper()
	b.do(write("#email", email), write("#password", password))
	b.lands("/", click("form button.main"))
}

// shows checks the text of an element.
func (b *browser) shows(css, want string) {
	b.t.Helper()
	if got := strings.TrimSpace(act(b, chromedp.TextContent(chromedp.CSS(css)))); got != want {
		b.t.Errorf("%s: %s says %q, want %q", b.name, css, got, want)
	}
}

// count checks how many elements there are.
func (b *browser) count(css string, want int) {
	b.t.Helper()
	if got := len(act(b, chromedp.Nodes(chromedp.CSSAll(css), chromedp.AtLeast(0)))); got != want {
		b.t.Errorf("%s: there are %d of %s, want %d", b.name, got, css, want)
	}
}

// evaluate returns what an expression is on the page. A promise is waited for.
func evaluate[T any](b *browser, js string) T {
	b.t.Helper()
	return act(b, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
}

// until waits for a condition on the page, which no navigation interrupts.
func (b *browser) until(js string) {
	b.t.Helper()
	if err := eventually(b.ctx, func() (bool, error) {
		return chromedp.Run(b.ctx, chromedp.Evaluate[bool](js))
	}); err != nil {
		b.fatal(fmt.Errorf("%s: %w", js, err))
	}
}

// looksRight takes pictures of the page, if somebody wants to see them, and
// checks that a phone needs not scroll it sideways.
func (b *browser) looksRight(name string) {
	b.t.Helper()
	b.picture(name)
	const width = 390
	b.do(chromedp.EmulateViewport(width, 1200))
	if wide := evaluate[int](b, "document.documentElement.scrollWidth"); wide > width {
		b.t.Errorf("%s: on a phone %d pixels wide the page is %d wide", name, width, wide)
	}
	b.picture(name + "-phone")
	b.do(chromedp.EmulateViewport(windowWidth, windowHeight))
}

// picture takes a picture of what the window shows.
func (b *browser) picture(name string) {
	b.t.Helper()
	folder := os.Getenv(screenshots)
	if folder == "" {
		return
	}
	err := os.MkdirAll(folder, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, name+".png"), act(b, chromedp.CaptureScreenshot()), 0o644)
	}
	if err != nil {
		b.t.Errorf("%s: %v", screenshots, err)
	}
}

// cookies returns everything in the browser's jar.
func (b *browser) cookies() []*network.Cookie {
	b.t.Helper()
	return call(b, storage.GetCookies, storage.GetCookiesParams{}).Cookies
}

// device returns the id of the device that the browser is, from its cookie,
// which has to be the only one and out of reach for script.
func (b *browser) device() domain.DeviceID {
	b.t.Helper()
	jar := b.cookies()
	if len(jar) != 1 {
		b.fatal(fmt.Errorf("there are %d cookies, want one", len(jar)))
	}
	c := jar[0]
	if c.Name != "device_id" || !c.HTTPOnly || c.SameSite != network.CookieSameSiteLax || c.Path != "/" || c.Domain != "127.0.0.1" {
		b.t.Errorf("%s: the cookie is %s, HttpOnly %v, SameSite %s, of %s%s", b.name, c.Name, c.HTTPOnly, c.SameSite, c.Domain, c.Path)
	}
	ticket, err := domain.ParseTicket(c.Value)
	if err != nil {
		b.fatal(err)
	}
	return ticket.DeviceID
}

// jwt is what every JSON Web Token looks like: its first part is the base64 of
// an object, so it begins with that of {" (RFC 7519, section 3).
var jwt = regexp.MustCompile(`eyJ[\w-]{8,}\.[\w-]*\.[\w-]*`)

// audit looks through everything that the browser has been sent or has sent,
// for tokens: those given and all that look like one. It wants the console to
// be silent but for the complaints given.
func (b *browser) audit(tokens []string, complaints ...string) {
	b.t.Helper()
	b.mu.Lock()
	seen, loaded, heard := b.traffic.String(), b.loaded, b.complaints
	b.mu.Unlock()
	var bodies strings.Builder
	for _, id := range loaded {
		bodies.Write(call(b, network.GetResponseBody, network.GetResponseBodyParams{RequestID: id}).Body)
		bodies.WriteByte('\n')
	}
	// What has to be seen in any case, so that the rest means something.
	if !strings.Contains(seen, `"Set-Cookie":"device_id=`) || !strings.Contains(bodies.String(), "</html>") {
		b.t.Errorf("%s: the test sees no cookie being set, or no page", b.name)
	}
	if strings.Contains(strings.ToLower(seen), `"authorization":`) {
		b.t.Errorf("%s: the browser sees a header Authorization", b.name)
	}
	seen += bodies.String()
	if found := jwt.FindAllString(seen, 3); found != nil {
		b.t.Errorf("%s: the browser sees what looks like tokens: %q", b.name, found)
	}
	for _, token := range tokens {
		if strings.Contains(seen, token) {
			b.t.Errorf("%s: the browser sees a token that the broker keeps", b.name)
		}
	}
	if fmt.Sprint(heard) != fmt.Sprint(complaints) {
		b.t.Errorf("%s: the console says %q, want %q", b.name, heard, complaints)
	}
}

// tokensOf opens the demo's store, as another process may, and returns the
// tokens that it keeps for a device now.
func tokensOf(t *testing.T, data string, device domain.DeviceID) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(data, "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	var kept struct {
		SealKey string `json:"seal_key"`
	}
	if err := json.Unmarshal(text, &kept); err != nil {
		t.Fatal(err)
	}
	store, err := broker.OpenStore(t.Context(), settings.Store{Kind: settings.SQLite, Path: filepath.Join(data, "cloakroom.db")},
		settings.Settings{SealKeys: []domain.Secret{domain.NewSecret(kept.SealKey)}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	r, err := store.Get(t.Context(), device)
	if err != nil {
		t.Fatal(err)
	}
	access, refresh := r.Tokens.Access.Reveal(), r.Tokens.Refresh.Reveal()
	if !jwt.MatchString(access) || len(refresh) < 32 {
		t.Fatalf("the store keeps no tokens for %s", device)
	}
	return []string{access, refresh}
}
