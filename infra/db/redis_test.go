package db

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"cloakroom/repo/redisstore/redistest"
)

// password must not show in any error.
const password = "hunter2-%41/?#@:"

// escaped is how it stands in an address.
const escaped = "hunter2-%2541%2F%3F%23%40%3A"

func openRedis(t *testing.T, address string) *Redis {
	t.Helper()
	r, err := OpenRedis(t.Context(), address, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Client.Close() })
	return r
}

func refusedRedis(t *testing.T, address, want string) {
	t.Helper()
	r, err := OpenRedis(t.Context(), address, 0)
	if err == nil {
		_ = r.Client.Close()
		t.Errorf("%s: no error, want %q", address, want)
		return
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("%s: error %q, want %q", address, err, want)
	}
	if strings.Contains(err.Error(), "unter2") {
		t.Errorf("the error %q shows the password", err)
	}
}

// writesTo checks that a client works, in the database that it should be in.
func writesTo(t *testing.T, client redis.UniversalClient, direct *redis.Client) {
	t.Helper()
	if err := client.Set(t.Context(), "cloakroom:key", t.Name(), 0).Err(); err != nil {
		t.Fatal(err)
	}
	if got := direct.Get(t.Context(), "cloakroom:key").Val(); got != t.Name() {
		t.Errorf("the server holds %q", got)
	}
}

func direct(t *testing.T, o *redis.Options) *redis.Client {
	c := redis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestOpenRedisOnOneServer(t *testing.T) {
	server := redistest.Standalone(t, "--requirepass", password,
		"--user", "app", "on", ">"+password, "~cloakroom:*", "&cloakroom:*", "+@all", "-@dangerous", "+info",
		"--user", "nobody", "on", ">"+password, "-@all")
	n := server.Nodes[0]
	for _, c := range []struct {
		name, address string
		db            int
	}{
		{"a password", "redis://:" + escaped + "@" + n.Addr, 0},
		{"a user with the least rights", "redis://app:" + escaped + "@" + n.Addr, 0},
		{"a database", "redis://:" + escaped + "@" + n.Addr + "/3", 3},
		{"a socket", "unix://:" + escaped + "@" + n.Socket, 0},
		{"a socket and a database", "unix://:" + escaped + "@" + n.Socket + "?db=2&pool_size=7", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			writesTo(t, openRedis(t, c.address).Client, direct(t, &redis.Options{Addr: n.Addr, Password: password, DB: c.db}))
		})
	}
	refusedRedis(t, "redis://"+n.Addr, n.Addr+" wants a password; write it into the address")
	refusedRedis(t, "redis://:hunter2-wrong@"+n.Addr, n.Addr+" does not accept the user name and password")
	refusedRedis(t, "redis://nobody:"+escaped+"@"+n.Addr, n.Addr+" does not let this user do what cloakroom needs")
	refusedRedis(t, "redis+cluster://:"+escaped+"@"+n.Addr, n.Addr+" belongs to no Cluster")
	refusedRedis(t, "redis+sentinel://"+n.Addr+"/master?sentinel_password="+escaped, n.Addr+" is no Sentinel")
	refusedRedis(t, "rediss://:"+escaped+"@"+n.Addr, n.Addr+" does not answer over TLS; start Redis there, correct the address, or begin it with redis")

	n.Kill()
	refusedRedis(t, "redis://:"+escaped+"@"+n.Addr, n.Addr+" cannot be reached; start Redis there, or correct the address")
	refusedRedis(t, "redis+sentinel://:"+escaped+"@"+n.Addr+"/master", n.Addr+" cannot be reached")
	refusedRedis(t, "redis+cluster://:"+escaped+"@"+n.Addr, n.Addr+" cannot be reached")
	refusedRedis(t, "unix://:"+escaped+"@"+n.Socket+"x", n.Socket+"x cannot be reached")
	refusedRedis(t, "redis://:"+escaped+"@nowhere.invalid", "nowhere.invalid:6379 cannot be reached")
}

func TestOpenRedisLeavesAServerThatDoesNotAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // which nobody accepts from
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	address := "redis://" + l.Addr().String() + "?read_timeout=50ms"
	refusedRedis(t, address, "cannot be reached")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := OpenRedis(ctx, address, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}

func TestOpenRedisOverTLS(t *testing.T) {
	dir := t.TempDir()
	certificates(t, dir)
	file := func(name string) string { return filepath.Join(dir, name) }
	_, port, _ := net.SplitHostPort(redistest.FreeAddr(t))
	server := redistest.Standalone(t, "--tls-port", port, "--tls-auth-clients", "yes",
		"--tls-cert-file", file("server.pem"), "--tls-key-file", file("server.key"), "--tls-ca-cert-file", file("ca.pem"))
	addr := "127.0.0.1:" + port
	ca, client := "tls_ca_file="+file("ca.pem"), "&tls_cert_file="+file("client.pem")+"&tls_key_file="+file("client.key")

	r := openRedis(t, "rediss://"+addr+"?"+ca+client)
	writesTo(t, r.Client, direct(t, &redis.Options{Addr: server.Nodes[0].Addr}))
	r = openRedis(t, "rediss://"+addr+"?skip_verify=true"+client)
	if !slices.ContainsFunc(r.Warnings, func(w string) bool { return strings.Contains(w, "skip_verify") }) {
		t.Errorf("nobody is warned of skip_verify: %q", r.Warnings)
	}

	refusedRedis(t, "redis://"+addr, addr+" closes the connection at once; if it speaks TLS, begin the address with rediss")
	refusedRedis(t, "rediss://"+addr+"?"+ca, addr+" breaks off the TLS handshake; if it asks for a certificate")
	refusedRedis(t, "rediss://"+addr+"?"+strings.TrimPrefix(client, "&"), addr+" shows a certificate that no known authority has signed")
	refusedRedis(t, "rediss://localhost:"+port+"?"+ca+client, "localhost:"+port+" shows a certificate of another name")
	refusedRedis(t, "rediss://"+addr+"?tls_ca_file="+file("none.pem"), "tls_ca_file: open "+file("none.pem"))
	refusedRedis(t, "rediss://"+addr+"?tls_ca_file="+file("ca.key"), "holds no certificate")
	refusedRedis(t, "rediss://"+addr+"?"+ca+"&tls_cert_file="+file("client.pem"), "tls_cert_file and tls_key_file: ")
	refusedRedis(t, "redis://"+addr+"?"+ca, "need an address that begins with rediss")
}

func TestOpenRedisOnACluster(t *testing.T) {
	server := redistest.Cluster(t)
	r := openRedis(t, server.URL)
	for _, key := range []string{"a", "b", "c", "d", "e", "f"} { // on all nodes
		if err := r.Client.Set(t.Context(), key, "value", 0).Err(); err != nil {
			t.Error(err)
		}
	}
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "appendonly is off") {
		t.Errorf("warnings %q, want one about appendonly", r.Warnings)
	}
	refusedRedis(t, "redis://"+server.Nodes[0].Addr, server.Nodes[0].Addr+": it belongs to a Cluster; begin the address with redis+cluster://")
	refusedRedis(t, server.URL+"/3", "a Redis Cluster has one database")
}

func TestOpenRedisUnderSentinels(t *testing.T) {
	server := redistest.Sentinel(t)
	master := server.Master(t)
	writesTo(t, openRedis(t, server.URL).Client, direct(t, &redis.Options{Addr: master.Addr}))
	writesTo(t, openRedis(t, server.URL+"/2").Client, direct(t, &redis.Options{Addr: master.Addr, DB: 2}))
	refusedRedis(t, server.URL+"x", `watches no master by the name of "cloakroomx"`)
	refusedRedis(t, "redis://"+server.Sentinels[0].Addr, "it is a Sentinel, which holds no data; begin the address with redis+sentinel://")
	for _, n := range server.Nodes {
		if n != master {
			refusedRedis(t, "redis://"+n.Addr, n.Addr+": it is a replica, which takes no writes; name its master "+master.Addr)
		}
	}
}

func TestOpenRedisWarns(t *testing.T) {
	server := redistest.Standalone(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--appendonly", "yes")
	r := openRedis(t, server.URL)
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "maxmemory-policy is allkeys-lru") {
		t.Errorf("warnings %q, want one about maxmemory-policy", r.Warnings)
	}
}

func TestJudgeRedis(t *testing.T) {
	for _, c := range []struct {
		version string
		ok      bool
	}{
		{"7.0.15", true}, {"6.2.0", true}, {"6.10", true}, {"10.0.0", true}, {"", true},
		{"6.0.16", false}, {"5.0.3", false},
	} {
		_, err := judgeRedis(map[string]string{"redis_version": c.version}, false, 0)
		if (err == nil) != c.ok {
			t.Errorf("version %q: error %v", c.version, err)
		}
		if err != nil && !strings.Contains(err.Error(), "it is Redis "+c.version+", and cloakroom needs 6.2 or newer; upgrade it") {
			t.Errorf("version %q: error %q", c.version, err)
		}
	}
	if warnings, err := judgeRedis(nil, false, 0); len(warnings) != 0 || err != nil {
		t.Errorf("a server that tells nothing: %q, %v", warnings, err)
	}
}

// TestJudgeRedisCountsReplicas: what a replica does not know when it takes over is
// lost, and one that is not there confirms nothing.
func TestJudgeRedisCountsReplicas(t *testing.T) {
	for _, c := range []struct {
		replicas string
		wait     int
		want     string
	}{
		{"0", 0, ""}, {"1", 1, ""}, {"2", 1, ""}, {"", 1, ""},
		{"2", 0, "set redis-wait-replicas to 1"},
		{"0", 1, "redis-wait-replicas is 1 and a master has 0"},
	} {
		warnings, err := judgeRedis(map[string]string{"connected_slaves": c.replicas}, false, c.wait)
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(warnings, "; "); c.want == "" && text != "" || !strings.Contains(text, c.want) {
			t.Errorf("%q replicas, %d to wait for: warnings %q, want %q", c.replicas, c.wait, warnings, c.want)
		}
	}
}

func TestParseRedisRefusesWhatItDoesNotUnderstand(t *testing.T) {
	for _, c := range []struct{ address, want string }{
		{"127.0.0.1:6379", "an address begins with redis://"},
		{"hunter2", "an address begins with redis://"},
		{"http://hunter2@host", "http:// is none of"},
		{"redis+ring://host", "redis+ring:// is none of"},
		{"redis://:hunter2/x@host", "write / as %2F"},
		{"redis://:hunter2?x@host", "? as %3F"},
		{"redis://:hunter2#x@host", "# as %23"},
		{"redis://:hunter2%zz@host", "write % as %25"},
		{"redis://:hunter2@host:port", `"host:port" is not a host or host:port`},
		{"redis://:hunter2@a,b", "an address of several hosts begins with redis+sentinel:// or redis+cluster://"},
		{"redis+sentinel://:hunter2@a,b", "ends in the name of the master"},
		{"redis://:hunter2@host/three", "invalid database number"},
		{"redis://:hunter2@host?no_such=1", "unexpected option: no_such"},
		{"redis://:hunter2@host?read_timeout=soon", "invalid read_timeout duration"},
		{"redis://:hunter2@host?a=%zz", "has to be name=value"},
		{"unix://", "empty unix socket path"},
	} {
		_, err := parseRedis(c.address)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.address, err, c.want)
		} else if strings.Contains(err.Error(), "unter2") {
			t.Errorf("the error %q shows the password", err)
		}
	}
}

func TestParseRedisReadsAllOfAnAddress(t *testing.T) {
	a, err := parseRedis("rediss+sentinel://user:" + escaped + "@one,two:7,[::1]/the-master/5?sentinel_username=su&sentinel_password=sp&pool_size=9&dial_timeout=2s")
	if err != nil {
		t.Fatal(err)
	}
	o := a.options
	if want := []string{"one:26379", "two:7", "[::1]:26379"}; !slices.Equal(o.Addrs, want) {
		t.Errorf("addresses %q, want %q", o.Addrs, want)
	}
	if o.MasterName != "the-master" || o.DB != 5 || o.Username != "user" || o.Password != password ||
		o.SentinelUsername != "su" || o.SentinelPassword != "sp" || o.PoolSize != 9 || o.DialTimeout != 2*time.Second ||
		o.TLSConfig == nil || o.TLSConfig.InsecureSkipVerify || !o.ContextTimeoutEnabled || o.IsClusterMode {
		t.Errorf("read as %+v", o)
	}
	a, err = parseRedis("redis+cluster://one,two")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"one:6379", "two:6379"}; !slices.Equal(a.options.Addrs, want) || !a.options.IsClusterMode || a.options.MaxRetries != 1 {
		t.Errorf("read as %+v", a.options)
	}
}

// certificates writes an authority, and keys that it has signed for a server at
// 127.0.0.1 and for a client.
func certificates(t *testing.T, dir string) {
	t.Helper()
	var caKey *ecdsa.PrivateKey
	var ca *x509.Certificate
	for i, name := range []string{"ca", "server", "client"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: name == "ca", BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		if name == "ca" {
			ca, caKey = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, ca, key.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		keyDER, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for file, block := range map[string]*pem.Block{
			name + ".pem": {Type: "CERTIFICATE", Bytes: der},
			name + ".key": {Type: "EC PRIVATE KEY", Bytes: keyDER},
		} {
			if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}
