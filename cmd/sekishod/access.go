package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/door/local"
	"github.com/sekisho/sekisho/wire"
)

const (
	accessPage  = 500   // ways in, in one answer, and those of its last host or user
	accessUsers = 20000 // users of a host's rules that are gone through
	accessLists = 20    // logins, rules and networks of one way in that are told
)

// allProofs is what somebody who has everything shows.
var allProofs = []broker.Proof{broker.ProofKey, broker.ProofCertificate, broker.ProofPassword, broker.ProofTicket, broker.ProofOTP}

// accessVerb answers `sekisho audit report`: who may enter what as the directory
// is now. It is recorded by nobody, as why is not.
func (d *daemon) accessVerb() local.Verb {
	return local.Verb{
		May:    local.RootOnly,
		Fields: []string{wire.FieldUser, report.FieldHost, report.FieldAfter},
		Do: func(ctx context.Context, _ local.Caller, r wire.Request) wire.Answer {
			user, host := broker.UserName(r.Get(wire.FieldUser)), broker.HostName(strings.ToLower(r.Get(report.FieldHost)))
			if (user == "") == (host == "") {
				return wire.Answer{Reason: wire.ReasonMalformed, Text: "access needs a user or a host"}
			}
			v := d.broker.View()
			if v.Snapshot == nil {
				return wire.Answer{Reason: string(broker.ReasonNoSnapshot), Text: "there is no snapshot yet: see sekisho status"}
			}
			now := d.broker.Now()
			x := access{view: v, now: now, page: report.AccessPage{Generation: v.Generation(), AgeSeconds: int64(v.Age(now) / time.Second)}}
			var ok bool
			if user != "" {
				ok = x.ofUser(ctx, user, broker.HostName(r.Get(report.FieldAfter)))
			} else {
				ok = x.ofHost(ctx, host, broker.UserName(r.Get(report.FieldAfter)))
			}
			if !ok {
				return wire.Answer{Outcome: wire.No, Reason: "no-entry", Text: "the directory has no such user or host, or it has two"}
			}
			if ctx.Err() != nil {
				return wire.Answer{Reason: wire.ReasonBusy, Text: "it takes too long"}
			}
			body, err := report.EncodeAccess(x.page)
			if err != nil {
				return wire.Answer{Reason: "answer", Text: err.Error()}
			}
			return wire.Answer{Outcome: wire.Yes, Body: body}
		},
	}
}

// access is one answer being made.
type access struct {
	view broker.View
	now  time.Time
	page report.AccessPage
}

// ofUser goes through the hosts after one, by name.
func (x *access) ofUser(ctx context.Context, name broker.UserName, after broker.HostName) bool {
	s := x.view.Snapshot
	u, ambiguous := s.User(name)
	if u == nil || ambiguous {
		return false
	}
	var hosts []*broker.Host
	s.Hosts(func(h *broker.Host) bool {
		if len(h.Names) > 0 && h.Names[0] > after {
			hosts = append(hosts, h)
		}
		return true
	})
	slices.SortFunc(hosts, func(a, b *broker.Host) int { return strings.Compare(string(a.Names[0]), string(b.Names[0])) })
	for i, h := range hosts {
		if ctx.Err() != nil {
			return true
		}
		x.add(u, h, s.RulesFor(h))
		if len(x.page.Access) >= accessPage && i+1 < len(hosts) {
			x.page.After = string(h.Names[0])
			return true
		}
	}
	return true
}

// ofHost goes through the users that a host's rules are for.
func (x *access) ofHost(ctx context.Context, name broker.HostName, after broker.UserName) bool {
	s := x.view.Snapshot
	h := s.Host(name)
	if h == nil {
		return false
	}
	rules := s.RulesFor(h)
	found := map[broker.UserName]*broker.User{}
	for _, r := range rules {
		s.SubjectUsers(r.Rule.Subjects, func(u *broker.User) { found[u.Name] = u })
	}
	if len(found) > accessUsers {
		x.page.TooMany = len(found)
		return true
	}
	var names []broker.UserName
	for n := range found {
		if n > after {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	for i, n := range names {
		if ctx.Err() != nil {
			return true
		}
		x.add(found[n], h, rules)
		if len(x.page.Access) >= accessPage && i+1 < len(names) {
			x.page.After = string(n)
			return true
		}
	}
	return true
}

// add adds the doors through which a user may enter a host: each door and account
// that a rule names is asked for, with all proofs, from anywhere.
func (x *access) add(u *broker.User, h *broker.Host, rules []broker.TargetRule) {
	doors := map[broker.Door]bool{}
	logins := map[broker.Login]bool{}
	for _, r := range rules {
		if !x.view.IsSubject(u, r.Rule.Subjects) {
			continue
		}
		for _, door := range r.Rule.Doors {
			if strings.ContainsAny(door, `*?[\`) { // the doors that there are
				doors[doorKeys], doors[doorPAM] = true, true
			} else {
				doors[broker.Door(door)] = true
			}
		}
		for _, l := range r.Rule.Logins {
			if l == "self" || strings.ContainsAny(l, `*?[\`) {
				logins[broker.Login(u.Name)] = true
			} else {
				logins[broker.Login(l)] = true
			}
		}
	}
	for _, door := range sorted(doors) {
		a := report.Access{User: clip(string(u.Name)), Host: clip(string(h.Names[0])), Door: clip(string(door))}
		anywhere := false
		var until time.Time
		for _, l := range sorted(logins) {
			d := broker.Decide(x.view, broker.Request{User: u.Name, Login: l, Door: door, Target: broker.Target{Host: h.Names[0]},
				SourceDeferred: true, Unconfined: door == doorPAM}, allProofs, x.now)
			if d.Outcome != broker.Allow {
				continue
			}
			a.Logins = put(a.Logins, string(l))
			for _, g := range d.Grants {
				for _, n := range g.Rules {
					a.Rules = put(a.Rules, string(n))
				}
				if anywhere = anywhere || !g.From.IsValid(); g.From.IsValid() {
					a.From = put(a.From, g.From.String())
				}
				if !g.Until.IsZero() && (until.IsZero() || g.Until.Before(until)) {
					until = g.Until
				}
			}
		}
		if a.Logins == nil {
			continue
		}
		if anywhere {
			a.From = nil
		}
		a.Until = stamp(until)
		x.page.Access = append(x.page.Access, a)
	}
}

// put adds a text that is not there yet, while there is room.
func put(list []string, s string) []string {
	if s = clip(s); len(list) < accessLists && !slices.Contains(list, s) {
		return append(list, s)
	}
	return list
}

func sorted[K ~string](m map[K]bool) []K {
	var out []K
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
