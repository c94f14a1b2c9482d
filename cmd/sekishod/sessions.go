package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/door/local"
	"github.com/sekisho/sekisho/wire"
)

// sessionsVerb answers `sekisho sessions`: everybody about himself, root about
// all.
func (d *daemon) sessionsVerb() local.Verb {
	return local.Verb{
		May:    local.Anyone,
		Fields: []string{wire.FieldUser, report.FieldSession, report.FieldHost, report.FieldAfter, report.FieldHere},
		Do: func(ctx context.Context, c local.Caller, r wire.Request) wire.Answer {
			user, host := broker.UserName(r.Get(wire.FieldUser)), strings.ToLower(r.Get(report.FieldHost))
			if !c.Root() {
				if c.User == "" || user != "" && user != c.User {
					return wire.Answer{Reason: wire.ReasonCaller, Text: "only root may see the sessions of others"}
				}
				user = c.User
			}
			want := wanted{user: string(user), id: r.Get(report.FieldSession), host: host}
			after := broker.SessionID(r.Get(report.FieldAfter))
			found := d.firstSessions(func(s *broker.Session) bool { return s.ID > after && want.own(s) && !d.elsewhere(s.ID) })
			p := report.SessionPage{Sessions: make([]report.Session, len(found)), Broker: d.sharedName()}
			for i, s := range found {
				p.Sessions[i] = sessionReport(s)
				p.Sessions[i].Broker = p.Broker
			}
			if r.Get(report.FieldHere) == "" {
				d.addTheirs(ctx, &p, want, string(after))
			}
			slices.SortFunc(p.Sessions, func(a, b report.Session) int { return cmp.Compare(a.ID, b.ID) })
			body, err := report.EncodeSessions(p)
			if err != nil {
				return wire.Answer{Reason: "answer", Text: err.Error()}
			}
			return wire.Answer{Outcome: wire.Yes, Body: body}
		},
	}
}

// firstSessions are the first by id that match, as many as a page can have and one
// more.
func (d *daemon) firstSessions(match func(*broker.Session) bool) (found []broker.Session) {
	const most = report.MaxPage + 1
	cut := func() {
		slices.SortFunc(found, func(a, b broker.Session) int { return cmp.Compare(a.ID, b.ID) })
		found = found[:min(len(found), most)]
	}
	d.broker.Sessions(func(s *broker.Session) bool {
		if match(s) {
			if found = append(found, *s); len(found) == 4*most {
				cut()
			}
		}
		return true
	})
	cut()
	return found
}

// wanted says which sessions are meant; what is empty says nothing.
type wanted struct {
	user, id, host string
}

func (w wanted) own(s *broker.Session) bool {
	return w.fits(string(s.ID), s.Place, string(s.Request.User), string(s.Request.Login))
}

func (w wanted) fits(id string, host broker.HostName, names ...string) bool {
	return (w.user == "" || slices.Contains(names, w.user)) && (w.id == "" || w.id == id) && (w.host == "" || hostIs(host, w.host))
}

// hostIs reports whether a host is meant by a name or its first label.
func hostIs(h broker.HostName, name string) bool {
	first, _, _ := strings.Cut(string(h), ".")
	return string(h) == name || first == name
}

func sessionReport(s broker.Session) report.Session {
	q := s.Request
	out := report.Session{ID: string(s.ID), User: clip(string(q.User)), Login: clip(string(q.Login)), Door: clip(string(q.Door)), Service: clip(s.Service),
		TTY: clip(s.TTY), Host: clip(string(s.Place)), Since: stamp(s.Since), Until: stamp(s.Until), Ending: stamp(s.Ending), Why: string(s.Why), Basis: "none"}
	if out.User == "" {
		out.User = out.Login
	}
	for _, n := range s.Rules[:min(len(s.Rules), 10)] {
		out.Rules = append(out.Rules, clip(string(n)))
	}
	switch s.Basis {
	case broker.BasisRules:
		out.Basis = "rules"
	case broker.BasisAccount:
		out.Basis = "account"
	}
	if q.From.IsValid() {
		out.From = q.From.String()
	}
	out.Target, out.Key = string(q.Target.Host), q.Key
	if q.Target.Addr.IsValid() {
		out.Addr = q.Target.Addr.String()
	}
	for _, p := range s.Proofs {
		out.Proofs = append(out.Proofs, string(p))
	}
	for _, p := range q.Recent {
		out.Recent = append(out.Recent, fmt.Sprintf("%s:%d", p.Proof, int64(p.Age/time.Second)))
	}
	for _, f := range []struct {
		set  bool
		name string
	}{{q.Remote, "remote"}, {q.SourceDeferred, "source-deferred"}, {q.ProofsDeferred, "proofs-deferred"}, {q.Unconfined, "unconfined"}} {
		if f.set {
			out.Flags = append(out.Flags, f.name)
		}
	}
	return out
}

// killVerb answers `sekisho kill`: it orders the ends, and does not wait.
func (d *daemon) killVerb() local.Verb {
	return local.Verb{
		May:    local.RootOnly,
		Fields: []string{wire.FieldUser, report.FieldSession, report.FieldHost},
		Do: func(ctx context.Context, c local.Caller, r wire.Request) wire.Answer {
			want := wanted{r.Get(wire.FieldUser), r.Get(report.FieldSession), strings.ToLower(r.Get(report.FieldHost))}
			if (want.user == "") == (want.id == "") {
				return wire.Answer{Reason: wire.ReasonMalformed, Text: "kill needs a user or a session"}
			}
			var k report.Killed
			d.broker.Kill(func(s *broker.Session) bool {
				hit := want.own(s)
				if hit && len(k.Sessions) < 1000 && !d.elsewhere(s.ID) {
					k.Sessions = append(k.Sessions, string(s.ID))
				}
				return hit
			}, "root")
			d.killTheirs(ctx, &k, want)
			switch {
			case len(k.Sessions)+len(k.Others) > 0:
			case k.Problem != "":
				return wire.Answer{Reason: "state", Text: "no such session is of this broker, and " + k.Problem}
			default:
				return wire.Answer{Outcome: wire.No, Reason: "no-session", Text: "there is no such session: see sekisho sessions"}
			}
			body, err := report.Encode(k)
			if err != nil {
				return wire.Answer{Reason: "answer", Text: err.Error()}
			}
			return wire.Answer{Outcome: wire.Yes, Body: body}
		},
	}
}

// revokeWait bounds the wait for hosts, within the time that a verb has.
const revokeWait = 8 * time.Second

// revokedVerb answers `sekisho revoke --wait`: the directory has the change, and
// where is it true already?
func (d *daemon) revokedVerb() local.Verb {
	return local.Verb{
		May:    local.RootOnly,
		Fields: []string{wire.FieldUser, report.FieldSince},
		Do: func(ctx context.Context, _ local.Caller, r wire.Request) wire.Answer {
			user := broker.UserName(r.Get(wire.FieldUser))
			since, err := time.Parse(time.RFC3339Nano, r.Get(report.FieldSince))
			if user == "" || err != nil {
				return wire.Answer{Reason: wire.ReasonMalformed, Text: "revoked needs a user and since when"}
			}
			ctx, cancel := context.WithTimeout(ctx, revokeWait)
			defer cancel()
			v, shut := d.awaitShut(ctx, user)
			if !shut {
				return wire.Answer{Reason: "not-seen", Text: "sekishod has not heard of it from the directory yet: see sekisho status"}
			}
			there := d.confirmingHosts(ctx, user, v.Generation(), since)
			theirs := d.confirmingBrokers(ctx, v, user, since)
			hosts := slices.Concat(d.confirm(ctx, user, v.Generation(), since), there(), theirs())
			body, err := report.Encode(report.Revoked{User: string(user), Hosts: hosts})
			if err != nil {
				return wire.Answer{Reason: "answer", Text: err.Error()}
			}
			return wire.Answer{Outcome: wire.Yes, Body: body}
		},
	}
}

// awaitShut waits until the snapshot has the user locked or gone.
func (d *daemon) awaitShut(ctx context.Context, user broker.UserName) (broker.View, bool) {
	for seen := uint64(0); ; {
		v, err := d.sync.Wait(ctx, seen)
		if err != nil {
			return broker.View{}, false
		}
		if u, _ := v.User(user); u == nil || u.State.Locked {
			return v, true
		}
		seen = v.Generation()
	}
}

// confirm waits until no session of a user is left, here and on every host that
// follows, and says how long each took.
func (d *daemon) confirm(ctx context.Context, user broker.UserName, generation uint64, since time.Time) []report.RevokedHost {
	here := report.RevokedHost{Host: d.cfg.Host}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	seen := map[broker.SessionID]bool{}
	for {
		left := 0
		d.broker.Sessions(func(s *broker.Session) bool {
			if s.Request.User == user && s.Place == broker.HostName(d.cfg.Host) {
				seen[s.ID] = true
				left++
			}
			return true
		})
		here.Sessions = len(seen)
		if left == 0 {
			here.Confirmed, here.Took = true, d.now().Sub(since)
			return []report.RevokedHost{here}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			here.Problem = "a session of his is still open: see sekisho sessions " + string(user)
			return []report.RevokedHost{here}
		}
	}
}
