package broker

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/keys"
)

// world is a directory that changes at random, with a broker on it.
type world struct {
	t    testing.TB
	r    *rand.Rand
	size int // how many names of each kind there are
	// forced is how many rules in ten force a command.
	forced int
	view   View
	now    time.Time
	b      *Broker
	told   []Ending
	next   int
	// What the directory holds: to build it anew, on nothing.
	users  map[EntryID]User
	groups map[EntryID]Group
	hosts  map[EntryID]Host
	rules  map[EntryID]Rule
}

func newWorld(t testing.TB, r *rand.Rand, c Config) *world {
	w := &world{t: t, r: r, size: 3 + r.IntN(5), forced: pick(r, 1, 9), now: testNow, users: map[EntryID]User{}, groups: map[EntryID]Group{},
		hosts: map[EntryID]Host{}, rules: map[EntryID]Rule{}}
	c.Directory = func() View { return w.view }
	c.Record = func(Request, Decision) error { return nil }
	c.Now = func() time.Time { return w.now }
	w.view = View{Snapshot: (*Snapshot)(nil).Edit().Commit(), AsOf: w.now, MaxAge: 24 * time.Hour}
	b, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	w.b = b
	b.Keep("door", func(e Ending) { w.told = append(w.told, e) })
	return w
}

func (w *world) name(kind string) string { return fmt.Sprintf("%s%d", kind, w.r.IntN(w.size)) }

// addr is one of few addresses, of which hosts share some.
func (w *world) addr() netip.Addr {
	return netip.AddrFrom4([4]byte{203, 0, 113, byte(w.r.IntN(2 * w.size))})
}

// edit changes a few entries.
func (w *world) edit() {
	e := w.view.Edit()
	for range 1 + w.r.IntN(3) {
		w.change(e)
	}
	w.view.Snapshot = e.Commit()
}

// undo takes back all changes since a state of the directory.
func (w *world) undo(to world) {
	w.view.Snapshot = to.view.Edit().Commit()
	w.users, w.groups, w.hosts, w.rules = to.users, to.groups, to.hosts, to.rules
}

// saved is the state to go back to.
func (w *world) saved() world {
	return world{view: w.view, users: maps.Clone(w.users), groups: maps.Clone(w.groups), hosts: maps.Clone(w.hosts), rules: maps.Clone(w.rules)}
}

// rebuild makes the same directory out of nothing, so that the snapshots have
// nothing in common but what they say.
func (w *world) rebuild() {
	e := (*Snapshot)(nil).Edit()
	e.SetGeneration(w.view.Generation())
	for _, g := range w.groups {
		e.PutGroup(g)
	}
	for _, u := range w.users {
		e.PutUser(u)
	}
	for _, h := range w.hosts {
		e.PutHost(h)
	}
	for _, r := range w.rules {
		e.PutRule(r)
	}
	w.view.Snapshot = e.Commit()
}

// worldKeys are those that users may have.
var worldKeys = []keys.Key{edKey(1), edKey(2)}

// edKey is an ssh-ed25519 key.
func edKey(n byte) keys.Key {
	return keys.Key{Type: keys.ED25519, Blob: "\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + strings.Repeat(string([]byte{n}), 32)}
}

// later is a time that the clock may come to pass, or has passed.
func (w *world) later() time.Time {
	return w.now.Add(time.Duration(w.r.IntN(60)-5) * 11 * time.Minute).Truncate(time.Second)
}

func (w *world) change(e *Edit) {
	r := w.r
	switch r.IntN(18) {
	case 0, 1, 2: // often under another name, uid number or DN than before
		name := w.name("u")
		id := entryID("user", name)
		u, had := w.users[id]
		if !had || r.IntN(4) == 0 {
			if r.IntN(3) == 0 {
				name = w.name("u")
			}
			u = User{ID: id, DN: dnOf("user:" + name), Name: UserName(name), UID: 2000 + uint32(id[0])}
		}
		if r.IntN(6) == 0 {
			u.UID = 2000 + uint32(r.IntN(4))
		}
		u.GID = uint32(r.IntN(4))
		u.Shell, u.State = pick(r, "/bin/sh", "/bin/sh", "/bin/sh", "/bin/sh", "/bin/sh", "/bin/sh", "/bin/sh", "/bin/sh", "/sbin/nologin"), AccountState{}
		switch r.IntN(16) {
		case 0:
			u.State.Locked = true
		case 1:
			u.State.PolicyLockedUntil = w.later().Unix()
		case 2, 3:
			u.State.ShadowExpires = w.later().Unix()
		case 4:
			u.State.KerberosExpires = w.later().Unix()
		}
		u.Keys = nil
		for _, k := range worldKeys {
			if r.IntN(4) > 0 {
				u.Keys = append(u.Keys, keys.Line{Key: k, Comment: pick(r, "old", "new")})
			}
		}
		w.users[id] = u
		e.PutUser(u)
	case 3:
		id := entryID("user", w.name("u"))
		delete(w.users, id)
		e.RemoveUser(id)
	case 4, 5, 6, 7:
		name := w.name("g")
		id := entryID("group", name)
		g, had := w.groups[id]
		if !had || r.IntN(4) == 0 { // a name other than the entry's is a rename
			if r.IntN(2) == 0 {
				name = w.name("g")
			}
			if g.ID, g.DN, g.Name = id, dnOf("group:"+name), GroupName(name); r.IntN(2) == 0 {
				g = Group{ID: id, DN: g.DN, Name: g.Name, GID: uint32(r.IntN(4))}
			}
			if r.IntN(4) == 0 { // an equal name in another branch
				g.DN += ",ou=else"
			}
		}
		g.Members, g.MemberUsers, g.MemberHosts = slices.Clone(g.Members), slices.Clone(g.MemberUsers), slices.Clone(g.MemberHosts)
		for range r.IntN(4) {
			m := dnOf(pick(r, "group:"+w.name("g"), "group:"+w.name("g"), "user:"+w.name("u"), "host:"+w.name("h")))
			if at := slices.Index(g.Members, m); at >= 0 {
				g.Members = slices.Delete(g.Members, at, at+1)
			} else {
				g.Members = append(g.Members, m)
			}
		}
		switch r.IntN(4) {
		case 0:
			g.MemberUsers = named[UserName](some(r, 2, w.name("u"), w.name("u")))
		case 1:
			g.MemberHosts = named[HostName](some(r, 2, w.name("h"), w.name("alias")))
		}
		w.groups[id] = g
		e.PutGroup(g)
	case 8:
		id := entryID("group", w.name("g"))
		delete(w.groups, id)
		e.RemoveGroup(id)
	case 9, 10:
		name := w.name("h")
		id := entryID("host", name)
		if r.IntN(4) == 0 {
			name = w.name("h")
		}
		h := Host{ID: id, DN: dnOf("host:" + name), Names: []HostName{HostName(name)}}
		for range r.IntN(3) / 2 {
			h.Names = append(h.Names, HostName(w.name(pick(r, "alias", "alias", "h"))))
		}
		slices.Sort(h.Names)
		h.Names = slices.Compact(h.Names)
		for range r.IntN(3) {
			h.Addrs = append(h.Addrs, w.addr())
		}
		slices.SortFunc(h.Addrs, netip.Addr.Compare)
		h.Addrs = slices.Compact(h.Addrs)
		w.hosts[id] = h
		e.PutHost(h)
	case 11:
		id := entryID("host", w.name("h"))
		delete(w.hosts, id)
		e.RemoveHost(id)
	default:
		r := w.rule()
		w.rules[r.ID] = r
		e.PutRule(r)
	case 12:
		id := entryID("rule", w.name("r"))
		delete(w.rules, id)
		e.RemoveRule(id)
	}
}

// rule is mostly a wide one.
func (w *world) rule() Rule {
	r := w.r
	must := func(max int, xs ...string) []string { return append(some(r, max-1, xs...), pick(r, xs...)) }
	a := RuleAttributes{
		Name:    w.name("r"),
		Subject: must(2, "user:"+w.name("u"), "group:"+w.name("g"), "group:"+w.name("g"), "group:"+w.name("g"), "*"),
		Door:    must(2, "keys", "pam", "*"),
		Target:  must(2, "host:"+w.name("h"), "host:alias*", "hostgroup:"+w.name("g"), "hostgroup:"+w.name("g"), "net:203.0.113.0/30", "*"),
		Login:   some(r, 1, "self", "*", "deploy"),
		Permit:  some(r, 2, "pty", "agent-forwarding", "permitopen:db:1"),
		Enabled: pick(r, "", "", "", "", "", "FALSE"),
	}
	switch r.IntN(5) {
	case 0:
		a.Time = must(2, "10:00-12:00 UTC", "08:00-10:30 UTC", "22:00-06:00 Europe/Berlin", "Wed,Thu 09:00-17:00 UTC")
	case 1:
		a.From = must(2, testNets...)
	case 2:
		a.Proof = must(2, "key", "otp", "password|ticket")
	}
	if r.IntN(10) < w.forced {
		a.Permit = append(a.Permit, pick(r, "command:/bin/a", "command:/bin/b"))
	}
	switch r.IntN(7) {
	case 0:
		a.Expires = w.later().Format("20060102150405Z")
	case 1:
		a.NotBefore = w.later().Format("20060102150405Z")
	case 2:
		a.MaxAge = pick(r, "1h", "3h")
	}
	rule, err := ParseRule(a)
	if err != nil {
		w.t.Fatal(err)
	}
	rule.ID = entryID("rule", w.name("r"))
	rule.DN = DN(fmt.Sprintf("cn=%s,%x", a.Name, rule.ID))
	return rule
}

func (w *world) session() Session {
	r := w.r
	w.next++
	s := Session{ID: SessionID(fmt.Sprint("s", w.next)), Basis: pick(r, BasisRules, BasisRules, BasisRules, BasisRules, BasisRules, BasisAccount, BasisNone),
		Keeper: "door", Since: w.now, Proofs: randomShown(r)}
	s.Request = Request{User: UserName(w.name("u")), Login: pick[Login](r, "", "", "deploy"), Door: pick[Door](r, "keys", "pam"),
		Target:         Target{Host: HostName(w.name(pick(r, "h", "h", "alias", "H")))},
		SourceDeferred: r.IntN(3) == 0, ProofsDeferred: r.IntN(3) == 0, Unconfined: r.IntN(6) == 0}
	if r.IntN(3) == 0 {
		s.Request.Target = Target{Addr: w.addr()}
	}
	if r.IntN(2) == 0 {
		s.Request.From = randomAddr(r)
	}
	if r.IntN(3) == 0 {
		s.Request.Key = pick(r, worldKeys...).Fingerprint()
	}
	return s
}

// pass does what RunSessions does once it has been woken.
func (w *world) pass() {
	w.b.judgeTouched(func() {})
	w.told = nil
	for _, k := range w.b.live.keepers {
		w.b.live.tell(k, func() bool { return true })
	}
}

// expect is what judging every session anew says: which end, and why.
func (w *world) expect() (ends map[SessionID]Reason, judged int) {
	ends = map[SessionID]Reason{}
	w.b.Sessions(func(s *Session) bool {
		if !s.Ending.IsZero() {
			return true
		}
		var d Decision
		switch s.Basis {
		case BasisNone:
			return true
		case BasisAccount:
			d = standing(w.view, s.Request, w.now)
		default:
			d = Decide(w.view, s.Request, s.Proofs, w.now)
		}
		judged++
		if d.Outcome == Deny || d.Outcome == NeedProof {
			ends[s.ID] = d.Reason
		}
		return true
	})
	return ends, judged
}

// checkIndex compares what the index says with what it should.
func (w *world) checkIndex() error {
	l := w.b.live
	fresh := newRests()
	for _, t := range l.all {
		if t.account != l.on.accounts[t.Request.User] || t.account.sessions[t.at[onAccount]] != t {
			return fmt.Errorf("%s is not in its place under its user", t.ID)
		}
		if t.Basis == BasisRules && (t.target != l.on.targets[targetKey(t.Request.Target)] || t.target.sessions[t.at[onTarget]] != t) {
			return fmt.Errorf("%s is not in its place under its target", t.ID)
		}
		if t.rules != nil && (t.rules.sessions[t.at[onRules]] != t || !slices.Equal(t.rules.names, t.Rules)) {
			return fmt.Errorf("%s is not in its place under its rules", t.ID)
		}
	}
	for _, grounds := range []func(func(*ground)){
		func(f func(*ground)) {
			for _, g := range l.on.accounts {
				f(g)
			}
		},
		func(f func(*ground)) {
			for _, g := range l.on.targets {
				f(g)
			}
		},
	} {
		var err error
		grounds(func(g *ground) {
			want := &ground{user: g.user, target: g.target}
			fresh.refresh(want, l.view.Snapshot)
			if len(g.sessions) == 0 || g.gid != want.gid || !slices.Equal(g.groups, want.groups) {
				err = fmt.Errorf("%s%v: %d sessions, gid %d, groups %x; want gid %d, %x", g.user, g.target, len(g.sessions), g.gid, g.groups, want.gid, want.groups)
			}
		})
		if err != nil {
			return err
		}
	}
	if len(fresh.byGroup) != len(l.on.byGroup) || len(fresh.byGID) != len(l.on.byGID) {
		return fmt.Errorf("%d groups and %d gids, want %d and %d", len(l.on.byGroup), len(l.on.byGID), len(fresh.byGroup), len(fresh.byGID))
	}
	for id, in := range fresh.byGroup {
		if len(l.on.byGroup[id]) != len(in) {
			return fmt.Errorf("group %x has %d, want %d", id, len(l.on.byGroup[id]), len(in))
		}
	}
	for i, t := range l.on.due {
		if int(t.place) != i || t.gone || i > 0 && l.on.due[(i-1)/2].due > t.due {
			return fmt.Errorf("the heap is out of order at %d", i)
		}
	}
	return nil
}

// empty fails when the index keeps anything of sessions that are gone.
func (w *world) empty() error {
	l := w.b.live
	on := l.on
	left := map[string]int{"all": len(l.all), "accounts": len(on.accounts), "targets": len(on.targets), "byGroup": len(on.byGroup), "byGID": len(on.byGID),
		"ruleSets": len(on.ruleSets), "byRule": len(on.byRule), "fragile": len(on.fragile), "unsure": len(on.unsure), "due": len(on.due), "words": len(on.words)}
	for k, n := range left {
		if n == 0 {
			delete(left, k)
		}
	}
	for _, k := range l.keepers {
		if len(k.ending) > 0 {
			left["ending"] += len(k.ending)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("the index keeps %s", strings.TrimPrefix(fmt.Sprint(left), "map"))
	}
	return nil
}
