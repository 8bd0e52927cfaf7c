package mongowire

import (
	"cmp"
	"errors"
	"io"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// answered is the last write of a session that can be retried, and its answer.
type answered struct {
	number int64
	answer bson.D
}

// execute runs a command, or returns what it has answered to it before: a
// client that has lost an answer sends the same write once more under the same
// number.
func (s *Server) execute(command bson.D, gone <-chan struct{}) (bson.D, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-gone:
		return nil, io.ErrClosedPipe
	default:
	}
	if _, found := lookup(command, "autocommit"); found {
		return nil, fail(20, "IllegalOperation", "mongowire: no transactions")
	}
	if level, _ := lookup(command, "readConcern.level"); s.options.Standalone && level == "majority" {
		return nil, fail(123, "NotAReplicaSet", "node needs to be a replica set member to use read concern")
	}
	number, retryable := lookup(command, "txnNumber")
	if !retryable {
		return s.run(command, gone)
	}
	if s.options.Standalone {
		return nil, fail(20, "IllegalOperation", "Transaction numbers are only allowed on a replica set member or mongos")
	}
	session := key(field(command, "lsid"))
	switch last := s.sessions[session]; {
	case s.options.Forgetful:
	case integer(number) == last.number:
		return last.answer, nil
	case integer(number) < last.number:
		return nil, fail(225, "TransactionTooOld", "the session has gone on to another write")
	}
	answer, err := s.run(command, gone)
	if err == nil {
		s.sessions[session] = answered{integer(number), answer}
	}
	return answer, err
}

// run runs a command, under the mutex.
func (s *Server) run(command bson.D, gone <-chan struct{}) (bson.D, error) {
	name, database := command[0].Key, text(field(command, "$db"))
	namespace := database + "." + text(command[0].Value)
	switch name {
	case "hello", "isMaster", "ismaster":
		return s.hello(), nil
	case "ping":
		return bson.D{}, nil
	case "buildInfo":
		return bson.D{{Key: "version", Value: "7.0.0"}, {Key: "modules", Value: bson.A{"mongowire"}}}, nil
	case "endSessions":
		for _, id := range array(command[0].Value) {
			delete(s.sessions, key(id))
		}
		return bson.D{}, nil
	case "killCursors":
		for _, id := range array(field(command, "cursors")) {
			delete(s.cursors, integer(id))
		}
		return bson.D{}, nil
	case "dropDatabase":
		for namespace := range s.collections {
			if strings.HasPrefix(namespace, database+".") {
				delete(s.collections, namespace)
			}
		}
		return bson.D{}, nil
	case "createIndexes":
		for _, spec := range array(field(command, "indexes")) {
			if err := s.createIndex(namespace, document(spec)); err != nil {
				return nil, err
			}
		}
		return bson.D{}, nil
	case "listIndexes":
		return s.result(namespace, s.in(namespace).listIndexes(), command), nil
	case "insert":
		return s.insert(namespace, command)
	case "find":
		return s.find(namespace, command)
	case "getMore":
		return s.getMore(command, gone)
	case "aggregate":
		pipeline := array(field(command, "pipeline"))
		if len(pipeline) == 0 || index(document(pipeline[0]), "$changeStream") < 0 {
			return nil, fail(40324, "Location40324", "mongowire: no aggregation but change streams")
		}
		return s.openStream(namespace, pipeline)
	case "update":
		return s.update(namespace, command)
	case "delete":
		return s.delete(namespace, command)
	case "findAndModify":
		return s.findAndModify(namespace, command)
	}
	return nil, fail(59, "CommandNotFound", "no such command: '%s'", name)
}

func (s *Server) hello() bson.D {
	d := bson.D{
		{Key: "helloOk", Value: true}, {Key: "isWritablePrimary", Value: true}, {Key: "ismaster", Value: true},
		{Key: "maxBsonObjectSize", Value: int32(16 << 20)}, {Key: "maxMessageSizeBytes", Value: int32(longest)},
		{Key: "maxWriteBatchSize", Value: int32(100_000)}, {Key: "localTime", Value: bson.NewDateTimeFromTime(time.Now())},
		{Key: "logicalSessionTimeoutMinutes", Value: int32(30)}, {Key: "minWireVersion", Value: int32(0)},
		{Key: "maxWireVersion", Value: cmp.Or(s.options.WireVersion, 21)}, {Key: "readOnly", Value: false},
	}
	if s.options.Standalone {
		return d
	}
	return append(d, bson.D{
		{Key: "setName", Value: "mongowire"}, {Key: "setVersion", Value: int32(1)}, {Key: "hosts", Value: bson.A{s.address}},
		{Key: "me", Value: s.address}, {Key: "primary", Value: s.address},
	}...)
}

func (s *Server) insert(namespace string, command bson.D) (bson.D, error) {
	return each(command, "documents", func(d bson.D) (bson.D, error) {
		return bson.D{{Key: "n", Value: int32(1)}}, s.insertOne(namespace, d)
	})
}

func (s *Server) update(namespace string, command bson.D) (bson.D, error) {
	return each(command, "updates", func(u bson.D) (bson.D, error) {
		filter, operators := document(field(u, "q")), document(field(u, "u"))
		if truth(field(u, "multi")) {
			return nil, fail(2, "BadValue", "mongowire: no update of many")
		}
		hits, err := s.in(namespace).find(filter, 1)
		if err != nil {
			return nil, err
		}
		if len(hits) == 0 {
			if !truth(field(u, "upsert")) {
				return bson.D{{Key: "n", Value: int32(0)}}, nil
			}
			d, err := upserted(filter, operators)
			if err != nil {
				return nil, err
			}
			return bson.D{{Key: "n", Value: int32(1)}, {Key: "upserted", Value: bson.A{bson.D{{Key: "index", Value: int32(0)}, {Key: "_id", Value: field(d, "_id")}}}}},
				s.insertOne(namespace, d)
		}
		changed, err := s.updateOne(namespace, hits[0], operators)
		modified := int32(0)
		if changed {
			modified = 1
		}
		return bson.D{{Key: "n", Value: int32(1)}, {Key: "nModified", Value: modified}}, err
	})
}

func (s *Server) delete(namespace string, command bson.D) (bson.D, error) {
	return each(command, "deletes", func(d bson.D) (bson.D, error) {
		hits, err := s.in(namespace).find(document(field(d, "q")), int(integer(field(d, "limit"))))
		if err != nil {
			return nil, err
		}
		for _, h := range hits {
			s.deleteOne(namespace, h)
		}
		return bson.D{{Key: "n", Value: int32(len(hits))}}, nil
	})
}

// each runs the statements of a write command and adds up their counts. The
// first that fails ends it, if they are ordered.
func each(command bson.D, name string, run func(bson.D) (bson.D, error)) (bson.D, error) {
	total := bson.D{{Key: "n", Value: int32(0)}, {Key: "nModified", Value: int32(0)}}
	var failures bson.A
	for i, statement := range array(field(command, name)) {
		result, err := run(document(statement))
		if refusal, ok := errors.AsType[*Error](err); ok {
			failures = append(failures, bson.D{{Key: "index", Value: int32(i)}, {Key: "code", Value: refusal.Code}, {Key: "errmsg", Value: refusal.Message}})
			if ordered, said := lookup(command, "ordered"); !said || truth(ordered) {
				break
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range result {
			if e.Key == "upserted" {
				total = append(total, e)
			} else {
				total = with(total, e.Key, int32(integer(field(total, e.Key))+integer(e.Value)))
			}
		}
	}
	if failures != nil {
		total = append(total, bson.E{Key: "writeErrors", Value: failures})
	}
	return total, nil
}

func (s *Server) findAndModify(namespace string, command bson.D) (bson.D, error) {
	if truth(field(command, "upsert")) || field(command, "sort") != nil {
		return nil, fail(2, "BadValue", "mongowire: no upsert and no sort here")
	}
	hits, err := s.in(namespace).find(document(field(command, "query")), 1)
	if err != nil {
		return nil, err
	}
	if len(hits) == 0 {
		return bson.D{{Key: "lastErrorObject", Value: bson.D{{Key: "n", Value: int32(0)}}}, {Key: "value", Value: nil}}, nil
	}
	value := hits[0].fields
	if truth(field(command, "remove")) {
		s.deleteOne(namespace, hits[0])
	} else {
		if _, err := s.updateOne(namespace, hits[0], document(field(command, "update"))); err != nil {
			return nil, err
		}
		if truth(field(command, "new")) {
			value = hits[0].fields
		}
	}
	return bson.D{
		{Key: "lastErrorObject", Value: bson.D{{Key: "n", Value: int32(1)}}},
		{Key: "value", Value: project(value, document(field(command, "fields")))},
	}, nil
}

func (s *Server) find(namespace string, command bson.D) (bson.D, error) {
	hits, err := s.in(namespace).find(document(field(command, "filter")), 0)
	if err != nil {
		return nil, err
	}
	documents := make([]bson.D, len(hits))
	for i, h := range hits {
		documents[i] = h.fields
	}
	sorted(documents, document(field(command, "sort")))
	if limit := int(integer(field(command, "limit"))); limit > 0 && len(documents) > limit {
		documents = documents[:limit]
	}
	for i, d := range documents {
		documents[i] = project(d, document(field(command, "projection")))
	}
	return s.result(namespace, documents, command), nil
}

// result answers with the first documents and keeps the others for getMore.
func (s *Server) result(namespace string, documents []bson.D, command bson.D) bson.D {
	size := 101
	if n, said := lookup(command, "batchSize"); said {
		size = int(integer(n))
	}
	c := &cursor{namespace: namespace}
	id := int64(0)
	if len(documents) > size && !truth(field(command, "singleBatch")) {
		documents, c.rest = documents[:size], documents[size:]
		s.lastCursor++
		id = s.lastCursor
		s.cursors[id] = c
	}
	return c.batch(id, "firstBatch", documents)
}

func (s *Server) getMore(command bson.D, gone <-chan struct{}) (bson.D, error) {
	id := integer(command[0].Value)
	c := s.cursors[id]
	if c == nil {
		return nil, fail(43, "CursorNotFound", "cursor id %d not found", id)
	}
	if c.stream {
		wait := time.Second
		if ms, said := lookup(command, "maxTimeMS"); said {
			wait = time.Duration(integer(ms)) * time.Millisecond
		}
		return s.more(id, c, wait, gone)
	}
	batch := c.rest
	if n := int(integer(field(command, "batchSize"))); n > 0 && len(batch) > n {
		batch = batch[:n]
	}
	if c.rest = c.rest[len(batch):]; len(c.rest) == 0 {
		delete(s.cursors, id)
		id = 0
	}
	return c.batch(id, "nextBatch", batch), nil
}
