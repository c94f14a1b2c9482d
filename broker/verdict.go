package broker

import (
	"slices"
	"time"
)

// lookAgain is how long a session that could not be judged waits for the next
// try, when nothing changes before.
const lookAgain = time.Minute

// verdict is what a session's judgement says.
type verdict struct {
	outcome Outcome
	reason  Reason
	rules   []RuleName
	grants  []Grant
	until   time.Time
	// due is when it must be judged again at the latest; zero for never.
	due time.Time
	// fragile: a rule that it does not rest on can end it, by matching too. That
	// is so where all that grant it force a command, where another door asks for
	// the proofs, and where each network of a deferred source has rules of its own.
	fragile bool
	// unsure: it depends on the snapshot's age, or could not be found out.
	unsure bool
}

// judgeSession asks a session's question again.
func judgeSession(v View, s *Session, now time.Time) verdict {
	var d Decision
	var fates []fate
	switch s.Basis {
	case BasisNone:
		return verdict{outcome: Allow}
	case BasisAccount:
		d = standing(v, s.Request, now)
	case BasisRules:
		j := judge(v, s.Request, s.Proofs, now)
		d, fates = j.decision, j.rules
	}
	w := verdict{outcome: d.Outcome, reason: d.Reason, rules: d.Rules, grants: d.Grants, until: d.Until, due: d.Until}
	switch d.Outcome {
	case Unknown:
		w.due, w.unsure = now.Add(lookAgain), true
	case Allow:
		w.fragile = s.Basis == BasisRules && (d.Reason == ReasonDeferred || s.Request.SourceDeferred && !s.Request.From.IsValid() ||
			slices.ContainsFunc(d.Grants, func(g Grant) bool { return g.Permit.Command != "" }))
		if w.fragile {
			w.watch(fates, now)
		}
	}
	return w
}

// watch has a fragile session judged again when a rule begins to match.
func (w *verdict) watch(fates []fate, now time.Time) {
	for _, f := range fates {
		switch f.miss {
		case missNotYet, missTime:
			w.due = sooner(w.due, f.until)
		case missStale: // until the snapshot is younger, which no time foretells
			w.due, w.unsure = sooner(w.due, now.Add(lookAgain)), true
		}
	}
}

// limit is how many sessions the grants let the user have by their rules; 0:
// any number. Of grants for several networks the least counts.
func (w *verdict) limit() int {
	n := 0
	for _, g := range w.grants {
		if l := g.Permit.Sessions; l != 0 && (n == 0 || l < n) {
			n = l
		}
	}
	return n
}
