package broker

import "net/netip"

// Changes is what differs between two snapshots. It holds nothing but the two:
// each question walks them, side by side, and passes by what they share, so
// that it costs what differs. Snapshots that share nothing are compared whole.
//
// A value that was put again, even with the same content, counts as changed.
type Changes struct{ old, now *Snapshot }

// Changes are those from old to s. A nil snapshot is an empty one.
func (s *Snapshot) Changes(old *Snapshot) Changes {
	c := Changes{old, s}
	for _, p := range []**Snapshot{&c.old, &c.now} {
		if *p == nil {
			*p = new(Snapshot)
		}
	}
	return c
}

// Users calls f for each user who was added (old is nil), removed (now is nil)
// or changed, until f returns false.
func (c Changes) Users(f func(old, now *User) bool) {
	diffTries(&c.old.usersByID, &c.now.usersByID, f)
}

// Groups is Users for groups. One whose members alone changed is among them;
// one that is contained in other groups than before is, too.
func (c Changes) Groups(f func(old, now *Group) bool) {
	diffTries(&c.old.groupsByID, &c.now.groupsByID, func(old, now *group) bool {
		return f(old.plain(), now.plain())
	})
}

// Hosts is Users for hosts.
func (c Changes) Hosts(f func(old, now *Host) bool) {
	diffTries(&c.old.hostsByID, &c.now.hostsByID, f)
}

// Rules is Users for rules.
func (c Changes) Rules(f func(old, now *Rule) bool) {
	diffTries(&c.old.rules.byID, &c.now.rules.byID, f)
}

// plain is the group without its nesting; nil stays nil.
func (g *group) plain() *Group {
	if g == nil {
		return nil
	}
	return &g.Group
}

// TouchedUsers calls f for each user name whose account or own groups may be
// others than before, until f returns false: that of a changed entry, of an
// entry that shares a name or uid number with one (it has become ambiguous, or
// is so no longer), and of a member that a group has taken in or put out. The
// same name may come more than once. What contains those groups, and whose
// primary group they are, is for TouchedGroups.
func (c Changes) TouchedUsers(f func(UserName) bool) {
	on := true
	name := func(u *User) bool { on = on && f(u.Name); return on }
	c.Users(func(old, now *User) bool {
		for _, u := range []*User{old, now} {
			if u == nil {
				continue
			}
			if name(u); old == nil || now == nil || old.UID != now.UID || old.Name != now.Name {
				c.now.usersByUID.each(u.UID, name)
			}
		}
		return on
	})
	if on {
		c.changedMembers(func(dn DN) bool { c.now.usersByDN.each(dn, name); return on })
	}
	if on {
		diffTries(&c.old.membersByUser, &c.now.membersByUser, func(old, now *membership[UserName]) bool {
			return f(either(old, now).member)
		})
	}
}

// TouchedHosts calls f for each name and each address (the other is zero) under
// which another host may be found than before, or the same one changed or with
// other groups of its own, until f returns false.
func (c Changes) TouchedHosts(f func(HostName, netip.Addr) bool) {
	on := true
	names := func(h *Host) bool {
		for _, n := range h.Names {
			on = on && f(n, netip.Addr{})
		}
		for _, a := range h.Addrs {
			on = on && f("", a)
		}
		return on
	}
	c.Hosts(func(old, now *Host) bool {
		return (old == nil || names(old)) && (now == nil || names(now))
	})
	if on {
		c.changedMembers(func(dn DN) bool { c.now.hostsByDN.each(dn, names); return on })
	}
	if on {
		diffTries(&c.old.membersByHost, &c.now.membersByHost, func(old, now *membership[HostName]) bool {
			c.now.hostsByName.each(either(old, now).member, func(r *hostRef) bool { return names(r.host) })
			return on
		})
	}
}

// changedMembers calls f for the DN of every entry that other groups name than
// before. An entry that has this DN in one of the snapshots alone was changed
// itself.
func (c Changes) changedMembers(f func(DN) bool) {
	diffTries(&c.old.membersByDN, &c.now.membersByDN, func(old, now *membership[DN]) bool {
		return f(either(old, now).member)
	})
}

func either[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

// TouchedGroups calls f for each group that was added or removed, has another
// name or gid number, or is contained in other groups than before, and for each
// that shares a name or gid number with one that was added, removed or changed
// in that, until f returns false: those that are in it, by any way, by their
// primary gid number too, may be in other groups than before, or the same by
// other names. A group comes as it is now; as it was, when it is gone; in both
// forms, when its number is another. The same may come more than once.
func (c Changes) TouchedGroups(f func(*Group) bool) {
	on := true
	each := func(g *group) bool { on = on && f(&g.Group); return on }
	c.groups(func(g groupChange) bool {
		if g.now != nil && (g.moved || g.renamed || g.renumbered) {
			each(g.now)
		}
		if g.old != nil && (g.now == nil || g.renumbered) {
			each(g.old)
		}
		c.sharing(g, each, each)
		return on
	})
}

// groupChange is how a group differs.
type groupChange struct {
	old, now                   *group // nil for none
	moved, renamed, renumbered bool   // other groups contain it; its name; its gid number
}

func (c Changes) groups(f func(groupChange) bool) {
	diffTries(&c.old.groupsByID, &c.now.groupsByID, func(old, now *group) bool {
		g := groupChange{old, now, true, true, true}
		if old != nil && now != nil {
			g.moved, g.renamed, g.renumbered = !c.sameAbove(old, now), old.Name != now.Name, old.GID != now.GID
		}
		return f(g)
	})
}

// sharing calls byName and byGID for the groups of now that have the name or
// the gid number which g has got or had, g itself among them.
func (c Changes) sharing(g groupChange, byName, byGID func(*group) bool) {
	for _, x := range []*group{g.old, g.now} {
		if x != nil && g.renamed {
			c.now.groupsByName.each(x.Name, byName)
		}
		if x != nil && g.renumbered && x.GID != 0 {
			c.now.groupsByGID.each(x.GID, byGID)
		}
	}
}

// sameAbove reports whether the same groups contain both. Handles mean the same
// only within one line of snapshots, so that they are looked up.
func (c Changes) sameAbove(old, now *group) bool {
	if len(old.above) != len(now.above) {
		return false
	}
	for i := range old.above {
		a, _ := c.old.groupsByHandle.get(old.above[i])
		b, _ := c.now.groupsByHandle.get(now.above[i])
		if a == nil || b == nil || a.ID != b.ID {
			return false
		}
	}
	return true
}
