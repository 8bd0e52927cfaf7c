package authserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"cloakroom/app/authserver/internal/accounts"
	"cloakroom/app/authserver/internal/passwords"
)

// Settings are everything that can be set. The tags are read by kong, which
// makes flags, environment variables and help of them; the defaults stand here
// and nowhere else, see Defaults.
type Settings struct {
	Listen       string   `name:"listen" default:"127.0.0.1:9001" help:"Address to listen on, for plain HTTP. On a public address a TLS proxy belongs in front."`
	TrustedProxy []string `name:"trusted-proxy" help:"Address or CIDR network of a proxy or broker whose X-Forwarded-For is believed. Attempts are counted for each address, so without this all of a broker's users share one allowance."`
	Database     string   `name:"database" default:"data/auth.db" help:"SQLite file with accounts, refresh tokens and the signing key. Made if missing, readable by its owner alone."`
	Issuer       string   `name:"issuer" default:"http://127.0.0.1:9001" help:"URL that tokens name as their issuer, exactly as the APIs that verify them expect it."`
	Audience     string   `name:"audience" default:"cloakroom" help:"Name of the APIs that tokens are for. An API refuses tokens for another audience."`

	GoogleClientID []string `name:"google-client-id" help:"Client ids whose Google ID tokens are exchanged for tokens of this server at POST /api/v1/login/google. Empty: none are."`
	GoogleIssuer   string   `name:"google-issuer" default:"https://accounts.google.com" help:"Who issues those ID tokens. Another OpenID provider will do as well."`

	AccessTokenLifetime  time.Duration `name:"access-token-lifetime" default:"15m" help:"How long an access token is good; whole seconds."`
	RefreshTokenLifetime time.Duration `name:"refresh-token-lifetime" default:"720h" help:"How long after a login its refresh tokens end, however often they are used."`
	RefreshIdleTimeout   time.Duration `name:"refresh-idle-timeout" default:"336h" help:"How long a refresh token may stay unused; 0 for no limit but refresh-token-lifetime."`
	ReuseWindow          time.Duration `name:"reuse-window" default:"30s" help:"How long a used refresh token still returns the same successor, for clients whose answer got lost. Used later, it ends the login it belongs to. 0 switches the window off."`

	LoginFailuresPerAccount int           `name:"login-failures-per-account" default:"10" help:"Failed logins that one account may have in each throttle-window. Logins under way count until they succeed."`
	LoginFailuresPerAddress int           `name:"login-failures-per-address" default:"50" help:"Failed logins that one address, or one /64 of IPv6, may have in each throttle-window. Logins under way count until they succeed."`
	RegistrationsPerAddress int           `name:"registrations-per-address" default:"30" help:"Registrations that one address, or one /64 of IPv6, may try in each throttle-window."`
	ThrottleWindow          time.Duration `name:"throttle-window" default:"15m" help:"Time in which used-up attempts come back, evenly."`

	HashMemoryKiB   uint32 `name:"hash-memory-kib" default:"65536" help:"Memory of one argon2id hash, in KiB."`
	HashPasses      uint32 `name:"hash-passes" default:"3" help:"Passes of argon2id over its memory."`
	HashLanes       uint8  `name:"hash-lanes" default:"4" help:"Threads that share one argon2id hash."`
	HashConcurrency int    `name:"hash-concurrency" default:"2" help:"Hashes that run at once in this process; each needs hash-memory-kib, and the process up to twice that for each."`
	HashQueue       int    `name:"hash-queue" default:"64" help:"Logins and registrations that may wait for a hash. Beyond it the answer is 503."`

	InsecureHashing bool `name:"insecure-hashing" help:"Accept hash parameters below the safe minimum. For tests alone: a stolen database is then soon a list of passwords."`
}

// Defaults returns the settings that hold where nothing is set.
func Defaults() Settings {
	var s Settings
	if err := kong.ApplyDefaults(&s); err != nil {
		panic("authserver: a default in the tags of Settings cannot be read: " + err.Error())
	}
	return s
}

const (
	maxReuseWindow = time.Minute
	// The OWASP minimum for argon2id is 19 MiB with two passes; what counts
	// against an attacker is the product.
	minHashMemoryKiB = 7 << 10
	minHashWork      = 2 * 19 << 10
	maxHashMemoryKiB = 4 << 20
)

// Validate returns every problem of the settings, joined. Each names the
// setting and says what to do about it.
func (s Settings) Validate() error {
	var problems []error
	want := func(good bool, format string, args ...any) {
		if !good {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}

	_, port, err := net.SplitHostPort(s.Listen)
	want(err == nil && port != "", "listen: %q is no address; set it to host:port, such as 127.0.0.1:9001", s.Listen)
	if _, err := parseNetworks(s.TrustedProxy); err != nil {
		problems = append(problems, err)
	}
	want(s.Database != "" && !strings.HasPrefix(s.Database, ":") && !strings.HasPrefix(s.Database, "file:"),
		"database: %q is no file; set it to a path, such as data/auth.db", s.Database)
	want(validIssuer(s.Issuer), "issuer: is no issuer; set it to an http or https URL without user, query and fragment, such as https://auth.example.com")
	want(s.Audience != "", "audience: is empty; set it to the name that your APIs expect, such as cloakroom")

	want(len(s.GoogleClientID) == 0 || validIssuer(s.GoogleIssuer) && safeIssuer(s.GoogleIssuer),
		"google-issuer: is no https URL without user, query and fragment; set it to https://accounts.google.com or to another provider's issuer")

	want(s.AccessTokenLifetime >= time.Second && s.AccessTokenLifetime%time.Second == 0,
		"access-token-lifetime: %v is not a whole number of seconds above 0; set it to a duration such as 15m", s.AccessTokenLifetime)
	want(s.RefreshTokenLifetime > s.AccessTokenLifetime,
		"refresh-token-lifetime: %v is not above access-token-lifetime (%v), so that no token could ever be refreshed; set it to a longer one, such as 720h",
		s.RefreshTokenLifetime, s.AccessTokenLifetime)
	want(s.RefreshIdleTimeout == 0 || s.RefreshIdleTimeout > s.AccessTokenLifetime,
		"refresh-idle-timeout: %v is not above access-token-lifetime (%v), so that people would be signed out while they work; set it to a longer one, such as 336h, or to 0",
		s.RefreshIdleTimeout, s.AccessTokenLifetime)
	want(s.ReuseWindow >= 0 && s.ReuseWindow <= maxReuseWindow,
		"reuse-window: %v is not between 0 and %v; a stolen token would work for that long beside its owner's; set it to a few seconds, such as 30s",
		s.ReuseWindow, maxReuseWindow)

	want(s.LoginFailuresPerAccount >= 1, "login-failures-per-account: %d lets nobody in; set it to 1 at least", s.LoginFailuresPerAccount)
	want(s.LoginFailuresPerAddress >= 1, "login-failures-per-address: %d lets nobody in; set it to 1 at least", s.LoginFailuresPerAddress)
	want(s.RegistrationsPerAddress >= 1, "registrations-per-address: %d lets nobody in; set it to 1 at least", s.RegistrationsPerAddress)
	want(s.ThrottleWindow >= time.Second, "throttle-window: %v is too short; set it to 1s at least", s.ThrottleWindow)

	want(s.HashPasses >= 1, "hash-passes: must be 1 at least")
	want(s.HashLanes >= 1, "hash-lanes: must be 1 at least")
	want(s.HashMemoryKiB >= 8*uint32(s.HashLanes) && s.HashMemoryKiB <= maxHashMemoryKiB,
		"hash-memory-kib: %d is not between 8 for each lane and %d; set it to 65536", s.HashMemoryKiB, maxHashMemoryKiB)
	safe := s.HashMemoryKiB >= minHashMemoryKiB && uint64(s.HashMemoryKiB)*uint64(s.HashPasses) >= minHashWork
	want(safe || s.InsecureHashing,
		"hash-memory-kib, hash-passes: %d KiB in %d passes are too cheap to guess; set them to 65536 and 3, or to 19456 and 2 at least",
		s.HashMemoryKiB, s.HashPasses)
	want(s.HashConcurrency >= 1 && s.HashConcurrency <= 1024, "hash-concurrency: %d is not between 1 and 1024; set it to the number of cores, or less if memory is short", s.HashConcurrency)
	want(s.HashQueue >= 0 && s.HashQueue <= 65_536, "hash-queue: %d is not between 0 and 65536; set it to what can be hashed within a few seconds, such as 64", s.HashQueue)
	return errors.Join(problems...)
}

func (s Settings) rules() accounts.Rules {
	return accounts.Rules{Lifetime: s.RefreshTokenLifetime, IdleTimeout: s.RefreshIdleTimeout, ReuseWindow: s.ReuseWindow}
}

func (s Settings) hashParams() passwords.Params {
	return passwords.Params{MemoryKiB: s.HashMemoryKiB, Passes: s.HashPasses, Lanes: s.HashLanes}
}

// validIssuer follows RFC 8414, section 2, but allows http: inside a private
// network the issuer is a name more than an address.
func validIssuer(issuer string) bool {
	u, err := url.Parse(issuer)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" &&
		u.User == nil && u.RawQuery == "" && !u.ForceQuery && !strings.Contains(issuer, "#")
}

// safeIssuer reports whether nobody on the way can answer in an issuer's place.
func safeIssuer(issuer string) bool {
	u, err := url.Parse(issuer)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return u.Scheme == "https" || u.Hostname() == "localhost" || err == nil && addr.IsLoopback()
}

// parseNetworks reads addresses as networks of one.
func parseNetworks(list []string) ([]netip.Prefix, error) {
	var networks []netip.Prefix
	var problems []error
	for _, item := range list {
		if address, err := netip.ParseAddr(item); err == nil {
			address = address.Unmap()
			networks = append(networks, netip.PrefixFrom(address, address.BitLen()))
		} else if network, err := netip.ParsePrefix(item); err == nil {
			networks = append(networks, network.Masked())
		} else {
			problems = append(problems, fmt.Errorf("trusted-proxy: %q is neither an address nor a network; set it to one such as 10.0.0.7 or 10.0.0.0/8", item))
		}
	}
	return networks, errors.Join(problems...)
}
