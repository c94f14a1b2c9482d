package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// lookAtClock is how long RunSessions sleeps at most: a timer does not feel
	// that the clock was set.
	lookAtClock = time.Minute
	// judgeAtOnce is how many sessions are judged before others may have the lock.
	judgeAtOnce = 128
)

// RunSessions judges sessions again when something has changed that they rest
// on, and has those end that may not live any more, until ctx ends; then it
// returns nil, when all keepers that it called have come back and all events
// are recorded. wait returns once there is a view whose generation is greater
// than after; the view that counts is then Config.Directory's. Its error, other
// than for ctx, ends RunSessions.
func (b *Broker) RunSessions(ctx context.Context, wait func(ctx context.Context, after uint64) (View, error)) error {
	l := b.live
	l.mu.Lock()
	if l.running {
		l.mu.Unlock()
		return errors.New("broker: RunSessions is running already")
	}
	l.running = true
	l.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	failed := make(chan error, 1)
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		b.recordEvents()
		l.mu.Lock()
		l.running = false
		l.mu.Unlock()
	}()
	wg.Go(func() {
		for after := uint64(0); ; {
			v, err := wait(ctx, after)
			if err == nil && v.Snapshot == nil {
				err = errors.New("there is no snapshot in the view")
			}
			if err != nil {
				failed <- err
				return
			}
			after = v.Generation()
			l.poke()
		}
	})
	on := func() bool { return ctx.Err() == nil }
	work := func() { b.startWork(&wg, on) }
	for {
		next := b.judgeTouched(work)
		work()
		b.tellJudged()
		timer := time.NewTimer(next)
		select {
		case <-l.wake:
		case <-timer.C:
		case err := <-failed:
			if on() {
				return fmt.Errorf("waiting for the directory's changes: %w", err)
			}
			return nil
		case <-ctx.Done():
			return nil
		}
		timer.Stop()
	}
}

// tellJudged says how far the judging has come.
func (b *Broker) tellJudged() {
	if b.c.Judged == nil {
		return
	}
	b.live.mu.Lock()
	s := b.live.view.Snapshot
	b.live.mu.Unlock()
	if s != nil {
		b.c.Judged(s.Generation())
	}
}

// startWork starts a goroutine for each keeper that has been given something to
// do and has none, and one that records.
func (b *Broker) startWork(wg *sync.WaitGroup, on func() bool) {
	l := b.live
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.ready {
		if k.ready = false; !k.busy {
			k.busy = true
			wg.Go(func() { l.tell(k, on) })
		}
	}
	clear(l.ready)
	l.ready = l.ready[:0]
	if len(l.events) > 0 && !l.recording {
		l.recording = true
		wg.Go(b.recordEvents)
	}
}

// recordEvents records what there is, one after the other.
func (b *Broker) recordEvents() {
	l := b.live
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.events) > 0 {
		events := l.events
		l.events = nil
		l.mu.Unlock()
		var failed uint64
		var fault error
		for _, e := range events {
			if err := b.c.RecordSession(e); err != nil {
				failed++
				fault = err
			}
		}
		l.mu.Lock()
		if l.stats.Unrecorded += failed; fault != nil {
			l.stats.Fault = fault
		}
	}
	l.recording = false
}

// judgeTouched judges the sessions that a change of the directory or of the
// clock has touched, and returns how long there is nothing to do by itself. work
// is called now and then.
func (b *Broker) judgeTouched(work func()) time.Duration {
	l := b.live
	l.mu.Lock()
	v, now := b.c.Directory(), b.c.Now()
	l.on.pass++
	var todo []*tracked
	switch old := l.view.Snapshot; {
	case v.Snapshot == nil:
		v = l.view
	case now.Round(0).Before(l.last):
		// The clock was set back: what had begun may not have begun yet.
		todo = l.on.everything(v.Snapshot)
	case old == nil:
		todo = l.on.everything(v.Snapshot)
	case v.Snapshot != old:
		todo = l.on.touched(v.Snapshot, old)
	}
	l.view, l.last = v, now.Round(0)
	for t := l.on.popDue(now); t != nil; t = l.on.popDue(now) {
		if todo = l.on.gather(todo, t); !t.Ending.IsZero() {
			l.toEnd(l.keepers[t.Keeper], t, now)
		}
	}
	l.mu.Unlock()

	for at := 0; at < len(todo); at += judgeAtOnce {
		l.mu.Lock()
		for _, t := range todo[at:min(at+judgeAtOnce, len(todo))] {
			if !t.gone && t.Ending.IsZero() {
				b.apply(t, v, judgeSession(v, &t.Session, now), now)
			}
		}
		l.mu.Unlock()
		work()
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	if len(todo) > 0 {
		l.stats.Judged, l.stats.JudgedIn = len(todo), b.c.Now().Sub(now)
		l.stats.JudgedAll += uint64(len(todo))
	}
	next := lookAtClock
	if len(l.on.due) > 0 {
		next = min(next, max(0, time.Duration(l.on.due[0].due-b.c.Now().UnixMicro())*time.Microsecond))
	}
	return next
}
