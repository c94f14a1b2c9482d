package feed

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// random makes random changes in a directory in which names clash, groups nest
// in loops, and people are members in every way that there is.
type random struct {
	*rand.Rand
	t    *testing.T
	pins map[int][][32]byte // hosts with pins are never removed
}

const (
	randomUsers  = 12
	randomGroups = 8
	randomHosts  = 5
	randomRules  = 6
)

func pick[T any](r *random, of ...T) T { return of[r.IntN(len(of))] }

func (r *random) user(n int) broker.User {
	u := testUser(n)
	u.GID = uint32(20000 + r.IntN(randomGroups+2))
	if r.IntN(8) == 0 {
		u.Name = broker.UserName(fmt.Sprintf("user%d", r.IntN(randomUsers)))
	}
	if r.IntN(8) == 0 {
		u.UID = uint32(10000 + r.IntN(randomUsers))
	}
	u.Gecos = fmt.Sprint(r.IntN(3))
	u.State.Locked = r.IntN(10) == 0
	return u
}

func (r *random) group(n int) broker.Group {
	g := testGroup(fmt.Sprintf("g%d", n), n)
	if r.IntN(8) == 0 {
		g.Name = broker.GroupName(fmt.Sprintf("g%d", r.IntN(randomGroups)))
	}
	switch r.IntN(6) {
	case 0:
		g.GID = uint32(20000 + r.IntN(randomGroups))
	case 1:
		g.GID = 0
	}
	if r.IntN(4) == 0 {
		g.DN = movedGroup(n)
	}
	for range r.IntN(5) {
		switch r.IntN(5) {
		case 0:
			switch sub := r.IntN(randomGroups); r.IntN(4) {
			case 0:
				g.Members = append(g.Members, movedGroup(sub))
			case 1: // it is prepared for the one to move
				g.Members = append(g.Members, movedGroup(sub), testGroup(fmt.Sprintf("g%d", sub), sub).DN)
			default:
				g.Members = append(g.Members, testGroup(fmt.Sprintf("g%d", sub), sub).DN)
			}
		case 1:
			g.Members = append(g.Members, testHost(r.IntN(randomHosts)).DN)
		case 2:
			g.MemberUsers = append(g.MemberUsers, broker.UserName(fmt.Sprintf("user%d", r.IntN(randomUsers))))
		case 3:
			g.MemberHosts = append(g.MemberHosts, testHost(r.IntN(randomHosts)).Names[r.IntN(2)])
		default:
			g.Members = append(g.Members, testUser(r.IntN(randomUsers)).DN)
		}
	}
	return g
}

// movedGroup is another DN that the group may have.
func movedGroup(n int) broker.DN { return broker.DN(fmt.Sprintf("cn=g%d,ou=moved", n)) }

// moveGroup changes nothing of a group but its DN; who lists it need not change.
func (r *random) moveGroup(e *broker.Edit, n int) {
	g := e.Snapshot().GroupByID(testID("group", n))
	if g == nil {
		return
	}
	was := *g
	if was.DN = movedGroup(n); was.DN == g.DN {
		was.DN = testGroup(fmt.Sprintf("g%d", n), n).DN
	}
	e.PutGroup(was)
}

func (r *random) host(n int) broker.Host {
	h := testHost(n)
	h.FeedKeys = r.pins[n]
	if r.IntN(6) == 0 {
		h.Names = append(h.Names, testHost(r.IntN(randomHosts)).Names[1])
	}
	if r.IntN(6) == 0 {
		h.Addrs = append(h.Addrs, testHost(r.IntN(randomHosts)).Addrs...)
	}
	return h
}

func (r *random) rule(n int) broker.Rule {
	a := broker.RuleAttributes{Permit: []string{pick(r, "pty", "none", "command:/bin/true", "port-forwarding")}}
	for range 1 + r.IntN(2) {
		a.Subject = append(a.Subject, pick(r, fmt.Sprintf("user:user%d", r.IntN(randomUsers)), fmt.Sprintf("group:g%d", r.IntN(randomGroups)),
			fmt.Sprintf("group:g%d", r.IntN(randomGroups)), pick(r, "*", "group:none", "user:none")))
		a.Target = append(a.Target, pick(r, "*", fmt.Sprintf("host:host%d*", r.IntN(randomHosts)), "host:host?", fmt.Sprintf("hostgroup:g%d", r.IntN(randomGroups)),
			fmt.Sprintf("net:198.18.0.%d", 1+r.IntN(randomHosts)), fmt.Sprintf("host:host%d", r.IntN(randomHosts))))
	}
	if r.IntN(3) == 0 {
		a.From = []string{"198.51.100.0/24"}
	}
	if r.IntN(3) == 0 {
		a.Login = []string{"root", "self"}
	}
	if r.IntN(4) == 0 {
		a.Proof = []string{"key|otp<12h"}
	}
	if r.IntN(5) == 0 {
		a.Enabled = "FALSE"
	}
	if r.IntN(5) == 0 {
		a.Expires, a.MaxAge, a.Time = "20350101000000Z", "90m", []string{"Mon-Fri 08:00-18:00 Europe/Berlin"}
	}
	return testRule(r.t, n, a)
}

func (r *random) edit(e *broker.Edit) {
	for range 1 + r.IntN(3) {
		switch r.IntN(12) {
		case 0, 1, 2:
			e.PutUser(r.user(r.IntN(randomUsers)))
		case 3:
			e.RemoveUser(testID("user", r.IntN(randomUsers)))
		case 4, 5, 6:
			e.PutGroup(r.group(r.IntN(randomGroups)))
		case 7:
			e.RemoveGroup(testID("group", r.IntN(randomGroups)))
		case 8:
			e.PutHost(r.host(r.IntN(randomHosts)))
		case 9:
			e.PutRule(r.rule(r.IntN(randomRules)))
		case 10:
			if r.IntN(2) == 0 {
				e.RemoveRule(testID("rule", r.IntN(randomRules)))
			} else if r.pins == nil {
				e.RemoveHost(testID("host", r.IntN(randomHosts)))
			}
		case 11:
			r.moveGroup(e, r.IntN(randomGroups))
		}
	}
}

// TestViewIsExact: after any row of changes, each host's copy decides about that
// host as the directory does, and has nobody and nothing else; and what was worked
// out by changes is what would be worked out anew.
func TestViewIsExact(t *testing.T) {
	rounds, steps := 15, 60
	if testing.Short() {
		rounds = 4
	}
	for seed := range rounds {
		r := &random{Rand: rand.New(rand.NewPCG(uint64(seed), 7)), t: t}
		e := (*broker.Snapshot)(nil).Edit()
		for i := range randomUsers {
			e.PutUser(r.user(i))
		}
		for i := range randomGroups {
			e.PutGroup(r.group(i))
		}
		for i := range randomHosts {
			e.PutHost(r.host(i))
		}
		for i := range randomRules {
			e.PutRule(r.rule(i))
		}
		s := e.Commit()
		classes := map[string]*class{}
		mirrors := map[broker.EntryID]*mirror{}
		last := map[broker.EntryID]*class{}
		for step := range steps {
			what := fmt.Sprintf("seed %d step %d", seed, step)
			if step > 0 {
				was := s
				e := s.Edit()
				r.edit(e)
				s = e.Commit()
				n := newNews(was, s)
				rulesChanged := false
				n.changes.Rules(func(_, _ *broker.Rule) bool { rulesChanged = true; return false })
				nested := false
				n.changes.TouchedGroups(func(*broker.Group) bool { nested = true; return false })
				fresh := map[string][]broker.TargetRule{}
				s.Hosts(func(h *broker.Host) bool {
					key, rules, _ := kin(s, h)
					fresh[key] = rules
					return true
				})
				for key, c := range classes {
					if rules, in := fresh[key]; !in && (rulesChanged || nested) {
						delete(classes, key)
					} else {
						if !rulesChanged {
							rules = nil
						}
						ch := c.update(n, rules)
						c.record(ch.frames(false))
					}
				}
			}
			s.Hosts(func(h *broker.Host) bool {
				key, rules, groups := kin(s, h)
				anew, _ := newClass(s, key, rules, groups)
				c := classes[key]
				if c == nil {
					c = anew
					classes[key] = c
				}
				sameClass(t, what, c, anew)
				m := mirrors[h.ID]
				if m == nil {
					m = newMirror()
					mirrors[h.ID] = m
				}
				var frames [][]byte
				if missed, ok := c.since(m.stream, m.seq); ok {
					frames = missed
				} else if old := last[h.ID]; old != nil && r.IntN(2) == 0 && old.stream == m.stream && m.digest == old.digest {
					frames = from(old, c, s).frames(false) // as from one class to another
				} else {
					frames = c.all(s)
				}
				last[h.ID] = c
				apply(t, what, m, append([][]byte{newFrame(kindSelf, selfOf(s, h))}, append(frames, c.commitFrame(s.Generation()))...))
				sameAnswers(t, what, s, m.snap, h)
				nothingElse(t, what, s, m.snap, h)
				return true
			})
			if t.Failed() {
				return
			}
		}
	}
}

// TestGroupMoves: a group that is listed by the DN it had and by the one that it gets
// goes on to count, though nobody is in other groups than before.
func TestGroupMoves(t *testing.T) {
	e := (*broker.Snapshot)(nil).Edit()
	for i := range 2 {
		e.PutUser(testUser(i))
	}
	e.PutGroup(testGroup("web", 0, testUser(0).DN, testUser(1).DN))
	e.PutGroup(testGroup("ops", 1, testGroup("web", 0).DN, "cn=web,ou=new", testUser(0).DN))
	e.PutHost(testHost(0))
	e.PutRule(testRule(t, 0, broker.RuleAttributes{Subject: []string{"group:ops"}, Target: []string{"host:host0.example.org"}}))
	x := newSite(t, e.Commit(), nil)
	h := x.host("host0.example.org", x.join("host0.example.org"), nil)
	x.confirmed(x.src.View().Generation())
	for _, dn := range []broker.DN{"cn=web,ou=new", testGroup("web", 0).DN} {
		x.confirmed(x.src.edit(func(e *broker.Edit) {
			g := testGroup("web", 0, testUser(0).DN, testUser(1).DN)
			g.DN = dn
			e.PutGroup(g)
		}))
		for _, v := range []broker.View{x.src.View(), h.View()} {
			if !allowed(v, "user0", "host0.example.org") || !allowed(v, "user1", "host0.example.org") {
				t.Errorf("web is %s: user0 %v, user1 %v", dn, allowed(v, "user0", "host0.example.org"), allowed(v, "user1", "host0.example.org"))
			}
		}
	}
}

// TestViewIsExactOverTLS is the same through a server and clients, which pass from
// class to class, miss changes, and come back.
func TestViewIsExactOverTLS(t *testing.T) {
	r := &random{Rand: rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 7)), t: t, pins: map[int][][32]byte{}}
	e := (*broker.Snapshot)(nil).Edit()
	for i := range randomUsers {
		e.PutUser(r.user(i))
	}
	for i := range randomGroups {
		e.PutGroup(r.group(i))
	}
	for i := range randomHosts {
		e.PutHost(testHost(i))
	}
	for i := range randomRules {
		e.PutRule(r.rule(i))
	}
	x := newSite(t, e.Commit(), nil)
	var hosts []*host
	for i := range randomHosts {
		name := string(testHost(i).Names[0])
		cert := x.join(name)
		r.pins[i] = [][32]byte{KeyPin(cert.Leaf)}
		hosts = append(hosts, x.host(name, cert, nil))
	}
	for step := range 150 {
		g := x.src.edit(r.edit)
		switch r.IntN(12) {
		case 0:
			h := hosts[r.IntN(len(hosts))]
			h.stop()
			h.start()
			until(t, "back", func() bool { return h.Status().State == Live })
		case 1:
			x.stop()
			x.start(x.addr)
		case 2, 3, 4:
			continue // several changes at once
		}
		x.confirmed(g)
		s := x.src.View().Snapshot
		for i, h := range hosts {
			v := h.View()
			what := fmt.Sprintf("step %d", step)
			sameAnswers(t, what, s, v.Snapshot, s.HostByID(testID("host", i)))
			nothingElse(t, what, s, v.Snapshot, s.HostByID(testID("host", i)))
		}
		if t.Failed() {
			return
		}
	}
}

func sameClass(t *testing.T, what string, a, b *class) {
	t.Helper()
	groups := func(c *class) map[broker.EntryID]groupSent {
		out := map[broker.EntryID]groupSent{}
		for x, g := range c.groups {
			out[x] = *g
		}
		return out
	}
	rules := func(c *class) map[broker.EntryID]string {
		out := map[broker.EntryID]string{}
		for x, r := range c.rules {
			out[x] = string(r.text)
		}
		return out
	}
	if !reflect.DeepEqual(a.users, b.users) || !reflect.DeepEqual(groups(a), groups(b)) || !reflect.DeepEqual(rules(a), rules(b)) ||
		a.digest != b.digest || !reflect.DeepEqual(a.refs, b.refs) {
		t.Errorf("%s: by changes\n%v\n%v\n%v\n%v\nanew\n%v\n%v\n%v\n%v", what, a.users, groups(a), a.refs, a.digest, b.users, groups(b), b.refs, b.digest)
	}
}

// apply hands frames to a mirror, as they would come.
func apply(t *testing.T, what string, m *mirror, frames [][]byte) {
	t.Helper()
	x := m.begin()
	for _, f := range frames {
		v, err := parseServerFrame(kind(f[4]), f[5:])
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		switch v := v.(type) {
		case *ops:
			err = x.ops(v)
		case *self:
			x.self = v
		case *commit:
			_, _, err = m.commit(x, v, func(n uint64) uint64 { return n })
		}
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// sameAnswers asks both about everybody.
func sameAnswers(t *testing.T, what string, s, copy *broker.Snapshot, h *broker.Host) {
	t.Helper()
	if s.Host(h.Names[0]) == nil {
		if copy.Host(h.Names[0]) != nil {
			t.Errorf("%s: %s is ambiguous, and not to itself", what, h.Names[0])
		}
		return
	}
	now := time.Date(2030, 1, 7, 12, 0, 0, 0, time.UTC)
	view := func(s *broker.Snapshot) broker.View { return broker.View{Snapshot: s, AsOf: now, MaxAge: time.Hour} }
	for i := range randomUsers {
		name := broker.UserName(fmt.Sprintf("user%d", i))
		mine, ambiguous := copy.User(name)
		full, fullAmbiguous := s.User(name)
		if mine != nil && ambiguous != fullAmbiguous {
			t.Errorf("%s: %s on %s is ambiguous: %v, in the directory: %v", what, name, h.Names[0], ambiguous, fullAmbiguous)
		}
		for _, target := range []broker.Target{{Host: h.Names[0]}, {Host: h.Names[0], Addr: h.Addrs[0]}, {Addr: h.Addrs[0]}} {
			for _, login := range []broker.Login{"", "root"} {
				for _, from := range []string{"", "198.51.100.7", "203.0.113.1"} {
					q := broker.Request{User: name, Login: login, Door: "pam", Target: target}
					if from == "" {
						q.SourceDeferred = true
					} else {
						q.From = netip.MustParseAddr(from)
					}
					want, got := broker.Decide(view(s), q, nil, now), broker.Decide(view(copy), q, nil, now)
					want.Generation, got.Generation = 0, 0
					if mine == nil { // he is not even known here
						if want.Outcome != broker.Deny || got.Outcome != broker.Deny {
							t.Errorf("%s: %+v: %s here, %s in the directory", what, q, got.Outcome, want.Outcome)
						}
					} else if !reflect.DeepEqual(want, got) {
						t.Errorf("%s: %+v on %s:\n%+v here\n%+v in the directory", what, q, h.Names[0], got, want)
					}
				}
			}
		}
		if mine != nil && !fullAmbiguous {
			if a, b := groupNames(s, full), groupNames(copy, mine); !slices.Equal(a, b) {
				t.Errorf("%s: %s is in %v here and in %v in the directory", what, name, b, a)
			}
		}
	}
}

func groupNames(s *broker.Snapshot, u *broker.User) (out []string) {
	s.GroupsOf(u, func(g *broker.Group) bool { out = append(out, fmt.Sprint(g.Name, g.GID)); return true })
	slices.Sort(out)
	return out
}

// nothingElse looks for what the host has no need of; the twins, which stand for
// others, must tell nothing of them.
func nothingElse(t *testing.T, what string, s, copy *broker.Snapshot, h *broker.Host) {
	t.Helper()
	rules := s.RulesFor(h)
	isSubject := func(u *broker.User) bool {
		return slices.ContainsFunc(rules, func(r broker.TargetRule) bool {
			return slices.ContainsFunc(r.Rule.Subjects, func(x broker.Subject) bool {
				switch {
				case x.Anyone:
					return true
				case x.User != "":
					return x.User == u.Name
				}
				_, in := s.InGroup(u, x.Group)
				return in
			})
		})
	}
	var sent []*broker.User
	copy.Users(func(u *broker.User) bool {
		if strings.HasPrefix(string(u.DN), "another:") {
			return true
		}
		full := s.UserByID(u.ID)
		if full == nil || !isSubject(full) {
			t.Errorf("%s: %s knows %s", what, h.Names[0], u.DN)
		}
		sent = append(sent, full)
		return true
	})
	known := map[string]bool{string(h.DN): true}
	for _, u := range sent {
		if u != nil {
			known[string(u.DN)], known["name "+string(u.Name)] = true, true
			s.GroupsOf(u, func(g *broker.Group) bool { known[string(g.DN)] = true; return true })
		}
	}
	s.GroupsOfHost(h, func(g *broker.Group) bool { known[string(g.DN)] = true; return true })
	copy.Groups(func(g *broker.Group) bool {
		if strings.HasPrefix(string(g.DN), "another:") {
			return true
		}
		if !known[string(g.DN)] {
			t.Errorf("%s: %s knows %s", what, h.Names[0], g.DN)
		}
		for _, m := range g.Members {
			if !known[string(m)] {
				t.Errorf("%s: %s knows %s, a member of %s", what, h.Names[0], m, g.DN)
			}
		}
		for _, m := range g.MemberUsers {
			if !known["name "+string(m)] {
				t.Errorf("%s: %s knows %s, a member of %s", what, h.Names[0], m, g.DN)
			}
		}
		if len(g.MemberHosts) > 0 {
			t.Errorf("%s: %s knows hosts of %s", what, h.Names[0], g.DN)
		}
		return true
	})
	copy.Hosts(func(x *broker.Host) bool {
		if x.ID != h.ID && !strings.HasPrefix(string(x.DN), "another:") {
			t.Errorf("%s: %s knows %s", what, h.Names[0], x.DN)
		}
		return true
	})
	for _, r := range copy.Rules() {
		at := slices.IndexFunc(rules, func(x broker.TargetRule) bool { return x.Rule.ID == r.ID })
		if at < 0 || !slices.Equal(r.Targets, rules[at].Targets) {
			t.Errorf("%s: %s knows the rule %s, to %v", what, h.Names[0], r.Name, r.Targets)
		}
	}
	if len(copy.Rules()) != len(rules) {
		t.Errorf("%s: %s has %d rules of %d", what, h.Names[0], len(copy.Rules()), len(rules))
	}
}
