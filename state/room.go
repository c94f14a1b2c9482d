package state

import (
	"context"
	"errors"
	"sync"
	"time"
)

// room is how many entries a bucket has: as the servers said lately, and those that
// we have added since. Several brokers may together go beyond the bound by what they
// add within roomAge.
type room struct {
	mu     sync.Mutex // guards all below
	used   int
	asked  time.Time
	asking bool
}

const (
	roomAge = time.Second
	// fullAge is how soon a bucket that was full is looked at again.
	fullAge = 50 * time.Millisecond
)

// admits takes the room for a key. In a full bucket it looks whether the key is
// there already, and so needs none.
func (s *store) admits(ctx context.Context, b bucket, key string) (there bool, err error) {
	if err = s.room(ctx, b); errors.Is(err, errFull) {
		if f, lerr := s.last(ctx, b, key); lerr == nil && !f.gone {
			return true, nil
		}
	}
	return false, err
}

// room takes the room for one entry more.
func (s *store) room(ctx context.Context, b bucket) error {
	if !b.counts() {
		return nil
	}
	r, most := s.rooms[b.name], s.c.keys(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	age := time.Since(r.asked)
	if !r.asking && (age > roomAge || r.used >= most && age > fullAge) {
		r.asking = true
		r.mu.Unlock()
		used, err := s.used(ctx, b)
		r.mu.Lock()
		r.asking = false
		if err != nil {
			return err
		}
		r.used, r.asked = used, time.Now()
	}
	if r.used >= most {
		return errFull
	}
	r.used++
	return nil
}

// used is how many entries and tombstones a bucket has.
func (s *store) used(ctx context.Context, b bucket) (int, error) {
	for try := 0; ; try++ {
		e, err := s.engine()
		if err == nil {
			var n int
			if n, err = e.used(ctx, b); err == nil {
				return n, nil
			}
			s.judge(e, b, err)
		}
		if !s.again(ctx, err, try) {
			return 0, err
		}
	}
}

func (e *engine) used(ctx context.Context, b bucket) (int, error) {
	st, err := e.stream(ctx, b)
	if err != nil {
		return 0, err
	}
	ctx, cancel := e.one(ctx)
	defer cancel()
	info, err := st.Info(ctx)
	if err != nil {
		return 0, err
	}
	return int(info.State.Msgs), nil
}
