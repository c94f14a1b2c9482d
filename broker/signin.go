package broker

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// PromptKind says how a prompt is shown and what its reply is.
type PromptKind uint8

const (
	PromptInfo        PromptKind = iota // a message, no reply
	PromptError                         // a message, no reply
	PromptPassword                      // the password in use; not echoed
	PromptNewPassword                   // a password to be; not echoed
	PromptSecret                        // any other secret, such as a one-time code; not echoed
	PromptVisible                       // echoed
)

// WantsReply reports whether the caller answers a prompt of this kind.
func (k PromptKind) WantsReply() bool { return k >= PromptPassword }

// Prompt is one message or question to the caller of a door.
type Prompt struct {
	Kind PromptKind
	// Text is one line, such as "Password: ".
	Text string
}

// Asker puts prompts to the caller, together, and returns the replies in the
// order of those prompts that want one, exactly as many. The error says that
// the caller has gone, took too long or broke the protocol.
type Asker func(ctx context.Context, ps ...Prompt) ([]string, error)

// ErrConversation is what an Asker's error is, by errors.Is.
var ErrConversation = errors.New("the caller has left the conversation")

// Claim is who wants to prove something.
type Claim struct {
	User UserName
	// DN is the user's entry; empty when the directory has no such user, or
	// two. A prover does the same then as for any other user.
	DN   DN
	Door Door
	From netip.Addr // invalid when not known
}

// Prover finds out whether a caller can prove what he claims, by asking him.
// It ends soon after ctx.
type Prover func(ctx context.Context, c Claim, ask Asker) Proven

// Proven is what a prover found out. The zero value denies.
type Proven struct {
	// Outcome is Allow, Deny or Unknown.
	Outcome Outcome
	// Reason is set unless Outcome is Allow.
	Reason Reason
	// Text is a sentence that the caller may be told; mostly empty.
	Text string
	// Tickets is a credential cache (MIT's file format, version 4) for the
	// caller's session, if the proof brought one, and TicketsEnd when the
	// first of them ends.
	Tickets    []byte
	TicketsEnd time.Time
}

// Changer sets the new password of a user who knows the old one, in all places
// that have it. The new password was typed twice already.
type Changer func(ctx context.Context, c Claim, old, new string) Proven

// Evidence is what a sign-in has shown.
type Evidence struct {
	// Proofs are those that the door had seen and those proved since.
	Proofs     []Proof
	Tickets    []byte
	TicketsEnd time.Time
}

// maxProofs bounds the provers of one sign-in.
const maxProofs = 4

// SignIn has the caller prove what the request still needs, and decides. shown
// is what the door's peer has verified already. It says yes only to a caller
// who has proved something in it, and it records one decision. The evidence is
// for an allow only.
//
// Somebody whom the decision refuses whatever he proves, an unknown user above
// all, is asked for his password like everybody else, and it is checked.
func (b *Broker) SignIn(ctx context.Context, r Request, shown []Proof, ask Asker) (Decision, Evidence) {
	r = b.Recall(r)
	e := Evidence{Proofs: slices.Clone(shown)}
	var t *trial // the last one
	var p Proven // and how it came out
	for round := 0; ; round++ {
		v := b.c.Directory()
		d := Decide(v, r, e.Proofs, b.c.Now())
		var next Proof
		switch {
		case d.Outcome == Unknown, round > 0 && d.Outcome != NeedProof:
			return b.conclude(ctx, r, ending{d, e, t, p})
		case d.Outcome == NeedProof && len(e.Proofs) > 0:
			next = b.missing(d.Need, e.Proofs)
		default:
			next = ProofPassword
		}
		prove := b.c.Provers[next]
		if prove == nil || round == maxProofs || slices.Contains(e.Proofs, next) {
			if d.Outcome == Allow { // but nothing was proved here
				d = Decision{Outcome: NeedProof, Reason: ReasonProof, Rules: d.Rules, Generation: d.Generation, Age: d.Age}
			}
			return b.conclude(ctx, r, ending{d, e, t, p})
		}
		t.settle(ctx, p, NeedProof)
		t = b.trial(r, next)
		p = t.run(ctx, prove, claim(v, r), ask)
		switch {
		case d.Outcome == Deny:
			if p.Outcome == Unknown { // what others are told then
				d.Text = cmp.Or(p.Text, TextUnknown)
			}
			return b.conclude(ctx, r, ending{d, e, t, p}) // whatever was proved
		case p.Outcome != Allow:
			return b.conclude(ctx, r, ending{cannot(v, b.c.Now(), p), e, t, p})
		}
		e.Proofs = append(e.Proofs, next)
		if p.Tickets != nil {
			e.Tickets, e.TicketsEnd = p.Tickets, p.TicketsEnd
		}
	}
}

// ending is how a sign-in ends.
type ending struct {
	d Decision
	e Evidence
	t *trial // the last proof, nil for none, and how it came out
	p Proven
}

// conclude records the decision; the evidence goes with a grant alone. A refusal
// takes its time.
func (b *Broker) conclude(ctx context.Context, r Request, end ending) (Decision, Evidence) {
	d := b.record(r, end.e.Proofs, end.d)
	became := d.Outcome
	if became == NeedProof { // and nobody asks for it
		became = Deny
	}
	end.t.settle(ctx, end.p, became)
	if d.Outcome != Allow {
		end.t.pause(ctx)
		return d, Evidence{}
	}
	b.remember(r, end.e)
	return d, end.e
}

// claim is the request's user as a prover needs him.
func claim(v View, r Request) Claim {
	c := Claim{User: r.User, Door: r.Door, From: r.From}
	if v.Snapshot != nil {
		if u, ambiguous := v.User(r.User); u != nil && !ambiguous {
			c.DN = u.DN
		}
	}
	return c
}

// missing is the proof to ask for next: of the first list of needs that all
// have provers, the first. Empty: there is none.
func (b *Broker) missing(lists [][]ProofNeed, shown []Proof) Proof {
	for _, needs := range lists {
		var first Proof
		for i, n := range needs {
			at := slices.IndexFunc(n, func(c ProofChoice) bool { return b.c.Provers[c.Proof] != nil && !slices.Contains(shown, c.Proof) })
			if at < 0 {
				first = ""
				break
			}
			if i == 0 {
				first = n[at].Proof
			}
		}
		if first != "" {
			return first
		}
	}
	return ""
}

// cannot is the decision when a prover did not say yes.
func cannot(v View, now time.Time, p Proven) Decision {
	d := Decision{Outcome: Deny, Reason: p.Reason, Text: p.Text}
	if p.Outcome == Unknown {
		d.Outcome = Unknown
	}
	if d.Reason == ReasonNone {
		d.Outcome, d.Reason = Unknown, ReasonProver
	}
	if v.Snapshot != nil {
		d.Generation, d.Age = v.Generation(), v.Age(now)
	}
	return d
}

// MayChange reports whether a user has a password that can be changed here.
func (b *Broker) MayChange(user UserName) Proven {
	v := b.c.Directory()
	switch {
	case b.c.Change == nil:
		return Proven{Outcome: Unknown, Reason: ReasonProver, Text: "passwords cannot be changed on this host"}
	case v.Snapshot == nil:
		return Proven{Outcome: Unknown, Reason: ReasonNoSnapshot}
	case claim(v, Request{User: user}).DN == "":
		return Proven{Reason: ReasonUnknownUser}
	}
	return Proven{Outcome: Allow}
}

// ChangePassword has the caller change his own password: the old one, the new
// one twice. No rule is needed for it, and nothing is granted by it.
func (b *Broker) ChangePassword(ctx context.Context, r Request, ask Asker) Proven {
	if p := b.MayChange(r.User); p.Outcome != Allow {
		return p
	}
	t := b.trial(r, ProofPassword)
	old, err := ask(ctx, Prompt{PromptPassword, "Current password: "})
	if err != nil || len(old) != 1 {
		return Proven{Outcome: Unknown, Reason: ReasonConversation}
	}
	new, p := AskNewPassword(ctx, ask)
	if p.Outcome != Allow {
		return p
	}
	t.replied = b.c.Now()
	if !t.take(ctx) {
		p = *t.stopped
	} else {
		p = b.c.Change(ctx, claim(b.c.Directory(), r), old[0], new)
	}
	t.settle(ctx, p, NeedProof) // it was no sign-in
	if p.Outcome != Allow {
		t.pause(ctx)
	}
	return p
}

// AskNewPassword has the caller type a new password twice. The password counts
// only when the outcome is Allow.
func AskNewPassword(ctx context.Context, ask Asker) (string, Proven) {
	var typed [2]string
	for i, text := range []string{"New password: ", "Retype new password: "} {
		replies, err := ask(ctx, Prompt{PromptNewPassword, text}) // one by one: two long ones fit no request
		if err != nil || len(replies) != 1 {
			return "", Proven{Outcome: Unknown, Reason: ReasonConversation}
		}
		typed[i] = replies[0]
	}
	switch {
	case typed[0] != typed[1]:
		return "", Proven{Reason: ReasonPasswordRefused, Text: "the new password was typed in two ways: nothing was changed"}
	case typed[0] == "":
		return "", Proven{Reason: ReasonPasswordRefused, Text: "the new password is empty: nothing was changed"}
	}
	return typed[0], Proven{Outcome: Allow}
}
