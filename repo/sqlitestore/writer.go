package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"cloakroom/domain"
	"cloakroom/repo/events"
)

// writer makes all changes, on one goroutine and one connection. What many
// callers ask for at once it commits at once: a commit that survives a power
// cut waits for the disk, and this way they share the wait.
type writer struct {
	conn                    *sql.Conn
	begin, commit, rollback *sql.Stmt
	synced                  bool   // whether commits of conn wait for the disk
	committed               func() // runs after each commit, before the callers are told

	queue chan *change
	quit  chan struct{} // closed: take nothing more
	done  chan struct{} // closed: the goroutine has ended
}

// The queue holds one batch while the one before is written; who finds it full
// waits with its context.
const batchSize = 128

// change is one request.
type change struct {
	ctx context.Context
	// durable: its commit has to survive a power cut, not just a crash of this
	// process.
	durable bool
	// run does the work within a transaction. It returns an outcome of package
	// domain only if it has changed nothing. It may be run again after a
	// rollback, so it starts from nothing each time.
	run    func() error
	err    error
	answer chan error
}

func newWriter(ctx context.Context, db *sql.DB, committed func()) (*writer, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	w := &writer{
		conn: conn, committed: committed,
		queue: make(chan *change, batchSize), quit: make(chan struct{}), done: make(chan struct{}),
	}
	err = prepare(ctx, conn, w.queries())
	if err == nil {
		err = w.sync(ctx, true) // whatever the connection came with
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return w, nil
}

func (w *writer) queries() []query {
	return []query{
		{&w.begin, "BEGIN IMMEDIATE"},
		{&w.commit, "COMMIT"},
		{&w.rollback, "ROLLBACK"},
	}
}

// write has the writer run the work, and returns what it returns. A caller whose
// context ends meanwhile leaves without knowing whether it was done.
func write[T any](ctx context.Context, w *writer, durable bool, work func(context.Context) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	// The writer's goroutine alone touches result until it has answered.
	var result T
	c := &change{ctx: ctx, durable: durable, answer: make(chan error, 1)}
	c.run = func() (err error) {
		// Not the caller's context: its end would interrupt the batch of all.
		result, err = work(context.Background())
		return err
	}
	select {
	case w.queue <- c:
	case <-ctx.Done():
		return none, ctx.Err()
	case <-w.quit:
		return none, events.ErrClosed
	}
	select {
	case err := <-c.answer:
		if err != nil {
			return none, err
		}
		return result, nil
	case <-ctx.Done():
		return none, ctx.Err()
	case <-w.done: // perhaps after this one, and then it is known at the next try
		return none, events.ErrClosed
	}
}

// loop serves the queue until close.
func (w *writer) loop() {
	defer close(w.done)
	for {
		var batch []*change
		select {
		case <-w.quit:
			return
		case c := <-w.queue:
			batch = append(batch, c)
		}
	gather:
		for len(batch) < batchSize {
			select {
			case c := <-w.queue:
				batch = append(batch, c)
			default:
				break gather
			}
		}
		w.serve(batch)
	}
}

// close ends the loop after the batch that it is at.
func (w *writer) close() {
	close(w.quit)
	<-w.done
}

// serve writes a batch in one transaction. If one of the changes fails, which
// is not an outcome but means that something is wrong, each gets a transaction
// of its own, so that it fails alone.
func (w *writer) serve(batch []*change) {
	if failed := w.transact(batch); failed && len(batch) > 1 {
		for _, c := range batch {
			w.serve([]*change{c})
		}
		return
	}
	w.committed()
	for _, c := range batch {
		c.answer <- c.err
	}
}

// transact runs the changes and commits, leaving in each what it comes to. It
// reports whether one of them failed, and then none is done.
func (w *writer) transact(batch []*change) (failed bool) {
	ctx := context.Background()
	durable := false
	for _, c := range batch {
		durable = durable || c.durable
	}
	err := w.sync(ctx, durable)
	if err == nil {
		_, err = w.begin.ExecContext(ctx)
	}
	if err != nil {
		return w.fail(batch, err)
	}
	for _, c := range batch {
		// Whoever has left is told that nothing was done, so nothing is.
		if c.err = c.ctx.Err(); c.err != nil {
			continue
		}
		if c.err = c.run(); c.err != nil && !outcome(c.err) {
			_, _ = w.rollback.ExecContext(ctx) // SQLite may have done so itself
			return true
		}
	}
	if _, err := w.commit.ExecContext(ctx); err != nil {
		_, _ = w.rollback.ExecContext(ctx)
		return w.fail(batch, err)
	}
	return false
}

// fail gives up a batch whose transaction is what failed: one by one, the
// changes would fare no better.
func (w *writer) fail(batch []*change, err error) bool {
	for _, c := range batch {
		c.err = err
	}
	return false
}

// sync decides whether the next commits wait for the disk. Those that do also
// save those before that did not.
func (w *writer) sync(ctx context.Context, durable bool) error {
	if w.synced == durable {
		return nil
	}
	// Never prepared: this pragma takes effect when it is compiled.
	pragma := "PRAGMA synchronous = NORMAL"
	if durable {
		pragma = "PRAGMA synchronous = FULL"
	}
	_, err := w.conn.ExecContext(ctx, pragma)
	if err == nil {
		w.synced = durable
	}
	return err
}

// outcome reports whether err is an answer and not a failure.
func outcome(err error) bool {
	for _, o := range []error{domain.ErrNotFound, domain.ErrExists, domain.ErrConflict, domain.ErrLeaseHeld, domain.ErrLeaseLost} {
		if errors.Is(err, o) {
			return true
		}
	}
	return false
}

// query is a statement to be prepared.
type query struct {
	stmt **sql.Stmt
	text string
}

// prepare prepares statements on a connection or a pool. Those of a pool end with
// it; a connection is held open by its own until finish has closed them.
func prepare(ctx context.Context, db interface {
	PrepareContext(context.Context, string) (*sql.Stmt, error)
}, queries []query) error {
	for _, q := range queries {
		stmt, err := db.PrepareContext(ctx, q.text)
		if err != nil {
			return fmt.Errorf("prepare %q: %w", q.text, err)
		}
		*q.stmt = stmt
	}
	return nil
}

// finish closes statements that prepare has prepared on a connection.
func finish(queries []query) error {
	var errs []error
	for _, q := range queries {
		if *q.stmt != nil {
			errs = append(errs, (*q.stmt).Close())
		}
	}
	return errors.Join(errs...)
}
