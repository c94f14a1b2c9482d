package clock

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// peer is a KDC or a directory server.
type peer struct {
	answer
	heard bool
	own   bool   // it runs on this machine
	why   string // it was not heard
}

// Observe takes note of a KDC's clock as an answer of its showed it: it was
// offset ahead of this machine's (negative: behind), give or take bound, which
// includes the answer's resolution and the time it may have been on its way.
// source is host, host:port or IP:port; what AskKDC has reached at that address
// is the same KDC.
func (g *Guard) Observe(source string, offset, bound time.Duration) {
	g.observe(KDC, source, offset, bound)
}

// ObserveDirectory is Observe for a directory server.
func (g *Guard) ObserveDirectory(source string, offset, bound time.Duration) {
	g.observe(Directory, source, offset, bound)
}

func (g *Guard) observe(k Kind, source string, offset, bound time.Duration) {
	if bound < 0 || bound > g.maxBound() {
		return // too unsure to tell anything
	}
	g.mu.Lock()
	g.notice()
	now := g.mono()
	p := g.peer(k, source)
	if old := around(p.offset, p.aged(now)); p.heard && now-p.at < maxAge && old.overlaps(around(offset, bound)) {
		// Not moved since: it is where both answers say.
		both := interval{max(old.lo, offset-bound), min(old.hi, offset+bound)}
		offset, bound = both.mid(), both.bound()
	}
	p.heard, p.why, p.answer = true, "", answer{p.Clock, offset, max(bound, minBound), now}
	g.mu.Unlock()
	g.judge()
}

// Missed takes note that a KDC or directory server could not be asked. Its last
// answer counts as long as it is young.
func (g *Guard) Missed(k Kind, source string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.peer(k, source).why = err.Error()
}

// AskKDC asks one KDC (host:port) of the realm the time, and takes note of what
// it says; for Config.Probe. It ends with ctx or after some seconds.
func (g *Guard) AskKDC(ctx context.Context, addr, realm string) error {
	g.mu.Lock()
	g.notice()
	epoch := g.epoch
	g.mu.Unlock()
	t, err := askKDC(ctx, addr, realm, g.c.Now)
	if err != nil {
		g.Missed(KDC, addr, err)
		return err
	}
	g.mu.Lock()
	if g.notice(); g.epoch != epoch {
		g.mu.Unlock()
		return fmt.Errorf("asking the KDC %s the time: this host's clock was moved meanwhile", clean(addr))
	}
	if name := shortName(KDC, t.from); name != shortName(KDC, addr) && len(g.names) < maxPeers {
		g.names[name] = shortName(KDC, addr)
		g.peers = slices.DeleteFunc(g.peers, func(p *peer) bool { return p.Clock == Clock{KDC, name} })
	}
	g.peer(KDC, addr).own = t.own
	g.mu.Unlock()
	g.Observe(addr, t.offset, t.bound)
	return nil
}

// shortName is a source as it is shown: without the usual port, and one name for
// all ways to this machine.
func shortName(k Kind, source string) string {
	source = clean(source)
	host, port, err := net.SplitHostPort(source)
	if err != nil {
		host, port = source, ""
	}
	if a, err := netip.ParseAddr(host); err == nil && a.IsLoopback() {
		host = localhost
	}
	if k == KDC && port == "88" || port == "" {
		return host
	}
	return net.JoinHostPort(host, port)
}

// peer is the peer of that name, made if there is none. With mu held.
func (g *Guard) peer(k Kind, source string) *peer {
	name := shortName(k, source)
	if other, ok := g.names[name]; ok && k == KDC {
		name = other
	}
	if i := slices.IndexFunc(g.peers, func(p *peer) bool { return p.Clock == Clock{k, name} }); i >= 0 {
		return g.peers[i]
	}
	p := &peer{answer: answer{Clock: Clock{k, name}}}
	g.peers = append(g.peers, p)
	g.drop(k)
	return p
}

// drop forgets the oldest peer of a kind when there are too many. With mu held.
func (g *Guard) drop(k Kind) {
	n := 0
	for _, p := range g.peers {
		if p.Kind == k {
			n++
		}
	}
	if n > maxPeers {
		oldest := -1
		for i, p := range g.peers[:len(g.peers)-1] { // the last is new
			if p.Kind == k && (oldest < 0 || p.at < g.peers[oldest].at) {
				oldest = i
			}
		}
		g.peers = slices.Delete(g.peers, oldest, oldest+1)
	}
}
