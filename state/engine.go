package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// engine is one connection to JetStream, and the server behind it if that is in
// this process.
type engine struct {
	c   *Config
	nc  *nats.Conn
	js  jetstream.JetStream
	srv *server.Server // nil on a cluster

	looking chan struct{} // has one: only who holds it looks for streams; before mu
	mu      sync.Mutex    // guards streams
	streams map[string]jetstream.Stream
}

// answerWait is how long one request to a cluster waits for its answer: that of a
// leader that has died never comes.
const answerWait = time.Second

// one bounds a single request.
func (e *engine) one(ctx context.Context) (context.Context, context.CancelFunc) {
	if e.srv != nil {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, answerWait)
}

func newEngine(c *Config, nc *nats.Conn, srv *server.Server) (*engine, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &engine{c: c, nc: nc, js: js, srv: srv, looking: make(chan struct{}, 1), streams: map[string]jetstream.Stream{}}, nil
}

func (e *engine) close() {
	e.nc.Close()
	if e.srv != nil {
		e.srv.Shutdown()
		e.srv.WaitForShutdown()
	}
}

// stream finds or makes a bucket's stream.
func (e *engine) stream(ctx context.Context, b bucket) (jetstream.Stream, error) {
	if st := e.known(b); st != nil {
		return st, nil
	}
	select {
	case e.looking <- struct{}{}:
		defer func() { <-e.looking }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if st := e.known(b); st != nil {
		return st, nil
	}
	ctx, cancel := e.one(ctx)
	defer cancel()
	st, err := e.look(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("the bucket %s: %w", b.name, err)
	}
	e.mu.Lock()
	e.streams[b.name] = st
	e.mu.Unlock()
	return st, nil
}

func (e *engine) known(b bucket) jetstream.Stream {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.streams[b.name]
}

func (e *engine) look(ctx context.Context, b bucket) (jetstream.Stream, error) {
	if e.srv != nil {
		return e.js.CreateOrUpdateStream(ctx, e.c.bucketConfig(b))
	}
	st, err := e.js.Stream(ctx, b.stream())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if st, err = e.js.CreateStream(ctx, e.c.bucketConfig(b)); errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			st, err = e.js.Stream(ctx, b.stream()) // another broker was first
		}
	}
	if err == nil {
		err = e.c.fits(b, st.CachedInfo().Config)
	}
	return st, err
}

// forget has a stream looked up anew: it may have been removed.
func (e *engine) forget(b bucket) {
	e.mu.Lock()
	delete(e.streams, b.name)
	e.mu.Unlock()
}

// found is what a bucket has under a key.
type found struct {
	record
	revision uint64
	created  time.Time
	gone     bool // removed; the revision is its tombstone's, 0 if there is none
}

// last reads a key from the leader of the stream.
func (e *engine) last(ctx context.Context, b bucket, key string) (found, error) {
	st, err := e.stream(ctx, b)
	if err != nil {
		return found{}, err
	}
	ctx, cancel := e.one(ctx)
	defer cancel()
	m, err := st.GetLastMsgForSubject(ctx, b.subject(key))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return found{gone: true}, nil
	case err != nil:
		return found{}, err
	}
	f := found{revision: m.Sequence, created: m.Time}
	if tombstone(m.Header) {
		f.gone = true
		return f, nil
	}
	if f.record, err = parseRecord(m.Data); err == nil && f.key != key {
		err = errRecord
	}
	return f, err
}

// headerOperation is of NATS's key-value buckets (ADR-8): a message that has it is
// a tombstone.
const headerOperation = "KV-Operation"

func tombstone(h nats.Header) bool { return h.Get(headerOperation) != "" }

// write is one try to write.
type write struct {
	bucket bucket
	key    string
	record *record // nil is a tombstone
	expect *uint64 // the revision that must be there; nil: any
}

func (e *engine) write(ctx context.Context, w write) (revision uint64, err error) {
	if _, err := e.stream(ctx, w.bucket); err != nil {
		return 0, err
	}
	ctx, cancel := e.one(ctx)
	defer cancel()
	m := &nats.Msg{Subject: w.bucket.subject(w.key), Header: nats.Header{}}
	opts := []jetstream.PublishOpt{jetstream.WithRetryAttempts(0), jetstream.WithExpectStream(w.bucket.stream())}
	if w.record == nil {
		m.Header.Set(headerOperation, "DEL")
		opts = append(opts, jetstream.WithMsgTTL(graveTime))
	} else {
		m.Data = w.record.bytes()
		if w.record.ttl > 0 {
			opts = append(opts, jetstream.WithMsgTTL(time.Duration(w.record.ttl)*time.Second))
		}
	}
	if w.expect != nil {
		opts = append(opts, jetstream.WithExpectLastSequencePerSubject(*w.expect))
	}
	ack, err := e.js.PublishMsg(ctx, m, opts...)
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// wrongRevision tells whether a write was refused for what it expected.
func wrongRevision(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}
