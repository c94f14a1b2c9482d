package broker

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Errors of OpenSession and ResumeSession, besides NotOpened.
var (
	// ErrSessionExists: a session of that ID is tracked already.
	ErrSessionExists = errors.New("a session of that ID is open already")
	// ErrNoKeeper: nobody can end it. Keep comes first.
	ErrNoKeeper = errors.New("the session's keeper is not known")
	// ErrSessionClosed: CloseSession came before OpenSession had returned.
	ErrSessionClosed = errors.New("the session has ended before it was open")
)

// NotOpened is why a session may not begin.
type NotOpened struct {
	// Outcome is Deny, NeedProof, or Unknown when it could not be found out.
	Outcome Outcome
	Reason  Reason
	// Err is the recorder's error, when Reason is ReasonRecorder.
	Err error
}

func (e *NotOpened) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("opening a session: %s: %s: %v", e.Outcome, e.Reason, e.Err)
	}
	return fmt.Sprintf("opening a session: %s: %s", e.Outcome, e.Reason)
}

func (e *NotOpened) Unwrap() error { return e.Err }

const (
	// maxTracked bounds all sessions together, at some 1.5 KB each.
	maxTracked = 1 << 20
	// maxSessionID, in bytes, and maxSessionProofs bound one session; its other
	// texts are those that a rule's values may be.
	maxSessionID     = 128
	maxSessionProofs = 64
)

// live is all sessions that are open.
type live struct {
	mu   sync.Mutex
	all  map[SessionID]*tracked // guarded by mu, as all below
	on   rests
	view View      // the newest that all of them were judged on
	last time.Time // the latest at which one was judged, in the last pass or since

	keepers map[string]*keeper
	ready   []*keeper      // those with something in their queues
	events  []SessionEvent // to be recorded, in this order
	stats   SessionStats

	running, recording bool
	wake               chan struct{} // of one; for RunSessions
}

func newLive() *live {
	return &live{all: map[SessionID]*tracked{}, on: newRests(), keepers: map[string]*keeper{}, wake: make(chan struct{}, 1)}
}

// poke has RunSessions look.
func (l *live) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// OpenSession tracks a session from now on. It is judged at once, on its own
// Request and Proofs and the newest snapshot, so that no change since the
// decision is missed, and Rules, Until and Generation are set from that. Older
// proofs that count then (Recall) count for it for good. Its user may have
// Config.MaxSessions of BasisRules, and as many as the rules that grant it say in
// their permissions; those that are ending do not count. The
// error is a *NotOpened when it may not begin, for what the directory says, for
// the number of sessions, or because its beginning cannot be recorded; else one
// of those above, or says what is wrong with the session.
func (b *Broker) OpenSession(s Session) error {
	s.Request = b.Recall(s.Request)
	s.Ending, s.Why = time.Time{}, ReasonNone
	l := b.live
	l.mu.Lock()
	defer l.mu.Unlock()
	t, err := b.track(s, true)
	if err != nil {
		return err
	}
	if b.c.RecordSession != nil {
		opened := SessionEvent{Kind: SessionOpened, Session: t.Session}
		t.opening = true
		l.mu.Unlock()
		err = b.c.RecordSession(opened)
		l.mu.Lock()
		t.opening = false
	}
	switch {
	case err != nil:
		l.forget(t)
		return &NotOpened{Unknown, ReasonRecorder, err}
	case t.gone:
		b.event(SessionEvent{Kind: SessionClosed, Session: t.Session})
		return ErrSessionClosed
	case !t.Ending.IsZero(): // by a change, or a kill, since we looked
		l.forget(t)
		b.event(SessionEvent{Kind: SessionClosed, Session: t.Session, Reason: t.Why, By: t.by})
		return &NotOpened{Outcome: Deny, Reason: t.Why}
	}
	return nil
}

// ResumeSession tracks a session that began before this broker did, or that a
// host has reported: it counts against no limit and is not recorded as opened.
// When it may not live any more, or was told to end already, its keeper hears
// of it.
func (b *Broker) ResumeSession(s Session) error {
	l := b.live
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := b.track(s, false)
	return err
}

// track judges a session and puts it into the index; live.mu is held.
func (b *Broker) track(s Session, fresh bool) (*tracked, error) {
	l := b.live
	if err := s.check(); err != nil {
		return nil, err
	}
	k := l.keepers[s.Keeper]
	switch {
	case l.all[s.ID] != nil:
		return nil, ErrSessionExists
	case k == nil:
		return nil, ErrNoKeeper
	case len(l.all) >= maxTracked:
		return nil, &NotOpened{Outcome: Unknown, Reason: ReasonBusy}
	}
	v, now := b.c.Directory(), b.c.Now()
	w := judgeSession(v, &s, now)
	if fresh {
		if w.outcome != Allow {
			return nil, &NotOpened{Outcome: w.outcome, Reason: w.reason}
		}
		if b.tooMany(&s, &w) {
			return nil, &NotOpened{Outcome: Deny, Reason: ReasonTooMany}
		}
	}
	t := &tracked{Session: s}
	l.all[s.ID] = t
	if at := now.Round(0); at.After(l.last) {
		l.last = at
	}
	ahead := v.Snapshot != l.view.Snapshot
	l.on.add(t, v.Snapshot, ahead)
	if !t.Ending.IsZero() {
		l.toEnd(k, t, now)
		return t, nil
	}
	b.apply(t, v, w, now)
	if ahead && t.Ending.IsZero() && t.Basis != BasisNone {
		l.on.unsure[t] = struct{}{} // the next pass compares with a snapshot that it was not judged on
	}
	return t, nil
}

// check says what is wrong with a session.
func (s *Session) check() error {
	switch {
	case s.ID == "" || len(s.ID) > maxSessionID || checkText(string(s.ID)) != nil:
		return fmt.Errorf("tracking a session: its ID must have 1 to %d printable bytes", maxSessionID)
	case s.Basis > BasisRules:
		return fmt.Errorf("tracking session %s: no basis %d", s.ID, s.Basis)
	case len(s.Proofs)+len(s.Request.Recent) > maxSessionProofs || len(s.Rules) > maxValues:
		return fmt.Errorf("tracking session %s: more than %d proofs or %d rules", s.ID, maxSessionProofs, maxValues)
	}
	for _, p := range s.texts() {
		if err := checkText(*p); err != nil {
			return fmt.Errorf("tracking session %s: %q: %w", s.ID, clip(*p), err)
		}
	}
	for _, n := range s.Rules {
		if err := checkText(string(n)); err != nil {
			return fmt.Errorf("tracking session %s: rule %q: %w", s.ID, clip(string(n)), err)
		}
	}
	return nil
}

// tooMany reports whether the user has as many sessions as he may have.
func (b *Broker) tooMany(s *Session, w *verdict) bool {
	account, limit := b.live.on.accounts[s.Request.User], w.limit()
	if s.Basis != BasisRules || account == nil || b.c.MaxSessions == 0 && limit == 0 {
		return false
	}
	all, alike := 0, 0
	for _, t := range account.sessions {
		if t.Basis != BasisRules || !t.Ending.IsZero() {
			continue
		}
		all++
		if slices.ContainsFunc(t.Rules, func(n RuleName) bool { return slices.Contains(w.rules, n) }) {
			alike++
		}
	}
	return b.c.MaxSessions != 0 && all >= b.c.MaxSessions || limit != 0 && alike >= limit
}

// OverLimit reports whether a session's user has more than Config.MaxSessions, as
// can be with one that was resumed.
func (b *Broker) OverLimit(id SessionID) bool {
	l := b.live
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.all[id]
	if t == nil || t.Basis != BasisRules || !t.Ending.IsZero() || b.c.MaxSessions == 0 {
		return false
	}
	n := 0
	for _, o := range l.on.accounts[t.Request.User].sessions {
		if o.Basis == BasisRules && o.Ending.IsZero() {
			n++
		}
	}
	return n > b.c.MaxSessions
}

// apply does what a verdict says; live.mu is held.
func (b *Broker) apply(t *tracked, v View, w verdict, now time.Time) {
	l := b.live
	if w.outcome == Deny || w.outcome == NeedProof {
		b.end(t, w.reason, "", now)
		return
	}
	if t.Basis == BasisNone {
		return
	}
	mark(l.on.unsure, t, w.unsure)
	if l.on.setDue(t, w.due); t.place == 0 {
		l.poke() // RunSessions may sleep beyond it
	}
	if w.outcome == Allow {
		mark(l.on.fragile, t, w.fragile)
		t.Until, t.Generation = w.until.Round(0), v.Generation()
		l.on.setRules(t, w.rules)
	}
}

func mark(set map[*tracked]struct{}, t *tracked, in bool) {
	if in {
		set[t] = struct{}{}
	} else {
		delete(set, t)
	}
}

// forget takes a session out of everything; live.mu is held.
func (l *live) forget(t *tracked) {
	if t.gone {
		return
	}
	delete(l.all, t.ID)
	if k := l.keepers[t.Keeper]; k != nil {
		delete(k.ending, t)
	}
	l.on.remove(t)
}

// CloseSession says that a session has ended; why counts when it was not told
// to. An ID that is not known is fine: it was closed before. RunSessions records
// it.
func (b *Broker) CloseSession(id SessionID, why Reason) { b.closed(id, SessionClosed, why) }

// LoseSession is CloseSession for one that was gone when its keeper looked.
func (b *Broker) LoseSession(id SessionID) { b.closed(id, SessionLost, ReasonNone) }

func (b *Broker) closed(id SessionID, kind EventKind, why Reason) {
	l := b.live
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.all[id]
	if t == nil {
		return
	}
	l.forget(t)
	if t.opening {
		return // OpenSession sees it
	}
	e := SessionEvent{Kind: kind, Session: t.Session, Reason: why}
	if !t.Ending.IsZero() {
		e.Reason, e.By, e.Took = t.Why, t.by, max(0, b.c.Now().Sub(t.Ending))
	}
	b.event(e)
}

// event has RunSessions record it, after all that came before; live.mu is held.
func (b *Broker) event(e SessionEvent) {
	if b.c.RecordSession != nil {
		b.live.events = append(b.live.events, e)
		b.live.poke()
	}
}

// Session returns a session by its ID, as Sessions does.
func (b *Broker) Session(id SessionID) (s Session, ok bool) {
	l := b.live
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.all[id]
	if t == nil || t.opening {
		return Session{}, false
	}
	return t.Session, true
}

// Sessions calls f for each session that is open until f returns false, in no
// order. f gets a copy of its own, but for the lists in it: they are shared and
// must not be changed. f may call the broker.
func (b *Broker) Sessions(f func(*Session) bool) {
	for _, t := range b.live.list() {
		b.live.mu.Lock()
		s, skip := t.Session, t.gone || t.opening
		b.live.mu.Unlock()
		if !skip && !f(&s) {
			return
		}
	}
}

func (l *live) list() []*tracked {
	l.mu.Lock()
	defer l.mu.Unlock()
	ts := make([]*tracked, 0, len(l.all))
	for _, t := range l.all {
		ts = append(ts, t)
	}
	return ts
}

// Kill ends the sessions that match, whatever they rest on, and returns how
// many those are; by is who wants it. One that is ending already stays so, for
// its first reason, and its keeper is told again at once.
func (b *Broker) Kill(match func(*Session) bool, by string) (n int) {
	l := b.live
	for _, t := range l.list() {
		l.mu.Lock()
		s := t.Session
		l.mu.Unlock()
		if !match(&s) {
			continue
		}
		l.mu.Lock()
		if !t.gone {
			n++
			b.order(t, ReasonKilled, by)
		}
		l.mu.Unlock()
	}
	return n
}

// EndSession is Kill for one session and another reason: somebody else has
// judged it. It reports whether the session is tracked.
func (b *Broker) EndSession(id SessionID, why Reason, by string) bool {
	l := b.live
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.all[id]
	if t == nil {
		return false
	}
	b.order(t, why, by)
	return true
}

// order ends a session, or has its keeper told again; live.mu is held.
func (b *Broker) order(t *tracked, why Reason, by string) {
	if now := b.c.Now(); t.Ending.IsZero() {
		b.end(t, why, by, now)
	} else if !t.opening {
		b.live.toEnd(b.live.keepers[t.Keeper], t, now)
	}
}

// SessionStats says how it goes with the sessions.
type SessionStats struct {
	// Open are those that may live, and Ending those that were told to end and
	// have not ended yet.
	Open, Ending int
	// Unsure are those of Open that will be judged at the next change whatever it
	// is, mostly since the last judgement could not find out.
	Unsure int
	// Judged is how many were judged at the last change or at a time of theirs,
	// JudgedIn how long that took, and JudgedAll how many in all.
	Judged    int
	JudgedIn  time.Duration
	JudgedAll uint64
	// Unrecorded is how many events the recorder failed for, and Fault its last
	// error.
	Unrecorded uint64
	Fault      error
}

// SessionStats are the numbers of now.
func (b *Broker) SessionStats() SessionStats {
	l := b.live
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.stats
	for _, k := range l.keepers {
		st.Ending += len(k.ending)
	}
	st.Open, st.Unsure = len(l.all)-st.Ending, len(l.on.unsure)
	return st
}
