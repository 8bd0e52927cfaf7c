package settings

import (
	"errors"
	"strings"

	"cloakroom/domain"
)

// The kinds of store that there are.
const (
	SQLite  = "sqlite"
	Redis   = "redis"
	MongoDB = "mongodb"
	Memory  = "memory"
)

// Store says where devices are kept.
type Store struct {
	Kind string        // SQLite, Redis, MongoDB or Memory
	Path string        // of SQLite's file
	URL  domain.Secret // of a server, with its password; package db reads it
}

// UnmarshalText reads sqlite://relative/path, sqlite:///absolute/path, memory:,
// or the URL of a server.
func (s *Store) UnmarshalText(text []byte) error {
	scheme, rest, _ := strings.Cut(string(text), ":")
	if kind, example := serverKind(scheme); kind != "" {
		if !strings.HasPrefix(rest, "//") || len(rest) == 2 {
			return errors.New("names no server; write for example " + example)
		}
		if i := strings.IndexAny(rest, "?#"); i >= 0 && strings.Contains(rest[i:], "@") {
			return errors.New("has a ? or # before an @; in a password write ? as %3F and # as %23")
		}
		*s = Store{Kind: kind, URL: domain.NewSecret(string(text))}
		return nil
	}
	rest = strings.TrimPrefix(rest, "//")
	switch {
	case scheme == Memory && rest == "":
		*s = Store{Kind: Memory}
	case scheme == Memory:
		return errors.New("has something after memory:; take it out")
	case scheme != SQLite:
		return errors.New("is of no known kind; write sqlite://data/cloakroom.db, sqlite:///var/lib/cloakroom.db, redis://host:6379, mongodb://host:27017 or memory: for trials")
	case rest == "" || strings.HasSuffix(rest, "/"):
		return errors.New("names no file; write for example sqlite://data/cloakroom.db")
	case strings.ContainsAny(rest, "?#%:\x00"):
		return errors.New("has one of ? # % : in the file's name; write a plain path, or memory: for no file at all")
	default:
		*s = Store{Kind: SQLite, Path: rest}
	}
	return nil
}

// serverKind returns the kind of a store that is a server, with an example of its
// address, or "" for other stores' schemes. Redis may be reached over TLS, by its
// Sentinels or over a Unix socket as well, MongoDB by a name in the DNS.
func serverKind(scheme string) (kind, example string) {
	switch first, _, _ := strings.Cut(scheme, "+"); first {
	case Redis, "rediss", "unix":
		return Redis, "redis://127.0.0.1:6379"
	case MongoDB:
		return MongoDB, "mongodb://127.0.0.1:27017"
	}
	return "", ""
}

// String returns the form that UnmarshalText reads, but for the user name, the
// password and the options of a server, which may be secret.
func (s Store) String() string {
	switch s.Kind {
	case Memory:
		return "memory:"
	case SQLite:
		return "sqlite://" + s.Path
	}
	address, _, _ := strings.Cut(s.URL.Reveal(), "?")
	scheme, hosts, _ := strings.Cut(address, "://")
	if i := strings.LastIndex(hosts, "@"); i >= 0 {
		hosts = "[redacted]@" + hosts[i+1:]
	}
	return scheme + "://" + hosts
}
