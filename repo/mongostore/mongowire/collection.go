package mongowire

import (
	"cmp"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// collection holds the documents of one namespace.
type collection struct {
	documents map[string]*stored
	inserted  int64
	indexes   []indexSpec
}

// stored is a document and its place in the order of insertion. The fields are
// replaced as a whole, never changed.
type stored struct {
	order  int64
	fields bson.D
}

// indexSpec is an index as it was asked for. Nothing is looked up by it.
type indexSpec struct {
	name    string
	key     bson.D
	expires bool
	after   time.Duration
}

// in returns the collection of a namespace, and makes it if there is none.
func (s *Server) in(namespace string) *collection {
	c := s.collections[namespace]
	if c == nil {
		c = &collection{documents: make(map[string]*stored)}
		s.collections[namespace] = c
	}
	return c
}

// key is the map key of an _id.
func key(id any) string {
	kind, value, err := bson.MarshalValue(id)
	if err != nil {
		return ""
	}
	return string(kind) + string(value)
}

// find returns the documents that fit a filter, in the order of insertion, up to
// limit if that is not 0. A filter that names the _id costs one look.
func (c *collection) find(filter bson.D, limit int) ([]*stored, error) {
	candidates := c.documents
	if id, found := lookup(filter, "_id"); found && len(document(id)) == 0 {
		candidates = nil
		if d := c.documents[key(id)]; d != nil {
			candidates = map[string]*stored{"": d}
		}
	}
	var hits []*stored
	for _, d := range candidates {
		fits, err := matches(d.fields, filter)
		if err != nil {
			return nil, err
		}
		if fits {
			hits = append(hits, d)
		}
	}
	slices.SortFunc(hits, func(a, b *stored) int { return cmp.Compare(a.order, b.order) })
	if limit > 0 && len(hits) > limit {
		hits = hits[:limit]
	}
	return hits, nil
}

func (s *Server) insertOne(namespace string, d bson.D) error {
	c := s.in(namespace)
	id, found := lookup(d, "_id")
	if !found {
		id = bson.NewObjectID()
		d = append(bson.D{{Key: "_id", Value: id}}, d...)
	}
	if c.documents[key(id)] != nil {
		return fail(11000, "DuplicateKey", "E11000 duplicate key error collection: %s index: _id_ dup key: { _id: %v }", namespace, id)
	}
	c.inserted++
	c.documents[key(id)] = &stored{order: c.inserted, fields: d}
	s.emit(change{namespace: namespace, operation: "insert", id: id, fields: d})
	return nil
}

// updateOne changes a document and reports whether that made it another.
func (s *Server) updateOne(namespace string, d *stored, operators bson.D) (bool, error) {
	old := d.fields
	fields, err := updated(old, operators, false)
	if err != nil || compare(fields, old) == 0 {
		return false, err
	}
	d.fields = fields
	set, removed := bson.D{}, bson.A{}
	for _, e := range fields {
		if was, found := lookup(old, e.Key); !found || compare(was, e.Value) != 0 {
			set = append(set, e)
		}
	}
	for _, e := range old {
		if index(fields, e.Key) < 0 {
			removed = append(removed, e.Key)
		}
	}
	s.emit(change{namespace: namespace, operation: "update", id: field(fields, "_id"), fields: set, removed: removed})
	return true, nil
}

func (s *Server) deleteOne(namespace string, d *stored) {
	id := field(d.fields, "_id")
	delete(s.in(namespace).documents, key(id))
	s.emit(change{namespace: namespace, operation: "delete", id: id})
}

// Expire does what MongoDB does about once a minute: it removes the documents
// that the TTL indexes say are over, as of now. It returns how many.
func (s *Server) Expire(now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	removed := 0
	for namespace, c := range s.collections {
		for _, x := range c.indexes {
			if !x.expires {
				continue
			}
			limit := bson.NewDateTimeFromTime(now.Add(-x.after))
			for _, d := range c.documents {
				if date, ok := field(d.fields, x.key[0].Key).(bson.DateTime); ok && date <= limit {
					s.deleteOne(namespace, d)
					removed++
				}
			}
		}
	}
	return removed
}

// createIndex makes an index, or sees that there is the same already.
func (s *Server) createIndex(namespace string, spec bson.D) error {
	c := s.in(namespace)
	x := indexSpec{name: text(field(spec, "name")), key: document(field(spec, "key"))}
	for _, e := range spec {
		switch e.Key {
		case "name", "key", "v":
		case "expireAfterSeconds":
			if s.options.NoTTL {
				return fail(238, "NotImplemented", "createIndexes option 'expireAfterSeconds' is not implemented yet")
			}
			x.expires, x.after = true, time.Duration(integer(e.Value))*time.Second
		default:
			return fail(67, "CannotCreateIndex", "mongowire: no index with %s", e.Key)
		}
	}
	for _, there := range c.indexes {
		switch {
		case there.name == x.name && compare(there.key, x.key) == 0 && there.expires == x.expires && there.after == x.after:
			return nil
		case there.name == x.name:
			return fail(85, "IndexOptionsConflict", "An equivalent index already exists with the same name but different options: %s", x.name)
		}
	}
	c.indexes = append(c.indexes, x)
	return nil
}

func (c *collection) listIndexes() []bson.D {
	list := []bson.D{{{Key: "v", Value: int32(2)}, {Key: "key", Value: bson.D{{Key: "_id", Value: int32(1)}}}, {Key: "name", Value: "_id_"}}}
	for _, x := range c.indexes {
		d := bson.D{{Key: "v", Value: int32(2)}, {Key: "key", Value: x.key}, {Key: "name", Value: x.name}}
		if x.expires {
			d = append(d, bson.E{Key: "expireAfterSeconds", Value: int32(x.after / time.Second)})
		}
		list = append(list, d)
	}
	return list
}
