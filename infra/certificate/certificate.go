// Package certificate keeps the certificate that the broker shows when it ends
// TLS itself, and replaces it while it serves. The certificate is a pair of PEM
// files that something else renews; what is wrong with a pair is told in a
// sentence. Package httpguard stands on the listener that a Pair's TLS
// configures, and minds the handshake.
package certificate

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Problem is why a pair of files cannot be used.
type Problem struct {
	OfKey bool // it is the key's file, not the certificate's
	// Text goes on after the file's name: "has expired on …; renew it". It
	// holds nothing of what is in the file.
	Text string
}

func (p *Problem) Error() string {
	if p.OfKey {
		return "the file of the certificate's key " + p.Text
	}
	return "the certificate's file " + p.Text
}

// Config says where a pair is.
type Config struct {
	CertFile, KeyFile string
	// Host is the name that browsers use. A certificate for others is told in
	// the log and used nevertheless: a proxy in front may not look at names.
	// Default: not looked at.
	Host     string
	ReadFile func(name string) ([]byte, error)
	Now      func() time.Time
	Log      *slog.Logger
}

// Pair is a certificate with its key, as they are in the files or, if those
// cannot be used any more, as they were. It may be used by many goroutines.
type Pair struct {
	cfg     Config
	current atomic.Pointer[tls.Certificate]

	reload    sync.Mutex
	cert, key []byte // the files that current was made of
}

// Open reads a pair. The error is a *Problem.
func Open(cfg Config) (*Pair, error) {
	p := &Pair{cfg: cfg}
	if err := p.Reload(); err != nil {
		return nil, err
	}
	return p, nil
}

// Reload looks at the files and takes what is new in them for all connections
// that begin from now on. If it cannot be used, the error is a *Problem and what
// was in use stays. Files that have not changed are not a reason for anything,
// not even when they have expired meanwhile.
func (p *Pair) Reload() error {
	p.reload.Lock()
	defer p.reload.Unlock()
	cert, key, err := read(p.cfg)
	if err != nil {
		return err
	}
	if bytes.Equal(cert, p.cert) && bytes.Equal(key, p.key) {
		return nil
	}
	pair, err := parse(cert, key, p.cfg.Now())
	if err != nil {
		return err
	}
	p.cert, p.key = cert, key
	p.current.Store(&pair)
	p.cfg.Log.Info("certificate in use", "serial", pair.Leaf.SerialNumber.String(), "expires", pair.Leaf.NotAfter)
	if p.cfg.Host != "" && pair.Leaf.VerifyHostname(p.cfg.Host) != nil {
		p.cfg.Log.Warn("the certificate is not for the host that browsers use, and they will refuse it", "host", p.cfg.Host)
	}
	return nil
}

// shoutEvery is how often a pair that cannot be used is told of while it stays.
const shoutEvery = time.Hour

// Watch reloads the files every so often until ctx ends. What cannot be used at
// two looks running is shouted into the log: at one, the other of the two files
// may just be on its way. So is a pair in use that nobody has renewed in time.
func (p *Pair) Watch(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var problem string
	var shouted time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		what, now := "the new certificate cannot be used; the old one stays", p.cfg.Now()
		err := p.Reload()
		if err == nil {
			what, err = "browsers refuse the certificate in use", inTime(p.current.Load().Leaf, now)
		}
		switch {
		case err == nil:
			problem = ""
		case err.Error() != problem:
			problem, shouted = err.Error(), time.Time{}
		case now.Sub(shouted) >= shoutEvery:
			shouted = now
			p.cfg.Log.ErrorContext(ctx, what, "problem", problem, "expires", p.current.Load().Leaf.NotAfter)
		}
	}
}

// TLS is the configuration of a listener that shows the pair. HTTP/1.1 is all
// that it offers, because it is all that fasthttp speaks. A client that knows
// only HTTP/2 is told so in the handshake (RFC 7301, section 3.2).
func (p *Pair) TLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.current.Load(), nil },
	}
}

// longestFile bounds what is taken for a certificate with its chain, in bytes.
const longestFile = 1 << 20

func read(cfg Config) (cert, key []byte, err error) {
	if cert, err = cfg.ReadFile(cfg.CertFile); err != nil {
		return nil, nil, &Problem{Text: unreadable(err)}
	}
	if key, err = cfg.ReadFile(cfg.KeyFile); err != nil {
		return nil, nil, &Problem{OfKey: true, Text: unreadable(err)}
	}
	return cert, key, nil
}

func unreadable(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "does not exist; give the path of one that does"
	case errors.Is(err, fs.ErrPermission):
		return "may not be read by this process; let its user read it"
	}
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return fmt.Sprintf("cannot be read: %v", err)
}

// parse makes a pair of the files' contents, if it is valid at this time.
func parse(cert, key []byte, now time.Time) (tls.Certificate, error) {
	if len(cert) > longestFile {
		return tls.Certificate{}, &Problem{Text: "is too large to be a certificate"}
	}
	if len(key) > longestFile {
		return tls.Certificate{}, &Problem{OfKey: true, Text: "is too large to be a key"}
	}
	shown, secret := find(cert, "CERTIFICATE"), find(key, "PRIVATE KEY")
	if shown == nil {
		return tls.Certificate{}, &Problem{Text: "holds no certificate; give the PEM file with the site's certificate first and those that lead to its authority behind it"}
	}
	switch {
	case secret == nil:
		return tls.Certificate{}, &Problem{OfKey: true, Text: "holds no private key; give the certificate's own, in PEM"}
	case strings.HasPrefix(secret.Type, "ENCRYPTED"), secret.Headers["DEK-Info"] != "":
		return tls.Certificate{}, &Problem{OfKey: true, Text: "is encrypted, and there is nobody to ask for its password; decrypt it with 'openssl pkey' and keep it readable for this process alone"}
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, mismatch(shown, secret)
	}
	return pair, inTime(pair.Leaf, now)
}

// inTime is a *Problem if the certificate is not valid at this time.
func inTime(leaf *x509.Certificate, now time.Time) error {
	const day = "2 January 2006 15:04 MST"
	switch {
	case now.After(leaf.NotAfter):
		return &Problem{Text: "has expired on " + leaf.NotAfter.UTC().Format(day) + "; renew it"}
	case now.Before(leaf.NotBefore):
		return &Problem{Text: "is not valid before " + leaf.NotBefore.UTC().Format(day) + "; look at this machine's clock"}
	}
	return nil
}

// mismatch says which of the two files is to blame when they make no pair.
func mismatch(cert, key *pem.Block) *Problem {
	if _, err := x509.ParseCertificate(cert.Bytes); err != nil {
		return &Problem{Text: "holds a certificate that cannot be understood; it may have been cut short"}
	}
	_, err8 := x509.ParsePKCS8PrivateKey(key.Bytes)
	_, err1 := x509.ParsePKCS1PrivateKey(key.Bytes)
	_, errEC := x509.ParseECPrivateKey(key.Bytes)
	if err8 != nil && err1 != nil && errEC != nil {
		return &Problem{OfKey: true, Text: "holds a key that cannot be understood; give an RSA, ECDSA or Ed25519 key in PEM"}
	}
	return &Problem{OfKey: true, Text: "holds the key of another certificate; give the one that belongs to it, and the site's certificate as the first in its file"}
}

// find returns the first PEM block whose type ends so, or nil.
func find(text []byte, suffix string) *pem.Block {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil || strings.HasSuffix(block.Type, suffix) {
			return block
		}
	}
}
