package broker

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// RefusalTime is when the answer comes to whoever is refused, counted from his
// last reply; when finding out took longer, at twice that, and so on. A wrong
// password, a user that there is not, a locked one and one who must wait look
// alike then, however long the directory takes for each: the slowest of them,
// making a key of a password, takes a tenth of it. Somebody who has mistyped
// hardly notices.
const RefusalTime = 1500 * time.Millisecond

// TextUnknown is what a caller is told for "could not find out" when there is
// nothing better.
const TextUnknown = "it could not be found out whether you may enter: try again later"

// trial is one proof under way: the budgets are asked between the caller's first
// reply and what the prover does with it.
type trial struct {
	b       *Broker
	at      Attempt
	taken   bool      // there is a unit to settle
	stopped *Proven   // the budgets have said no
	replied time.Time // the last reply came
	gone    bool      // the caller has
}

func (b *Broker) trial(r Request, p Proof) *trial {
	return &trial{b: b, at: Attempt{User: r.User, From: r.From, Remote: r.Remote, Host: r.Target.Host, Door: r.Door, Proof: p}}
}

// asker asks the caller, and the budgets once he has said something that could be
// a guess: anything but a new password. It is an error then that stops the prover.
func (t *trial) asker(ask Asker) Asker {
	return func(ctx context.Context, ps ...Prompt) ([]string, error) {
		if t.stopped != nil {
			return nil, fmt.Errorf("%w: he must wait", ErrConversation)
		}
		replies, err := ask(ctx, ps...)
		if err != nil {
			t.gone = true
			return nil, err
		}
		guess := false
		for _, p := range ps {
			if p.Kind.WantsReply() {
				t.replied = t.b.c.Now()
				guess = guess || p.Kind != PromptNewPassword
			}
		}
		if guess && !t.take(ctx) {
			clear(replies)
			return nil, fmt.Errorf("%w: he must wait", ErrConversation)
		}
		return replies, nil
	}
}

// take asks the budgets, once.
func (t *trial) take(ctx context.Context) bool {
	if t.b.c.Take == nil || t.taken {
		return true
	}
	switch al := t.b.c.Take(ctx, t.at); {
	case al.OK:
		t.taken = true
		return true
	case al.Unknown:
		t.stopped = &Proven{Outcome: Unknown, Reason: ReasonState}
	default:
		t.stopped = &Proven{Reason: ReasonThrottled}
	}
	return false
}

// run is a prover under the budgets. A prover that was stopped has asked nobody,
// and what it says does not count.
func (t *trial) run(ctx context.Context, prove Prover, c Claim, ask Asker) Proven {
	p := prove(ctx, c, t.asker(ask))
	if t.stopped != nil {
		return *t.stopped
	}
	return p
}

// settle says how the attempt came out: p is what the prover found, and o what
// became of the sign-in. A right password that does not let in counts as wrong, for
// else it could be told from a wrong one by what is left of a budget; so does one
// after which the caller has left. A new password that was refused says nothing of
// the old one.
func (t *trial) settle(ctx context.Context, p Proven, o Outcome) {
	if t == nil || !t.taken {
		return
	}
	t.taken = false
	switch {
	case p.Reason == ReasonPasswordRefused:
		o = NeedProof
	case p.Outcome == Unknown && p.Reason != ReasonConversation:
		o = Unknown
	case p.Outcome != Allow:
		o = Deny
	}
	if t.b.c.Settle != nil {
		t.b.c.Settle(ctx, t.at, o)
	}
}

// vouch tells the budgets that somebody has entered by a key, a certificate or a
// ticket that the door's peer has verified, so that the place is known for his
// passwords too.
func (b *Broker) vouch(r Request, shown []Proof, d Decision) {
	if b.c.Settle == nil || d.Outcome != Allow || d.Reason == ReasonDeferred || !r.From.IsValid() ||
		!slices.ContainsFunc(shown, func(p Proof) bool { return p == ProofKey || p == ProofCertificate || p == ProofTicket }) {
		return
	}
	b.c.Settle(context.Background(), Attempt{User: r.User, From: r.From, Remote: r.Remote, Host: r.Target.Host, Door: r.Door, Proof: shown[0]}, Allow)
}

// pause has a refusal wait for its time, if there is somebody to hear it.
func (t *trial) pause(ctx context.Context) {
	if t == nil || t.b.c.Pause == nil || t.replied.IsZero() || t.gone {
		return
	}
	took := t.b.c.Now().Sub(t.replied)
	if took < 0 { // the clock was set back
		took = 0
	}
	t.b.c.Pause(ctx, RefusalTime-took%RefusalTime)
}
