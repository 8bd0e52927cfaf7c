package redisstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"cloakroom/domain"
	"cloakroom/repo"
	"cloakroom/repo/redisstore/redistest"
)

// open returns a store of its own on a server, with two handles.
func open(t testing.TB, server *redistest.Server) (near, far *Store) {
	t.Helper()
	c := Config{Prefix: newPrefix(t, server)}
	for _, s := range []**Store{&near, &far} {
		handle := New(connect(t, server), c)
		t.Cleanup(func() { _ = handle.Close() })
		*s = handle
	}
	return near, far
}

// device returns a record with all that the indexes look at, different from
// those of other numbers.
func device(n int) domain.Record {
	now := domain.Now(time.Now)
	return domain.Record{
		DeviceID:   domain.DeviceID{byte(n >> 8), byte(n), 1},
		TicketHash: domain.TicketHash{byte(n), 1},
		Owner:      domain.Owner{Issuer: "issuer", Subject: fmt.Sprint("subject ", n)},
		Email:      fmt.Sprintf("somebody%d@example.com", n), EmailVerified: true,
		SID: fmt.Sprint("session ", n),
		Tokens: domain.Tokens{
			TokenType: "bearer",
			Access:    domain.NewSecret("access"), AccessExpiry: now.Add(time.Minute),
			Refresh: domain.NewSecret("refresh"), RefreshExpiry: now.Add(time.Hour),
		},
		CreatedAt: now, LastSeenAt: now, AuthTime: now,
		ExpiresAt: now.Add(time.Hour),
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// keys returns the keys below a store's prefix, without the prefix.
func (s *Store) keys(t testing.TB) []string {
	t.Helper()
	var mu sync.Mutex
	var all []string
	collect := func(ctx context.Context, node *redis.Client) error {
		found := node.Scan(ctx, 0, s.config.Prefix+"*", 1000).Iterator()
		mu.Lock()
		defer mu.Unlock()
		for found.Next(ctx) {
			all = append(all, strings.TrimPrefix(found.Val(), s.config.Prefix))
		}
		return found.Err()
	}
	if cluster, ok := s.client.(*redis.ClusterClient); ok {
		must(t, cluster.ForEachMaster(t.Context(), collect))
	} else {
		must(t, collect(t.Context(), s.client.(*redis.Client)))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// sound checks that every record expires, and that its entries do later.
func (s *Store) sound(t testing.TB) {
	t.Helper()
	for _, key := range s.keys(t) {
		name, isDevice := strings.CutPrefix(key, "device:")
		if !isDevice {
			continue
		}
		id, err := domain.ParseDeviceID(name)
		must(t, err)
		values, err := s.client.HGetAll(t.Context(), s.deviceKey(id)).Result()
		must(t, err)
		r, err := parseAll(id, values)
		must(t, err)
		left, err := s.client.PTTL(t.Context(), s.deviceKey(id)).Result()
		must(t, err)
		ends := time.Now().Add(left)
		if r.Version == 0 || left <= 0 || ends.Before(r.ExpiresAt.Add(repo.Grace)) {
			t.Errorf("%s: version %d, end %v, and the server removes it in %v", key, r.Version, r.ExpiresAt, left)
		}
		for _, index := range s.indexKeys(r) {
			score, err := s.client.ZScore(t.Context(), index, entry{id, values["entry"]}.String()).Result()
			if err != nil || time.UnixMilli(int64(score)).Before(ends) {
				t.Errorf("%s: its entry in %s holds until %v, which is not past %v (%v)", key, index, time.UnixMilli(int64(score)), ends, err)
			}
			last, err := s.client.PTTL(t.Context(), index).Result()
			if err != nil || last < left {
				t.Errorf("%s: %s goes in %v, the record in %v (%v)", key, index, last, left, err)
			}
		}
	}
}

func TestIndexesStaySoundWhateverHappens(t *testing.T) {
	for _, c := range []struct {
		name  string
		start func(testing.TB) *redistest.Server
	}{{"one server", redistest.Any}, {"cluster", redistest.Cluster}} {
		t.Run(c.name, func(t *testing.T) {
			near, far := open(t, c.start(t))
			const devices, callers, rounds = 12, 8, 150
			var wg sync.WaitGroup
			for caller := range callers {
				wg.Go(func() {
					random := rand.New(rand.NewPCG(1, uint64(caller)))
					s := []*Store{near, far}[caller%2]
					for range rounds {
						if err := s.anything(t.Context(), random, device(random.IntN(devices))); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			near.sound(t)

			for n := range devices {
				if _, err := near.Delete(t.Context(), device(n).DeviceID, repo.AnyVersion); err != nil && !errors.Is(err, domain.ErrNotFound) {
					t.Error(err)
				}
			}
			if left := near.keys(t); len(left) > 0 {
				t.Errorf("all devices are deleted, and there is still %q", left)
			}
		})
	}
}

// anything does something to a device that may be there or not.
func (s *Store) anything(ctx context.Context, random *rand.Rand, r domain.Record) error {
	// Few owners, so that they share devices and lose them to each other.
	r.Owner.Subject = strconv.Itoa(random.IntN(3))
	r.Email = fmt.Sprint("email ", random.IntN(3))
	r.EmailVerified = random.IntN(3) > 0
	r.ExpiresAt = r.ExpiresAt.Add(time.Duration(random.IntN(1000)-10) * time.Hour)
	version := int64(1 + random.IntN(4))
	var err error
	switch random.IntN(8) {
	case 0, 1:
		err = s.Create(ctx, r)
	case 2:
		err = s.Overwrite(ctx, r, version)
	case 3:
		err = s.ReplaceTokens(ctx, r.DeviceID, "", version, r.Tokens, r.ExpiresAt)
	case 4:
		err = s.Touch(ctx, r.DeviceID, domain.Seen{At: r.LastSeenAt, ExpiresAt: r.ExpiresAt})
	case 5:
		_, err = s.Delete(ctx, r.DeviceID, version)
	case 6:
		_, err = s.DeleteByOwner(ctx, r.Owner, domain.DeviceID{})
	case 7:
		_, err = s.DeleteByEmail(ctx, r.Email)
	}
	for _, o := range []error{domain.ErrNotFound, domain.ErrExists, domain.ErrConflict} {
		if errors.Is(err, o) {
			return nil
		}
	}
	return err
}

// An entry is written before its record. Whoever reads the index in between
// must not take it away.
func TestADeviceThatIsBeingCreatedIsNotLost(t *testing.T) {
	s, reader := open(t, redistest.Any(t))
	r := device(1)
	if _, err := s.index(t.Context(), r, "tag", millis(r.ExpiresAt), "new"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		list, err := reader.ListByOwner(t.Context(), r.Owner)
		if err != nil || len(list) != 0 {
			t.Errorf("the list has %d devices (%v) before there is one", len(list), err)
		}
		gone, err := reader.DeleteByOwner(t.Context(), r.Owner, domain.DeviceID{})
		if err != nil || len(gone) != 0 {
			t.Errorf("%d devices went (%v) before there was one", len(gone), err)
		}
	}
	if n := s.client.ZCard(t.Context(), s.ownerKey(r.Owner)).Val(); n != 1 {
		t.Errorf("there are %d entries", n)
	}
}

// watcher looks at what is about to be sent.
type watcher func(redis.Cmder)

func (w watcher) DialHook(next redis.DialHook) redis.DialHook { return next }
func (w watcher) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { w(cmd); return next(ctx, cmd) }
}
func (w watcher) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			w(cmd)
		}
		return next(ctx, cmds)
	}
}

// However a write ends, the indexes name every device that is there.
func TestEntriesComeBeforeTheRecordAndGoAfterIt(t *testing.T) {
	s, beside := open(t, redistest.Any(t))
	ctx := t.Context()
	was, is := device(1), device(2)
	is.DeviceID = was.DeviceID
	for _, r := range []domain.Record{was, is} { // the scripts are known from here on
		must(t, beside.Create(ctx, r))
		_, err := beside.Delete(ctx, r.DeviceID, repo.AnyVersion)
		must(t, err)
	}
	var script, removal int // how often they were sent
	var want []domain.Record
	s.client.AddHook(watcher(func(cmd redis.Cmder) {
		name, args := cmd.Name(), cmd.Args()
		switch {
		case name == "evalsha" && args[3] == s.deviceKey(was.DeviceID):
			script++
			for _, r := range want {
				for _, key := range s.indexKeys(r) {
					if n, err := beside.client.ZCard(ctx, key).Result(); err != nil || n == 0 {
						t.Errorf("the record is about to be written, and %s holds %d entries (%v)", key, n, err)
					}
				}
			}
		case name == "zrem":
			removal++
			if got, err := beside.Get(ctx, was.DeviceID); err == nil && got.Owner == was.Owner {
				t.Error("the record is as it was, and its entries are about to go")
			}
		}
	}))
	want = []domain.Record{was}
	must(t, s.Create(ctx, was))
	want = []domain.Record{was, is}
	must(t, s.Overwrite(ctx, is, 1))
	want = []domain.Record{is}
	_, err := s.Delete(ctx, is.DeviceID, repo.AnyVersion)
	must(t, err)
	if script < 3 || removal == 0 {
		t.Errorf("%d scripts and %d removals were seen", script, removal)
	}
}

// Whoever comes back long after the end is still told about it.
func TestARecordThatIsOverIsKeptForAWhile(t *testing.T) {
	s, _ := open(t, redistest.Any(t))
	ctx, r := t.Context(), device(1)
	ended := r.CreatedAt.Add(-100 * time.Hour)
	r.ExpiresAt = ended
	must(t, s.Create(ctx, r))
	s.sound(t)
	r.ExpiresAt = r.CreatedAt.Add(time.Hour)
	must(t, s.Overwrite(ctx, r, 1))
	must(t, s.ReplaceTokens(ctx, r.DeviceID, "", 2, r.Tokens, ended))
	s.sound(t)
	if got, err := s.Get(ctx, r.DeviceID); err != nil || !got.ExpiresAt.Equal(ended) {
		t.Errorf("it ended at %v (%v), want %v", got.ExpiresAt, err, ended)
	}
	if list, err := s.ListByOwner(ctx, r.Owner); err != nil || len(list) != 1 {
		t.Errorf("it stands %d times in the list (%v)", len(list), err)
	}
}

// The server removes records by itself, and what is left of them must not show.
func TestWhatExpiresIsInNoListAndCanComeAgain(t *testing.T) {
	s, _ := open(t, redistest.Any(t))
	ctx, r := t.Context(), device(1)
	must(t, s.Create(ctx, r))
	must(t, s.client.PExpire(ctx, s.deviceKey(r.DeviceID), time.Millisecond).Err())
	eventually(t, "the record expires", func() bool {
		return s.client.Exists(ctx, s.deviceKey(r.DeviceID)).Val() == 0
	})
	byOwner, err := s.ListByOwner(ctx, r.Owner)
	must(t, err)
	byEmail, err := s.ListByEmail(ctx, r.Email)
	must(t, err)
	page, _, err := s.Page(ctx, "", 10)
	must(t, err)
	if len(byOwner)+len(byEmail)+len(page) != 0 {
		t.Errorf("it stands in lists: %v %v %v", byOwner, byEmail, page)
	}
	must(t, s.Touch(ctx, r.DeviceID, domain.Seen{At: r.LastSeenAt.Add(time.Hour), ExpiresAt: r.ExpiresAt.Add(time.Hour)}))
	must(t, s.ReleaseLease(ctx, r.DeviceID, ""))
	if n := s.client.Exists(ctx, s.deviceKey(r.DeviceID)).Val(); n != 0 {
		t.Error("it is there again, as a ghost")
	}
	must(t, s.Create(ctx, r))
	s.sound(t)
	byOwner, err = s.ListByOwner(ctx, r.Owner)
	must(t, err)
	if len(byOwner) != 1 {
		t.Errorf("created again, it stands %d times in the list", len(byOwner))
	}
}

// Entries whose time is over make room when others are written.
func TestEntriesGoByTheirTime(t *testing.T) {
	s, _ := open(t, redistest.Any(t))
	ctx, r := t.Context(), device(1)
	key := s.ownerKey(r.Owner)
	past := float64(time.Now().Add(-time.Minute).UnixMilli())
	must(t, s.client.ZAdd(ctx, key, redis.Z{Score: past, Member: entry{device(2).DeviceID, "tag"}.String()}).Err())
	must(t, s.Create(ctx, r))
	if n := s.client.ZCard(ctx, key).Val(); n != 1 {
		t.Errorf("there are %d entries, want 1", n)
	}
}

// Signs of life come often. They must not cost a round trip for the indexes
// each time.
func TestALifeThatGrowsALittleNeedsNoNewEntries(t *testing.T) {
	s, _ := open(t, redistest.Any(t))
	ctx, r := t.Context(), device(1)
	r.ExpiresAt = r.LastSeenAt.Add(14 * 24 * time.Hour)
	must(t, s.Create(ctx, r))
	key := s.ownerKey(r.Owner)
	before := s.client.ZRangeWithScores(ctx, key, 0, -1).Val()
	for hours := range 20 {
		by := time.Duration(hours+1) * time.Hour
		must(t, s.Touch(ctx, r.DeviceID, domain.Seen{At: r.LastSeenAt.Add(by), ExpiresAt: r.ExpiresAt.Add(by)}))
	}
	if after := s.client.ZRangeWithScores(ctx, key, 0, -1).Val(); !slices.Equal(before, after) {
		t.Errorf("the entries were %v and are %v", before, after)
	}
	must(t, s.Touch(ctx, r.DeviceID, domain.Seen{At: r.LastSeenAt.Add(100 * time.Hour), ExpiresAt: r.ExpiresAt.Add(100 * time.Hour)}))
	s.sound(t)
	if after := s.client.ZRangeWithScores(ctx, key, 0, -1).Val(); after[0].Score <= before[0].Score {
		t.Errorf("the entry is still %v", after)
	}
}

// The layout is what operators see, and what other versions of the program read.
func TestARecordIsAHashWithReadableFields(t *testing.T) {
	s, _ := open(t, redistest.Any(t))
	r := device(1)
	r.Roles = []string{"user", "admin"}
	must(t, s.Create(t.Context(), r))
	got := s.client.HGetAll(t.Context(), s.config.Prefix+"device:"+r.DeviceID.String()).Val()
	for _, internal := range []string{"entry", "indexed_until"} {
		if got[internal] == "" {
			t.Errorf("no field %s", internal)
		}
		delete(got, internal)
	}
	ms := func(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }
	want := map[string]string{
		"ticket_hash": "AQEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
		"issuer":      "issuer", "subject": "subject 1", "email": "somebody1@example.com", "email_verified": "1",
		"roles": `["user","admin"]`, "oidc_sid": "session 1",
		"token_type": "bearer", "access_token": "access", "access_expiry": ms(r.Tokens.AccessExpiry),
		"refresh_token": "refresh", "refresh_expiry": ms(r.Tokens.RefreshExpiry),
		"created_at": ms(r.CreatedAt), "last_seen_at": ms(r.LastSeenAt), "auth_time": ms(r.AuthTime),
		"expires_at": ms(r.ExpiresAt), "version": "1",
	}
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s is %q, want %q", name, got[name], want[name])
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("there is also %v", got)
	}
	for _, key := range s.keys(t) {
		for _, part := range []string{"somebody", "subject", "session", "issuer"} {
			if strings.Contains(key, part) {
				t.Errorf("the key %s tells of a person", key)
			}
		}
	}
}

// eventually waits until condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	const patience = 20 * time.Second
	over := time.NewTimer(patience)
	defer over.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-over.C:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}
