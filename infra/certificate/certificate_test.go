package certificate

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloakroom/infra/certificate/certtest"
)

// said is a log that can be read while it is written.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// disk is two files that a test can change.
type disk map[string][]byte

// diskLock is for the race detector, which does not see how a bubble's clock
// orders things.
var diskLock sync.Mutex

func (d disk) read(name string) ([]byte, error) {
	diskLock.Lock()
	defer diskLock.Unlock()
	if text, ok := d[name]; ok {
		return text, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// put replaces a file, or removes it if there is no text.
func (d disk) put(name string, text []byte) {
	diskLock.Lock()
	defer diskLock.Unlock()
	d[name] = text
	if text == nil {
		delete(d, name)
	}
}

func (d disk) config(log *slog.Logger) Config {
	return Config{CertFile: "crt", KeyFile: "key", Host: "localhost", ReadFile: d.read, Now: time.Now, Log: log}
}

func TestProblemsAreSentences(t *testing.T) {
	authority := certtest.NewAuthority(t)
	cert, key := authority.Fresh(t)
	_, otherKey := authority.Fresh(t)
	now := time.Now()
	expired, expiredKey := authority.Pair(t, now.Add(-2*time.Hour), now.Add(-time.Hour))
	early, earlyKey := authority.Pair(t, now.Add(time.Hour), now.Add(2*time.Hour))
	block, _ := pem.Decode(cert)
	cut := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes[:100]})
	for _, tt := range []struct {
		name  string
		files disk
		ofKey bool
		want  string
	}{
		{"no certificate file", disk{"key": key}, false, "does not exist"},
		{"no key file", disk{"crt": cert}, true, "does not exist"},
		{"files mixed up", disk{"crt": key, "key": cert}, false, "holds no certificate"},
		{"no PEM", disk{"crt": block.Bytes, "key": key}, false, "holds no certificate"},
		{"cut short", disk{"crt": cut, "key": key}, false, "holds a certificate that cannot be understood"},
		{"endless", disk{"crt": make([]byte, longestFile+1), "key": key}, false, "is too large"},
		{"the certificate twice", disk{"crt": cert, "key": cert}, true, "holds no private key"},
		{"an encrypted key", disk{"crt": cert, "key": []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")}, true, "is encrypted"},
		{"an odd key", disk{"crt": cert, "key": []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")}, true, "holds a key that cannot be understood"},
		{"another's key", disk{"crt": cert, "key": otherKey}, true, "holds the key of another certificate"},
		{"expired", disk{"crt": expired, "key": expiredKey}, false, "has expired on "},
		{"not valid yet", disk{"crt": early, "key": earlyKey}, false, "is not valid before "},
	} {
		_, err := Open(tt.files.config(slog.New(slog.DiscardHandler)))
		var p *Problem
		if !errors.As(err, &p) || p.OfKey != tt.ofKey || !strings.HasPrefix(p.Text, tt.want) {
			t.Errorf("%s: %v, want a problem that begins with %q", tt.name, err, tt.want)
		}
	}
	if _, err := Open(disk{"crt": append(bytes.Clone(cert), expired...), "key": append([]byte("a comment\n"), key...)}.config(slog.New(slog.DiscardHandler))); err != nil {
		t.Errorf("a chain and a key with a comment: %v", err)
	}
}

func (p *Pair) serial(t *testing.T) int64 {
	t.Helper()
	cert, err := p.TLS().GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf.SerialNumber.Int64()
}

func TestWatchTakesANewPairAndKeepsTheOldOneIfItIsBroken(t *testing.T) {
	authority := certtest.NewAuthority(t)
	synctest.Test(t, func(t *testing.T) {
		// The bubble's clock begins in the year 2000.
		pair := func() (cert, key []byte) {
			return authority.Pair(t, time.Now().Add(-time.Hour), time.Now().Add(1000*time.Hour))
		}
		var log said
		files := disk{}
		files["crt"], files["key"] = pair()
		p, err := Open(files.config(slog.New(slog.NewTextHandler(&log, nil))))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		go p.Watch(ctx, 10*time.Second)
		look := func(times time.Duration) {
			time.Sleep(times * 10 * time.Second)
			synctest.Wait()
		}
		shouts := func() int { return strings.Count(log.String(), "level=ERROR") }

		first := p.serial(t)
		cert, key := pair()
		files.put("crt", cert)
		look(1)
		if p.serial(t) != first || shouts() != 0 {
			t.Errorf("serial %d and %d shouts with half of the new pair there, want %d and 0", p.serial(t), shouts(), first)
		}
		files.put("key", key)
		look(1)
		if p.serial(t) != first+1 || shouts() != 0 {
			t.Errorf("serial %d and %d shouts with the new pair there, want %d and 0", p.serial(t), shouts(), first+1)
		}

		files.put("crt", []byte("broken"))
		look(2)
		if p.serial(t) != first+1 || shouts() != 1 || !strings.Contains(log.String(), "holds no certificate") {
			t.Errorf("serial %d and %d shouts with a broken pair, want %d and 1:\n%s", p.serial(t), shouts(), first+1, &log)
		}
		look(300)
		if shouts() != 1 {
			t.Errorf("%d shouts within the hour, want 1", shouts())
		}
		look(61)
		if shouts() != 2 {
			t.Errorf("%d shouts after an hour, want 2", shouts())
		}

		files.put("key", nil)
		look(2)
		cert, key = pair()
		files.put("crt", cert)
		files.put("key", key)
		look(1)
		if p.serial(t) != first+2 {
			t.Errorf("serial %d after the repair, want %d", p.serial(t), first+2)
		}
	})
}

func TestWatchTellsThatThePairInUseHasExpired(t *testing.T) {
	authority := certtest.NewAuthority(t)
	synctest.Test(t, func(t *testing.T) {
		var log said
		files := disk{}
		renew := func() {
			cert, key := authority.Pair(t, time.Now().Add(-time.Hour), time.Now().Add(30*time.Minute))
			files.put("crt", cert)
			files.put("key", key)
		}
		renew()
		p, err := Open(files.config(slog.New(slog.NewTextHandler(&log, nil))))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		go p.Watch(ctx, 10*time.Second)
		for _, look := range []struct {
			after  time.Duration
			shouts int
		}{{29 * time.Minute, 0}, {2 * time.Minute, 1}, {58 * time.Minute, 1}, {2 * time.Minute, 2}} {
			time.Sleep(look.after)
			synctest.Wait()
			if got := strings.Count(log.String(), "browsers refuse the certificate in use"); got != look.shouts {
				t.Errorf("%s later: %d shouts, want %d", look.after, got, look.shouts)
			}
		}
		first := p.serial(t)
		renew()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if got := strings.Count(log.String(), "level=ERROR"); got != 2 || p.serial(t) != first+1 {
			t.Errorf("serial %d and %d shouts after the renewal, want %d and 2", p.serial(t), got, first+1)
		}
	})
}

func TestAForeignNameIsTold(t *testing.T) {
	files := disk{}
	files["crt"], files["key"] = certtest.NewAuthority(t).Fresh(t)
	for host, told := range map[string]bool{"localhost": false, "app.example": true} {
		var log said
		cfg := files.config(slog.New(slog.NewTextHandler(&log, nil)))
		cfg.Host = host
		if _, err := Open(cfg); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(log.String(), "level=WARN"); got != told {
			t.Errorf("%s: warned is %t, want %t", host, got, told)
		}
	}
}
