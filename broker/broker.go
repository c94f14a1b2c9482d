package broker

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// Config is what a Broker is made of.
type Config struct {
	// Directory gives the newest view; it must answer from memory, at once.
	Directory func() View
	// Record appends one decision to the audit record. A grant that it fails
	// for becomes "could not find out"; a refusal stands.
	Record func(Request, Decision) error
	// Now reads the clock.
	Now func() time.Time
	// Provers find out whether callers can prove what a rule wants; a proof
	// without one can only be shown by the door (a key that sshd has verified).
	Provers map[Proof]Prover
	// Change sets a new password; nil: passwords cannot be changed here.
	Change Changer
	// Clock says in one sentence which clock is so wrong that tickets prove
	// nothing, or "" when they do; nil: nobody watches the clocks.
	Clock func() string
	// RecordSession appends one event of a session to the audit record; nil:
	// none is kept. A session whose beginning cannot be recorded does not begin.
	RecordSession func(SessionEvent) error
	// Judged is told by RunSessions that all sessions were judged by the snapshot of
	// that generation, or a later one, and those marked that must end. It must be
	// quick. Nil: nobody asks.
	Judged func(generation uint64)
	// Take says whether an attempt may be made, before the directory is asked,
	// and Settle how it came out: Allow, Deny or Unknown. Nil: guessing is not
	// limited.
	Take   func(context.Context, Attempt) Allowance
	Settle func(context.Context, Attempt, Outcome)
	// Pause waits, or until the context ends: refusals of a sign-in take their time,
	// whatever their cause. Nil: they do not.
	Pause func(context.Context, time.Duration)
	// Recent are a user's older proofs from an address; nil: none count.
	Recent func(UserName, netip.Addr) []RecentProof
	// Remember notes a one-time code that somebody who was let in has just proved
	// from an address, for Recent; nil: none is remembered. It must not block.
	Remember func(UserName, netip.Addr, Proof)
	// MaxSessions is how many one user may have at once; 0: any number.
	MaxSessions int
}

func (c Config) validate() error {
	if c.Directory == nil || c.Record == nil || c.Now == nil {
		return errors.New("broker: Directory, Record and Now must be set")
	}
	return nil
}

// Broker answers the doors: it gathers what Decide needs and records what it
// said. It is safe for any number of goroutines.
type Broker struct {
	c    Config // immutable after New
	live *live
}

// New makes a Broker; the error names what is missing in c.
func New(c Config) (*Broker, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	return &Broker{c, newLive()}, nil
}

// View is the newest view of the directory.
func (b *Broker) View() View { return b.c.Directory() }

// Ask decides a request on the proofs that were shown, and records it. A
// ticket counts for nothing while a clock is wrong.
func (b *Broker) Ask(r Request, shown []Proof) Decision {
	v, r := b.c.Directory(), b.Recall(r)
	if slices.Contains(shown, ProofTicket) {
		if text := b.clock(); text != "" {
			shown = slices.DeleteFunc(slices.Clone(shown), func(p Proof) bool { return p == ProofTicket })
			if len(shown) == 0 {
				return b.record(r, nil, cannot(v, b.c.Now(), Proven{Outcome: Unknown, Reason: ReasonClock, Text: text}))
			}
		}
	}
	d := b.record(r, shown, Decide(v, r, shown, b.c.Now()))
	b.vouch(r, shown, d)
	return d
}

// Standing says whether an account is open at all, before it is known who wants
// to use it and what he has shown: unknown, ambiguous, locked, expired and
// nologin accounts are refused. A yes has ReasonDeferred and grants nothing. It
// is recorded.
func (b *Broker) Standing(r Request) Decision {
	return b.record(r, nil, standing(b.c.Directory(), r, b.c.Now()))
}

// record writes the decision down, and what it was made on: a grant that cannot be
// is none.
func (b *Broker) record(r Request, shown []Proof, d Decision) Decision {
	d.Shown = shown
	if err := b.c.Record(r, d); err != nil && d.Outcome == Allow {
		return Decision{Outcome: Unknown, Reason: ReasonRecorder, Generation: d.Generation, Age: d.Age}
	}
	return d
}

func (b *Broker) clock() string {
	if b.c.Clock == nil {
		return ""
	}
	return b.c.Clock()
}

// Explain is Ask with the grounds and without a record: nobody is let in by
// it. A time other than zero asks how it would be then, with the directory as
// it is and the snapshot as old as it is now.
func (b *Broker) Explain(r Request, shown []Proof, at time.Time) Explanation {
	v, now := b.c.Directory(), b.c.Now()
	if !at.IsZero() {
		v.AsOf = v.AsOf.Add(at.Sub(now))
		now = at
	}
	return Explain(v, b.Recall(r), shown, now)
}

// Now reads the broker's clock.
func (b *Broker) Now() time.Time { return b.c.Now() }
