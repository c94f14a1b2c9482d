package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/door/local"
	"github.com/sekisho/sekisho/wire"
)

// doorKeys is judged as its door does: where nothing else is said, the caller
// has shown a key, and sshd enforces the source.
const doorKeys broker.Door = "keys"

// doorPAM cannot hold a session to a forced command.
const doorPAM broker.Door = "pam"

// maxRules bounds the rules in an answer to why, so that it fits on the wire.
const maxRules = 100

// whyVerb answers `sekisho why`: everybody about himself, root about all.
func (d *daemon) whyVerb() local.Verb {
	b, wrongClock := d.broker, d.wrongClock
	return local.Verb{
		May: local.Self,
		Fields: []string{wire.FieldUser, report.FieldDoor, report.FieldTarget, report.FieldFrom,
			report.FieldLogin, report.FieldAt, report.FieldProof},
		Do: func(_ context.Context, _ local.Caller, r wire.Request) wire.Answer {
			q, proofs, at, err := readWhy(r)
			if err != nil {
				return wire.Answer{Reason: wire.ReasonMalformed, Text: err.Error()}
			}
			q = b.Recall(q)
			x := b.Explain(q, proofs, at)
			if at.IsZero() {
				at = b.Now()
			}
			w := whyReport(q, proofs, at, x)
			if d.cfg.Follows() && w.Reason == string(broker.ReasonUnknownUser) {
				w.Change = []string{fmt.Sprintf("this host is told of those alone whom a rule lets in here: on the broker, sekisho why %s %s %s says more", clip(w.User), clip(w.Door), clip(d.cfg.Host))}
			}
			if q.Door != doorKeys {
				w.Clock = clip(wrongClock())
			}
			body, err := report.Encode(w)
			if err != nil {
				return wire.Answer{Reason: "answer", Text: err.Error()}
			}
			return wire.Answer{Outcome: wireOutcome(x.Decision.Outcome), Reason: string(x.Decision.Reason), Body: body}
		},
	}
}

// readWhy reads the question; its errors are for the one who asked.
func readWhy(r wire.Request) (q broker.Request, proofs []broker.Proof, at time.Time, err error) {
	q = broker.Request{
		User:  broker.UserName(r.Get(wire.FieldUser)),
		Login: broker.Login(r.Get(report.FieldLogin)),
		Door:  broker.Door(r.Get(report.FieldDoor)),
	}
	if q.User == "" || q.Door == "" || r.Get(report.FieldTarget) == "" {
		return q, nil, at, fmt.Errorf("why needs a user, a door and a target")
	}
	q.Target = readTarget(r.Get(report.FieldTarget))
	if s := r.Get(report.FieldFrom); s != "" {
		if q.From, err = netip.ParseAddr(s); err != nil {
			return q, nil, at, fmt.Errorf("%.60q is no address to come from: write an IP address", s)
		}
		q.From = q.From.Unmap()
	}
	q.Unconfined = q.Door == doorPAM
	q.SourceDeferred = q.Door == doorKeys && !q.From.IsValid()
	if s := r.Get(report.FieldAt); s != "" {
		if at, err = time.Parse(time.RFC3339, s); err != nil {
			return q, nil, at, fmt.Errorf("%.60q is no time: write it as 2006-01-02T15:04:05Z", s)
		}
	}
	if s := r.Get(report.FieldProof); s != "" {
		for p := range strings.SplitSeq(s, ",") {
			proofs = append(proofs, broker.Proof(p))
		}
	} else if q.Door == doorKeys {
		proofs = []broker.Proof{broker.ProofKey}
	}
	return q, proofs, at, nil
}

// readTarget takes host:NAME, NAME or an address.
func readTarget(s string) broker.Target {
	if name, ok := strings.CutPrefix(s, "host:"); ok {
		return broker.Target{Host: broker.HostName(strings.ToLower(name))}
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return broker.Target{Addr: a.Unmap()}
	}
	return broker.Target{Host: broker.HostName(strings.ToLower(s))}
}

// whyReport puts an explanation into words that do not change.
func whyReport(q broker.Request, proofs []broker.Proof, at time.Time, x broker.Explanation) report.Why {
	d := x.Decision
	w := report.Why{
		User: string(q.User), Door: string(q.Door), Target: q.Target.String(), Login: string(q.Login),
		At: stamp(at), Proofs: texts(proofs), Outcome: d.Outcome.String(), Reason: string(d.Reason),
		Change: x.Change, Until: stamp(d.Until), Generation: d.Generation, AgeSeconds: int64(d.Age / time.Second),
		Rules: []report.Rule{},
	}
	if w.Login == "" {
		w.Login = w.User
	}
	if q.From.IsValid() {
		w.From = q.From.String()
	}
	for _, r := range q.Recent {
		w.Recent = append(w.Recent, report.Recent{Proof: string(r.Proof), AgeSeconds: int64(r.Age / time.Second)})
	}
	for _, g := range d.Grants {
		rg := report.Grant{Login: string(g.Login), Rules: texts(g.Rules), Permit: g.Permit.Values(), Until: stamp(g.Until)}
		if g.From.IsValid() {
			rg.From = g.From.String()
		}
		w.Grants = append(w.Grants, rg)
	}
	for _, list := range d.Need {
		var need report.Need
		for _, n := range list {
			var choices []string
			for _, c := range n {
				choices = append(choices, c.String())
			}
			need = append(need, choices)
		}
		w.Need = append(w.Need, need)
	}
	for _, f := range x.Rules[:min(len(x.Rules), maxRules)] {
		w.Rules = append(w.Rules, report.Rule{Name: string(f.Name), Matched: f.Matched, Miss: f.Miss,
			Via: texts(f.Via), HostVia: texts(f.HostVia)})
	}
	w.Change = w.Change[:min(len(w.Change), maxRules)]
	return w
}

// wireOutcome is the answer's word: a missing proof is a no until it is shown.
func wireOutcome(o broker.Outcome) wire.Outcome {
	switch o {
	case broker.Allow:
		return wire.Yes
	case broker.Deny, broker.NeedProof:
		return wire.No
	}
	return wire.Unknown
}

// stamp is RFC 3339 in UTC, and nothing for no time.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// texts turns named strings into plain ones.
func texts[S ~string](in []S) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = string(s)
	}
	return out
}
