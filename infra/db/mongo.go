package db

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
)

// mongoDatabase is the database of an address that names none.
const mongoDatabase = "cloakroom"

// How long MongoDB is waited for, unless the address says otherwise
// (connectTimeoutMS, serverSelectionTimeoutMS, timeoutMS). Selection is what a
// call takes to fail while no primary is there; an election takes some seconds.
const (
	mongoConnect   = 3 * time.Second
	mongoSelection = 5 * time.Second
	mongoCall      = 10 * time.Second
)

// OpenMongo connects to MongoDB and returns the database that the address names
// in its path, "cloakroom" if none. The address has the form mongodb://… or
// mongodb+srv://…, with all options that the driver understands. Disconnecting
// the database's client gives everything back.
//
// Its errors say what to do and never hold the password.
func OpenMongo(ctx context.Context, address string) (*mongo.Database, error) {
	name, err := mongoDatabaseOf(address)
	if err != nil {
		return nil, err
	}
	how := options.Client().ApplyURI(address)
	if err := how.Validate(); err != nil {
		return nil, explainMongoAddress(address)
	}
	if how.ConnectTimeout == nil {
		how.SetConnectTimeout(mongoConnect)
	}
	if how.ServerSelectionTimeout == nil {
		how.SetServerSelectionTimeout(mongoSelection)
	}
	if how.Timeout == nil {
		how.SetTimeout(mongoCall)
	}
	if how.AppName == nil {
		how.SetAppName("cloakroom")
	}
	client, err := mongo.Connect(how)
	if err != nil {
		return nil, explainMongoAddress(address)
	}
	if err := client.Ping(ctx, readpref.Primary()); err != nil {
		// Nothing is under way that would have to be waited for.
		_ = client.Disconnect(context.WithoutCancel(ctx))
		if ctx.Err() != nil {
			return nil, fmt.Errorf("mongo: open: %w", ctx.Err())
		}
		return nil, explainMongo(strings.Join(how.Hosts, ","), how.TLSConfig != nil, err)
	}
	return client.Database(name), nil
}

// mongoDatabaseOf returns the first part of the address's path. The address may
// be none that net/url takes, because it may name several hosts.
func mongoDatabaseOf(address string) (string, error) {
	rest, found := strings.CutPrefix(address, "mongodb://")
	if !found {
		rest, found = strings.CutPrefix(address, "mongodb+srv://")
	}
	if !found {
		return "", errors.New("mongo: the address begins neither with mongodb:// nor with mongodb+srv://; write for example mongodb://user:password@host:27017/cloakroom")
	}
	_, path, _ := strings.Cut(rest, "/")
	path, _, _ = strings.Cut(path, "?")
	name, err := url.PathUnescape(path)
	switch {
	case err != nil || strings.ContainsAny(name, "/\\. \"$*<>:|?@"):
		// Not repeated: a password with a slash would end up here.
		return "", errors.New("mongo: what the address has between its first / and the ? is no name of a database; write for example mongodb://user:password@host:27017/cloakroom, and in user and password write / as %2F, : as %3A, @ as %40 and % as %25")
	case name == "":
		return mongoDatabase, nil
	}
	return name, nil
}

// explainMongoAddress says what is wrong with an address that the driver does
// not take. The driver's error may repeat parts of the address; it is asked
// again without the secrets, and if it finds no fault then, it is with them.
func explainMongoAddress(address string) error {
	scheme, rest, _ := strings.Cut(address, "://")
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		rest = rest[at+1:]
	}
	rest, query, _ := strings.Cut(rest, "?")
	var plain []string
	for _, pair := range strings.Split(query, "&") {
		option, _, _ := strings.Cut(strings.ToLower(pair), "=")
		if pair != "" && !strings.Contains(option, "password") && !strings.HasPrefix(option, "auth") {
			plain = append(plain, pair)
		}
	}
	if !strings.Contains(rest, "/") {
		rest += "/"
	}
	err := options.Client().ApplyURI(scheme + "://" + rest + "?" + strings.Join(plain, "&")).Validate()
	switch {
	case err != nil && errors.As(err, new(*net.DNSError)):
		return fmt.Errorf("mongo: the name in the address is not found in the DNS; correct it, or use a mongodb:// address with the hosts themselves: %w", err)
	case err != nil:
		return fmt.Errorf("mongo: the address is not one of MongoDB's; correct it: %w", err)
	case strings.Contains(address, "@"):
		return errors.New("mongo: user, password or the options about them are not right in the address; write / as %2F, : as %3A, @ as %40 and % as %25 in user and password")
	default:
		return errors.New("mongo: the address is not one of MongoDB's; correct its options")
	}
}

// The codes of MongoDB's errors that tell why nobody is let in.
const (
	mongoUnauthorized = 13
	mongoNotAllowed   = 18
	mongoAtlasDenied  = 8000
)

// explainMongo turns a failure to reach the hosts into a sentence that says what
// to do. The driver's errors hold neither user nor password.
func explainMongo(hosts string, secure bool, cause error) error {
	var server mongo.ServerError
	switch text := cause.Error(); {
	case errors.As(cause, &server) && (server.HasErrorCode(mongoNotAllowed) || server.HasErrorCode(mongoAtlasDenied)),
		strings.Contains(text, "auth error"):
		return fmt.Errorf("mongo: %s does not accept user and password; correct them in the address, and if the user is kept in another database than the one that the address names, add ?authSource=admin: %w", hosts, cause)
	case errors.As(cause, &server) && server.HasErrorCode(mongoUnauthorized):
		return fmt.Errorf("mongo: %s wants a user and a password; put them into the address: %w", hosts, cause)
	case strings.Contains(text, "tls: ") || strings.Contains(text, "x509: "):
		return fmt.Errorf("mongo: no secure connection to %s; see that tls, tlsCAFile and the host's name in the address fit the server's certificate: %w", hosts, cause)
	case strings.Contains(text, "wire version"):
		return fmt.Errorf("mongo: %s is too old; MongoDB 4.4 or newer is needed: %w", hosts, cause)
	case strings.Contains(text, "ReplicaSetNoPrimary"), strings.Contains(text, "RSSecondary"):
		return fmt.Errorf("mongo: no primary is to be found at %s; see that the replica set has one, that its members can be reached by the names that they have in it, and that replicaSet in the address is its name: %w", hosts, cause)
	}
	if secure {
		return fmt.Errorf("mongo: no server that speaks TLS answers at %s; start it, or correct the address, which asks for TLS: %w", hosts, cause)
	}
	return fmt.Errorf("mongo: no server answers at %s; start it, or correct the address: %w", hosts, cause)
}
