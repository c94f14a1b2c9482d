package userdb

import (
	"context"
	"sync"
	"time"
)

// gate counts connections.
type gate struct {
	max int // immutable

	mu    sync.Mutex         // guards all below
	conns map[*conn]struct{} // all that are open
	byUID map[uint32]int     // those of users other than root
	plain int                // sum of byUID
	busy  uint64             // turned away
}

// enter counts c in, if there is room. Users cannot take root's half, nor one
// user that of all others.
func (g *gate) enter(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.conns) >= g.max || c.uid != 0 && (g.plain >= g.max/2 || g.byUID[c.uid] >= g.max/4) {
		g.busy++
		return false
	}
	g.conns[c] = struct{}{}
	if c.uid != 0 {
		g.plain++
		g.byUID[c.uid]++
	}
	return true
}

// leave closes c and counts it out.
func (g *gate) leave(c *conn) {
	c.nc.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
	if c.uid != 0 {
		g.plain--
		if g.byUID[c.uid]--; g.byUID[c.uid] == 0 {
			delete(g.byUID, c.uid)
		}
	}
}

// hurry ends the waits of the connections that ctx, now over, belongs to.
func (g *gate) hurry(ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.conns {
		if c.ctx == ctx {
			c.nc.SetReadDeadline(time.Unix(1, 0))
		}
	}
}

func (g *gate) count() (open int, busy uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns), g.busy
}
