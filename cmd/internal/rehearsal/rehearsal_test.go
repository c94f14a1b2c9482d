package rehearsal

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/audit"
	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/keys"
)

var testNow = time.Date(2026, 5, 6, 12, 0, 0, 0, time.UTC)

func id(n int) (e broker.EntryID) { e[0], e[1] = byte(n), byte(n>>8); return e }

func rule(t testing.TB, n int, a broker.RuleAttributes) broker.Rule {
	t.Helper()
	r, err := broker.ParseRule(a)
	if err != nil {
		t.Fatal(err)
	}
	r.ID, r.DN = id(n), broker.DN("cn="+a.Name)
	return r
}

// small is a little directory: u0…u5, two hosts, nested groups.
func small(t testing.TB) *broker.Edit {
	e := (*broker.Snapshot)(nil).Edit()
	for i := range 6 {
		n := fmt.Sprintf("u%d", i)
		e.PutUser(broker.User{ID: id(100 + i), DN: broker.DN("uid=" + n), Name: broker.UserName(n), UID: uint32(2000 + i), GID: 5000, Shell: "/bin/sh"})
	}
	for i := range 2 {
		n := broker.HostName(fmt.Sprintf("web%d", i))
		e.PutHost(broker.Host{ID: id(200 + i), DN: broker.DN("cn=" + n), Names: []broker.HostName{n}, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + i)})}})
	}
	e.PutGroup(broker.Group{ID: id(300), DN: "cn=inner", Name: "inner", Members: []broker.DN{"uid=u0", "uid=u1"}})
	e.PutGroup(broker.Group{ID: id(301), DN: "cn=outer", Name: "outer", Members: []broker.DN{"cn=inner", "uid=u2"}})
	e.PutRule(rule(t, 400, broker.RuleAttributes{Name: "team", Subject: []string{"group:outer"}, Door: []string{"*"}, Target: []string{"host:web0"}}))
	return e
}

func show(r Result) string {
	var out []string
	for _, c := range r.Changes {
		out = append(out, fmt.Sprintf("%s %v %v %v %v: %v -> %v", c.Kind, c.Users, c.Doors, c.Hosts, c.Logins, c.Before, c.After))
	}
	return strings.Join(out, "\n")
}

func TestCompare(t *testing.T) {
	base := small(t).Commit()
	attrs := broker.RuleAttributes{Name: "team", Subject: []string{"group:outer"}, Door: []string{"*"}, Target: []string{"host:web0"}}
	for name, c := range map[string]struct {
		change func(*broker.Edit)
		want   string
	}{
		"a nested group goes": {func(e *broker.Edit) { e.RemoveGroup(id(300)) },
			"lost [u0 u1] [* keys pam] [web0] [self]: [rule team] -> []"},
		"a user is locked": {func(e *broker.Edit) {
			u := *e.Snapshot().UserByID(id(100))
			u.State.Locked = true
			e.PutUser(u)
		}, "lost [u0] [* keys pam] [web0] [self]: [rule team] -> [account: locked]"},
		"a user was nobody's before": {func(e *broker.Edit) {
			u := *e.Snapshot().UserByID(id(105))
			u.State.Locked = true
			e.PutUser(u)
		}, ""},
		"a source": {func(e *broker.Edit) {
			a := attrs
			a.From, a.Proof = []string{"198.51.100.0/24"}, []string{"key"}
			e.PutRule(rule(t, 400, a))
		}, "narrower [u0 u1 u2] [* keys pam] [web0] [self]: [rule team] -> [rule team (from 198.51.100.0/24; with key)]"},
		"another name, the same rights": {func(e *broker.Edit) {
			a := attrs
			a.Name = "crew"
			e.RemoveRule(id(400))
			e.PutRule(rule(t, 401, a))
		}, ""},
		"a login": {func(e *broker.Edit) {
			a := attrs
			a.Login = []string{"self", "deploy"}
			e.PutRule(rule(t, 400, a))
		}, "gained [u0 u1 u2] [* keys pam] [web0] [deploy]: [] -> [rule team]"},
		"anywhere": {func(e *broker.Edit) {
			a := attrs
			a.Target = []string{"*"}
			e.PutRule(rule(t, 400, a))
		}, "gained [u0 u1 u2] [* keys pam] [* web1] [self]: [] -> [rule team]"},
		"commands that clash": {func(e *broker.Edit) {
			for i, cmd := range []string{"a", "b"} {
				a := attrs
				a.Name, a.Permit = fmt.Sprint("team", i), []string{"command:" + cmd}
				e.PutRule(rule(t, 400+i, a))
			}
		}, "lost [u0 u1 u2] [* keys pam] [web0] [self]: [rule team] -> [rule team0 (permit command:a) rule team1 (permit command:b) conflict: they force different commands]"},
		"a shared uid number": {func(e *broker.Edit) {
			u := *e.Snapshot().UserByID(id(105))
			u.UID = 2000
			e.PutUser(u)
		}, "lost [u0] [* keys pam] [web0] [self]: [rule team] -> [account: ambiguous-user]"},
		"an expiry": {func(e *broker.Edit) {
			u := *e.Snapshot().UserByID(id(100))
			u.State.ShadowExpires = testNow.Unix() + 60
			e.PutUser(u)
		}, "narrower [u0] [* keys pam] [web0] [self]: [rule team] -> [rule team (until 2026-05-06T12:01:00Z)]"},
	} {
		e := base.Edit()
		c.change(e)
		got := Compare(Config{Before: base, After: e.Commit(), Now: testNow})
		if show(got) != c.want || got.Cut != "" {
			t.Errorf("%s:\n%s %s\nwant\n%s", name, show(got), got.Cut, c.want)
		}
	}
}

// TestCompareRandom: what Compare says is gained or lost is what Decide says for
// each single user, host, door and login, and nothing is left out.
func TestCompareRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 3))
	pick := func(s ...string) string { return s[rnd.IntN(len(s))] }
	differ := 0
	for range 2000 {
		edit := func(e *broker.Edit) {
			for range 1 + rnd.IntN(4) {
				switch rnd.IntN(6) {
				case 0:
					u := *e.Snapshot().UserByID(id(100 + rnd.IntN(6)))
					u.State.Locked = rnd.IntN(2) == 0
					u.UID = uint32(2000 + rnd.IntN(8))
					u.GID = uint32(5000 + rnd.IntN(2))
					e.PutUser(u)
				case 1:
					n := rnd.IntN(3)
					e.PutGroup(broker.Group{ID: id(300 + n), DN: broker.DN(fmt.Sprint("cn=g", n)), Name: broker.GroupName(pick("inner", "outer")), GID: uint32(rnd.IntN(2) * 5001),
						Members: []broker.DN{broker.DN(pick("uid=u0", "uid=u1", "cn=g0", "cn=g1", "cn=web1"))}})
				case 2:
					e.RemoveGroup(id(300 + rnd.IntN(3)))
				case 3:
					e.RemoveRule(id(400 + rnd.IntN(3)))
				case 4:
					h := *e.Snapshot().HostByID(id(200))
					h.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + rnd.IntN(20))})}
					e.PutHost(h)
				default:
					n := rnd.IntN(3)
					a := broker.RuleAttributes{Name: fmt.Sprint("r", n), Subject: []string{pick("*", "user:u3", "group:inner", "group:outer")}, Door: []string{pick("*", "keys", "pam", "k*")},
						Target: []string{pick("*", "host:web0", "host:web*", "hostgroup:inner", "net:203.0.113.0/28")}, Login: []string{pick("self", "*", "deploy", "d*", "root", "u1")}}
					if rnd.IntN(2) == 0 {
						a.Permit = []string{"command:" + pick("a", "b")}
					}
					e.PutRule(rule(t, 400+n, a))
				}
			}
		}
		e := small(t)
		edit(e)
		before := e.Commit()
		e = before.Edit()
		edit(e)
		after := e.Commit()
		got := Compare(Config{Before: before, After: after, Now: testNow})
		allowed := func(s *broker.Snapshot, u, h, door, login string) bool {
			v := broker.View{Snapshot: s, AsOf: testNow, MaxAge: time.Hour}
			return broker.Decide(v, broker.Request{User: broker.UserName(u), Login: broker.Login(login), Door: broker.Door(door), Target: broker.Target{Host: broker.HostName(h)}},
				[]broker.Proof{broker.ProofKey}, testNow).Outcome == broker.Allow
		}
		for i := range 6 {
			u := fmt.Sprintf("u%d", i)
			for _, h := range []string{"web0", "web1"} {
				for _, door := range []string{"keys", "pam"} {
					for _, login := range []string{u, "deploy", "root", "d*", "u1"} {
						ask := login
						if login == "d*" {
							ask = "dora" // an account that no rule names but by a glob
						}
						was, is := allowed(before, u, h, door, ask), allowed(after, u, h, door, ask)
						want := map[[2]bool]string{{false, true}: Gained, {true, false}: Lost}[[2]bool{was, is}]
						say := ""
						for _, c := range got.Changes {
							if slices.Contains(c.Users, broker.UserName(u)) && slices.Contains(c.Hosts, h) && slices.Contains(c.Doors, door) &&
								(slices.Contains(c.Logins, login) && login != u || login == u && slices.Contains(c.Logins, "self")) && (c.Kind == Gained || c.Kind == Lost) {
								say = c.Kind
							}
						}
						if login == "d*" && !slices.ContainsFunc(append(slices.Clone(before.Rules()), after.Rules()...), func(r *broker.Rule) bool { return slices.Contains(r.Logins, "d*") }) {
							continue // no rule tells it apart
						}
						if login == "u1" && (u == "u1" || !slices.ContainsFunc(append(slices.Clone(before.Rules()), after.Rules()...), func(r *broker.Rule) bool { return slices.Contains(r.Logins, "u1") })) {
							continue
						}
						if login == "deploy" && !slices.ContainsFunc(append(slices.Clone(before.Rules()), after.Rules()...), func(r *broker.Rule) bool { return slices.Contains(r.Logins, "deploy") }) {
							continue
						}
						if want != "" {
							differ++
						}
						if say != want {
							t.Fatalf("%s to %s by %s as %s: Decide says %q, the comparison %q:\n%s", u, h, door, login, want, say, show(got))
						}
					}
				}
			}
		}
	}
	if differ < 1000 {
		t.Errorf("only %d differences: the test tests little", differ)
	}
}

func TestWorkIsBounded(t *testing.T) {
	base := small(t).Commit()
	e := base.Edit()
	e.RemoveRule(id(400))
	got := Compare(Config{Before: base, After: e.Commit(), Now: testNow, Work: 2})
	if got.Cut == "" {
		t.Error("it says nothing of what it has left out")
	}
}

func TestSessionsAndRecord(t *testing.T) {
	e := small(t)
	key := keys.Key{Type: keys.ED25519, Blob: "\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + strings.Repeat("k", 32)}
	keyed := *e.Snapshot().UserByID(id(102))
	keyed.Keys = []keys.Line{{Key: key}}
	e.PutUser(keyed)
	before := e.Commit()
	e = before.Edit()
	e.RemoveGroup(id(300)) // u0, u1 are out; u2 stays
	u := *before.UserByID(id(103))
	u.State.Locked = true
	e.PutUser(u)
	keyed.Keys = nil
	e.PutUser(keyed)
	e.PutRule(rule(t, 402, broker.RuleAttributes{Name: "new", Subject: []string{"user:u5"}, Door: []string{"keys"}, Target: []string{"*"}, Proof: []string{"password"}}))
	after := e.Commit()
	s := func(user, basis string) report.Session {
		return report.Session{ID: user + basis, User: user, Login: user, Door: "keys", Host: "web0", Target: "web0", Basis: basis, Proofs: []string{"key"}, Flags: []string{"remote"}}
	}
	byKey := s("u2", "rules")
	byKey.ID, byKey.Key = "u2key", key.Fingerprint()
	ends, err := Sessions(before, after, []report.Session{s("u0", "rules"), s("u2", "rules"), byKey, s("u3", "account"), s("u4", "account"), s("u4", "rules"), s("root", "none")}, testNow)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, x := range ends {
		got += fmt.Sprintln(x.ID, x.Reason, x.Anyway)
	}
	if want := "u0rules no-rule false\nu2key no-key false\nu3account locked false\nu4rules no-rule true\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if _, err := Sessions(before, after, []report.Session{{ID: "x", User: "u0", Basis: "rules"}}, testNow); err == nil {
		t.Error("a session that cannot be judged is passed by")
	}

	h := NewHistory(testNow.Add(-time.Hour))
	add := func(user, outcome, reason string, n int) {
		for range n {
			h.Add(&audit.Record{Kind: audit.KindDecision, Time: testNow.Add(-time.Minute), Door: "keys", User: user, Target: "web0", Outcome: outcome, Reason: reason, Shown: []string{"key"}, Rules: []string{"team"}})
		}
	}
	add("u0", "allow", "rule", 3)
	add("u2", "allow", "rule", 1)
	add("u4", "allow", "rule", 1) // not today
	add("u5", "deny", "no-rule", 2)
	h.Add(&audit.Record{Kind: audit.KindDecision, Time: testNow, Door: "pam", User: "u3", Outcome: "allow", Reason: "deferred"})
	h.Add(&audit.Record{Kind: audit.KindSession, User: "u0"})
	p, err := h.Judge(before, after, "", "")
	if err != nil {
		t.Fatal(err)
	}
	got = fmt.Sprintln(p.Records, p.Different, p.Refused)
	for _, d := range append(p.Lost, p.Gained...) {
		got += fmt.Sprintln(d.User, d.Times, d.Was, "->", d.Would)
	}
	if want := "8 5 1\nu0 3 allow (rule) -> deny (no-rule)\nu3 1 allow (deferred) -> deny (locked)\nu5 2 deny (no-rule) -> need-proof (proof)\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
