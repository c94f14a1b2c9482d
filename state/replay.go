package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrReplayLost is why a Replay cannot tell of an authenticator: it is from a time
// of which marks may be forgotten. Whoever meets it signs in again.
var ErrReplayLost = fmt.Errorf("%w: the ticket's authenticator is from a time of which the marks may be lost: sign in again", ErrUnavailable)

// Replay is a replay cache for Kerberos (krb/accept has the interface) in the
// bucket replay, which all brokers share. It never says true twice for a mark that
// is still needed; where it may have forgotten it, it refuses:
//
//   - authenticators made before the bucket was, or in the seconds after;
//   - when our clock was set back, those that ended meanwhile by what it was;
//   - those of which the folder's own count shows that they are lost.
type Replay struct {
	s *store

	mu     sync.Mutex // guards all below
	born   time.Time  // when the bucket was made, by the server's clock; zero: not known yet
	latest time.Time  // that our clock has shown
}

// bornGrace is how far the servers' clocks and ours may be apart.
const bornGrace = 2 * time.Second

// NewReplay is a Replay on a store that Open gave.
func NewReplay(st Store) (*Replay, error) {
	s, ok := st.(*store)
	if !ok {
		return nil, errors.New("a replay cache needs a store of this package")
	}
	return &Replay{s: s}, nil
}

// Spend says true for a mark once, and false until the time `until` is past, the
// last at which the authenticator could be accepted; made is the time in it. An
// error is "could not find out": the ticket is to be refused.
func (r *Replay) Spend(ctx context.Context, mark [32]byte, made, until time.Time) (fresh bool, err error) {
	born, err := r.birth(ctx)
	if err != nil {
		return false, err
	}
	now := r.s.c.Now()
	r.mu.Lock()
	if now.After(r.latest) {
		r.latest = now
	}
	latest := r.latest
	r.mu.Unlock()
	back := latest.Sub(now) > time.Second
	if !made.After(born.Add(bornGrace)) || back && !until.After(latest) {
		return false, ErrReplayLost
	}
	err = r.s.Create(ctx, BucketReplay, string(mark[:]), nil, max(until.Sub(now), 0)+time.Second)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, ErrExists):
		return false, nil
	}
	return false, err
}

func (r *Replay) birth(ctx context.Context) (time.Time, error) {
	r.mu.Lock()
	born := r.born
	r.mu.Unlock()
	if !born.IsZero() {
		return born, nil
	}
	born, err := r.s.born(ctx, BucketReplay)
	if err != nil {
		return born, err
	}
	r.mu.Lock()
	r.born = born
	r.mu.Unlock()
	return born, nil
}

// born is when a bucket was made.
func (s *store) born(ctx context.Context, name string) (time.Time, error) {
	doing := "looking how old " + name + " is"
	ctx, done, err := s.call(ctx)
	if err != nil {
		return time.Time{}, unavailable(doing, err)
	}
	defer done()
	b, _ := bucketNamed(name)
	for try := 0; ; try++ {
		e, err := s.engine()
		if err == nil {
			st, serr := e.stream(ctx, b)
			if serr == nil {
				return st.CachedInfo().Created, nil
			}
			s.judge(e, b, serr)
			err = serr
		}
		if !s.again(ctx, err, try) {
			return time.Time{}, unavailable(doing, err)
		}
	}
}
