package mongowire

import (
	"strconv"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// change is what a write has done to one document.
type change struct {
	namespace string
	operation string
	id        any
	fields    bson.D // all after an insert, those that are new after an update
	removed   bson.A
}

// changeLog is the oplog: the last changes, numbered from 1.
type changeLog struct {
	entries []change
	dropped int64 // how many have fallen off the beginning
	grown   chan struct{}
}

// kept is how many changes are remembered. A stream that falls further behind
// ends with an error, as it does when MongoDB's oplog has moved on.
const kept = 20_000

func (l *changeLog) last() int64 { return l.dropped + int64(len(l.entries)) }

// emit notes a change and wakes those who wait for one.
func (s *Server) emit(c change) {
	if len(s.log.entries) == kept {
		s.log.entries = s.log.entries[kept/2:]
		s.log.dropped += kept / 2
	}
	s.log.entries = append(s.log.entries, c)
	close(s.log.grown)
	s.log.grown = make(chan struct{})
}

// cursor is what is left of a result, or a stream of changes.
type cursor struct {
	namespace string
	rest      []bson.D

	stream   bool
	seen     int64  // the number of the last change that was looked at
	pipeline bson.A // after $changeStream
}

// openStream answers an aggregation that begins with $changeStream.
func (s *Server) openStream(namespace string, pipeline bson.A) (bson.D, error) {
	if s.options.Standalone {
		return nil, fail(40573, "Location40573", "The $changeStream stage is only supported on replica sets")
	}
	c := &cursor{namespace: namespace, stream: true, seen: s.log.last(), pipeline: pipeline[1:]}
	options := document(field(document(pipeline[0]), "$changeStream"))
	if after := document(field(options, "resumeAfter")); after != nil {
		seen, err := strconv.ParseInt(text(field(after, "_data")), 10, 64)
		if err != nil {
			return nil, fail(260, "InvalidResumeToken", "not a resume token")
		}
		c.seen = seen
	}
	// Any stage that is not known shows now and not with the first change.
	if _, _, err := c.filter(bson.D{}); err != nil {
		return nil, err
	}
	s.lastCursor++
	s.cursors[s.lastCursor] = c
	return c.batch(s.lastCursor, "firstBatch", nil), nil
}

// more waits until a stream has something new, or for as long as the client
// does. It gives the server's mutex away meanwhile.
func (s *Server) more(id int64, c *cursor, wait time.Duration, gone <-chan struct{}) (bson.D, error) {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	for {
		events, err := s.next(c)
		if err != nil {
			return nil, err
		}
		if len(events) > 0 {
			return c.batch(id, "nextBatch", events), nil
		}
		grown := s.log.grown
		s.mu.Unlock()
		over := false
		select {
		case <-grown:
		case <-timeout.C:
			over = true
		case <-gone:
			over = true
		}
		s.mu.Lock()
		if s.cursors[id] != c {
			return nil, fail(43, "CursorNotFound", "cursor id %d not found", id)
		}
		if over {
			return c.batch(id, "nextBatch", nil), nil
		}
	}
}

// next returns the events of the changes that the stream has not seen yet.
func (s *Server) next(c *cursor) ([]bson.D, error) {
	if c.seen < s.log.dropped {
		return nil, fail(286, "ChangeStreamHistoryLost", "Resume of change stream was not possible, as the resume point may no longer be in the oplog.")
	}
	var events []bson.D
	for c.seen < s.log.last() {
		entry := s.log.entries[c.seen-s.log.dropped]
		c.seen++
		if entry.namespace != c.namespace {
			continue
		}
		event := bson.D{
			{Key: "_id", Value: token(c.seen)},
			{Key: "operationType", Value: entry.operation},
			{Key: "documentKey", Value: bson.D{{Key: "_id", Value: entry.id}}},
		}
		switch entry.operation {
		case "insert":
			event = append(event, bson.E{Key: "fullDocument", Value: entry.fields})
		case "update":
			event = append(event, bson.E{Key: "updateDescription", Value: bson.D{
				{Key: "updatedFields", Value: entry.fields}, {Key: "removedFields", Value: entry.removed},
			}})
		}
		event, keep, err := c.filter(event)
		if err != nil {
			return nil, err
		}
		if keep {
			events = append(events, event)
		}
	}
	return events, nil
}

// filter takes an event through the stages of the pipeline.
func (c *cursor) filter(event bson.D) (bson.D, bool, error) {
	keep := true
	for _, stage := range c.pipeline {
		e := document(stage)
		if len(e) != 1 {
			return nil, false, fail(40323, "Location40323", "A pipeline stage specification object must contain exactly one field.")
		}
		switch e[0].Key {
		case "$match":
			fits, err := matches(event, document(e[0].Value))
			if err != nil {
				return nil, false, err
			}
			keep = keep && fits
		case "$project":
			event = project(event, document(e[0].Value))
		default:
			return nil, false, fail(40324, "Location40324", "Unrecognized pipeline stage name: '%s'", e[0].Key)
		}
	}
	return event, keep, nil
}

func (c *cursor) batch(id int64, name string, documents []bson.D) bson.D {
	batch := bson.A{}
	for _, d := range documents {
		batch = append(batch, d)
	}
	d := bson.D{{Key: "id", Value: id}, {Key: "ns", Value: c.namespace}, {Key: name, Value: batch}}
	if c.stream {
		d = append(d, bson.E{Key: "postBatchResumeToken", Value: token(c.seen)})
	}
	return bson.D{{Key: "cursor", Value: d}}
}

func token(n int64) bson.D { return bson.D{{Key: "_data", Value: strconv.FormatInt(n, 10)}} }
