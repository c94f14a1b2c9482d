package ldapsync

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// Sync follows a directory. Its methods may be called from any goroutine.
type Sync struct {
	c     Config
	plan  *plan
	base  broker.DN
	store *store
	wake  chan struct{} // something for Run's loop to look at

	pub atomic.Pointer[published] // nil until there is a snapshot

	mu        sync.Mutex
	news      chan struct{} // closed at each publishing
	st        Status        // State, Provider, LastChange, errors, RetryAt, skipped
	held      *Held
	candidate *broker.Snapshot // what Accept would publish, while held
	accepted  bool             // Accept was called: the loop forgets who went
	ran       bool
	closed    bool

	// Run's goroutine alone:
	m       *mirror
	pos     position
	full    bool   // the next refresh must be a full one
	seq     uint64 // of the last commit record
	batch   []byte // records since the last commit
	dueFull time.Time

	behindSince time.Time // a provider was first seen behind us; zero: none is
	refreshTook time.Duration
	committed   time.Time // last commit record
	moved       bool      // pos changed since
	filter      []byte
}

// published is what View gives.
type published struct {
	snap *broker.Snapshot
	asOf time.Time
}

// ErrNothingHeld says that Accept found nothing to accept.
var ErrNothingHeld = errors.New("no change is held back")

// New checks the configuration and takes hold of StateDir; it reads and
// connects to nothing yet. The error tells what is wrong with c, or that
// StateDir cannot be used.
func New(c Config) (*Sync, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	p, err := newPlan(c.Schema)
	if err != nil {
		return nil, err
	}
	base, err := NormalizeDN(c.BaseDN)
	if err != nil {
		return nil, err
	}
	s := &Sync{c: c, plan: p, base: base, wake: make(chan struct{}, 1), news: make(chan struct{}), m: newMirror(&c, p)}
	s.st.State = Stopped
	if s.filter, err = compileFilter(p.filter()); err != nil {
		return nil, err
	}
	s.store, err = openStore(&c, header{plan: p.fingerprint(), base: string(base), names: p.names})
	if err != nil {
		return nil, err
	}
	s.store.wake = s.nudge
	return s, nil
}

// nudge makes Run's loop look around.
func (s *Sync) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run loads the last good snapshot, then follows the directory until ctx is
// done; then it returns nil. It may be called once. Faults of the directory
// are mended by trying again and seen in Status; an error is returned only
// when nothing can be done at all.
func (s *Sync) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.ran || s.closed {
		s.mu.Unlock()
		return errors.New("ldapsync: Run is called twice, or after Close")
	}
	s.ran = true
	s.mu.Unlock()
	defer s.Close()
	defer s.setState(Stopped, "")
	if err := s.load(); err != nil {
		return err
	}
	defer s.store.stop()
	s.dueFull = s.nextFull()
	backoff := s.c.BackoffMin
	for {
		lived := s.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if lived {
			backoff = s.c.BackoffMin
		}
		wait := backoff/2 + rand.N(backoff/2+1)
		backoff = min(2*backoff, s.c.BackoffMax)
		s.mu.Lock()
		s.st.State, s.st.RetryAt = Waiting, s.c.Now().Add(wait)
		s.mu.Unlock()
		t := time.NewTimer(wait)
	waiting:
		for {
			select {
			case <-t.C:
				break waiting
			case <-s.wake:
				s.takeAccept()
			case <-ctx.Done():
				t.Stop()
				return nil
			}
		}
	}
}

// round tries each provider once; it reports whether one of them was live.
func (s *Sync) round(ctx context.Context) (lived bool) {
	for i := 0; i < len(s.c.URLs) && ctx.Err() == nil; i++ {
		e, err := parseURL(s.c.URLs[i])
		if err != nil {
			continue // validate has seen it
		}
		for again := true; again && ctx.Err() == nil; {
			var live bool
			live, again, err = s.follow(ctx, e)
			lived = lived || live
			if err == nil || ctx.Err() != nil {
				continue
			}
			s.mu.Lock()
			same := s.st.LastError == err.Error()
			s.st.LastError, s.st.LastErrorAt = err.Error(), s.c.Now()
			s.mu.Unlock()
			if same {
				s.c.Log.WithError(err).Debug("the directory cannot be followed")
			} else {
				s.c.Log.WithError(err).Warn("the directory cannot be followed")
			}
		}
		if lived {
			return true // from the first provider again
		}
	}
	return lived
}

func (s *Sync) nextFull() time.Time {
	if s.c.FullRefresh < 0 {
		return time.Time{}
	}
	return s.c.Now().Add(s.c.FullRefresh - rand.N(s.c.FullRefresh/5+1))
}

// load reads the snapshot on disk and publishes it.
func (s *Sync) load() error {
	s.setState(Loading, "")
	began := time.Now()
	s.m.deferGroup = true
	l, err := s.store.load(s.m, s.plan, s.base)
	if err != nil {
		return err
	}
	for _, f := range l.faults {
		s.c.Log.WithError(f).Error("the last good snapshot")
		s.mu.Lock()
		s.st.LastError, s.st.LastErrorAt = f.Error(), s.c.Now()
		s.mu.Unlock()
	}
	s.store.start(l)
	if len(l.segments) == 0 {
		s.m.rollback()
		s.full = true
		return nil
	}
	s.m.flushDeferred(false)
	s.m.begin()
	s.m.edit.SetGeneration(l.last.generation - min(l.last.generation, 1))
	s.m.changed = true
	s.m.commit()
	clear(s.m.gone)
	s.seq = l.last.seq
	s.pos.merge([]byte(l.last.cookie))
	s.full = !l.samePlan || s.pos.empty()
	asOf := l.last.asOf
	if now := s.c.Now(); asOf.After(now) {
		s.c.Log.Warnf("the snapshot on disk is from %s, which is yet to come: this machine's clock was or is wrong", asOf.UTC().Format(time.RFC3339))
		asOf = now
	}
	s.publish(s.m.cur, asOf)
	users, groups, hosts, rules := s.m.cur.Size()
	s.c.Log.Infof("loaded %d users, %d groups, %d hosts and %d rules as of %s in %s", users, groups, hosts, rules,
		asOf.UTC().Format(time.RFC3339), time.Since(began).Round(time.Millisecond))
	s.tidy(users)
	return nil
}

// tidy gives memory back after much was read.
func (s *Sync) tidy(users int) {
	if users > 20_000 {
		debug.FreeOSMemory()
	}
}

// publish makes snap what View gives.
func (s *Sync) publish(snap *broker.Snapshot, asOf time.Time) {
	s.mu.Lock()
	s.publishLocked(snap, asOf)
	s.mu.Unlock()
}

func (s *Sync) publishLocked(snap *broker.Snapshot, asOf time.Time) {
	if p := s.pub.Load(); p != nil && p.asOf.After(asOf) {
		asOf = p.asOf
	}
	s.pub.Store(&published{snap, asOf})
	s.st.LastChange = s.c.Now()
	close(s.news)
	s.news = make(chan struct{})
}

// proven moves AsOf: what is published was what the directory held at t.
func (s *Sync) proven(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pub.Load()
	if p == nil || s.held != nil || p.snap != s.m.cur || !t.After(p.asOf) {
		return
	}
	s.pub.Store(&published{p.snap, t})
	s.st.LastError = ""
}

// View is the published snapshot. It answers from memory, at once; the
// Snapshot is nil until one was loaded or read.
func (s *Sync) View() broker.View {
	p := s.pub.Load()
	if p == nil {
		return broker.View{}
	}
	return broker.View{Snapshot: p.snap, AsOf: p.asOf, MaxAge: s.c.MaxAge}
}

// Wait returns the view once its generation is greater than after (0: any),
// or ctx's error. A watcher calls it in a loop.
func (s *Sync) Wait(ctx context.Context, after uint64) (broker.View, error) {
	for {
		s.mu.Lock()
		news := s.news
		s.mu.Unlock()
		if v := s.View(); v.Snapshot != nil && v.Generation() > after {
			return v, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return broker.View{}, ctx.Err()
		}
	}
}

func (s *Sync) setState(state State, provider string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.st.State, s.st.RetryAt = state, time.Time{}
	if provider != "" {
		s.st.Provider = provider
	}
}

// Status tells how it is going.
func (s *Sync) Status() Status {
	fault, bytes := s.store.state()
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.st
	st.DiskError, st.DiskBytes = fault, bytes
	if s.held != nil {
		h := *s.held
		st.Held = &h
	}
	if p := s.pub.Load(); p != nil {
		st.Loaded, st.Generation, st.AsOf = true, p.snap.Generation(), p.asOf
		st.Users, st.Groups, st.Hosts, st.Rules = p.snap.Size()
		if st.State == Live && s.c.Now().Sub(p.asOf) > 2*s.c.ProbeEvery+s.c.Timeout {
			st.State = Lagging
		}
	}
	return st
}

// Close lets go of StateDir; after Run has returned, or instead of it. It may
// be called twice.
func (s *Sync) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && s.store.done == nil {
		s.store.stop()
	}
	s.closed = true
	return nil
}
