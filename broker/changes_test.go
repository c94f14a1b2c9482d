package broker

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// TestDiffTries compares with two maps, over tries of one line, of two lines
// from one beginning, and of none; small ones beside large ones included.
func TestDiffTries(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 9))
		keys := 1 + r.IntN(4000)
		edit := func(tr trie[int, trieEntry], n int) trie[int, trieEntry] {
			tok := new(editToken)
			for range n {
				k := r.IntN(keys)
				old, _ := tr.get(k)
				switch {
				case old == nil:
					tr.put(tok, &trieEntry{k, r.Int()})
				case r.IntN(2) == 0:
					tr.swap(tok, old, &trieEntry{k, r.Int()})
				default:
					tr.remove(tok, old)
				}
			}
			return tr
		}
		first := edit(newTestTrie(), r.IntN(3000))
		for range 10 {
			a, b := edit(first, r.IntN(20)), first
			switch r.IntN(4) {
			case 0:
				b = edit(a, r.IntN(50))
			case 1:
				b = edit(first, r.IntN(3000))
			case 2:
				b = edit(newTestTrie(), r.IntN(3000))
			case 3:
				a = trie[int, trieEntry]{}
			}
			want := map[int][2]*trieEntry{}
			a.walk(func(e *trieEntry) bool { want[e.k] = [2]*trieEntry{e}; return true })
			b.walk(func(e *trieEntry) bool {
				if p := want[e.k]; p[0] == e {
					delete(want, e.k)
				} else {
					want[e.k] = [2]*trieEntry{p[0], e}
				}
				return true
			})
			got := map[int][2]*trieEntry{}
			diffTries(&a, &b, func(old, now *trieEntry) bool {
				k := either(old, now).k
				if _, twice := got[k]; twice {
					t.Fatalf("seed %d: %d comes twice", seed, k)
				}
				got[k] = [2]*trieEntry{old, now}
				return true
			})
			if !maps.Equal(got, want) {
				t.Fatalf("seed %d: %d differ, want %d", seed, len(got), len(want))
			}
			if n := 0; len(want) > 0 {
				diffTries(&a, &b, func(_, _ *trieEntry) bool { n++; return n < 1+len(want)/2 })
				if n != 1+len(want)/2 {
					t.Fatalf("seed %d: stopped after %d", seed, n)
				}
			}
		}
	}
}

// seen is all that a snapshot says of users by name and of hosts by name and
// address, their groups' names and numbers included.
func (s *Snapshot) seen(w *world) (users map[UserName]string, hosts map[Target]string) {
	users, hosts = map[UserName]string{}, map[Target]string{}
	groups := func(each func(func(*Group) bool)) string {
		var in []string
		each(func(g *Group) bool {
			_, ambiguous := s.Group(g.Name)
			_, shared := s.GroupByGID(g.GID)
			in = append(in, fmt.Sprint(g.Name, g.GID, ambiguous, shared))
			return true
		})
		slices.Sort(in)
		return fmt.Sprint(in)
	}
	for i := range w.size {
		n := UserName(fmt.Sprint("u", i))
		if u, ambiguous := s.User(n); u != nil && !ambiguous {
			users[n] = fmt.Sprint(*u, groups(func(f func(*Group) bool) { s.GroupsOf(u, f) }))
		} else if u != nil {
			users[n] = "ambiguous"
		}
	}
	look := func(k Target, h *Host) {
		if h != nil {
			hosts[k] = fmt.Sprint(*h, groups(func(f func(*Group) bool) { s.GroupsOfHost(h, f) }))
		}
	}
	for i := range w.size {
		for _, kind := range []string{"h", "alias"} {
			n := HostName(fmt.Sprint(kind, i))
			look(Target{Host: n}, s.Host(n))
		}
	}
	for i := range 2 * w.size {
		a := netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})
		look(Target{Addr: a}, s.HostByAddr(a))
	}
	return users, hosts
}

// TestChanges: every entry that differs is given, once; and everybody for whom
// the directory looks another way is touched, himself or through a group.
func TestChanges(t *testing.T) {
	for seed := range uint64(25) {
		w := newWorld(t, rand.New(rand.NewPCG(seed, 11)), Config{})
		for range 40 {
			w.edit()
		}
		for step := range 40 {
			old, was := w.view.Snapshot, w.saved()
			for range w.r.IntN(4) {
				w.edit()
			}
			if w.r.IntN(6) == 0 {
				w.rebuild()
			}
			now := w.view.Snapshot
			c := now.Changes(old)
			what := fmt.Sprintf("seed %d step %d", seed, step)
			differ(t, what, was.users, w.users, c.Users, func(u *User) EntryID { return u.ID }, old.UserByID, now.UserByID)
			differ(t, what, was.groups, w.groups, c.Groups, func(g *Group) EntryID { return g.ID }, old.GroupByID, now.GroupByID)
			differ(t, what, was.hosts, w.hosts, c.Hosts, func(h *Host) EntryID { return h.ID }, old.HostByID, now.HostByID)
			differ(t, what, was.rules, w.rules, c.Rules, func(r *Rule) EntryID { return r.ID }, old.RuleByID, now.RuleByID)

			users, hosts, groups := map[UserName]bool{}, map[Target]bool{}, map[EntryID]bool{}
			gids := map[uint32]bool{}
			c.TouchedUsers(func(n UserName) bool { users[n] = true; return true })
			c.TouchedHosts(func(n HostName, a netip.Addr) bool { hosts[Target{n, a}] = true; return true })
			c.TouchedGroups(func(g *Group) bool { groups[g.ID], gids[g.GID] = true, true; return true })
			through := func(each func(func(*Group) bool)) (in bool) {
				each(func(g *Group) bool { in = groups[g.ID]; return !in })
				return in
			}
			usersWere, hostsWere := old.seen(w)
			usersAre, hostsAre := now.seen(w)
			for i := range w.size {
				n := UserName(fmt.Sprint("u", i))
				if usersWere[n] == usersAre[n] || users[n] {
					continue
				}
				if u, _ := now.User(n); u == nil || !gids[u.GID] && !through(func(f func(*Group) bool) { now.GroupsOf(u, f) }) {
					t.Fatalf("%s: %s was %q and is %q, untouched", what, n, usersWere[n], usersAre[n])
				}
			}
			for k := range both(hostsWere, hostsAre) {
				if hostsWere[k] == hostsAre[k] || hosts[k] {
					continue
				}
				if h := now.at(k); h == nil || !through(func(f func(*Group) bool) { now.GroupsOfHost(h, f) }) {
					t.Fatalf("%s: %v was %q and is %q, untouched", what, k, hostsWere[k], hostsAre[k])
				}
			}
		}
	}
}

func both[K comparable, V any](a, b map[K]V) map[K]V {
	m := maps.Clone(a)
	maps.Copy(m, b)
	return m
}

// differ compares one kind's changes with two maps of the entries.
func differ[T any](t *testing.T, what string, was, is map[EntryID]T, changes func(func(old, now *T) bool), id func(*T) EntryID, old, now func(EntryID) *T) {
	t.Helper()
	got := map[EntryID]bool{}
	changes(func(a, b *T) bool {
		k := id(either(a, b))
		if a != old(k) || b != now(k) || a == b || got[k] {
			t.Fatalf("%s: %x is given as %v, %v", what, k, a, b)
		}
		got[k] = true
		return true
	})
	for k := range both(was, is) {
		a, had := was[k]
		b, has := is[k]
		if (had != has || !reflect.DeepEqual(a, b)) && !got[k] {
			t.Fatalf("%s: %x was %v and is %v, and is not given", what, k, a, b)
		}
	}
}

// TestChangesNarrow: one member more in a group of a hundred touches him alone.
func TestChangesNarrow(t *testing.T) {
	s := benchDirectory(20_000)
	g := *s.GroupByID(entryID("group", "team7"))
	g.Members = append(slices.Clone(g.Members), benchUser(12345).DN)
	e := s.Edit()
	e.PutGroup(g)
	c := e.Commit().Changes(s)
	var users []UserName
	c.TouchedUsers(func(n UserName) bool { users = append(users, n); return true })
	groups, touched := 0, 0
	c.Groups(func(_, _ *Group) bool { groups++; return true })
	c.TouchedGroups(func(*Group) bool { touched++; return true })
	if !slices.Equal(users, []UserName{benchUser(12345).Name}) || groups != 1 || touched != 0 {
		t.Errorf("users %v, %d groups, %d touched", users, groups, touched)
	}
	if c := s.Changes(s); changed(c) {
		t.Error("a snapshot differs from itself")
	}
	if c := (*Snapshot)(nil).Changes(nil); changed(c) {
		t.Error("nothing differs from nothing")
	}
	n := 0
	s.Changes(nil).Users(func(old, now *User) bool { n += len(now.Name) / len(now.Name); return old == nil })
	if n != 20_000 {
		t.Errorf("%d users are new", n)
	}
}

func changed(c Changes) (any bool) {
	c.TouchedUsers(func(UserName) bool { any = true; return false })
	c.TouchedHosts(func(HostName, netip.Addr) bool { any = true; return false })
	c.Groups(func(_, _ *Group) bool { any = true; return false })
	c.Rules(func(_, _ *Rule) bool { any = true; return false })
	return any
}

// BenchmarkChanges: what one group's change comes to, found among many users.
func BenchmarkChanges(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := benchDirectory(n)
			g := *s.GroupByID(entryID("group", "team7"))
			g.Members = g.Members[1:]
			e := s.Edit()
			e.PutGroup(g)
			c := e.Commit().Changes(s)
			b.ReportAllocs()
			for b.Loop() {
				users := 0
				c.TouchedUsers(func(UserName) bool { users++; return true })
				c.TouchedHosts(func(HostName, netip.Addr) bool { users++; return true })
				c.TouchedGroups(func(*Group) bool { users++; return true })
				c.Rules(func(_, _ *Rule) bool { users++; return true })
				if users != 1 {
					b.Fatal(users)
				}
			}
		})
	}
}
