package broker

import (
	"context"
	"errors"
	"fmt"
)

// Errors of OpenSession and ResumeSession, besides NotOpened.
var (
	// ErrSessionExists: a session of that ID is tracked already.
	ErrSessionExists = errors.New("a session of that ID is open already")
	// ErrNoKeeper: nobody can end it. Keep comes first.
	ErrNoKeeper = errors.New("the session's keeper is not known")
	// ErrSession: its ID or a text in it is empty, too long or not printable.
	ErrSession = errors.New("not a session that can be tracked")
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

// SessionStats says how it goes with the sessions.
type SessionStats struct {
	// Open are those that may live, and Ending those that were told to end and
	// have not ended yet.
	Open, Ending int
	// Unsure are those of Open whose last judgement could not find out.
	Unsure int
	// Judged is how many were judged at the last change, and JudgedAll in all.
	Judged    int
	JudgedAll uint64
	// Unrecorded is how many events the recorder failed for.
	Unrecorded uint64
}

// Keep names who ends sessions: end is called, from a goroutine of
// RunSessions, for each session of that keeper which must end. It sets that
// going and comes back at once, for it is called for one session after the
// other; CloseSession is the answer, when all of the session has ended. Without
// one within a second it is called again, then after two seconds, four, and at
// last once a minute: it must take the same session any number of times.
//
// A second Keep of the same name takes the first one's place, and is told of
// all sessions that are ending. A nil end is a keeper that cannot be reached
// now: its sessions wait for the next.
func (b *Broker) Keep(keeper string, end func(Ending)) {}

// OpenSession tracks a session from now on. It is judged at once, on its own
// Request and Proofs and the newest snapshot, so that no change since the
// decision is missed, and Rules, Until and Generation are set from that. The
// error is a *NotOpened when it may not begin, for what the directory says, for
// the number of sessions, or because its beginning cannot be recorded; else one
// of those above.
func (b *Broker) OpenSession(s Session) error { return nil }

// ResumeSession tracks a session that began before this broker did, or that a
// host has reported: it counts against no limit and is not recorded as opened.
// When it may not live any more, or was told to end already, its keeper hears
// of it.
func (b *Broker) ResumeSession(s Session) error { return nil }

// CloseSession says that a session has ended; why counts when it was not told
// to. An ID that is not known is fine: it was closed before. The event is
// recorded by RunSessions.
func (b *Broker) CloseSession(id SessionID, why Reason) {}

// LoseSession is CloseSession for one that was gone when its keeper looked.
func (b *Broker) LoseSession(id SessionID) {}

// Session returns a session by its ID.
func (b *Broker) Session(id SessionID) (s Session, ok bool) { return s, false }

// Sessions calls f for each session that is tracked until f returns false, in
// no order. f gets a copy whose lists are shared: they must not be changed. It
// may call the broker.
func (b *Broker) Sessions(f func(*Session) bool) {}

// Kill ends the sessions that match, whatever they rest on, and returns how
// many those are; by is who wants it. One that is ending already stays so, for
// its first reason, and its keeper is told again.
func (b *Broker) Kill(match func(*Session) bool, by string) int { return 0 }

// RunSessions judges sessions again when something has changed that they rest
// on, and has those end that may not live any more, until ctx ends; then it
// returns nil, when all keepers that it called have come back and all events
// are recorded. wait gives the view once its generation is greater than after;
// its error, other than ctx's, ends RunSessions.
func (b *Broker) RunSessions(ctx context.Context, wait func(ctx context.Context, after uint64) (View, error)) error {
	<-ctx.Done()
	return nil
}

// SessionStats are the numbers of now.
func (b *Broker) SessionStats() SessionStats { return SessionStats{} }
