package db

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// redisAddress is what the text of an address says.
type redisAddress struct {
	options *redis.UniversalOptions
	where   string // the hosts, for people to read; never the password
	tls     bool
	// insecure: the server's certificate is not looked at.
	insecure bool
}

// What holds unless the address says otherwise. The times are short because a
// person waits for the answer: a server that is away has to be noticed before
// the browser gives up.
const (
	redisDialTimeout = time.Second
	redisReadTimeout = 3 * time.Second
	redisIdleTime    = 5 * time.Minute
	// One retry is for a connection that died while it was idle.
	redisRetries = 1
)

// parseRedis reads an address as OpenRedis describes it. No error of it repeats
// the user name or the password.
func parseRedis(address string) (*redisAddress, error) {
	scheme, rest, found := strings.Cut(address, "://")
	if !found {
		return nil, errors.New("redis: an address begins with redis://, rediss://, redis+sentinel://, redis+cluster:// or unix://")
	}
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	// Not left to url.Parse, whose errors quote what they dislike.
	if strings.ContainsAny(tail, "@#") {
		return nil, errors.New("redis: in the user name and the password of an address, write / as %2F, ? as %3F, # as %23 and @ as %40")
	}
	path, rawQuery, _ := strings.Cut(tail, "?")
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil, errors.New("redis: what follows the ? of an address has to be name=value, joined by &")
	}
	user, password, hosts, err := parseAuthority(authority)
	if err != nil {
		return nil, err
	}

	kind, port := "", "6379"
	a := &redisAddress{}
	switch scheme {
	case "redis", "unix":
	case "rediss":
		a.tls = true
	case "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster":
		scheme, kind, _ = strings.Cut(scheme, "+")
		a.tls = scheme == "rediss"
	default:
		return nil, fmt.Errorf("redis: %s:// is none of redis://, rediss://, redis+sentinel://, rediss+sentinel://, redis+cluster://, rediss+cluster://, unix://", scheme)
	}
	var master string
	if kind == "sentinel" {
		port = "26379"
		master, path, _ = strings.Cut(strings.TrimPrefix(path, "/"), "/")
		if master == "" {
			return nil, errors.New("redis: the address of sentinels ends in the name of the master that they watch: redis+sentinel://host,host/master")
		}
		path = "/" + path
	}
	addrs, err := hostPorts(hosts, port)
	if err != nil {
		return nil, err
	}
	switch {
	case scheme == "unix":
		addrs = []string{path}
	case kind == "" && len(addrs) > 1:
		return nil, errors.New("redis: an address of several hosts begins with redis+sentinel:// or redis+cluster://")
	case kind == "cluster" && strings.Trim(path, "/") != "":
		return nil, errors.New("redis: a Redis Cluster has one database; the address ends after the hosts")
	}
	a.where = strings.Join(addrs, ", ")

	take := func(name string) string {
		defer query.Del(name)
		return query.Get(name)
	}
	sentinelUser, sentinelPassword := take("sentinel_username"), take("sentinel_password")
	tlsConfig, err := a.tlsConfig(take("tls_ca_file"), take("tls_cert_file"), take("tls_key_file"))
	if err != nil {
		return nil, err
	}
	// The rest of the options is read as go-redis documents them.
	base := url.URL{Scheme: scheme, Host: hosts[0], Path: path, RawQuery: query.Encode()}
	p, err := redis.ParseURL(base.String())
	if err != nil {
		return nil, fmt.Errorf("redis: address: %s", strings.TrimPrefix(err.Error(), "redis: "))
	}
	if tlsConfig != nil {
		tlsConfig.InsecureSkipVerify = p.TLSConfig.InsecureSkipVerify
		a.insecure = p.TLSConfig.InsecureSkipVerify
	}
	a.options = &redis.UniversalOptions{
		Addrs: addrs, MasterName: master, IsClusterMode: kind == "cluster", DB: p.DB,
		Username: user, Password: password,
		SentinelUsername: sentinelUser, SentinelPassword: sentinelPassword,
		TLSConfig:  tlsConfig,
		Protocol:   or(p.Protocol, 2), // the third brings nothing that is needed here
		ClientName: or(p.ClientName, "cloakroom"),

		ContextTimeoutEnabled: true, // else go-redis reads on when the caller has left
		DialTimeout:           or(p.DialTimeout, redisDialTimeout),
		DialerRetries:         1, // a refused connection stays refused for some seconds
		ReadTimeout:           or(p.ReadTimeout, redisReadTimeout),
		WriteTimeout:          or(p.WriteTimeout, redisReadTimeout),
		MaxRetries:            or(p.MaxRetries, redisRetries),
		MinRetryBackoff:       p.MinRetryBackoff,
		MaxRetryBackoff:       p.MaxRetryBackoff,

		PoolSize:              or(p.PoolSize, max(32, 10*runtime.GOMAXPROCS(0))),
		PoolTimeout:           p.PoolTimeout,
		PoolFIFO:              p.PoolFIFO,
		MinIdleConns:          p.MinIdleConns,
		MaxIdleConns:          p.MaxIdleConns,
		MaxActiveConns:        p.MaxActiveConns,
		MaxConcurrentDials:    p.MaxConcurrentDials,
		ConnMaxIdleTime:       or(p.ConnMaxIdleTime, redisIdleTime),
		ConnMaxLifetime:       p.ConnMaxLifetime,
		ConnMaxLifetimeJitter: p.ConnMaxLifetimeJitter,
		PipelinePoolSize:      -1, // one pool, one bound

		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	return a, nil
}

// or returns v, or fallback if v is zero.
func or[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// parseAuthority takes [user[:password]@]host,host… apart.
func parseAuthority(authority string) (user, password string, hosts []string, err error) {
	credentials := ""
	if at := strings.LastIndex(authority, "@"); at >= 0 {
		credentials, authority = authority[:at], authority[at+1:]
	}
	user, password, _ = strings.Cut(credentials, ":")
	if user, err = url.PathUnescape(user); err == nil {
		password, err = url.PathUnescape(password)
	}
	if err != nil {
		return "", "", nil, errors.New("redis: in the user name and the password of an address, write % as %25")
	}
	return user, password, strings.Split(authority, ","), nil
}

func hostPorts(hosts []string, port string) ([]string, error) {
	var addrs []string
	for _, host := range hosts {
		u, err := url.Parse("redis://" + host)
		if err != nil || u.Host != host {
			return nil, fmt.Errorf("redis: %q is not a host or host:port", host)
		}
		addrs = append(addrs, net.JoinHostPort(or(u.Hostname(), "localhost"), or(u.Port(), port)))
	}
	return addrs, nil
}

// tlsConfig returns nil without TLS. It names no server: the name that is
// dialled counts, which is another for each node of a group.
func (a *redisAddress) tlsConfig(caFile, certFile, keyFile string) (*tls.Config, error) {
	if !a.tls {
		if caFile+certFile+keyFile != "" {
			return nil, errors.New("redis: tls_ca_file, tls_cert_file and tls_key_file need an address that begins with rediss")
		}
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("redis: tls_ca_file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("redis: tls_ca_file: %s holds no certificate in PEM form", caFile)
		}
	}
	if certFile+keyFile != "" {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("redis: tls_cert_file and tls_key_file: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
