package db

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
)

// Redis is an open connection to Redis: one server, the master that Sentinels
// watch over, or a Cluster.
type Redis struct {
	Client redis.UniversalClient
	// Warnings are sentences about settings of the server that can cost
	// sign-ins. They do not keep it from being used.
	Warnings []string
}

// OpenRedis connects to Redis and checks that it can be used. The address is
// one of
//
//	redis://[user:password@]host[:port][/database]
//	unix://[user:password@]/path/of/socket[?db=database]
//	redis+sentinel://[user:password@]host[:port],host[:port]…/master[/database]
//	redis+cluster://[user:password@]host[:port],host[:port]…
//
// with rediss in place of redis for TLS. A password alone is written
// :password@. User and password are those of the servers that hold the data;
// Sentinels that want some as well get sentinel_username and sentinel_password.
// Options follow a question mark, joined by &. The others are those of
// redis.ParseURL, such as pool_size and read_timeout, and for TLS
//
//	tls_ca_file     the certificate authority of the servers, if no public one
//	tls_cert_file   the certificate that cloakroom shows them
//	tls_key_file    its key
//	skip_verify     true: trust whoever answers
//
// waitReplicas is how many replicas are to confirm a write; a server that has
// another number is warned of.
//
// Its errors name the hosts and the remedy, and never the password.
func OpenRedis(ctx context.Context, address string, waitReplicas int) (*Redis, error) {
	a, err := parseRedis(address)
	if err != nil {
		return nil, err
	}
	// go-redis prints on standard error what its calls return as well.
	logging.Disable()
	r := &Redis{Client: a.client()}
	if a.insecure {
		r.Warnings = append(r.Warnings, "redis: skip_verify is set, so whoever answers at "+a.where+" is trusted; name the authority of its certificate with tls_ca_file instead")
	}
	warnings, err := checkRedis(ctx, r.Client, waitReplicas)
	if err != nil {
		_ = r.Client.Close()
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, fmt.Errorf("redis: open %s: %w", a.where, ctx.Err())
		}
		return nil, a.explain(err)
	}
	r.Warnings = append(r.Warnings, warnings...)
	return r, nil
}

// clusterReload is how old the client's picture of a Cluster gets. It learns from
// nodes that answer that a slot has moved, but nothing from one that is dead:
// until it looks again, it asks that one, and by default it looks every minute.
const clusterReload = time.Second

func (a *redisAddress) client() redis.UniversalClient {
	if !a.options.IsClusterMode {
		return redis.NewUniversalClient(a.options)
	}
	o := a.options.Cluster()
	o.ClusterStateReloadInterval = clusterReload
	return redis.NewClusterClient(o)
}

// checkRedis asks every master what it is.
func checkRedis(ctx context.Context, client redis.UniversalClient, waitReplicas int) (warnings []string, err error) {
	if err := client.Ping(ctx).Err(); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	seen := make(map[string]bool)
	_, clustered := client.(*redis.ClusterClient)
	ask := func(ctx context.Context, node *redis.Client) error {
		text, err := node.Info(ctx).Result()
		if redis.IsPermissionError(err) {
			return nil // the operator does not want it to be known
		}
		if err != nil {
			return err
		}
		found, err := judgeRedis(redisInfo(text), clustered, waitReplicas)
		mu.Lock()
		defer mu.Unlock()
		for _, w := range found {
			seen[w] = true
		}
		return err
	}
	switch c := client.(type) {
	case *redis.ClusterClient:
		err = c.ForEachMaster(ctx, ask)
	case *redis.Client:
		err = ask(ctx, c)
	}
	return slices.Sorted(maps.Keys(seen)), err
}

// redisInfo reads the answer to INFO: lines of name:value.
func redisInfo(text string) map[string]string {
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, found := strings.Cut(strings.TrimSpace(line), ":"); found {
			info[name] = value
		}
	}
	return info
}

// oldestRedis is the first version that has ZADD with GT.
var oldestRedis = [2]int{6, 2}

// errRedisServer is a server that answers and yet cannot be used; its text says
// what to do.
type errRedisServer string

func (e errRedisServer) Error() string { return string(e) }

// judgeRedis finds what is wrong with a server, or with a master of a Cluster if
// that is what the address says. What INFO does not tell, as behind some
// proxies, is taken to be well.
func judgeRedis(info map[string]string, clustered bool, waitReplicas int) (warnings []string, err error) {
	version := info["redis_version"]
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	numbers := [2]int{}
	numbers[0], _ = strconv.Atoi(major)
	numbers[1], _ = strconv.Atoi(minor)
	switch {
	case info["redis_mode"] == "sentinel":
		return nil, errRedisServer("it is a Sentinel, which holds no data; begin the address with redis+sentinel:// and end it with /master, the name that it watches")
	case version != "" && slices.Compare(numbers[:], oldestRedis[:]) < 0:
		return nil, errRedisServer(fmt.Sprintf("it is Redis %s, and cloakroom needs %d.%d or newer; upgrade it", version, oldestRedis[0], oldestRedis[1]))
	case !clustered && info["cluster_enabled"] == "1":
		return nil, errRedisServer("it belongs to a Cluster; begin the address with redis+cluster://")
	case info["role"] == "slave":
		return nil, errRedisServer(fmt.Sprintf("it is a replica, which takes no writes; name its master %s, or the sentinels with redis+sentinel://",
			net.JoinHostPort(info["master_host"], info["master_port"])))
	}
	if policy := info["maxmemory_policy"]; policy != "" && policy != "noeviction" {
		warnings = append(warnings, fmt.Sprintf("redis: maxmemory-policy is %s, so a full server signs people out at random; set it to noeviction", policy))
	}
	if info["aof_enabled"] == "0" {
		warnings = append(warnings, "redis: appendonly is off, so a crash of the server loses sign-ins and refreshed tokens since the last snapshot; set appendonly yes and appendfsync always")
	}
	switch replicas, err := strconv.Atoi(info["connected_slaves"]); {
	case err != nil:
	case replicas > 0 && waitReplicas == 0:
		warnings = append(warnings, "redis: a replica that takes over may not have the last sign-outs and refreshed tokens, which lets people back in and signs others out; set redis-wait-replicas to 1")
	case replicas < waitReplicas:
		warnings = append(warnings, fmt.Sprintf("redis: redis-wait-replicas is %d and a master has %d, so sign-outs are answered as failed until it has more; connect them, or set it lower", waitReplicas, replicas))
	}
	return warnings, nil
}

// explain turns the failure to open into a sentence that says what to do.
func (a *redisAddress) explain(cause error) error {
	sentence := ""
	var certificate *tls.CertificateVerificationError
	var noTLS tls.RecordHeaderError
	var wrongName x509.HostnameError
	var server errRedisServer
	text := cause.Error()
	says := func(part string) bool { return strings.Contains(text, part) }
	switch {
	case errors.As(cause, &server):
		return fmt.Errorf("redis: %s: %w", a.where, server)
	case errors.As(cause, &wrongName):
		sentence = "shows a certificate of another name; write the address with the name that is in the certificate"
	case errors.As(cause, &certificate):
		sentence = "shows a certificate that no known authority has signed; name the file of its authority with tls_ca_file"
	case errors.As(cause, &noTLS):
		sentence = "does not speak TLS; begin the address with redis in place of rediss, or name the port for TLS"
	case says("remote error: tls: "), a.tls && (says("connection reset by peer") || says("broken pipe")):
		// The server's alert may be overtaken by its closing.
		sentence = "breaks off the TLS handshake; if it asks for a certificate, name one with tls_cert_file and tls_key_file"
	case says("NOAUTH"):
		sentence = "wants a password; write it into the address, as in redis://:password@host"
	case says("WRONGPASS"), says("without any password configured"), says("invalid password"):
		sentence = "does not accept the user name and password of the address; correct them"
	case redis.IsPermissionError(cause):
		sentence = "does not let this user do what cloakroom needs; grant it ~cloakroom:* &cloakroom:* +@all -@dangerous +info"
	case redis.IsLoadingError(cause):
		sentence = "is still loading its data; try again in a while"
	case says("cluster support disabled"):
		sentence = "belongs to no Cluster; begin the address without +cluster"
	case redis.IsClusterDownError(cause):
		sentence = "belongs to a Cluster that is down; see CLUSTER INFO there"
	case a.options.MasterName != "" && errors.Is(cause, redis.Nil):
		sentence = fmt.Sprintf("watches no master by the name of %q; correct the end of the address", a.options.MasterName)
	case a.options.MasterName != "" && says("unknown command"):
		sentence = "is no Sentinel; begin the address without +sentinel"
	case !a.tls && (errors.Is(cause, io.EOF) || errors.Is(cause, syscall.ECONNRESET)):
		sentence = "closes the connection at once; if it speaks TLS, begin the address with rediss"
	case a.tls && isTimeout(cause):
		// A server without TLS waits for the end of what it takes for a command.
		sentence = "does not answer over TLS; start Redis there, correct the address, or begin it with redis if there is no TLS"
	case errors.Is(cause, syscall.ECONNREFUSED), errors.Is(cause, syscall.ENOENT), isTimeout(cause), isDNS(cause):
		sentence = "cannot be reached; start Redis there, or correct the address"
	case says("redis: can't parse"), says("redis: invalid reply"):
		sentence = "does not speak Redis; correct the address"
	default:
		return fmt.Errorf("redis: open %s: %w", a.where, cause)
	}
	return fmt.Errorf("redis: %s %s: %w", a.where, sentence, cause)
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

func isDNS(err error) bool {
	var d *net.DNSError
	return errors.As(err, &d)
}
