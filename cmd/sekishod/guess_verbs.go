package main

import (
	"context"
	"net/netip"
	"strings"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/door/local"
	"github.com/sekisho/sekisho/wire"
)

// mostLockouts is how many are shown at once, within the limits of an answer.
const mostLockouts = 1000

// lockoutsVerb answers `sekisho lockouts ls`.
func (d *daemon) lockoutsVerb() local.Verb {
	return local.Verb{
		May: local.RootOnly,
		Do: func(context.Context, local.Caller, wire.Request) wire.Answer {
			out := report.Lockouts{Lockouts: []report.Lockout{}}
			found := d.guesses.own.Lockouts(mostLockouts + 1)
			if out.More = len(found) > mostLockouts; out.More {
				found = found[:mostLockouts]
			}
			for _, l := range found {
				user, source := l.Parts()
				out.Lockouts = append(out.Lockouts, report.Lockout{Kind: string(l.Kind), User: string(user), Source: source,
					Wrong: l.Wrong, Last: stamp(l.Last), Until: stamp(l.Until)})
			}
			body, err := report.Encode(out)
			if err != nil {
				return wire.Answer{Reason: "answer", Text: err.Error()}
			}
			return wire.Answer{Outcome: wire.Yes, Body: body}
		},
	}
}

// unlockVerb answers `sekisho lockouts clear`.
func (d *daemon) unlockVerb() local.Verb {
	return local.Verb{
		May:    local.RootOnly,
		Fields: []string{wire.FieldUser, report.FieldSource, report.FieldAll},
		Do: func(_ context.Context, _ local.Caller, r wire.Request) wire.Answer {
			what := broker.GuessClear{User: broker.UserName(r.Get(wire.FieldUser)), All: r.Get(report.FieldAll) == "yes", By: "root"}
			if s := r.Get(report.FieldSource); s != "" {
				var ok bool
				if what.Source, ok = sourceNamed(s); !ok {
					return wire.Answer{Reason: wire.ReasonMalformed, Text: "a source is an address, a network as sekisho lockouts ls has it, or \"on HOST\""}
				}
			}
			if what.User == "" && what.Source == "" && !what.All {
				return wire.Answer{Reason: wire.ReasonMalformed, Text: "say what to clear: a user, a source, or all"}
			}
			n := d.guesses.own.Clear(what)
			d.log.WithField("part", "guessing").WithField("cleared", n).WithField("by", "root").Warn("counters of wrong passwords were cleared")
			body, err := report.Encode(report.Unlocked{Cleared: n})
			if err != nil {
				return wire.Answer{Reason: "answer", Text: err.Error()}
			}
			return wire.Answer{Outcome: wire.Yes, Body: body}
		},
	}
}

// sourceNamed is a network as counters are kept by it, from an address in it or
// its name.
func sourceNamed(s string) (string, bool) {
	if host, ok := strings.CutPrefix(s, "on "); ok && host != "" {
		return s, true
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		p, perr := netip.ParsePrefix(s)
		if a = p.Addr(); perr != nil || (broker.Attempt{From: a, Remote: true}).Source() != p.Masked().String() {
			return "", false
		}
	}
	return broker.Attempt{From: a, Remote: true}.Source(), true
}
