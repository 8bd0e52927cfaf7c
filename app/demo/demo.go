// Package demo shows Cloakroom on one machine with nothing set up: the bundled
// auth server, a sample upstream and the broker, each on a loopback port of its
// own, talking to each other over HTTP as they would anywhere.
//
// It keeps its data, a key and one account in a folder, so that everybody is
// still signed in when it is started again. It is for trying out: its tokens
// live ten seconds, and whoever can read the folder is everybody.
package demo

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"cloakroom/app/authserver"
	"cloakroom/app/broker"
	"cloakroom/domain"
	"cloakroom/infra/seal"
	"cloakroom/infra/settings"
)

// Settings is what can be told to the demo. A port of 0 takes any that is free.
type Settings struct {
	Port                int           `name:"port" default:"8080" help:"Port of the broker, which is the address to open."`
	AuthPort            int           `name:"auth-port" default:"9001" help:"Port of the auth server."`
	APIPort             int           `name:"api-port" default:"9002" help:"Port of the sample API."`
	AccessTokenLifetime time.Duration `name:"access-token-lifetime" default:"10s" min:"1s" help:"How long an access token lives, in whole seconds."`
	Data                string        `name:"data" default:"data/demo" placeholder:"PATH" help:"Folder that keeps accounts, devices and the demo's key."`
	Output              string        `name:"output" default:"text" enum:"text,json" help:"What is printed once all is ready: text for people, or one line of JSON for scripts."`
	LogLevel            slog.Level    `name:"log-level" default:"warn" enum:"debug,info,warn,error" help:"The least important lines that are logged."`
}

// Validate tells what the tags cannot say.
func (s Settings) Validate() error {
	var problems []error
	for _, p := range s.ports() {
		if p.number > 65535 {
			problems = append(problems, fmt.Errorf("%s: is too large; give at most 65535", p.setting))
		}
	}
	return errors.Join(problems...)
}

// port is a setting that names a port.
type port struct {
	setting string
	number  int
}

func (s Settings) ports() [3]port {
	return [...]port{{"port", s.Port}, {"auth-port", s.AuthPort}, {"api-port", s.APIPort}}
}

const (
	// issuer and audience are names, not addresses: the demo keeps its people
	// when it is started on other ports.
	issuer   = "http://auth.cloakroom.demo"
	audience = "cloakroom-demo"
	apiPath  = "/api/whoami"
)

// readyWithin bounds the wait until the three services answer.
const readyWithin = 10 * time.Second

// ready is what the demo prints when all is up.
type ready struct {
	URL      string `json:"url"`
	Email    string `json:"email"`
	Password string `json:"password"`
	APIPath  string `json:"api_path"`
}

// Run starts the three services, prints to out how to use them, and runs until
// ctx ends.
func Run(ctx context.Context, s Settings, out io.Writer, log *slog.Logger) (err error) {
	kept, err := openFolder(s.Data)
	if err != nil {
		return err
	}
	// All ports first, so that a taken one is told before anything has begun.
	var listeners [3]net.Listener
	for i, p := range s.ports() {
		listeners[i], err = broker.Listen(net.JoinHostPort("127.0.0.1", strconv.Itoa(p.number)))
		if err != nil {
			return fmt.Errorf("%w (--%s; --%[2]s 0 takes any that is free)", err, p.setting)
		}
		defer listeners[i].Close()
	}
	front, authL, apiL := listeners[0], listeners[1], listeners[2]
	authURL, apiURL := "http://"+authL.Addr().String(), "http://"+apiL.Addr().String()

	auth, err := openAuthServer(ctx, s, log)
	if err != nil {
		return fmt.Errorf("auth server: %w", err)
	}
	defer func() { err = errors.Join(err, auth.Close()) }()
	if err := auth.EnsureAccount(ctx, kept.Email, kept.Password); err != nil {
		return fmt.Errorf("auth server: %w", err)
	}

	brokerSettings, err := s.broker(front.Addr().String(), authURL, apiURL, kept)
	if err != nil {
		return err
	}
	// The broker stops before the two that it needs to finish its work.
	outer, stopOuter := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopOuter(nil)
	inner, stopInner := context.WithCancelCause(ctx)
	defer stopInner(nil)
	var needed sync.WaitGroup
	serve := func(name string, f func(context.Context) error) {
		needed.Go(func() {
			if err := f(outer); err != nil {
				stopInner(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	serve("auth server", func(ctx context.Context) error { return auth.Serve(ctx, authL) })
	serve("sample API", func(ctx context.Context) error {
		return serveSample(ctx, apiL, newSample(authURL+"/.well-known/jwks.json", issuer, audience, log.With("service", "api")), log)
	})
	needed.Go(func() {
		r := ready{URL: "http://" + front.Addr().String(), Email: kept.Email, Password: kept.Password, APIPath: apiPath}
		if err := r.announce(inner, s, out); err != nil && inner.Err() == nil {
			stopInner(err)
		}
	})
	err = broker.Serve(inner, front, brokerSettings, log.With("service", "broker"))
	cause := context.Cause(inner)
	stopInner(nil)
	stopOuter(nil)
	needed.Wait()
	if err == nil && ctx.Err() == nil && cause != nil {
		err = cause
	}
	return err
}

func openAuthServer(ctx context.Context, s Settings, log *slog.Logger) (*authserver.Server, error) {
	a := authserver.Defaults()
	a.Database = filepath.Join(s.Data, "auth.db")
	a.Issuer, a.Audience = issuer, audience
	a.AccessTokenLifetime = s.AccessTokenLifetime
	a.TrustedProxy = []string{"127.0.0.1"}
	return authserver.Open(ctx, a, log.With("service", "auth-server"))
}

// broker is the broker's settings, which are those of cloakroom serve.
func (s Settings) broker(listen, authURL, apiURL string, kept folder) (settings.Settings, error) {
	auth, err := url.Parse(authURL + "/api/v1")
	if err != nil {
		return settings.Settings{}, err
	}
	api, err := url.Parse(apiURL)
	if err != nil {
		return settings.Settings{}, err
	}
	b := settings.Defaults()
	b.Listen = listen
	b.Store = settings.Store{Kind: settings.SQLite, Path: filepath.Join(s.Data, "cloakroom.db")}
	b.SealKeys = []domain.Secret{domain.NewSecret(kept.SealKey)}
	b.Routes = []settings.Route{{Prefix: "/", Upstreams: []settings.Upstream{settings.UpstreamAt(api)}}}
	b.AuthURL, b.AuthIssuer = auth, issuer
	b.TouchInterval = 10 * time.Second
	b.ShutdownGrace = 3 * time.Second
	return b, nil
}

// announce waits until the broker answers and prints how to use it.
func (r ready) announce(ctx context.Context, s Settings, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := answers(ctx, r.URL+"/health/ready"); err != nil {
		return fmt.Errorf("the broker did not come up within %v: %w", readyWithin, err)
	}
	if s.Output == "json" {
		return json.NewEncoder(out).Encode(r)
	}
	_, err := fmt.Fprintf(out, `
Cloakroom is up. Open  %[1]s

  email     %[2]s
  password  %[3]s

Try this:
  1. Sign in, or register somebody else. A page of the sample app calls its API
     once a second. Access tokens live %[4]v: watch them change while no call fails.
  2. Open the developer tools: one HttpOnly cookie, and no token anywhere.
  3. Sign in with a second browser, or a private window. In the first, open
     %[1]s/auth/devices and log the second out: its next call is refused.
  4. Stop this with Ctrl-C and start it again: everybody is still signed in.
`, r.URL, r.Email, r.Password, s.AccessTokenLifetime)
	return err
}

// answers waits until a GET of address succeeds.
func answers(ctx context.Context, address string) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(res.Status)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// serveSample serves the sample API until ctx ends.
func serveSample(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return server.Close()
	}
}

// folder is what the demo keeps beside its databases.
type folder struct {
	Email    string `json:"email"`
	Password string `json:"password"`
	SealKey  string `json:"seal_key"`
}

// openFolder makes the data folder, or reads what is kept in it.
func openFolder(path string) (folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return folder{}, fmt.Errorf("the data folder cannot be made; choose another with --data: %w", err)
	}
	name := filepath.Join(path, "demo.json")
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return newFolder(name)
	}
	var f folder
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err != nil {
		return folder{}, fmt.Errorf("%s cannot be read; remove the folder to begin anew: %w", name, err)
	}
	return f, nil
}

func newFolder(name string) (folder, error) {
	key, err := seal.GenerateKey(rand.Reader, time.Now())
	if err != nil {
		return folder{}, err
	}
	f := folder{
		Email:    "guest-" + randomWord(4) + "@cloakroom.example",
		Password: randomWord(4) + "-" + randomWord(4) + "-" + randomWord(4),
		SealKey:  key.Reveal(),
	}
	text, err := json.MarshalIndent(f, "", "  ")
	if err == nil {
		err = os.WriteFile(name, append(text, '\n'), 0o600)
	}
	if err != nil {
		return folder{}, fmt.Errorf("the data folder cannot be written; choose another with --data: %w", err)
	}
	return f, nil
}

// randomWord is n characters of base32, five bits each, that are easy to type.
func randomWord(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails
	return strings.ToLower(base32.StdEncoding.EncodeToString(b))[:n]
}
