package oidctest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"cloakroom/infra/testreport"
)

//go:embed nodeprovider/provider.mjs nodeprovider/package-lock.json
var nodeFiles embed.FS

// nodeName is what reports call the real provider.
const nodeName = "oidc-provider"

// NodeClient is a client that the real provider knows, in the words of its
// registration (OpenID Connect Dynamic Client Registration 1.0, section 2).
type NodeClient struct {
	ID                   string   `json:"client_id"`
	Secret               string   `json:"client_secret,omitempty"`
	AuthMethod           string   `json:"token_endpoint_auth_method,omitempty"`
	Keys                 any      `json:"jwks,omitempty"` // for private_key_jwt
	SigningAlgorithm     string   `json:"token_endpoint_auth_signing_alg,omitempty"`
	RedirectURIs         []string `json:"redirect_uris"`
	LogoutRedirectURIs   []string `json:"post_logout_redirect_uris,omitempty"`
	BackchannelLogoutURI string   `json:"backchannel_logout_uri,omitempty"`
	BoundTokens          bool     `json:"dpop_bound_access_tokens,omitempty"`

	GrantTypes      []string `json:"grant_types"`                         // set by StartNode
	LogoutNeedsSID  bool     `json:"backchannel_logout_session_required"` // set by StartNode
	ResponseTypes   []string `json:"response_types"`                      // set by StartNode
	ApplicationType string   `json:"application_type"`                    // set by StartNode
}

// NodeOptions says what the real provider is to be. The zero value rotates
// refresh tokens, and asks everybody who proves possession for a nonce.
type NodeOptions struct {
	Clients     []NodeClient
	AccessLife  time.Duration // of access tokens, whole seconds: 5 min
	KeepRefresh bool          // refresh tokens are not rotated
	ThinIDToken bool          // claims are in the userinfo answer alone
	Port        int           // any free one
}

// NodeProvider is the npm package oidc-provider in a process of its own:
// rotation with detection of reuse, back-channel and RP-initiated logout,
// revocation, DPoP with nonces. Whoever signs in there is who they say, with any
// password; their email is verified, and admin… has the role admin.
type NodeProvider struct{ URL string }

// StartNode starts a provider that ends with the test. Where the package is not
// installed, the test ends, skipped or failed as testreport has it.
func StartNode(t testing.TB, o NodeOptions) *NodeProvider {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		testreport.Missing(t, nodeName, "there is no node")
	}
	directory, version := installed()
	if version == "" {
		testreport.Missing(t, nodeName, "it is not installed in "+directory+"; .ci/oidc-provider does that")
	}
	runtime, err := exec.Command(node, "--version").Output()
	if err != nil {
		testreport.Missing(t, nodeName, "node does not run: "+err.Error())
	}
	testreport.Real(t, nodeName, fmt.Sprintf("oidc-provider %s on Node.js %s", version, runtime))

	for i := range o.Clients {
		c := &o.Clients[i]
		c.GrantTypes, c.ResponseTypes, c.ApplicationType = []string{"authorization_code", "refresh_token"}, []string{"code"}, "web"
		c.LogoutNeedsSID = c.BackchannelLogoutURI != ""
	}
	wanted, err := json.Marshal(map[string]any{
		"clients": o.Clients, "accessSeconds": seconds(o.AccessLife), "rotate": !o.KeepRefresh, "thinIDToken": o.ThinIDToken, "port": o.Port,
	})
	if err != nil {
		t.Fatal(err)
	}
	program, err := nodeFiles.ReadFile("nodeprovider/provider.mjs")
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "provider.mjs")
	if err := os.WriteFile(script, program, 0o600); err != nil {
		t.Fatal(err)
	}
	return &NodeProvider{URL: run(t, node, []string{script, directory}, string(wanted))}
}

func seconds(d time.Duration) int {
	if d <= 0 {
		d = 5 * time.Minute
	}
	return int(d / time.Second)
}

// installed returns where .ci/oidc-provider installs the package, and the
// version that is there, if any.
func installed() (directory, version string) {
	lock, err := nodeFiles.ReadFile("nodeprovider/package-lock.json")
	if err != nil {
		return "", ""
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return err.Error(), ""
	}
	sum := sha256.Sum256(lock)
	directory = filepath.Join(cache, "cloakroom", "nodeprovider-"+hex.EncodeToString(sum[:])[:12])
	text, err := os.ReadFile(filepath.Join(directory, "node_modules", "oidc-provider", "package.json"))
	if err != nil {
		return directory, ""
	}
	var about struct {
		Version string `json:"version"`
	}
	if json.Unmarshal(text, &about) != nil {
		return directory, ""
	}
	return directory, about.Version
}

// run starts the process and returns the address that it tells. It ends when
// its standard input does: at the end of the test, and if this process dies.
func run(t testing.TB, node string, args []string, wanted string) string {
	t.Helper()
	cmd := exec.Command(node, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	said := new(strings.Builder)
	cmd.Stderr = said
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		giveUp := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer giveUp.Stop()
		_ = cmd.Wait() // said is whole then
		if t.Failed() {
			t.Logf("the provider said:\n%s", said)
		}
	})
	if _, err := fmt.Fprintln(in, wanted); err != nil {
		t.Fatal(err)
	}
	tooLate := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer tooLate.Stop()
	line, err := bufio.NewReader(out).ReadString('\n')
	var about struct {
		URL string `json:"url"`
	}
	if err != nil || json.Unmarshal([]byte(line), &about) != nil {
		t.Fatalf("the provider does not start: %v, %q", err, line)
	}
	return about.URL
}

// Browser goes through the provider's pages as a person does. Its cookies are
// its session there.
type Browser struct{ client *http.Client }

// NewBrowser returns a browser without cookies.
func NewBrowser(t testing.TB) *Browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &Browser{&http.Client{Jar: jar, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}}
}

var (
	formAction = regexp.MustCompile(`<form[^>]* action="([^"]*)"`)
	formField  = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)"`)
)

// Visit opens an address of the provider, signs in as login and agrees wherever
// it is asked, and returns the address that the provider sends it on to, once
// that begins with until.
func (b *Browser) Visit(t testing.TB, address, login, until string) *url.URL {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	for range 20 {
		if err != nil {
			t.Fatal(err)
		}
		resp, err := b.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		page, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if to, err := resp.Location(); err == nil {
			if strings.HasPrefix(to.String(), until) {
				return to
			}
			req, err = http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		action := formAction.FindSubmatch(page)
		if resp.StatusCode != http.StatusOK || action == nil {
			t.Fatalf("the provider answered %s without a form: %s", resp.Status, page)
		}
		form := url.Values{"login": {login}, "password": {"any"}, "logout": {"yes"}}
		for _, field := range formField.FindAllSubmatch(page, -1) {
			form.Set(string(field[1]), string(field[2]))
		}
		to, err := resp.Request.URL.Parse(string(action[1]))
		if err != nil {
			t.Fatal(err)
		}
		req, err = http.NewRequestWithContext(ctx, http.MethodPost, to.String(), strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	t.Fatalf("20 pages did not lead to %s", until)
	return nil
}
