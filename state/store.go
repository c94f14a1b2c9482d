package state

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// callWait bounds a call whose context has no deadline.
const callWait = 3 * time.Second

// store is the Store on both kinds of engine.
type store struct {
	c      Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // calls, and goroutines of ours
	local  *local         // nil on a cluster
	rooms  map[string]*room

	mu     sync.RWMutex // guards all below
	closed bool
	eng    *engine // nil while there is none
	why    error   // why there is none
	// high is the last revision that was acknowledged, bucket by bucket.
	high map[string]uint64
	// barred says until when nothing can be marked as spent, as marks may be lost.
	barred map[string]time.Time
}

var (
	errClosed = errors.New("the state store is closed")
	errFull   = errors.New("the bucket is full")
	errLost   = errors.New("the state store has lost marks that may still be needed")
	errBusy   = errors.New("others are writing the same key")
	errRolled = errors.New("the servers have lost what they had acknowledged: mend them, then start sekishod anew")
)

// unavailable says both what was to be done and why it could not be.
func unavailable(doing string, err error) error {
	return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
}

// call is what every call begins with. done must be called.
func (s *store) call(ctx context.Context) (_ context.Context, done func(), err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, nil, errClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	s.work.Add(1)
	var cancel context.CancelFunc
	if _, has := ctx.Deadline(); has {
		ctx, cancel = context.WithCancel(ctx)
	} else {
		ctx, cancel = context.WithTimeout(ctx, callWait)
	}
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() { stop(); cancel(); s.work.Done() }, nil
}

// request checks what a caller gave.
func request(name, key string, value []byte, ttl time.Duration) (bucket, error) {
	b, ok := bucketNamed(name)
	switch {
	case !ok:
		return b, fmt.Errorf("there is no bucket %q", name)
	case len(key) < 1 || len(key) > MaxKey:
		return b, fmt.Errorf("a key of %d bytes: 1 to %d are possible", len(key), MaxKey)
	case len(value) > MaxValue:
		return b, fmt.Errorf("a value of %d bytes: %d are possible", len(value), MaxValue)
	case ttl < 0 || ttl > maxTTL:
		return b, fmt.Errorf("a ttl of %s is none", ttl)
	}
	return b, nil
}

func (s *store) record(key string, value []byte, ttl uint32) *record {
	r := &record{ttl: ttl, key: key, value: value}
	rand.Read(r.token[:]) // never fails, crypto/rand says
	if ttl > 0 {
		r.expires = s.c.Now().Unix() + int64(ttl) + 1
	}
	return r
}

func (s *store) Create(ctx context.Context, name, key string, value []byte, ttl time.Duration) error {
	b, err := request(name, key, value, ttl)
	if err == nil && b.mark && seconds(ttl) > maxLife {
		err = fmt.Errorf("a mark in %s lives for ever or up to %s", name, maxLife*time.Second)
	}
	if err != nil {
		return err
	}
	doing := "creating an entry in " + name
	ctx, done, err := s.call(ctx)
	if err != nil {
		return unavailable(doing, err)
	}
	defer done()
	if err := s.bar(b); err != nil {
		return unavailable(doing, err)
	}
	if there, err := s.admits(ctx, b, key); there {
		return answer(doing, ErrExists)
	} else if err != nil {
		return unavailable(doing, err)
	}
	rec := s.record(key, value, seconds(ttl))
	err = s.swap(ctx, b, rec, 0, func(f found) error {
		if f.gone {
			return nil
		}
		return ErrExists
	})
	if err == nil && b.mark && s.local != nil {
		if err = s.local.ledger.note(b.name, *rec); err != nil {
			err = fmt.Errorf("noting a mark: %w", err)
		}
	}
	return answer(doing, err)
}

// answer keeps the answers that callers know; all others are ErrUnavailable.
func answer(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrExists), errors.Is(err, ErrNotFound), errors.Is(err, ErrConflict):
		return fmt.Errorf("%s: %w", doing, err)
	}
	return unavailable(doing, err)
}

// swap writes rec where the key has the revision expect, 0 for none. When it has
// another, may looks at what is there: nil is to try again upon that.
//
// The answer to a try can be lost, and the write be done all the same, or be on
// its way still. So every try of one call carries the same random token: what is
// found with it is this call's own, and no other call's.
func (s *store) swap(ctx context.Context, b bucket, rec *record, expect uint64, may func(found) error) error {
	for try := 0; ; try++ {
		err := s.write(ctx, write{bucket: b, key: rec.key, record: rec, expect: &expect})
		if err == nil {
			return nil
		}
		if wrongRevision(err) {
			f, lerr := s.last(ctx, b, rec.key)
			if lerr == nil {
				if !f.gone && f.token == rec.token {
					return nil
				}
				if err := may(f); err != nil {
					return err
				}
				expect = f.revision
				if try > 0 && !pause(ctx, try) {
					return errBusy
				}
				continue
			}
			err = lerr
		}
		if !s.again(ctx, err, try) {
			return err
		}
	}
}

func (s *store) Put(ctx context.Context, name, key string, value []byte, ttl time.Duration) error {
	b, err := request(name, key, value, ttl)
	if err == nil && b.mark {
		err = fmt.Errorf("entries of the bucket %s are created, never put", name)
	}
	if err != nil {
		return err
	}
	doing := "putting an entry into " + name
	ctx, done, err := s.call(ctx)
	if err != nil {
		return unavailable(doing, err)
	}
	defer done()
	if _, err := s.admits(ctx, b, key); err != nil {
		return unavailable(doing, err)
	}
	return answer(doing, s.insist(ctx, write{bucket: b, key: key, record: s.record(key, value, seconds(ttl))}))
}

func (s *store) Update(ctx context.Context, name, key string, value []byte, revision uint64) error {
	b, err := request(name, key, value, 0)
	if err == nil && b.mark {
		err = fmt.Errorf("entries of the bucket %s are never changed", name)
	}
	if err != nil {
		return err
	}
	doing := "updating an entry in " + name
	ctx, done, err := s.call(ctx)
	if err != nil {
		return unavailable(doing, err)
	}
	defer done()
	same := func(f found) error {
		if f.gone || f.revision != revision {
			return ErrConflict
		}
		return nil
	}
	var f found
	for try := 0; ; try++ {
		if f, err = s.last(ctx, b, key); err == nil || !s.again(ctx, err, try) {
			break
		}
	}
	if err == nil {
		err = same(f)
	}
	if err == nil {
		err = s.swap(ctx, b, s.record(key, value, f.ttl), revision, same)
	}
	return answer(doing, err)
}

func (s *store) Get(ctx context.Context, name, key string) (Entry, error) {
	b, err := request(name, key, nil, 0)
	if err != nil {
		return Entry{}, err
	}
	doing := "getting an entry of " + name
	ctx, done, err := s.call(ctx)
	if err != nil {
		return Entry{}, unavailable(doing, err)
	}
	defer done()
	for try := 0; ; try++ {
		f, err := s.last(ctx, b, key)
		switch {
		case err == nil && f.gone:
			return Entry{}, fmt.Errorf("%s: %w", doing, ErrNotFound)
		case err == nil:
			return Entry{Key: f.key, Value: f.value, Revision: f.revision, Created: f.created}, nil
		case !s.again(ctx, err, try):
			return Entry{}, unavailable(doing, err)
		}
	}
}

func (s *store) Delete(ctx context.Context, name, key string) error {
	b, err := request(name, key, nil, 0)
	if err == nil && b.mark {
		err = fmt.Errorf("entries of the bucket %s are never deleted", name)
	}
	if err != nil {
		return err
	}
	doing := "deleting an entry of " + name
	ctx, done, err := s.call(ctx)
	if err != nil {
		return unavailable(doing, err)
	}
	defer done()
	var f found
	for try := 0; ; try++ {
		if f, err = s.last(ctx, b, key); err == nil || errors.Is(err, errRecord) || !s.again(ctx, err, try) {
			break
		}
	}
	if err == nil && f.gone {
		return nil
	}
	if err == nil || errors.Is(err, errRecord) {
		err = s.insist(ctx, write{bucket: b, key: key})
	}
	return answer(doing, err)
}

// insist writes without a condition.
func (s *store) insist(ctx context.Context, w write) error {
	for try := 0; ; try++ {
		if err := s.write(ctx, w); err == nil || !s.again(ctx, err, try) {
			return err
		}
	}
}

// engine is the one in use.
func (s *store) engine() (*engine, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.eng == nil {
		return nil, s.why
	}
	return s.eng, nil
}

func (s *store) last(ctx context.Context, b bucket, key string) (found, error) {
	e, err := s.engine()
	if err != nil {
		return found{}, err
	}
	f, err := e.last(ctx, b, key)
	s.judge(e, b, err)
	return f, err
}

// write is one try. Revisions only ever grow: one that is not above those that
// were acknowledged before it was asked for shows that the servers have lost some.
func (s *store) write(ctx context.Context, w write) error {
	e, err := s.engine()
	if err != nil {
		return err
	}
	s.mu.RLock()
	high := s.high[w.bucket.name]
	s.mu.RUnlock()
	revision, err := e.write(ctx, w)
	s.judge(e, w.bucket, err)
	switch {
	case full(err):
		return errFull
	case err != nil:
		return err
	case revision <= high:
		return errRolled
	}
	s.mu.Lock()
	s.high[w.bucket.name] = max(revision, s.high[w.bucket.name])
	s.mu.Unlock()
	return nil
}

// storeFailed is NATS's JSStreamStoreFailedF; its text is the cause.
const storeFailed = 10077

func full(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == storeFailed && strings.HasPrefix(api.Description, "maximum ")
}

// judge looks whether an error is the server's, and not an answer.
func (s *store) judge(e *engine, b bucket, err error) {
	if err == nil || wrongRevision(err) || full(err) || errors.Is(err, errRecord) {
		return
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrNoStreamResponse) {
		e.forget(b)
	}
	s.examine(e)
}

// again tells whether to try once more, and waits before. In this process nothing
// mends itself within a call; on a cluster a leader is chosen anew in seconds.
func (s *store) again(ctx context.Context, err error, try int) bool {
	if s.local != nil || errors.Is(err, errFull) || errors.Is(err, errRecord) || errors.Is(err, errRolled) {
		return false
	}
	return pause(ctx, try)
}

// pause waits longer with each try, and not equally long everywhere.
func pause(ctx context.Context, try int) bool {
	wait := 5 * time.Millisecond << min(try, 6)
	t := time.NewTimer(wait/2 + mrand.N(wait))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return ctx.Err() == nil
	}
}

// bar is an error while marks of a bucket may be lost.
func (s *store) bar(b bucket) error {
	s.mu.RLock()
	until, is := s.barred[b.name]
	s.mu.RUnlock()
	if !is || !s.c.Now().Before(until) {
		return nil
	}
	return fmt.Errorf("%w: until %s nothing can be marked as spent in %s", errLost, until.UTC().Format(time.RFC3339), b.name)
}

func (s *store) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.work.Wait()
	if !first {
		return nil
	}
	s.mu.Lock()
	e := s.eng
	s.eng, s.why = nil, errClosed
	s.mu.Unlock()
	if e != nil {
		e.close()
	}
	if s.local != nil {
		return s.local.close()
	}
	return nil
}
