package broker

import "context"

// Prove has a claim judged for which no rule is asked, because nobody enters
// anything by it: a ticket from the KDC. The account must be open, as for Standing;
// the attempt allowed (Config.Take); and what was shown right, which prove finds
// out. It is recorded; a yes has ReasonDeferred and grants nothing.
//
// prove is called whatever the account's state, and a refusal takes its time
// (RefusalTime). When it could not be found out whether what was shown is right,
// that is the answer for everybody.
func (b *Broker) Prove(ctx context.Context, r Request, shown Proof, prove func(context.Context, Claim) Proven) Decision {
	v := b.c.Directory()
	d := standing(v, r, b.c.Now())
	if d.Outcome == Unknown { // whatever was shown, and nothing is used up for it
		return b.record(r, nil, d)
	}
	t := b.trial(r, shown)
	t.replied = b.c.Now()
	var p Proven
	if t.take(ctx) {
		p = prove(ctx, claim(v, r))
	} else {
		p = *t.stopped
	}
	if p.Outcome != Allow && (d.Outcome == Allow || p.Outcome == Unknown) {
		d = cannot(v, b.c.Now(), p)
	}
	var good []Proof
	if p.Outcome == Allow {
		good = []Proof{shown}
	}
	d = b.record(r, good, d)
	t.settle(ctx, p, d.Outcome)
	if d.Outcome == Deny {
		t.pause(ctx)
	}
	return d
}
