package gate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
)

// Config is what a Gate is made of.
type Config struct {
	// Max is how many connections may be open at once. Unprivileged users get
	// half of it together, rounded up. Needed.
	Max int
	// PerUID is how many of them one unprivileged user may have. Needed.
	PerUID int
	// Privileged are the uids beside root to whom only Max applies.
	Privileged []uint32
	// Idle is how long a connection may stay without a request. Needed.
	Idle time.Duration
	// Request is how long a request may take to arrive once a part of it has
	// been read, and each write of an answer to be taken. Needed.
	Request time.Duration
	// Busy is sent to whom there is no room for, in the door's protocol. It
	// must fit an empty socket buffer: some kilobytes. Empty: he is only closed.
	Busy []byte
	// Log gets what an operator must know. Needed.
	Log *logrus.Entry
}

const maxBusy = 4 << 10

func (c *Config) validate() error {
	if c.Max <= 0 || c.PerUID <= 0 || c.Idle <= 0 || c.Request <= 0 {
		return errors.New("every limit of connections must be above zero")
	}
	if len(c.Busy) > maxBusy {
		return fmt.Errorf("the %d bytes for whom there is no room are more than %d", len(c.Busy), maxBusy)
	}
	if c.Log == nil {
		return errors.New("the log for connections is not set")
	}
	return nil
}

// Gate lets connections in and counts them. It is safe for any number of
// goroutines.
type Gate struct {
	c Config // immutable after New

	mu    sync.Mutex         // guards all below
	conns map[*Conn]struct{} // all that are open
	byUID map[uint32]int     // those of unprivileged users
	plain int                // sum of byUID
	busy  uint64
}

// Stats counts since New.
type Stats struct {
	Open int    // connections now
	Busy uint64 // connections turned away
}

// New makes a Gate; the error names what is wrong in c.
func New(c Config) (*Gate, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	c.Privileged, c.Busy = slices.Clone(c.Privileged), slices.Clone(c.Busy)
	return &Gate{c: c, conns: map[*Conn]struct{}{}, byUID: map[uint32]int{}}, nil
}

// Stats reads the counters.
func (g *Gate) Stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Stats{Open: len(g.conns), Busy: g.busy}
}

// Privileged reports whether only Config.Max bounds this uid's connections.
func (g *Gate) Privileged(uid uint32) bool { return uid == 0 || slices.Contains(g.c.Privileged, uid) }

// Handler talks on one connection, which is closed when it returns. ctx ends
// when the door is to shut; an answer under way may still be written.
type Handler func(ctx context.Context, c *Conn)

// Serve has each connection to l, a unix stream listener, handled in a
// goroutine of its own until ctx ends, and closes l. It returns when the last
// of its connections has ended: nil when ctx did, or what made the listener
// fail. It may run for several listeners at once, which share the limits.
func (g *Gate) Serve(ctx context.Context, l net.Listener, handle Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel() // before all.Wait: connections end with their listener
	all.Go(func() {
		<-ctx.Done()
		l.Close()
		g.hurry(ctx)
	})
	var short shortage
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			short.pause = 0
		case ctx.Err() != nil:
			return nil
		case temporary(err): // what is open goes on
			if short.tell() {
				g.c.Log.WithError(err).Error("accepting connections: raise the limit of open files (LimitNOFILE)")
			}
			short.wait(ctx)
			continue
		default:
			return fmt.Errorf("accepting connections: %w", err)
		}
		c, err := g.newConn(ctx, nc)
		if err != nil {
			g.c.Log.WithError(err).Warn("asking the kernel who is calling: connection closed")
			nc.Close()
			continue
		}
		if !g.enter(c) {
			c.turnAway()
			continue
		}
		all.Go(func() {
			defer g.leave(c)
			deepen(0)
			handle(ctx, c)
		})
	}
}

// deepen makes the goroutine's stack as large as most handlers need. It is small
// and quickly copied now; left alone it would grow several times, and each time be
// copied when it is deep, which was an eighth of what a request cost.
//
//go:noinline
func deepen(at int) byte {
	var room [12 << 10]byte
	return room[at]
}

// enter counts c in, if there is room.
func (g *Gate) enter(c *Conn) bool {
	plain := !g.Privileged(c.UID)
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.conns) >= g.c.Max || plain && (g.plain >= (g.c.Max+1)/2 || g.byUID[c.UID] >= g.c.PerUID) {
		g.busy++
		return false
	}
	g.conns[c] = struct{}{}
	if plain {
		g.plain++
		g.byUID[c.UID]++
	}
	return true
}

// leave closes c and counts it out.
func (g *Gate) leave(c *Conn) {
	c.nc.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
	if !g.Privileged(c.UID) {
		g.plain--
		if g.byUID[c.UID]--; g.byUID[c.UID] == 0 {
			delete(g.byUID, c.UID)
		}
	}
}

// hurry ends the waits of the connections that ctx, now over, belongs to. An
// answer that is being written gets through.
func (g *Gate) hurry(ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.conns {
		if c.ctx == ctx {
			c.nc.SetReadDeadline(past)
		}
	}
}

// shortage is a time in which the kernel gives no connections.
type shortage struct {
	pause time.Duration // the last one; 0 after success
	told  time.Time
}

// tell reports whether the log should hear of it: not of one that passes in a
// moment, and once in ten seconds.
func (s *shortage) tell() bool {
	if s.pause < maxPause || time.Since(s.told) < 10*time.Second {
		return false
	}
	s.told = time.Now()
	return true
}

const maxPause = 100 * time.Millisecond

func (s *shortage) wait(ctx context.Context) {
	s.pause = min(max(2*s.pause, time.Millisecond), maxPause)
	t := time.NewTimer(s.pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// temporary reports whether accept(2) may work again later: no descriptors, no
// memory, or a caller who is gone already.
func temporary(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
