package main

import (
	"net/http"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// TestNewcomersDay is what somebody does who has just started the demo, in two
// browsers.
func TestNewcomersDay(t *testing.T) {
	t.Parallel()
	path := chromium(t)
	data := t.TempDir()
	_, a := startDemo(t, data, "--access-token-lifetime=4s")

	laptop := openBrowser(t, path, "laptop")
	laptop.lands("/auth/login", chromedp.Navigate(a.URL))
	laptop.looksRight("login")
	laptop.lands("/auth/register", click(`a[href^="/auth/register"]`))
	laptop.looksRight("register")
	laptop.fill(somebody, herWords)

	me := laptop.device()
	tokens := tokensOf(t, data, me)
	laptop.until(`document.getElementById("tokens").textContent >= 2`)
	tokens = append(tokens, tokensOf(t, data, me)...)
	laptop.until(`document.getElementById("tokens").textContent >= 4`)
	tokens = append(tokens, tokensOf(t, data, me)...)
	laptop.shows("#failed", "0")
	laptop.shows("#email", somebody)
	laptop.looksRight("sample")
	if stored := evaluate[int](laptop, `(async () => document.cookie.length + localStorage.length + sessionStorage.length +
		(await indexedDB.databases()).length + (await caches.keys()).length)()`); stored != 0 {
		t.Error("the page can read a cookie, or something is in the browser's storage")
	}

	laptop.lands("/auth/devices", click(`a[href="/auth/devices"]`))
	laptop.count(".ticket", 1)
	laptop.shows(".ticket.mine .badge.mine", "This device")
	laptop.do(click(".mine details:has(.rename) summary"), write(".mine [name=name]", "Ada’s laptop"))
	laptop.lands("/auth/devices", click(".mine .rename button"))
	laptop.shows(".notice", "The device has its new name.")
	laptop.shows(".mine h2 bdi", "Ada’s laptop")

	phone := openBrowser(t, path, "phone")
	phone.lands("/auth/login", chromedp.Navigate(a.URL))
	phone.fill(somebody, herWords)
	phone.until(`document.getElementById("calls").textContent >= 1`)
	phone.shows("#failed", "0")
	tokens = append(tokens, tokensOf(t, data, phone.device())...)

	laptop.lands("/auth/devices", chromedp.Reload())
	laptop.count(".ticket", 2)
	laptop.count(".ticket.mine", 1)
	laptop.looksRight("devices")
	laptop.do(click(`.ticket:not(.mine) form[action$="/sign-out"] button`), chromedp.WaitVisible(chromedp.CSS("#confirm")))
	laptop.picture("devices-question")
	laptop.lands("/auth/devices", click("#confirm button[value=yes]"))
	laptop.shows(".notice", "That device is signed out. It is refused from now on, and its open pages stop updating.")
	laptop.count(".ticket", 1)
	laptop.shows(".mine h2 bdi", "Ada’s laptop")

	phone.until(`document.getElementById("state").textContent != ""`)
	phone.shows("#state", "This device is signed out. Reload to sign in again.")
	phone.shows("#failed", "1")
	phone.picture("sample-signed-out")
	phone.lands("/auth/login", chromedp.Reload())
	if left := len(phone.cookies()); left != 0 {
		t.Errorf("the browser that was signed out keeps %d cookies", left)
	}

	if now := laptop.device(); now != me {
		t.Errorf("the device became another: %s, then %s", me, now)
	}
	laptop.audit(tokens)
	phone.audit(tokens, "error: Failed to load resource: the server responded with a status of 401 (Unauthorized) "+a.URL+a.APIPath)
}

// TestPagesWorkWithoutScript walks the pages in a browser that runs no script.
func TestPagesWorkWithoutScript(t *testing.T) {
	t.Parallel()
	path := chromium(t)
	data := t.TempDir()
	_, a := startDemo(t, data)
	other := newVisitor(t)
	other.signIn(a.URL, a.Email, a.Password)

	b := openBrowser(t, path, "browser without script")
	call(b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	b.lands("/auth/login", chromedp.Navigate(a.URL))
	b.do(chromedp.WaitNotVisible(chromedp.CSS("[data-reveal]"))) // script would show it
	b.fill(a.Email, a.Password)
	b.shows("#calls", "0")
	tokens := tokensOf(t, data, b.device())

	b.lands("/auth/devices", click(`a[href="/auth/devices"]`))
	b.count(".ticket", 2)
	b.do(click(".mine details:has(.rename) summary"), write(".mine [name=name]", "Plain browser"))
	b.lands("/auth/devices", click(".mine .rename button"))
	b.shows(".mine h2 bdi", "Plain browser")
	b.picture("devices-without-script")

	other.do("GET", a.URL+a.APIPath, nil, nil, http.StatusOK)
	b.lands("/auth/devices", click(`form[action$="/sign-out-others"] button`))
	b.shows(".notice", "All your other devices are signed out. They are refused from now on, and their open pages stop updating.")
	b.count(".ticket", 1)
	other.do("GET", a.URL+a.APIPath, nil, nil, http.StatusUnauthorized)

	b.lands("/auth/login", click(`.mine form[action$="/sign-out"] button`))
	b.lands("/auth/login", chromedp.Navigate(a.URL))
	if left := len(b.cookies()); left != 0 {
		t.Errorf("after logging out there are %d cookies", left)
	}
	b.audit(tokens)
}
