package mongostore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"cloakroom/domain"
	"cloakroom/repo"
	"cloakroom/repo/mongostore"
	"cloakroom/repo/mongostore/mongotest"
	"cloakroom/repo/mongostore/mongowire"
)

// tryOpen opens a store whose start may fail, and returns what it has logged.
func tryOpen(t *testing.T, address string, now func() time.Time) (*mongostore.Store, string, error) {
	t.Helper()
	var log bytes.Buffer
	s, err := mongostore.Open(t.Context(), database(t, address), slog.New(slog.NewTextHandler(&log, nil)), now)
	if err == nil {
		defer s.Close()
	}
	return s, log.String(), err
}

func TestManyReplicasStartAtOnce(t *testing.T) {
	for name, o := range both {
		t.Run(name, func(t *testing.T) {
			address := mongotest.NewDatabase(t, patient(mongotest.Double(t, o)))
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					if _, _, err := tryOpen(t, address, time.Now); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			specs, err := mongotest.Connect(t, address).Database(databaseName(address)).Collection("devices").Indexes().ListSpecifications(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, x := range specs {
				text := x.Name + " " + x.KeysDocument.String()
				if x.ExpireAfterSeconds != nil {
					text += fmt.Sprint(" after ", *x.ExpireAfterSeconds)
				}
				got = append(got, strings.Join(strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(`{}":, `, r) }), " "))
			}
			want := []string{"_id_ _id $numberInt 1", "owner issuer $numberInt 1 subject $numberInt 1", "email email $numberInt 1 email_verified $numberInt 1",
				"sid issuer $numberInt 1 oidc_sid $numberInt 1", "expiry expires_at $numberInt 1 after 60"}
			if o.NoTTL {
				want[4] = "expiry expires_at $numberInt 1"
			}
			if !slices.Equal(got, want) {
				t.Errorf("the indexes are %q, want %q", got, want)
			}
		})
	}
}

func databaseName(address string) string {
	_, rest, _ := strings.Cut(address, "://")
	_, rest, _ = strings.Cut(rest, "/")
	name, _, _ := strings.Cut(rest, "?")
	return name
}

func TestOpenSaysWhatToDo(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(*testing.T, *mongowire.Server, string)
		want    string
	}{
		{"no permission for indexes", func(_ *testing.T, s *mongowire.Server, _ string) {
			s.Inject(mongowire.Fault{Command: "createIndexes", Refuse: &mongowire.Error{Code: 13, Name: "Unauthorized", Message: "not authorized"}})
		}, "give the user the role readWrite there"},
		{"no permission for change streams", func(_ *testing.T, s *mongowire.Server, _ string) {
			s.Inject(mongowire.Fault{Command: "aggregate", Refuse: &mongowire.Error{Code: 13, Name: "Unauthorized", Message: "not authorized"}})
		}, "may not open a change stream in the database"},
		{"another index is in the way", func(_ *testing.T, s *mongowire.Server, _ string) {
			s.Inject(mongowire.Fault{Command: "createIndexes", Refuse: &mongowire.Error{Code: 85, Name: "IndexOptionsConflict", Message: "Index already exists with a different name: mine"}})
		}, "drop that, and start again"},
		{"a newer layout", func(t *testing.T, _ *mongowire.Server, address string) {
			if _, err := mongotest.Connect(t, address).Database(databaseName(address)).Collection("schema").
				InsertOne(t.Context(), bson.D{{Key: "_id", Value: "devices"}, {Key: "version", Value: 2}}); err != nil {
				t.Fatal(err)
			}
		}, "written by a newer version of cloakroom"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := mongotest.Double(t, mongowire.Options{})
			address := mongotest.NewDatabase(t, patient(server))
			c.prepare(t, server, address)
			if _, _, err := tryOpen(t, address, time.Now); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			server.Heal()
		})
	}
}

func TestOpenWarnsOfAClockThatIsOff(t *testing.T) {
	address := mongotest.NewDatabase(t, patient(mongotest.Double(t, mongowire.Options{})))
	for off, warns := range map[time.Duration]bool{0: false, 10 * time.Second: true, -10 * time.Second: true} {
		_, log, err := tryOpen(t, address, func() time.Time { return time.Now().Add(off) })
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(log, "clocks") != warns {
			t.Errorf("a clock that is off by %v: the log is %q", off, log)
		}
	}
}

// TestWritesWaitForAMajority also holds that all reads go to the primary,
// whatever the address says.
func TestWritesWaitForAMajority(t *testing.T) {
	server := mongotest.Double(t, mongowire.Options{})
	s := open(t, mongotest.NewDatabase(t, server.URI()+"/?w=1&journal=false&readPreference=secondaryPreferred&readConcernLevel=available"))
	defer s.Close()
	var mu sync.Mutex
	seen := make(map[string]int)
	server.Observe(func(command bson.D) {
		mu.Lock()
		defer mu.Unlock()
		concern, preference := fmt.Sprint(valueOf(command, "writeConcern")), fmt.Sprint(valueOf(command, "$readPreference"))
		name := command[0].Key
		switch name {
		case "insert", "update", "delete", "findAndModify":
			if updates, ok := valueOf(command, "updates").(bson.A); ok && strings.Contains(fmt.Sprint(updates), "last_seen_at") && !strings.Contains(fmt.Sprint(updates), "ticket_hash") {
				name = "touch"
				if strings.Contains(concern, "majority") {
					t.Errorf("a touch waits for %s", concern)
				}
			} else if !strings.Contains(concern, "majority") || !strings.Contains(concern, `"j":true`) {
				t.Errorf("%s has the write concern %s", name, concern)
			}
		case "find":
			if strings.Contains(preference, "secondary") {
				t.Errorf("find goes to %s", preference)
			}
			if level := fmt.Sprint(valueOf(command, "readConcern")); !strings.Contains(level, "local") {
				t.Errorf("find has the read concern %s", level)
			}
		}
		seen[name]++
	})
	ctx := t.Context()
	for _, err := range []error{
		s.Create(ctx, device(1)),
		s.ReplaceTokens(ctx, id(1), "me", 1, tokens(2), time.Now()),
		s.Rename(ctx, id(1), "name"),
		s.Touch(ctx, id(1), domain.Seen{At: time.Now().Add(time.Hour)}),
		s.Overwrite(ctx, device(1), 2),
		second(s.TakeLease(ctx, id(1), "me", time.Hour)),
		s.RenewLease(ctx, id(1), "me", time.Hour),
		s.ReleaseLease(ctx, id(1), "me"),
		second(s.Get(ctx, id(1))),
		second(s.ListByOwner(ctx, owner(1))),
		second(s.DeleteByEmail(ctx, email(1))),
		s.Create(ctx, device(1)),
		second(s.Delete(ctx, id(1), repo.AnyVersion)),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	server.Observe(nil)
	for _, name := range []string{"insert", "update", "findAndModify", "find", "touch"} {
		if seen[name] == 0 {
			t.Errorf("there was no %s", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func valueOf(d bson.D, name string) any {
	for _, e := range d {
		if e.Key == name {
			return e.Value
		}
	}
	return nil
}

// TestDocument pins down what a device looks like in the database: other
// programs and later versions read it.
func TestDocument(t *testing.T) {
	address := mongotest.NewDatabase(t, mongotest.Server(t))
	s := open(t, address)
	defer s.Close()
	r := device(1)
	r.Tokens.Access = domain.NewSecret("\x00\xff sealed")
	if err := s.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if _, err := s.TakeLease(t.Context(), id(1), "me", time.Hour); err != nil {
		t.Fatal(err)
	}
	var got bson.D
	if err := mongotest.Connect(t, address).Database(databaseName(address)).Collection("devices").FindOne(context.Background(), bson.D{}).Decode(&got); err != nil {
		t.Fatal(err)
	}
	types := make(map[string]string)
	for _, e := range got {
		types[e.Key] = strings.TrimPrefix(reflect.TypeOf(e.Value).String(), "bson.")
	}
	want := map[string]string{
		"_id": "string", "ticket_hash": "Binary", "issuer": "string", "subject": "string", "email": "string", "email_verified": "bool", "person_name": "string",
		"roles": "A", "provider": "string", "oidc_sid": "string", "token_type": "string",
		"access_token": "Binary", "access_issued": "DateTime", "access_expiry": "DateTime", "refresh_token": "Binary", "refresh_expiry": "DateTime",
		"id_token": "Binary", "dpop_key": "Binary", "scope": "string", "acr": "string", "amr": "A", "proved_at": "DateTime", "name": "string", "user_agent": "string", "persistent": "bool", "created_at": "DateTime", "created_ip": "string",
		"last_seen_at": "DateTime", "last_seen_ip": "string", "auth_time": "DateTime", "expires_at": "DateTime",
		"version": "int64", "lease_owner": "A", "lease_until": "DateTime", "write_id": "ObjectID",
	}
	if !reflect.DeepEqual(types, want) {
		t.Errorf("a device's fields are %v, want %v", types, want)
	}
	if id, token := valueOf(got, "_id"), valueOf(got, "access_token").(bson.Binary); id != r.DeviceID.String() || string(token.Data) != "\x00\xff sealed" {
		t.Errorf("_id is %v and access_token %q", id, token.Data)
	}
}

func TestWhatAnEarlierVersionHasWrittenIsRead(t *testing.T) {
	address := mongotest.NewDatabase(t, mongotest.Server(t))
	s := open(t, address)
	defer s.Close()
	want := device(1)
	if err := s.Create(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	later := bson.D{{Key: "scope", Value: ""}, {Key: "acr", Value: ""}, {Key: "amr", Value: ""}, {Key: "dpop_key", Value: ""}, {Key: "proved_at", Value: ""}, {Key: "person_name", Value: ""}}
	if _, err := mongotest.Connect(t, address).Database(databaseName(address)).Collection("devices").UpdateOne(t.Context(), bson.D{}, bson.D{{Key: "$unset", Value: later}}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get(t.Context(), want.DeviceID)
	if err != nil || got.TicketHash != want.TicketHash || !got.Tokens.Refresh.Equal(want.Tokens.Refresh) || len(got.AMR) != 0 || !got.Tokens.DPoPKey.Empty() || !got.ProvedAt.IsZero() || got.PersonName != "" {
		t.Errorf("Get returns %+v, error %v", got, err)
	}
}

// TestLeasesGoByTheServersClock has a replica whose clock is ten minutes ahead: it
// takes no lease that has not run out, and its own run out in time.
func TestLeasesGoByTheServersClock(t *testing.T) {
	address := mongotest.NewDatabase(t, patient(mongotest.Double(t, mongowire.Options{})))
	s := open(t, address)
	ahead := func() time.Time { return time.Now().Add(10 * time.Minute) }
	hasty, err := mongostore.Open(t.Context(), database(t, address), slog.New(slog.DiscardHandler), ahead)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), device(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.TakeLease(t.Context(), id(1), "me", time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := hasty.TakeLease(t.Context(), id(1), "you", time.Minute); !errors.Is(err, domain.ErrLeaseHeld) {
		t.Errorf("a lease that is held: %v, want %v", err, domain.ErrLeaseHeld)
	}
	if err := s.ReleaseLease(t.Context(), id(1), "me"); err != nil {
		t.Fatal(err)
	}
	const short = 50 * time.Millisecond
	if _, err := hasty.TakeLease(t.Context(), id(1), "you", short); err != nil {
		t.Fatal(err)
	}
	if err := eventually(t, func() error { _, err := s.TakeLease(t.Context(), id(1), "me", time.Minute); return err }); err != nil {
		t.Errorf("a lease of %v is not over: %v", short, err)
	}
}
