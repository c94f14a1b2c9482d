package ldapsync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// bindPool keeps connections that are for binds alone: whoever has one says who
// he is on it anew, and nothing is asked for on it in another's name. A
// connection on which anything went wrong but the answer is thrown away, for what
// comes next on it might be the answer to somebody else's bind.
type bindPool struct {
	p     Provider
	ends  []endpoint
	slots chan struct{} // one for each connection in use
	keep  time.Duration // how long an idle one is kept

	mu     sync.Mutex // guards all below
	first  int        // of ends: who served last
	idle   []idleConn // the newest last
	closed bool
}

type idleConn struct {
	*conn
	end   int
	since time.Time
}

// maxBindAnswer bounds one message of an answer to a bind, in bytes.
const maxBindAnswer = 64 << 10

var (
	errPoolClosed = errors.New("the prover is closed")
	errNoTurn     = errors.New("too many sign-ins at once")
)

func newBindPool(p Provider, most int, keep time.Duration) (*bindPool, error) {
	b := &bindPool{p: p, slots: make(chan struct{}, most), keep: keep}
	for _, u := range p.URLs {
		e, err := parseURL(u)
		if err != nil {
			return nil, err
		}
		b.ends = append(b.ends, e)
	}
	return b, nil
}

// do runs f on a connection to the first server with which it works: f's error
// says that the connection is of no more use, and what the server answered is not
// one. Each try has the provider's Timeout, and all of them have ctx.
func (b *bindPool) do(ctx context.Context, f func(context.Context, *conn) error) error {
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	case <-ctx.Done():
		return fmt.Errorf("all %d connections are in use: %w", cap(b.slots), errNoTurn)
	}
	b.mu.Lock()
	first := b.first
	b.mu.Unlock()
	var order []int
	for i := range b.ends {
		order = append(order, (first+i)%len(b.ends))
	}
	var errs []error
	for i := 0; i < len(order); i++ {
		at := order[i]
		silent, err := b.try(ctx, at, f)
		if err == nil {
			b.mu.Lock()
			b.first = at
			b.mu.Unlock()
			return nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil || errors.Is(err, errPoolClosed) {
			break
		}
		if silent && i < len(b.ends) {
			// The path to the server may have been lost while nothing was sent.
			b.drop(at)
			order = append(order, at)
		}
	}
	return errors.Join(errs...)
}

// try is do with one server. A kept connection may have ended since it was last
// used; a fresh one is made then. silent says that one was kept that nothing
// came from.
func (b *bindPool) try(ctx context.Context, at int, f func(context.Context, *conn) error) (silent bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.p.Timeout)
	defer cancel()
	for {
		c, kept, err := b.get(ctx, at)
		if err != nil {
			return false, err
		}
		if err = f(ctx, c); err == nil {
			b.put(c, at)
			return false, nil
		}
		c.close()
		if !kept || ctx.Err() != nil {
			return kept, err
		}
	}
}

// get takes the newest idle connection to a server, or makes one.
func (b *bindPool) get(ctx context.Context, at int) (c *conn, kept bool, err error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, false, errPoolClosed
	}
	b.dropOld()
	for i := len(b.idle) - 1; i >= 0; i-- {
		if b.idle[i].end == at {
			c = b.idle[i].conn
			b.idle = slices.Delete(b.idle, i, i+1)
			break
		}
	}
	b.mu.Unlock()
	if c != nil {
		return c, true, nil
	}
	c, err = b.p.connect(ctx, b.ends[at], maxBindAnswer)
	return c, false, err
}

func (b *bindPool) put(c *conn, at int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		c.close()
		return
	}
	b.idle = append(b.idle, idleConn{c, at, time.Now()})
	b.dropOld()
}

// dropOld ends what nobody has used for a while; mu is held.
func (b *bindPool) dropOld() {
	n := 0
	for n < len(b.idle) && time.Since(b.idle[n].since) > b.keep {
		b.idle[n].close()
		n++
	}
	b.idle = slices.Delete(b.idle, 0, n)
}

// drop ends the idle connections to one server.
func (b *bindPool) drop(at int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.idle = slices.DeleteFunc(b.idle, func(c idleConn) bool {
		if c.end == at {
			c.close()
		}
		return c.end == at
	})
}

// close ends the idle connections, and those in use when they come back.
func (b *bindPool) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, c := range b.idle {
		c.close()
	}
	b.idle = nil
}
