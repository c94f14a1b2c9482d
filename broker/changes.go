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
func (c Changes) Users(f func(old, now *User) bool) {}

// Groups is Users for groups. One whose members alone changed is among them;
// one that is contained in other groups than before may be, too.
func (c Changes) Groups(f func(old, now *Group) bool) {}

// Hosts is Users for hosts.
func (c Changes) Hosts(f func(old, now *Host) bool) {}

// Rules is Users for rules.
func (c Changes) Rules(f func(old, now *Rule) bool) {}

// TouchedUsers calls f for each user name whose account or own groups may be
// others than before, until f returns false: that of a changed entry, of an
// entry that shares a name or uid number with one (it has become ambiguous, or
// is so no longer), and of a member that a group has taken in or put out. The
// same name may come more than once. What contains those groups is for
// TouchedGroups.
func (c Changes) TouchedUsers(f func(UserName) bool) {}

// TouchedHosts calls f for each name and each address (the other is zero) under
// which another host may be found than before, or the same one changed or with
// other groups of its own; as TouchedUsers.
func (c Changes) TouchedHosts(f func(HostName, netip.Addr) bool) {}

// TouchedGroups calls f for each group (as it is now, or was, when it is gone)
// that has another name or gid number, or is contained in other groups, than
// before, or shares a name or gid number with one that was added, removed or
// changed in it: all that are in it, by any way, may have other groups.
func (c Changes) TouchedGroups(f func(*Group) bool) {}
