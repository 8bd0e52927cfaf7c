package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"cloakroom/infra/oidc/oidctest"
)

// freePort returns a port that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// at waits until the browser shows an element, wherever it was taken for that.
func (b *browser) at(css string, action chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	b.do(action, chromedp.WaitVisible(chromedp.CSS(css)))
}

// signInAtProvider signs in with the button of the login page and at the real
// provider, which asks who it is and whether they agree.
func (b *browser) signInAtProvider(site, who string) {
	b.t.Helper()
	b.lands("/auth/login", chromedp.Navigate(site+"/auth/login?return_to=/app"))
	b.at("[name=login]", click(`button[formaction="/auth/login/house"]`))
	b.do(write("[name=login]", who), write("[name=password]", "any"))
	b.at(`form[action$="/confirm"] button, form button[autofocus]`, click("button[type=submit]"))
	b.at("#app", click("button[type=submit]"))
}

// statusOf asks for an address with the browser's ticket, as a script of it would.
func (b *browser) statusOf(address string) int {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, address, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range b.cookies() {
		if c.Name == "device_id" {
			req.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
		}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

// noTokenOnTheWay looks through all addresses and headers that the browser has
// met. The bodies of pages of two sites are not to be had afterwards; the tests
// of app/broker look into those.
func (b *browser) noTokenOnTheWay(site string) {
	b.t.Helper()
	b.mu.Lock()
	seen, heard := b.traffic.String(), b.complaints
	b.mu.Unlock()
	if !strings.Contains(seen, `"Set-Cookie":"device_id=`) && !strings.Contains(seen, "device_id=") {
		b.t.Errorf("%s: the test sees no cookie being set", b.name)
	}
	if found := jwt.FindAllString(seen, 3); found != nil {
		b.t.Errorf("%s: the browser sees what looks like tokens: %q", b.name, found)
	}
	for _, complaint := range heard {
		if strings.Contains(complaint, site) || strings.Contains(complaint, "Content Security Policy") { // the provider's own pages have faults of their own
			b.t.Errorf("%s: the console says %q", b.name, complaint)
		}
	}
}

// TestSignInAtARealProviderInARealBrowser goes to a provider that somebody else
// wrote, on another site than the broker.
func TestSignInAtARealProviderInARealBrowser(t *testing.T) {
	t.Parallel()
	path := chromium(t)
	port := freePort(t)
	site := "http://localhost:" + port // the provider is at 127.0.0.1, which is another site
	const secret = "a secret of thirty-two characters"
	node := oidctest.StartNode(t, oidctest.NodeOptions{Clients: []oidctest.NodeClient{{
		ID: "broker", Secret: secret,
		RedirectURIs:         []string{site + "/auth/callback/house"},
		LogoutRedirectURIs:   []string{site + "/auth/logout/done"},
		BackchannelLogoutURI: "http://127.0.0.1:" + port + "/auth/backchannel-logout",
	}}})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, `<!doctype html><title>app</title><link rel="icon" href="data:,"><main id="app">signed in</main>`)
	}))
	t.Cleanup(upstream.Close)
	start(t, "serve", "--listen=127.0.0.1:"+port, "--public-url="+site, "--store=memory:", "--route=/="+upstream.URL,
		fmt.Sprintf("--provider=house;title=The house;issuer=%s;client-id=broker;client-secret=%s", node.URL, secret)).
		stderr.find(t, `(broker listens)`)

	laptop, phone, tablet := openBrowser(t, path, "laptop"), openBrowser(t, path, "phone"), openBrowser(t, path, "tablet")
	laptop.lands("/auth/login", chromedp.Navigate(site+"/auth/login"))
	laptop.looksRight("login-provider")
	laptop.signInAtProvider(site, "ann")
	phone.signInAtProvider(site, "ann")
	tablet.signInAtProvider(site, "ann")

	laptop.lands("/auth/devices", chromedp.Navigate(site+"/auth/devices"))
	laptop.count(".ticket", 3)
	laptop.shows(".owner bdi", "ann@example.com")
	laptop.looksRight("devices-provider")
	laptop.noTokenOnTheWay(site)

	// The phone signs out at the provider, which tells the broker.
	phone.at("button[value=yes]", chromedp.Navigate(node.URL+"/session/end"))
	phone.do(click("button[value=yes]"))
	begun := time.Now()
	for ended := false; !ended; {
		if ended = phone.statusOf(site+"/app") == http.StatusUnauthorized; !ended && time.Since(begun) > 5*time.Second {
			t.Fatal("the phone is still signed in after it signed out at the provider")
		}
	}
	laptop.lands("/auth/devices", chromedp.Reload())
	laptop.count(".ticket", 2)

	// The laptop ends the tablet, which it may because it has just signed in.
	laptop.do(click(`.ticket:not(.mine) form[action$="/sign-out"] button`), chromedp.WaitVisible(chromedp.CSS("#confirm")))
	laptop.lands("/auth/devices", click("#confirm button[value=yes]"))
	laptop.count(".ticket", 1)
	tablet.lands("/auth/login", chromedp.Navigate(site+"/app"))

	// The laptop logs out here and there.
	laptop.at("button[value=yes]", click(`.mine form[action$="/sign-out"] button`))
	laptop.at("a.button.main", click("button[value=yes]"))
	laptop.shows(".tag p:not(.number):not(.choice)", "This browser is signed out here and at The house.")
	laptop.at("[name=login]", chromedp.Steps(chromedp.Navigate(site+"/auth/login"), click(`button[formaction="/auth/login/house"]`)))
	if text := act(laptop, chromedp.OuterHTML(chromedp.CSS("body"))); strings.Contains(text, "ann") {
		t.Error("the provider still knows who it was")
	}
}
