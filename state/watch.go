package state

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// lookEvery is how often a Watch asks whether it is told all.
	lookEvery = 5 * time.Second
	// late is how long after its ttl an entry is told to be gone, when the server
	// has removed it.
	late = time.Second
)

var errStalled = errors.New("changes are not told")

// watch is what one Watch has told.
type watch struct {
	s    *store
	b    bucket
	tell func(Change)
	told map[string]told // by subject
	seen uint64          // the last revision that came
	// ahead is by how much the server's clock is ahead of ours.
	ahead time.Duration
	// next is when, by our clock, the first of told ends; zero if none does.
	next time.Time
}

type told struct {
	key      string
	revision uint64
	ends     time.Time // by our clock; zero is never
}

func (s *store) Watch(ctx context.Context, name string, f func(Change)) error {
	b, err := request(name, "any", nil, 0)
	if err != nil {
		return err
	}
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		return unavailable("watching "+name, errClosed)
	}
	s.work.Add(1)
	s.mu.RUnlock()
	defer s.work.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()

	w := &watch{s: s, b: b, tell: f, told: map[string]told{}}
	for try := 0; ; try++ {
		began := s.c.Now()
		err := w.run(ctx)
		if ctx.Err() == nil {
			s.c.Log.WithField("bucket", name).WithError(err).Debug("watching is interrupted")
		}
		if s.c.Now().Sub(began) > time.Minute {
			try = 0
		}
		if !pause(ctx, try) {
			if s.ctx.Err() != nil {
				return unavailable("watching "+name, errClosed)
			}
			return fmt.Errorf("watching %s: %w", name, ctx.Err())
		}
	}
}

// run tells what is there, and then what comes, until something fails.
func (w *watch) run(ctx context.Context) error {
	e, err := w.s.engine()
	if err != nil {
		return err
	}
	err = w.follow(ctx, e)
	if ctx.Err() == nil {
		w.s.judge(e, w.b, err)
	}
	return err
}

func (w *watch) follow(ctx context.Context, e *engine) error {
	st, err := e.stream(ctx, w.b)
	if err != nil {
		return err
	}
	info, err := w.info(ctx, st)
	if err != nil {
		return err
	}
	// The reader may be of a follower that lags behind; so all after what was read
	// is asked for, and not all after what the leader had.
	w.seen, w.ahead = 0, info.TimeStamp.Sub(w.s.c.Now())
	there := map[string]bool{}
	if err := e.read(ctx, w.b, func(m message) {
		there[m.subject] = true
		w.take(m)
	}); err != nil {
		return err
	}
	for subject, t := range w.told {
		if !there[subject] {
			delete(w.told, subject)
			w.tell(Change{Entry: Entry{Key: t.key}, Deleted: true})
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	slow := time.AfterFunc(callWait, cancel) // an answer that is lost would be waited for without end
	kv, err := e.js.KeyValue(ctx, w.b.name)
	if err != nil {
		return err
	}
	changes, err := kv.WatchAll(ctx, jetstream.ResumeFromRevision(w.seen+1))
	if err != nil {
		return err
	}
	defer func() {
		changes.Stop()
		for range changes.Updates() { // NATS's goroutine may wait for us to take one
		}
	}()
	if !slow.Stop() {
		return errStalled
	}
	// What was last may have ended since, so the leader's count may be ahead of
	// what is there to be told.
	w.seen = max(w.seen, info.State.LastSeq)

	look, tick := time.NewTicker(lookEvery), time.NewTicker(time.Second)
	defer look.Stop()
	defer tick.Stop()
	due := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c, ok := <-changes.Updates():
			if !ok {
				return errStalled
			}
			if c != nil {
				w.take(message{subject: "$KV." + w.b.name + "." + c.Key(), data: c.Value(), revision: c.Revision(),
					created: c.Created(), gone: c.Operation() != jetstream.KeyValuePut})
			}
		case <-tick.C:
			w.sweep(w.s.c.Now())
		case <-look.C:
			if w.seen < due {
				return errStalled
			}
			// After an outage all is read anew: it may have outlasted a tombstone.
			if info, err = w.info(ctx, st); err != nil {
				return err
			}
			due = info.State.LastSeq
		}
	}
}

func (w *watch) info(ctx context.Context, st jetstream.Stream) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	return st.Info(ctx)
}

// take tells a message that is news.
func (w *watch) take(m message) {
	w.seen = max(w.seen, m.revision)
	old, known := w.told[m.subject]
	if known && old.revision >= m.revision {
		return
	}
	if m.gone {
		if known {
			delete(w.told, m.subject)
			w.tell(Change{Entry: Entry{Key: old.key}, Deleted: true})
		}
		return
	}
	r, err := parseRecord(m.data)
	if err != nil {
		w.s.c.Log.WithField("bucket", w.b.name).WithError(err).Warn("watching passes over an entry")
		return
	}
	t := told{key: r.key, revision: m.revision}
	if r.ttl > 0 {
		t.ends = m.created.Add(time.Duration(r.ttl)*time.Second + late - w.ahead)
		if w.next.IsZero() || t.ends.Before(w.next) {
			w.next = t.ends
		}
	}
	w.told[m.subject] = t
	w.tell(Change{Entry: Entry{Key: r.key, Value: r.value, Revision: m.revision, Created: m.created}})
}

// sweep tells what has ended: the servers say nothing of it.
func (w *watch) sweep(now time.Time) {
	if w.next.IsZero() || now.Before(w.next) {
		return
	}
	w.next = time.Time{}
	for subject, t := range w.told {
		switch {
		case t.ends.IsZero():
		case !now.Before(t.ends):
			delete(w.told, subject)
			w.tell(Change{Entry: Entry{Key: t.key}, Deleted: true})
		case w.next.IsZero() || t.ends.Before(w.next):
			w.next = t.ends
		}
	}
}
