package mongowire_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"

	"cloakroom/repo/mongostore/mongowire"
)

type d = bson.D

// doc returns a document of names and values in turns.
func doc(pairs ...any) d {
	all := d{}
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, bson.E{Key: pairs[i].(string), Value: pairs[i+1]})
	}
	return all
}

func start(t *testing.T, o mongowire.Options) *mongowire.Server {
	t.Helper()
	s, err := mongowire.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// collection returns a collection by a client of its own, which gives a server
// that is gone a second to come back.
func collection(t *testing.T, s *mongowire.Server, more ...*options.ClientOptions) *mongo.Collection {
	t.Helper()
	how := options.Client().ApplyURI(s.URI()).SetTimeout(20 * time.Second).SetServerSelectionTimeout(time.Second)
	client, err := mongo.Connect(append([]*options.ClientOptions{how}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Disconnect(context.Background()) })
	return client.Database("test").Collection("things")
}

func insert(t *testing.T, c *mongo.Collection, documents ...any) {
	t.Helper()
	if _, err := c.InsertMany(t.Context(), documents); err != nil {
		t.Fatal(err)
	}
}

// ids returns the _id of what a filter finds, in order.
func ids(t *testing.T, c *mongo.Collection, filter d, how ...options.Lister[options.FindOptions]) []int32 {
	t.Helper()
	cursor, err := c.Find(t.Context(), filter, how...)
	if err != nil {
		t.Fatal(err)
	}
	var found []struct {
		ID int32 `bson:"_id"`
	}
	if err := cursor.All(t.Context(), &found); err != nil {
		t.Fatal(err)
	}
	all := make([]int32, 0)
	for _, f := range found {
		all = append(all, f.ID)
	}
	return all
}

func code(err error) int {
	if server := mongo.ServerError(nil); errors.As(err, &server) {
		return server.ErrorCodes()[0]
	}
	return 0
}

func TestFilters(t *testing.T) {
	c := collection(t, start(t, mongowire.Options{}))
	now := time.Now().UTC()
	insert(t, c,
		doc("_id", 1, "n", 1, "s", "a", "a", bson.A{}, "at", now, "in", doc("side", true)),
		doc("_id", 2, "n", int64(2), "s", "b", "a", bson.A{"x"}, "at", now.Add(time.Second)),
		doc("_id", 3, "n", 3.5, "s", "", "a", bson.A{"x", "y"}, "b", []byte("bytes")),
		doc("_id", 4, "n", nil),
	)
	for _, f := range []struct {
		filter d
		want   []int32
	}{
		{doc(), []int32{1, 2, 3, 4}},
		{doc("_id", 3), []int32{3}},
		{doc("_id", 3, "n", 4), nil},
		{doc("_id", doc("$gt", 2)), []int32{3, 4}},
		{doc("n", 2), []int32{2}},
		{doc("n", doc("$gte", 2, "$lt", 9)), []int32{2, 3}},
		{doc("n", doc("$lte", "2")), nil}, // values of two types do not compare
		{doc("n", nil), []int32{4}},
		{doc("nothing", nil), []int32{1, 2, 3, 4}},
		{doc("s", doc("$ne", "a")), []int32{2, 3, 4}},
		{doc("s", doc("$in", bson.A{"a", ""})), []int32{1, 3}},
		{doc("s", doc("$exists", false)), []int32{4}},
		{doc("a", "x"), []int32{2, 3}},
		{doc("a", bson.A{}), []int32{1}},
		{doc("a", doc("$in", bson.A{bson.A{}, "y"})), []int32{1, 3}},
		{doc("b", []byte("bytes")), []int32{3}},
		{doc("at", doc("$gt", now)), []int32{2}},
		{doc("in.side", true), []int32{1}},
		{doc("$or", bson.A{doc("n", 1), doc("s", "")}), []int32{1, 3}},
		{doc("$and", bson.A{doc("n", doc("$gt", 1)), doc("s", "b")}), []int32{2}},
	} {
		if got := ids(t, c, f.filter); !slices.Equal(got, f.want) {
			t.Errorf("%v finds %v, want %v", f.filter, got, f.want)
		}
	}
	for _, filter := range []d{doc("n", doc("$near", 1)), doc("$where", "1"), doc("$or", bson.A{})} {
		if err := c.FindOne(t.Context(), filter).Err(); code(err) != 2 {
			t.Errorf("%v: error %v, want BadValue", filter, err)
		}
	}
	if got := ids(t, c, doc(), options.Find().SetSort(doc("s", -1, "_id", 1)).SetLimit(3)); !slices.Equal(got, []int32{2, 1, 3}) {
		t.Errorf("sorted by s, the first are %v", got)
	}
	var projected d
	if err := c.FindOne(t.Context(), doc("_id", 1), options.FindOne().SetProjection(doc("n", 1))).Decode(&projected); err != nil || len(projected) != 2 {
		t.Errorf("a projection to n leaves %v, %v", projected, err)
	}
	projected = nil
	if err := c.FindOne(t.Context(), doc("_id", 2), options.FindOne().SetProjection(doc("n", 0, "a", 0))).Decode(&projected); err != nil || len(projected) != 3 {
		t.Errorf("a projection without n and a leaves %v, %v", projected, err)
	}
}

func TestUpdates(t *testing.T) {
	c := collection(t, start(t, mongowire.Options{}))
	for i, u := range []struct {
		before, update, after d
		refused               int
	}{
		{before: doc("n", int32(1)), update: doc("$set", doc("n", "x", "m", true)), after: doc("n", "x", "m", true)},
		{before: doc("n", int64(1)), update: doc("$inc", doc("n", int64(2), "m", int64(1))), after: doc("n", int64(3), "m", int64(1))},
		{before: doc("n", "x"), update: doc("$inc", doc("n", 1)), refused: 14},
		{before: doc("n", int32(5)), update: doc("$max", doc("n", int32(4), "m", int32(4))), after: doc("n", int32(5), "m", int32(4))},
		{before: doc("n", int32(5)), update: doc("$unset", doc("n", "")), after: doc()},
		{before: doc("a", bson.A{"x", "y", "x"}), update: doc("$pull", doc("a", "x", "b", "x")), after: doc("a", bson.A{"y"})},
		{before: doc("a", "x"), update: doc("$pull", doc("a", "x")), refused: 2},
		{before: doc("a", bson.A{"x"}), update: doc("$pull", doc("a", "x"), "$set", doc("a", bson.A{})), refused: 40},
		{before: doc(), update: doc("$set", doc("_id", "another")), refused: 66},
		{before: doc(), update: doc("$bit", doc("n", 1)), refused: 9},
		{before: doc("n", int32(1)), update: doc("$setOnInsert", doc("n", 2)), after: doc("n", int32(1))},
	} {
		insert(t, c, append(doc("_id", i), u.before...))
		result, err := c.UpdateOne(t.Context(), doc("_id", i), u.update)
		if code(err) != u.refused || err == nil && result.MatchedCount != 1 {
			t.Errorf("%v: %v, %v", u.update, result, err)
		}
		want := append(doc("_id", int32(i)), u.after...)
		if u.refused != 0 {
			want = append(doc("_id", int32(i)), u.before...)
		}
		var got d
		if err := c.FindOne(t.Context(), doc("_id", i)).Decode(&got); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v makes %v, want %v (%v)", u.update, got, want, err)
		}
	}

	for range 2 {
		if _, err := c.UpdateOne(t.Context(), doc("_id", "new", "n", doc("$gt", 1)), doc("$set", doc("n", 7), "$currentDate", doc("at", true)), options.UpdateOne().SetUpsert(true)); err != nil {
			t.Fatal(err)
		}
	}
	var made struct{ At time.Time }
	if err := c.FindOne(t.Context(), doc("_id", "new")).Decode(&made); err != nil || time.Since(made.At).Abs() > time.Minute {
		t.Errorf("an upsert made %v, %v", made, err)
	}
}

func TestWriteCommands(t *testing.T) {
	c := collection(t, start(t, mongowire.Options{}))
	insert(t, c, doc("_id", 1, "n", 1))
	if _, err := c.InsertOne(t.Context(), doc("_id", 1)); !mongo.IsDuplicateKeyError(err) {
		t.Errorf("a second document with one _id: %v", err)
	}
	var got struct{ N int }
	if err := c.FindOneAndUpdate(t.Context(), doc("_id", 1), doc("$inc", doc("n", 1))).Decode(&got); err != nil || got.N != 1 {
		t.Errorf("before: %v, %v", got, err)
	}
	if err := c.FindOneAndUpdate(t.Context(), doc("_id", 1), doc("$inc", doc("n", 1)), options.FindOneAndUpdate().SetReturnDocument(options.After)).Decode(&got); err != nil || got.N != 3 {
		t.Errorf("after: %v, %v", got, err)
	}
	if err := c.FindOneAndDelete(t.Context(), doc("_id", 1, "n", 2)).Err(); !errors.Is(err, mongo.ErrNoDocuments) {
		t.Errorf("FindOneAndDelete of nothing: %v", err)
	}
	if err := c.FindOneAndDelete(t.Context(), doc("_id", 1, "n", 3)).Decode(&got); err != nil || got.N != 3 {
		t.Errorf("FindOneAndDelete: %v, %v", got, err)
	}
	insert(t, c, doc("_id", 1), doc("_id", 2), doc("_id", 3))
	if result, err := c.DeleteOne(t.Context(), doc()); err != nil || result.DeletedCount != 1 {
		t.Errorf("DeleteOne: %v, %v", result, err)
	}
	if result, err := c.DeleteMany(t.Context(), doc()); err != nil || result.DeletedCount != 2 {
		t.Errorf("DeleteMany: %v, %v", result, err)
	}
}

func TestLongResultsComeInBatches(t *testing.T) {
	c := collection(t, start(t, mongowire.Options{}))
	var want []int32
	for i := range int32(250) {
		insert(t, c, doc("_id", i))
		want = append(want, i)
	}
	for _, size := range []int32{1, 100, 250, 1000} {
		if got := ids(t, c, doc(), options.Find().SetBatchSize(size)); !slices.Equal(got, want) {
			t.Errorf("in batches of %d: %d documents, want 250", size, len(got))
		}
	}
}

func TestIndexes(t *testing.T) {
	index := func(name string, seconds int32) mongo.IndexModel {
		o := options.Index().SetName(name)
		if seconds > 0 {
			o.SetExpireAfterSeconds(seconds)
		}
		return mongo.IndexModel{Keys: doc("at", 1), Options: o}
	}
	s := start(t, mongowire.Options{})
	c := collection(t, s)
	for range 2 {
		if _, err := c.Indexes().CreateOne(t.Context(), index("ttl", 60)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Indexes().CreateOne(t.Context(), index("ttl", 61)); code(err) != 85 {
		t.Errorf("another index of that name: %v", err)
	}
	if specs, err := c.Indexes().ListSpecifications(t.Context()); err != nil || len(specs) != 2 || *specs[1].ExpireAfterSeconds != 60 {
		t.Errorf("the indexes are %v, %v", specs, err)
	}

	now := time.Now()
	insert(t, c, doc("_id", 1, "at", now), doc("_id", 2, "at", now.Add(time.Second)), doc("_id", 3, "at", "no date"), doc("_id", 4))
	if n := s.Expire(now.Add(59 * time.Second)); n != 0 {
		t.Errorf("%d documents are over before the time", n)
	}
	if n := s.Expire(now.Add(60 * time.Second)); n != 1 || !slices.Equal(ids(t, c, doc()), []int32{2, 3, 4}) {
		t.Errorf("%d documents are over, want 1", n)
	}

	plain := collection(t, start(t, mongowire.Options{NoTTL: true}))
	if _, err := plain.Indexes().CreateOne(t.Context(), index("ttl", 60)); code(err) != 238 {
		t.Errorf("a TTL index where there are none: %v", err)
	}
	if _, err := plain.Indexes().CreateOne(t.Context(), index("ttl", 0)); err != nil {
		t.Error(err)
	}
}

// event is what the tests look at of a change.
type event struct {
	Operation string `bson:"operationType"`
	Key       struct {
		ID int `bson:"_id"`
	} `bson:"documentKey"`
	Update struct {
		Fields d `bson:"updatedFields"`
	} `bson:"updateDescription"`
}

func next(t *testing.T, stream *mongo.ChangeStream) event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if !stream.Next(ctx) {
		t.Fatalf("no change: %v", stream.Err())
	}
	var e event
	if err := stream.Decode(&e); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestChangeStreamsOfReplicaSets(t *testing.T) {
	s := start(t, mongowire.Options{})
	c := collection(t, s, options.Client().SetServerSelectionTimeout(20*time.Second))
	insert(t, c, doc("_id", 0))
	stream, err := c.Watch(t.Context(), mongo.Pipeline{doc("$match", doc("$or", bson.A{doc("operationType", doc("$ne", "update")), doc("updateDescription.updatedFields.n", doc("$exists", true))})), doc("$project", doc("operationType", 1, "documentKey", 1, "updateDescription.updatedFields.n", 1))})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close(context.Background())
	write := func() {
		t.Helper()
		insert(t, c, doc("_id", 1, "n", 1, "m", 1))
		for _, update := range []d{doc("$set", doc("n", 1)), doc("$set", doc("m", 2)), doc("$set", doc("n", 2, "m", 3))} {
			if _, err := c.UpdateOne(t.Context(), doc("_id", 1), update); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.DeleteOne(t.Context(), doc("_id", 1)); err != nil {
			t.Fatal(err)
		}
	}
	read := func() {
		t.Helper()
		for _, want := range []string{"insert", "update", "delete"} {
			got := next(t, stream)
			if got.Operation != want || got.Key.ID != 1 {
				t.Errorf("heard %+v, want %s", got, want)
			}
			if want == "update" && (len(got.Update.Fields) != 1 || got.Update.Fields[0].Key != "n") {
				t.Errorf("an update says that %v has changed", got.Update.Fields)
			}
		}
	}
	write()
	read()

	// What happens while a client is away it hears of when it is back.
	write()
	s.Stop()
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	read()

	if _, err := c.Watch(t.Context(), mongo.Pipeline{doc("$lookup", doc())}); code(err) != 40324 {
		t.Errorf("a stage that is not known: %v", err)
	}
	alone := collection(t, start(t, mongowire.Options{Standalone: true}))
	if _, err := alone.Watch(t.Context(), mongo.Pipeline{}); code(err) != 40573 {
		t.Errorf("a change stream of a standalone server: %v", err)
	}
	majority := alone.Clone(options.Collection().SetReadConcern(readconcern.Majority()))
	if err := majority.FindOne(t.Context(), doc()).Err(); code(err) != 123 {
		t.Errorf("what the majority of a standalone server has: %v", err)
	}
}

func TestAStreamThatIsFarBehindEnds(t *testing.T) {
	c := collection(t, start(t, mongowire.Options{}))
	stream, err := c.Watch(t.Context(), mongo.Pipeline{})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close(context.Background())
	for i := range 3 {
		many := make([]any, 10_000)
		for n := range many {
			many[n] = doc("_id", int32(i*len(many)+n))
		}
		insert(t, c, many...)
	}
	if stream.Next(t.Context()) || code(stream.Err()) != 286 {
		t.Errorf("the stream goes on, or ends with %v", stream.Err())
	}
}

func TestFaults(t *testing.T) {
	increment := func(t *testing.T, c *mongo.Collection) error {
		_, err := c.UpdateOne(t.Context(), doc("_id", 1), doc("$inc", doc("n", 1)))
		return err
	}
	for _, f := range []struct {
		name    string
		options mongowire.Options
		fault   mongowire.Fault
		fails   bool
		want    int // how often the update was made
	}{
		{"no fault", mongowire.Options{}, mongowire.Fault{Command: "insert"}, false, 1},
		{"the answer is lost, and given again", mongowire.Options{}, mongowire.Fault{LoseAnswer: true}, false, 1},
		{"the answer is lost twice", mongowire.Options{}, mongowire.Fault{LoseAnswer: true, Times: 2}, false, 1},
		{"the answer is lost and forgotten", mongowire.Options{Forgetful: true}, mongowire.Fault{LoseAnswer: true}, false, 2},
		{"a standalone server's answer is lost", mongowire.Options{Standalone: true}, mongowire.Fault{LoseAnswer: true}, true, 1},
		{"the request is lost", mongowire.Options{}, mongowire.Fault{Lose: true}, false, 1},
		{"the request to a standalone server is lost", mongowire.Options{Standalone: true}, mongowire.Fault{Lose: true}, true, 0},
		{"another is the primary now", mongowire.Options{}, mongowire.Fault{Refuse: mongowire.NotPrimary()}, false, 1},
		{"a refusal", mongowire.Options{}, mongowire.Fault{Refuse: &mongowire.Error{Code: 13, Name: "Unauthorized"}}, true, 0},
		{"a delay", mongowire.Options{}, mongowire.Fault{Delay: 20 * time.Millisecond}, false, 1},
		{"an answer that is not true", mongowire.Options{}, mongowire.Fault{Answer: doc("ok", 1.0, "n", int32(1))}, false, 0},
		{"another's fault", mongowire.Options{}, mongowire.Fault{LoseAnswer: true, Only: func(d) bool { return false }}, false, 1},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, f.options)
			c := collection(t, s)
			insert(t, c, doc("_id", 1, "n", 0))
			if f.fault.Command == "" {
				f.fault.Command = "update"
			}
			s.Inject(f.fault)
			if err := increment(t, c); (err != nil) != f.fails {
				t.Errorf("the update answers %v", err)
			}
			s.Heal()
			var got struct{ N int }
			if err := c.FindOne(t.Context(), doc("_id", 1)).Decode(&got); err != nil || got.N != f.want {
				t.Errorf("it was made %d times, want %d (%v)", got.N, f.want, err)
			}
		})
	}
}

func TestADelayEndsWithTheServer(t *testing.T) {
	s := start(t, mongowire.Options{Standalone: true})
	c := collection(t, s)
	insert(t, c, doc("_id", 1))
	s.Inject(mongowire.Fault{Command: "find", Delay: time.Hour, Times: 10})
	asked := make(chan struct{}, 10)
	s.Observe(func(command d) {
		if command[0].Key == "find" {
			asked <- struct{}{}
		}
	})
	answer := make(chan error, 1)
	go func() { answer <- c.FindOne(t.Context(), doc()).Err() }()
	select {
	case <-asked:
		s.Stop()
		if err := <-answer; err == nil {
			t.Error("a server that has stopped has answered")
		}
	case err := <-answer:
		t.Errorf("the answer was not delayed: %v", err)
	}
}

func TestDocumentsOutlastARestart(t *testing.T) {
	s := start(t, mongowire.Options{})
	c := collection(t, s)
	insert(t, c, doc("_id", 1))
	s.Stop()
	s.Stop() // once more is no harm
	if err := c.FindOne(t.Context(), doc()).Err(); err == nil {
		t.Error("a server that has stopped has answered")
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if got := ids(t, c, doc()); !slices.Equal(got, []int32{1}) {
		t.Errorf("after a restart there are %v", got)
	}
}

func TestWhatIsNotKnownIsRefused(t *testing.T) {
	c := collection(t, start(t, mongowire.Options{}))
	if err := c.Database().RunCommand(t.Context(), doc("serverStatus", 1)).Err(); code(err) != 59 {
		t.Errorf("a command that is not known: %v", err)
	}
	if _, err := c.Aggregate(t.Context(), mongo.Pipeline{}); code(err) != 40324 {
		t.Errorf("an aggregation: %v", err)
	}
	if _, err := c.UpdateMany(t.Context(), doc(), doc("$set", doc("n", 1))); code(err) != 2 {
		t.Errorf("an update of many: %v", err)
	}
}
