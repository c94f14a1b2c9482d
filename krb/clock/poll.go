package clock

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	samples      = 3 // of each time server in one look
	probeTimeout = 5 * time.Second
	again        = 5 * time.Second       // the least time between two looks that a refusal asks for
	soon         = 30 * time.Second      // the interval while a clock is wrong: the mend shall be seen
	first        = 2 * time.Second       // the interval while nothing is known; doubled up to longest
	longest      = 64 * time.Second      //
	rarest       = 1 << 17 * time.Second // RFC 5905 §7.2, MAXPOLL
)

// Run looks at the clocks until ctx ends, and then waits for what it started.
// A wall clock that is set while it runs (settimeofday, a suspend) is noticed
// within a second, and looked at anew at once. It may be called once.
func (g *Guard) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		tick := time.NewTicker(fresh)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				g.judge()
			}
		}
	})
	if len(g.servers) == 0 && g.c.Probe == nil {
		return // nobody to ask; the watch goes on
	}
	for misses := 0; ; {
		g.Poll(ctx)
		state := g.Status().State
		if misses++; state != Unknown {
			misses = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-g.wake:
		case <-time.After(g.pause(state, misses)):
		}
	}
}

// pause is the time until the next look, give or take a tenth, so that hosts
// started together do not ask together.
func (g *Guard) pause(s State, misses int) time.Duration {
	d := g.c.Interval
	switch s {
	case Good:
	case Unknown:
		d = min(d, longest, first<<min(max(misses-1, 0), 5))
	default:
		d = min(d, soon)
	}
	return d - d/10 + rand.N(d/5)
}

// Poll is one look at all sources: a few samples of each time server, the best
// of which counts, and Config.Probe. It takes some seconds; the first samples
// are judged when all of them are there.
func (g *Guard) Poll(ctx context.Context) {
	g.polling.Lock()
	defer g.polling.Unlock()
	var wg sync.WaitGroup
	defer wg.Wait()
	if g.c.Probe != nil {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, probeTimeout)
			defer cancel()
			g.c.Probe(ctx, g)
		})
	}
	g.mu.Lock()
	g.looks++
	g.looked = g.mono()
	g.mu.Unlock()
	for round := range samples {
		if len(g.servers) == 0 {
			return
		}
		if round > 0 {
			select {
			case <-ctx.Done():
				return
			case <-g.wake:
			case <-time.After(g.c.spacing):
			}
		}
		g.round(ctx, round == 0)
		g.judge()
	}
}

// reply is what became of one question.
type reply struct {
	sample
	err error
}

// round takes one sample of each server that may be asked now.
func (g *Guard) round(ctx context.Context, first bool) {
	g.mu.Lock()
	g.notice()
	epoch, now := g.epoch, g.mono()
	var due []*server
	for _, s := range g.servers {
		if !s.denied && s.due <= now && (first || s.every == 0) {
			due = append(due, s)
		}
	}
	g.mu.Unlock()
	replies := make([]reply, len(due))
	var wg sync.WaitGroup
	for i, s := range due {
		wg.Go(func() { replies[i].sample, replies[i].err = g.c.query(ctx, s.addr, g.c.Now) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return // the answers say nothing about the servers
	}
	for _, warning := range g.take(epoch, due, replies) {
		g.c.Log.Warn(warning)
	}
}

// take notes the replies, if this machine's clock is still the one that the
// questions were asked by.
func (g *Guard) take(epoch int, due []*server, replies []reply) (warnings []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.notice(); g.epoch != epoch {
		return nil
	}
	voted := map[string]string{} // by address
	for i, s := range due {
		r := replies[i]
		if r.err != nil {
			if w := g.failed(s, r.err); w != "" {
				warnings = append(warnings, w)
			}
			continue
		}
		if other, ok := voted[r.addr]; ok && r.addr != "" {
			s.heard, s.why = false, "it is the same machine as "+other+": each has one vote"
			continue
		}
		voted[r.addr] = s.Name
		s.due = g.mono() + s.every
		a := answer{s.Clock, r.offset, r.bound, g.mono()}
		if s.heard && s.look == g.looks && s.answer.aged(a.at) <= a.bound {
			continue
		}
		s.heard, s.look, s.answer = true, g.looks, a
	}
	return warnings
}

// failed notes why a server gave no sample. One that did not answer keeps the
// vote of its last answer while that is young; one that says it has no time, or
// that it must not be asked, loses it. With mu held.
func (g *Guard) failed(s *server, err error) (warning string) {
	var k kiss
	var unfit unfitError
	s.why = err.Error()
	switch {
	case errors.As(err, &k) && k.forever():
		s.heard, s.denied = false, true
		s.why = "it says " + string(k) + ": it is not asked again before a restart"
		return "time server " + s.Name + " refuses to be asked (" + string(k) + "): name another"
	case errors.As(err, &k):
		s.every = min(max(2*s.every, 2*g.c.Interval), rarest)
		s.due = g.mono() + s.every
		s.why = "it says RATE: it is asked every " + Span(s.every) + " at most"
		return "time server " + s.Name + " is asked too often for its taste: from now on every " + Span(s.every)
	case errors.As(err, &unfit):
		s.heard = false
	}
	return ""
}
