package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// naive is a directory as plain maps: what nesting means, worked out from
// nothing at each question.
type naive struct {
	users  map[EntryID]User
	groups map[EntryID]Group
	hosts  map[EntryID]Host
}

// direct are the groups that name one of dns or names.
func (n *naive) direct(dn DN, gid uint32, byName func(Group) bool) map[EntryID]bool {
	in := map[EntryID]bool{}
	var gids []EntryID
	for id, g := range n.groups {
		if slices.Contains(g.Members, dn) || byName(g) {
			in[id] = true
		}
		if gid != 0 && g.GID == gid {
			gids = append(gids, id)
		}
	}
	if len(gids) == 1 {
		in[gids[0]] = true
	}
	return in
}

// above adds every group that contains one of in, until nothing changes.
func (n *naive) above(in map[EntryID]bool) []string {
	for changed := true; changed; {
		changed = false
		for id, g := range n.groups {
			if in[id] {
				continue
			}
			for sub := range in {
				if slices.Contains(g.Members, n.groups[sub].DN) {
					in[id], changed = true, true
				}
			}
		}
	}
	names := []string{}
	for id := range in {
		names = append(names, string(n.groups[id].Name))
	}
	slices.Sort(names)
	return names
}

// unique reports whether exactly one group has the name.
func (n *naive) unique(name GroupName) bool {
	found := 0
	for _, g := range n.groups {
		if g.Name == name {
			found++
		}
	}
	return found == 1
}

// randomEdit does a few random changes to both.
func (n *naive) randomEdit(r *rand.Rand, e *Edit, size int) {
	pick := func(kind string) string { return fmt.Sprintf("%s:%d", kind, r.IntN(size)) }
	for range 1 + r.IntN(6) {
		switch r.IntN(8) {
		case 0: // a user, perhaps under another name than before
			id := entryID("user", pick("u"))
			u := User{ID: id, DN: dnOf("user:" + pick("u")), GID: uint32(r.IntN(4))}
			u.Name = UserName(strings.TrimPrefix(strings.SplitN(string(u.DN), ",", 2)[0], "uid="))
			n.users[id] = u
			e.PutUser(u)
		case 1:
			id := entryID("user", pick("u"))
			_, had := n.users[id]
			if e.RemoveUser(id) != had {
				panic("RemoveUser")
			}
			delete(n.users, id)
		case 2:
			id := entryID("host", pick("h"))
			h := Host{ID: id, DN: dnOf("host:" + pick("h")), Names: []HostName{HostName(pick("h"))}}
			n.hosts[id] = h
			e.PutHost(h)
		case 3:
			id := entryID("host", pick("h"))
			e.RemoveHost(id)
			delete(n.hosts, id)
		case 4:
			id := entryID("group", pick("g"))
			_, had := n.groups[id]
			if e.RemoveGroup(id) != had {
				panic("RemoveGroup")
			}
			delete(n.groups, id)
		default: // mostly groups; a name other than the entry's is a rename
			id, name := entryID("group", pick("g")), pick("g")
			g := Group{ID: id, DN: dnOf("group:" + name), Name: GroupName(name), GID: uint32(r.IntN(4))}
			if r.IntN(6) == 0 { // an equal name in another branch
				g.DN += ",ou=else"
			}
			for range r.IntN(4) {
				g.Members = append(g.Members, dnOf([]string{"group:" + pick("g"), "group:" + pick("g"), "user:" + pick("u"), "host:" + pick("h")}[r.IntN(4)]))
			}
			if r.IntN(3) == 0 {
				g.MemberUsers = []UserName{UserName(pick("u"))}
				g.MemberHosts = []HostName{HostName(pick("h"))}
			}
			n.groups[id] = g
			e.PutGroup(g)
		}
	}
}

func (n *naive) compare(t *testing.T, s *Snapshot, what string) {
	t.Helper()
	for id, u := range n.users {
		want := n.above(n.direct(u.DN, u.GID, func(g Group) bool { return slices.Contains(g.MemberUsers, u.Name) }))
		got := []string{}
		su := s.UserByID(id)
		s.GroupsOf(su, func(g *Group) bool { got = append(got, string(g.Name)); return true })
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("%s: user %s is in %v, want %v", what, u.Name, got, want)
		}
		for _, g := range n.groups {
			path, in := s.InGroup(su, g.Name)
			if in != (slices.Contains(want, string(g.Name)) && n.unique(g.Name)) {
				t.Fatalf("%s: user %s in %s: %v", what, u.Name, g.Name, in)
			}
			if in && (len(path) == 0 || path[len(path)-1] != g.Name) {
				t.Fatalf("%s: path %v does not lead to %s", what, path, g.Name)
			}
		}
	}
	for id, h := range n.hosts {
		want := n.above(n.direct(h.DN, 0, func(g Group) bool { return slices.Contains(g.MemberHosts, h.Names[0]) }))
		for _, g := range n.groups {
			if _, in := s.HostInGroup(s.HostByID(id), g.Name); in != (slices.Contains(want, string(g.Name)) && n.unique(g.Name)) {
				t.Fatalf("%s: host %s in %s: %v", what, h.Names[0], g.Name, in)
			}
		}
	}
	users, groups, hosts, _ := s.Size()
	if users != len(n.users) || groups != len(n.groups) || hosts != len(n.hosts) {
		t.Fatalf("%s: size %d %d %d", what, users, groups, hosts)
	}
}

// TestNestingModel compares nesting as edits keep it with what it means, over
// random graphs with loops, renames, shared names and removals.
func TestNestingModel(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 2))
		n := &naive{map[EntryID]User{}, map[EntryID]Group{}, map[EntryID]Host{}}
		s := (*Snapshot)(nil).Edit().Commit()
		size := 3 + r.IntN(8)
		for step := range 60 {
			e := s.Edit()
			n.randomEdit(r, e, size)
			s = e.Commit()
			n.compare(t, s, fmt.Sprintf("seed %d step %d", seed, step))
		}
	}
}

// TestOldSnapshotsStay keeps the answers of old snapshots over later edits.
func TestOldSnapshotsStay(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 3))
	n := &naive{map[EntryID]User{}, map[EntryID]Group{}, map[EntryID]Host{}}
	s := (*Snapshot)(nil).Edit().Commit()
	dump := func(s *Snapshot) string {
		var lines []string
		s.Users(func(u *User) bool {
			l := fmt.Sprint(u.Name, u.DN)
			s.GroupsOf(u, func(g *Group) bool { l += " " + string(g.Name); return true })
			lines = append(lines, l)
			return true
		})
		s.Groups(func(g *Group) bool { lines = append(lines, fmt.Sprint(*g)); return true })
		s.Hosts(func(h *Host) bool { lines = append(lines, fmt.Sprint(*h)); return true })
		slices.Sort(lines)
		return fmt.Sprint(s.Generation(), lines)
	}
	var snaps []*Snapshot
	var dumps []string
	for range 100 {
		e := s.Edit()
		n.randomEdit(r, e, 12)
		// A change as sync makes it: take what is there, change it, put it.
		s.Groups(func(g *Group) bool {
			c := *g
			c.Members = append(c.Members, dnOf(fmt.Sprintf("user:u:%d", r.IntN(12))))
			if _, there := n.groups[c.ID]; there {
				n.groups[c.ID] = c
				e.PutGroup(c)
			}
			return false
		})
		s = e.Commit()
		snaps, dumps = append(snaps, s), append(dumps, dump(s))
	}
	for i, s := range snaps {
		if dump(s) != dumps[i] {
			t.Fatalf("snapshot %d changed after it was published", i)
		}
	}
}

// TestPutGroupCopies: a group read from a snapshot may be changed and put back.
func TestPutGroupCopies(t *testing.T) {
	e := (*Snapshot)(nil).Edit()
	members := append(make([]DN, 0, 8), "c", "b")
	e.PutGroup(Group{ID: EntryID{1}, DN: "g", Name: "g", Members: members})
	s := e.Commit()
	if members[0] != "c" {
		t.Error("the caller's list was sorted")
	}
	g := *s.GroupByID(EntryID{1})
	g.Members = append(g.Members, "a")
	e = s.Edit()
	e.PutGroup(g)
	e.Commit()
	if got := s.GroupByID(EntryID{1}).Members; !slices.Equal(got, []DN{"b", "c"}) {
		t.Errorf("the old snapshot's group is now %v", got)
	}
}
