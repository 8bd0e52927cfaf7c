package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"cloakroom/app/broker"
	"cloakroom/domain"
	"cloakroom/infra/fiberapp"
	"cloakroom/infra/httpguard"
	"cloakroom/infra/logging"
	"cloakroom/infra/seal"
	"cloakroom/infra/settings"
	"cloakroom/infra/upstream"
	"cloakroom/infra/upstream/h1"
)

// The servers that are compared, by the names that the report gives them. All
// get the same requests and send the same access token upstream; only the
// brokers have to find out which.
const (
	cloakroom     = "cloakroom"         // the whole broker
	uncached      = "cloakroom-nocache" // the same without its cache: a read from SQLite on every request
	onRedis       = "cloakroom-redis"   // a read from Redis on every request
	bare          = "bare"              // the broker's engine and nothing else
	reverseProxy  = "reverseproxy"      // the standard library's, with a tuned Transport
	pooledReverse = "rp-with-pool"      // the same with a BufferPool
	fastHTTP      = "fasthttp"          // a fasthttp server over a fasthttp client
)

var (
	brokers = []string{cloakroom, uncached, onRedis}
	proxies = []string{bare, reverseProxy, pooledReverse, fastHTTP}
)

// contenders are those that can be compared here.
func (c Config) contenders() []string {
	return slices.DeleteFunc(slices.Concat(brokers, proxies), func(name string) bool { return name == onRedis && c.Redis == "" })
}

const upstreamRole = "upstream"

// roles are what a process can be. Each serves on l until ctx ends.
var roles = map[string]func(ctx context.Context, l net.Listener, o order) error{
	cloakroom:     serveCloakroom,
	uncached:      serveCloakroom,
	onRedis:       serveCloakroom,
	bare:          serveBare,
	reverseProxy:  serveReverseProxy,
	pooledReverse: serveReverseProxy,
	fastHTTP:      serveFastHTTP,
	upstreamRole:  serveUpstream,
}

// poolSize is how many connections to the upstream each proxy keeps, which is
// the engine's default.
const poolSize = 512

// serveCloakroom runs the broker as cloakroom serve does, with the defaults of
// the settings but for those that its role names: SQLite, sealed tokens, the
// cache, a log line for each request. The log goes to the null device: how fast
// a disk or a journal is, is not the question.
func serveCloakroom(ctx context.Context, l net.Listener, o order) (err error) {
	folder, err := os.MkdirTemp("", "cloakroom-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	key, err := seal.GenerateKey(rand.Reader, time.Now())
	if err != nil {
		return err
	}
	s := settings.Defaults()
	s.Store = settings.Store{Kind: settings.SQLite, Path: filepath.Join(folder, "cloakroom.db")}
	if o.Role != cloakroom {
		s.CacheTTL = 0
	}
	if o.Role == onRedis {
		url, stop, err := startRedis(context.WithoutCancel(ctx), o.Redis, folder)
		if err != nil {
			return err
		}
		defer stop()
		s.Store = settings.Store{Kind: settings.Redis, URL: domain.NewSecret(url)}
	}
	s.SealKeys = []domain.Secret{key}
	s.Routes = []settings.Route{{Prefix: "/", Upstreams: []settings.Upstream{{Scheme: "http", Host: o.Upstream}}}}
	if s.AuthURL, err = url.Parse(o.Auth); err != nil {
		return err
	}
	s.AuthIssuer = o.Auth
	sink, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer sink.Close()
	return broker.Serve(ctx, l, s, logging.New(sink, s.LogFormat == "json", s.LogLevel))
}

// serveBare is a proxy of the broker's inner parts, the guarded Fiber server in front
// and its engine behind, that passes everything on as it is. It knows no
// sessions, no header policy and no log.
func serveBare(ctx context.Context, l net.Listener, o order) error {
	engine := h1.New(h1.Config{})
	defer engine.Close()
	target := &url.URL{Scheme: "http", Host: o.Upstream}
	app := fiberapp.New(fiberapp.Config{Logger: slog.New(slog.DiscardHandler)})
	app.Use(func(c *fiber.Ctx) error {
		head := &c.Request().Header
		out := &upstream.Request{Method: c.Method(), Target: target, Path: string(head.RequestURI()), Header: make([]upstream.Field, 0, 16)}
		for name, value := range head.All() {
			switch string(name) {
			case "Host", "Connection", "Content-Length", "Transfer-Encoding":
			default:
				out.Header = append(out.Header, upstream.Field{Name: string(name), Value: string(value)})
			}
		}
		out.Header = append(out.Header, upstream.Field{Name: "Authorization", Value: "Bearer " + o.Token})
		if n := head.ContentLength(); n > 0 || n == -1 {
			out.Body, out.Length = c.Context().RequestBodyStream(), int64(n)
		}
		in, err := engine.Do(context.Background(), out)
		if err != nil {
			return fiber.ErrBadGateway
		}
		c.Status(in.Status)
		for _, f := range in.Header {
			if f.Name != "Content-Length" {
				c.Response().Header.Add(f.Name, f.Value)
			}
		}
		c.Context().SetBodyStream(in.Body, int(in.Length))
		return nil
	})
	return until(ctx, l, func() error { return app.Listener(httpguard.Listener(l, httpguard.Config{})) })
}

// serveReverseProxy is what the standard library has to offer, with a Transport
// that keeps a connection for each of many clients. Without a BufferPool, which
// most of those who use it do not set, each answer gets a new buffer of 32 KiB.
func serveReverseProxy(ctx context.Context, l net.Listener, o order) error {
	target := &url.URL{Scheme: "http", Host: o.Upstream}
	transport := &http.Transport{
		DisableCompression: true,
		MaxIdleConns:       2 * poolSize, MaxIdleConnsPerHost: poolSize,
		IdleConnTimeout:       30 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		ReadBufferSize:        16 << 10, WriteBufferSize: 16 << 10,
	}
	defer transport.CloseIdleConnections()
	proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.SetXForwarded()
		r.Out.Header.Set("Authorization", "Bearer "+o.Token)
	}}
	if o.Role == pooledReverse {
		proxy.BufferPool = &bufferPool{}
	}
	server := &http.Server{Handler: proxy, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 75 * time.Second}
	return until(ctx, l, func() error { return server.Serve(l) })
}

// bufferPool implements httputil.BufferPool.
type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[32 << 10]byte); ok {
		return b[:]
	}
	return make([]byte, 32<<10)
}

func (p *bufferPool) Put(b []byte) { p.pool.Put((*[32 << 10]byte)(b)) }

// serveFastHTTP is the fastest proxy in Go that can be written in a few lines.
// It streams nothing, and whoever needs a proxy to be right should read on
// before taking it.
func serveFastHTTP(ctx context.Context, l net.Listener, o order) error {
	client := &fasthttp.HostClient{Addr: o.Upstream, MaxConns: poolSize, NoDefaultUserAgentHeader: true, ReadTimeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	server := &fasthttp.Server{
		NoDefaultServerHeader: true, NoDefaultDate: true, NoDefaultContentType: true,
		ReadTimeout: 20 * time.Second, IdleTimeout: 75 * time.Second,
		Handler: func(c *fasthttp.RequestCtx) {
			c.Request.Header.Del("Connection")
			c.Request.Header.Set("Authorization", "Bearer "+o.Token)
			c.Request.SetHost(o.Upstream)
			if err := client.Do(&c.Request, &c.Response); err != nil {
				c.Error("Bad Gateway", fasthttp.StatusBadGateway)
			}
			c.Response.Header.Del("Connection")
		},
	}
	return until(ctx, l, func() error { return server.Serve(l) })
}

// upstreamBody is what the upstream answers: a kilobyte of JSON.
var upstreamBody = []byte(`{"items":[` + strings.Repeat(`{"id":1234567,"name":"a thing","price":"12.50","left":42},`, 17) + `{}],"next":"abcdefghijklmn"}`)

// serveUpstream answers from memory whoever shows the token.
func serveUpstream(ctx context.Context, l net.Listener, o order) error {
	bearer := "Bearer " + o.Token
	server := &fasthttp.Server{Handler: func(c *fasthttp.RequestCtx) {
		if string(c.Request.Header.Peek("Authorization")) != bearer {
			c.Error("the token is missing", fasthttp.StatusUnauthorized)
			return
		}
		c.SetContentType("application/json")
		c.SetBody(upstreamBody)
	}}
	return until(ctx, l, func() error { return server.Serve(l) })
}

// until runs serve until ctx ends. Connections that are still open then end
// with the process.
func until(ctx context.Context, l net.Listener, serve func() error) error {
	failed := make(chan error, 1)
	go func() { failed <- serve() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return l.Close()
	}
}
