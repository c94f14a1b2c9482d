package broker

import "context"

// Prove has a claim judged for which no rule is asked, because nobody enters
// anything by it: a ticket from the KDC. The account must be open (Standing), the
// attempt allowed (Config.Take), and what was shown right. It is recorded; a yes
// has ReasonDeferred and grants nothing.
//
// prove is called whatever the account's state is, so that a refusal takes the
// same time.
func (b *Broker) Prove(ctx context.Context, r Request, p Proof, prove func(context.Context, Claim) Proven) Decision {
	v := b.c.Directory()
	a := Attempt{User: r.User, From: r.From, Host: r.Target.Host, Door: r.Door, Proof: p}
	if b.c.Take != nil {
		if may := b.c.Take(ctx, a); !may.OK {
			d := cannot(v, b.c.Now(), Proven{Reason: ReasonThrottled})
			if may.Unknown {
				d = cannot(v, b.c.Now(), Proven{Outcome: Unknown, Reason: ReasonState})
			}
			return b.record(r, d)
		}
	}
	d := standing(v, r, b.c.Now())
	proven := prove(ctx, claim(v, r))
	if d.Outcome == Allow && proven.Outcome != Allow {
		d = cannot(v, b.c.Now(), proven)
	}
	if b.c.Settle != nil {
		b.c.Settle(ctx, a, d.Outcome)
	}
	return b.record(r, d)
}
