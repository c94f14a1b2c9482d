package local

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
	byUID map[uint32]int     // those of unprivileged users
	plain int                // sum of byUID
	busy  uint64             // turned away
}

// enter counts c in, if there is room.
func (g *gate) enter(c *conn, privileged bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.counted = !privileged
	uid := c.caller.UID
	if len(g.conns) >= g.max || c.counted && (g.plain >= (g.max+1)/2 || g.byUID[uid] >= perUID) {
		g.busy++
		return false
	}
	g.conns[c] = struct{}{}
	if c.counted {
		g.plain++
		g.byUID[uid]++
	}
	return true
}

// leave closes c and counts it out.
func (g *gate) leave(c *conn) {
	c.nc.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
	if uid := c.caller.UID; c.counted {
		g.plain--
		if g.byUID[uid]--; g.byUID[uid] == 0 {
			delete(g.byUID, uid)
		}
	}
}

// hurry ends the waits of the connections that ctx, now over, belongs to. An
// answer that is being written gets through.
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
