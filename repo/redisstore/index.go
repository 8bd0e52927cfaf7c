package redisstore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"cloakroom/domain"
)

// An index is a sorted set of entries. Each record has one in the set of its
// owner, of its verified email address, of its provider's session, and in one
// of the pages, which together hold all.
//
// Record and entries lie on different nodes of a Cluster, so no script can
// write them at once. Three rules keep every index a superset of the devices
// that are there, whatever fails in between:
//
//   - Entries are written before the record.
//   - They go only after the record, and only those whose tag the record bore.
//     Every sign-in draws a tag of its own, so that who removes the entries of a
//     record that is gone cannot hit those of its successor.
//   - Nobody removes an entry because its record is missing: it may be about to
//     be written. What is left over goes by the entry's score, the time until
//     which it is needed, and a record is only written if its entries hold for
//     longer than it.
//
// Readers look at the record and skip entries that it does not bear out.
type entry struct {
	id  domain.DeviceID
	tag string
}

func (e entry) String() string { return e.id.String() + "/" + e.tag }

func parseEntry(text string) (entry, error) {
	id, tag, _ := strings.Cut(text, "/")
	device, err := domain.ParseDeviceID(id)
	if err != nil {
		return entry{}, fmt.Errorf("index entry %q: %w", text, err)
	}
	return entry{device, tag}, nil
}

// mark returns a text that no other call has used.
func mark() string {
	var b [9]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// pages is how many sets share all records. So many, that up to half a million
// devices each set is of the small kind that Redis keeps in one block of memory;
// so few, that reading all of an empty store takes milliseconds.
const pages = 1 << 12

// pageOf returns the page of a device. Pages are in the order of ids, and ids
// are random.
func pageOf(id domain.DeviceID) int { return int(binary.BigEndian.Uint16(id[:])) >> 4 }

func (s *Store) deviceKey(id domain.DeviceID) string {
	return s.config.Prefix + "device:" + id.String()
}
func (s *Store) pageKey(page int) string          { return s.config.Prefix + fmt.Sprintf("page:%03x", page) }
func (s *Store) ownerKey(o domain.Owner) string   { return s.indexKey("owner:", o.Issuer, o.Subject) }
func (s *Store) emailKey(email string) string     { return s.indexKey("email:", email) }
func (s *Store) sidKey(issuer, sid string) string { return s.indexKey("sid:", issuer, sid) }

// indexKey keeps names out of the names of keys, which show up in slow logs,
// monitors and key statistics. The hash is no secret and an email address can be
// guessed; but whoever may read keys may read records, where it stands in clear.
func (s *Store) indexKey(kind string, parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		_, _ = fmt.Fprintf(h, "%d:%s", len(part), part) // so that no two lists look alike when joined
	}
	return s.config.Prefix + kind + base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])
}

// indexKeys returns the keys of all indexes that a record belongs to.
func (s *Store) indexKeys(r domain.Record) []string {
	keys := []string{s.pageKey(pageOf(r.DeviceID))}
	if !r.Owner.IsZero() {
		keys = append(keys, s.ownerKey(r.Owner))
	}
	if r.EmailVerified && r.Email != "" {
		keys = append(keys, s.emailKey(r.Email))
	}
	if r.SID != "" {
		keys = append(keys, s.sidKey(r.Owner.Issuer, r.SID))
	}
	return keys
}

// index writes the entries of a record that ends at ends, in milliseconds, and
// returns until when it is sure to be found by them. State is "new", or "known"
// if it has entries already.
func (s *Store) index(ctx context.Context, r domain.Record, tag, ends, state string) (until string, err error) {
	var calls []*call
	for _, key := range s.indexKeys(r) {
		calls = append(calls, &call{script: indexScript, key: key, args: []any{entry{r.DeviceID, tag}.String(), ends, state}, durable: true})
	}
	if err := s.run(ctx, calls...); err != nil {
		return "", err
	}
	first := int64(0)
	for _, c := range calls {
		n, err := strconv.ParseInt(c.reply.text(1), 10, 64)
		if err != nil {
			return "", err
		}
		if first == 0 || n < first {
			first = n
		}
	}
	return strconv.FormatInt(first, 10), nil
}

// unindex removes entries of records that are gone or belong elsewhere now. The
// write that they followed is done, so a failure is none: nobody believes an
// entry, and it goes by itself.
func (s *Store) unindex(ctx context.Context, gone []redis.Cmder) {
	if len(gone) == 0 {
		return
	}
	pipe := s.client.Pipeline()
	for _, cmd := range gone {
		_ = pipe.Process(ctx, cmd)
	}
	_, _ = pipe.Exec(ctx)
}

// entriesOf returns commands that remove the entries of a record.
func (s *Store) entriesOf(r domain.Record, tag string) []redis.Cmder {
	var gone []redis.Cmder
	for _, key := range s.indexKeys(r) {
		gone = append(gone, redis.NewIntCmd(context.Background(), "zrem", key, entry{r.DeviceID, tag}.String()))
	}
	return gone
}

// indexedRecord reads what a script told of the indexes of a record.
func indexedRecord(id domain.DeviceID, r reply) (tag string, of domain.Record) {
	of = domain.Record{DeviceID: id}
	of.Owner = domain.Owner{Issuer: r.text(2), Subject: r.text(3)}
	of.Email, of.EmailVerified, of.SID = r.text(4), r.text(5) == "1", r.text(6)
	return r.text(1), of
}

// errUnindexed: the end of a record kept running away from its index entries.
var errUnindexed = errors.New("the index entries do not hold long enough")

// reindexes bounds how often one write starts over because the record's entries
// had to be written first. The second try fails only if the record was signed in
// to anew meanwhile, or stood still for minutes.
const reindexes = 5

// extend runs a script that may move the end of a record. If its entries do not
// hold for that long, the script has done nothing and says so; then they are
// written anew, and it is run again with what args makes of their tag and time.
func (s *Store) extend(ctx context.Context, id domain.DeviceID, ends string, run func(tag, until string) *call) (reply, error) {
	tag, until := "", "0"
	var of domain.Record
	for range reindexes {
		c := run(tag, until)
		if err := s.run(ctx, c); err != nil {
			return nil, err
		}
		if tag != "" && c.reply.text(1) != tag {
			s.unindex(ctx, s.entriesOf(of, tag)) // the record went or was replaced while they were written
		}
		if c.reply.status() != "index" {
			return c.reply, nil
		}
		tag, of = indexedRecord(id, c.reply)
		var err error
		if until, err = s.index(ctx, of, tag, ends, "known"); err != nil {
			return nil, err
		}
	}
	return nil, errUnindexed
}

// entries returns what stands in the sets of some keys, each set in its order.
func (s *Store) entries(ctx context.Context, keys ...string) ([][]entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	pipe := s.client.Pipeline()
	var answers []*redis.StringSliceCmd
	for _, key := range keys {
		answers = append(answers, pipe.ZRange(ctx, key, 0, -1))
	}
	_, _ = pipe.Exec(ctx)
	sets := make([][]entry, len(keys))
	for i, a := range answers {
		members, err := a.Result()
		if err != nil {
			return nil, err
		}
		for _, m := range members {
			e, err := parseEntry(m)
			if err != nil {
				return nil, err
			}
			sets[i] = append(sets[i], e)
		}
	}
	return sets, nil
}
