package main

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/rehearsal"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/wire"
)

// TestSessionsCanBeJudgedElsewhere: what `sekisho sessions` is told of a session is
// all that its judgement rests on.
func TestSessionsCanBeJudgedElsewhere(t *testing.T) {
	rule := func(a broker.RuleAttributes) *broker.Snapshot {
		e := (*broker.Snapshot)(nil).Edit()
		e.PutUser(broker.User{ID: broker.EntryID{1}, DN: "uid=alice", Name: "alice", UID: 2001, GID: 2001, Shell: "/bin/sh"})
		e.PutHost(broker.Host{ID: broker.EntryID{2}, DN: "cn=web", Names: []broker.HostName{"web"}, Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.7")}})
		a.Name, a.Subject, a.Door = "r", []string{"user:alice"}, []string{"pam"}
		r, err := broker.ParseRule(a)
		if err != nil {
			t.Fatal(err)
		}
		r.ID = broker.EntryID{3}
		e.PutRule(r)
		return e.Commit()
	}
	strict := rule(broker.RuleAttributes{Target: []string{"host:web"}, Login: []string{"deploy"}, From: []string{"198.51.100.0/24"}, Proof: []string{"key", "otp<12h"}})
	forced := rule(broker.RuleAttributes{Target: []string{"host:web"}, Login: []string{"deploy"}, Permit: []string{"command:backup"}})
	net := rule(broker.RuleAttributes{Target: []string{"net:203.0.113.0/24"}, Login: []string{"deploy"}})
	good := broker.Request{User: "alice", Login: "deploy", Door: "pam", Target: broker.Target{Host: "web"}, From: netip.MustParseAddr("198.51.100.7"),
		Remote: true, Recent: []broker.RecentProof{{Proof: broker.ProofOTP, Age: time.Hour}}}
	for name, c := range map[string]struct {
		s      *broker.Snapshot
		change func(*broker.Session)
		ends   bool
	}{
		"all is there":       {strict, func(*broker.Session) {}, false},
		"another account":    {strict, func(s *broker.Session) { s.Request.Login = "alice" }, true},
		"another door":       {strict, func(s *broker.Session) { s.Request.Door = "keys" }, true},
		"another source":     {strict, func(s *broker.Session) { s.Request.From = netip.MustParseAddr("203.0.113.9") }, true},
		"no source":          {strict, func(s *broker.Session) { s.Request.From = netip.Addr{} }, true},
		"a deferred source":  {strict, func(s *broker.Session) { s.Request.From, s.Request.SourceDeferred = netip.Addr{}, true }, false},
		"no proof":           {strict, func(s *broker.Session) { s.Proofs = nil }, true},
		"deferred proofs":    {strict, func(s *broker.Session) { s.Proofs, s.Request.ProofsDeferred = nil, true }, false},
		"no older proof":     {strict, func(s *broker.Session) { s.Request.Recent = nil }, true},
		"too old a proof":    {strict, func(s *broker.Session) { s.Request.Recent[0].Age = 12 * time.Hour }, true},
		"a forced command":   {forced, func(*broker.Session) {}, false},
		"unconfined":         {forced, func(s *broker.Session) { s.Request.Unconfined = true }, true},
		"by an address":      {net, func(s *broker.Session) { s.Request.Target = broker.Target{Addr: netip.MustParseAddr("203.0.113.99")} }, false},
		"by another address": {net, func(s *broker.Session) { s.Request.Target = broker.Target{Addr: netip.MustParseAddr("198.18.0.1")} }, true},
	} {
		s := broker.Session{ID: "x", Request: good, Proofs: []broker.Proof{broker.ProofKey}, Basis: broker.BasisRules, Place: "web", Since: time.Now()}
		s.Request.Recent = []broker.RecentProof{good.Recent[0]}
		c.change(&s)
		body, err := report.EncodeSessions(report.SessionPage{Sessions: []report.Session{sessionReport(s)}})
		if err != nil {
			t.Fatal(err)
		}
		page, err := report.DecodeSessions(wire.Answer{Body: body})
		if err != nil {
			t.Fatal(err)
		}
		ends, err := rehearsal.Sessions(c.s, c.s, page.Sessions, time.Now())
		if err != nil || (len(ends) == 1) != c.ends {
			t.Errorf("%s: %v, %v; want an end: %v", name, ends, err, c.ends)
		}
	}
}
