package broker

import (
	"cmp"
	"crypto/sha256"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Snapshot is an immutable view of the directory, safe for any number of
// readers. The zero Snapshot is an empty directory. It is changed by Edit.
type Snapshot struct {
	generation uint64

	usersByID   trie[EntryID, User]
	usersByName trie[UserName, User]
	usersByUID  trie[uint32, User]
	usersByDN   trie[DN, User]
	keyOwners   trie[[32]byte, keyOwner]

	groupsByID     trie[EntryID, group]
	groupsByName   trie[GroupName, group]
	groupsByGID    trie[uint32, group]
	groupsByDN     trie[DN, group]
	groupsByHandle trie[groupHandle, group]
	nextHandle     groupHandle
	membersByDN    trie[DN, membership[DN]]
	membersByUser  trie[UserName, membership[UserName]]
	membersByHost  trie[HostName, membership[HostName]]

	hostsByID   trie[EntryID, Host]
	hostsByName trie[HostName, hostRef]
	hostsByAddr trie[netip.Addr, hostRef]
	hostsByDN   trie[DN, Host]

	rules rules
}

// View is a snapshot with what makes its age known. Decide takes it whole.
type View struct {
	*Snapshot
	// AsOf is the last instant at which the snapshot was known to be what the
	// directory holds: now, as long as the sync is live.
	AsOf time.Time
	// MaxAge is the greatest age that any decision may rest on; a rule can
	// lower it for itself. The zero value allows no age at all.
	MaxAge time.Duration
}

// Age is how long before now the snapshot was last known to be right; never
// negative.
func (v View) Age(now time.Time) time.Duration { return max(0, now.Sub(v.AsOf)) }

// keyOwner says that user lists a key: the one at index. The fingerprint is
// worked out again when it is needed, which is seldom, rather than kept.
type keyOwner struct {
	user  *User
	index int
}

// fingerprint is SHA-256 of the key's blob.
func (o *keyOwner) fingerprint() [32]byte {
	return sha256.Sum256([]byte(o.user.Keys[o.index].Key.Blob))
}

// hostRef is one name or address of a host.
type hostRef struct {
	name HostName
	addr netip.Addr
	host *Host
}

// groupHandle is a group's short name within one line of snapshots.
type groupHandle uint32

// group is a Group with what nesting makes of it.
type group struct {
	Group
	handle groupHandle
	// above are all groups that contain this one, itself first, by any way
	// round; resolved in the Edit.
	above []groupHandle
}

// membership is the set of groups that name one member directly, packed as
// four bytes each to keep a million of them small.
type membership[K comparable] struct {
	member K
	groups handles
}

// Generation is a number that grows with every published change.
func (s *Snapshot) Generation() uint64 { return s.generation }

// Size is how many entries of each kind the snapshot holds.
func (s *Snapshot) Size() (users, groups, hosts, rules int) {
	return s.usersByID.n, s.groupsByID.n, s.hostsByID.n, s.rules.byID.n
}

// User returns the user of that name. It is nil when there is none, and
// ambiguous is true when the name or the user's uid number stands in more than
// one entry: such an account must not be let in, nor shown.
func (s *Snapshot) User(name UserName) (u *User, ambiguous bool) {
	u, ambiguous = s.usersByName.get(name)
	if u != nil && !ambiguous {
		_, ambiguous = s.usersByUID.get(u.UID)
	}
	return u, ambiguous
}

// UserByUID is User for a uid number.
func (s *Snapshot) UserByUID(uid uint32) (u *User, ambiguous bool) {
	u, ambiguous = s.usersByUID.get(uid)
	if u != nil && !ambiguous {
		_, ambiguous = s.usersByName.get(u.Name)
	}
	return u, ambiguous
}

// UserByID returns the user with that entryUUID or nil.
func (s *Snapshot) UserByID(id EntryID) *User { u, _ := s.usersByID.get(id); return u }

// UserByDN returns the user with that DN or nil.
func (s *Snapshot) UserByDN(dn DN) *User { u, _ := s.usersByDN.get(dn); return u }

// Ambiguous returns users whose name or uid number stands in another entry too,
// sorted by name, at most limit of each kind: all of them are shut out. It looks
// at the whole directory: some ten milliseconds for a million users.
func (s *Snapshot) Ambiguous(limit int) []*User {
	var us []*User
	for _, repeats := range []func(func(*User) bool){s.usersByName.repeats, s.usersByUID.repeats} {
		n := 0
		repeats(func(u *User) bool {
			if !slices.Contains(us, u) {
				us = append(us, u)
				n++
			}
			return n < limit
		})
	}
	slices.SortFunc(us, func(a, b *User) int {
		return cmp.Or(strings.Compare(string(a.Name), string(b.Name)), strings.Compare(string(a.DN), string(b.DN)))
	})
	return us
}

// KeyOwners returns the users who list a key with this fingerprint (SHA-256 of
// the plain key's blob), at most limit of them.
func (s *Snapshot) KeyOwners(fp [32]byte, limit int) []*User {
	var us []*User
	s.keyOwners.each(fp, func(o *keyOwner) bool {
		if len(us) == limit {
			return false
		}
		us = append(us, o.user)
		return true
	})
	return us
}

// Users calls f for every user until f returns false, in no order.
func (s *Snapshot) Users(f func(*User) bool) { s.usersByID.walk(f) }

// Group returns the group of that name or nil; ambiguous as in User.
func (s *Snapshot) Group(name GroupName) (g *Group, ambiguous bool) {
	x, ambiguous := s.groupsByName.get(name)
	if x == nil {
		return nil, false
	}
	if !ambiguous && x.GID != 0 {
		_, ambiguous = s.groupsByGID.get(x.GID)
	}
	return &x.Group, ambiguous
}

// GroupByGID is Group for a gid number. gid 0 is nobody's.
func (s *Snapshot) GroupByGID(gid uint32) (g *Group, ambiguous bool) {
	if gid == 0 {
		return nil, false
	}
	x, ambiguous := s.groupsByGID.get(gid)
	if x == nil {
		return nil, false
	}
	if !ambiguous {
		_, ambiguous = s.groupsByName.get(x.Name)
	}
	return &x.Group, ambiguous
}

// GroupByID returns the group with that entryUUID or nil.
func (s *Snapshot) GroupByID(id EntryID) *Group {
	if x, _ := s.groupsByID.get(id); x != nil {
		return &x.Group
	}
	return nil
}

// Groups calls f for every group until f returns false, in no order.
func (s *Snapshot) Groups(f func(*Group) bool) {
	s.groupsByID.walk(func(g *group) bool { return f(&g.Group) })
}

// GroupsOf calls f for every group that the user is in, directly or through
// other groups, once each, until f returns false.
func (s *Snapshot) GroupsOf(u *User, f func(*Group) bool) {
	s.closure(s.userGroups(u), func(g *group) bool { return f(&g.Group) })
}

// InGroup reports whether u is in a group of that name, and by which way:
// groups from the one that names the user to the one asked for.
func (s *Snapshot) InGroup(u *User, name GroupName) (path []GroupName, in bool) {
	return s.path(s.userGroups(u), name)
}

// HostInGroup is InGroup for a host.
func (s *Snapshot) HostInGroup(h *Host, name GroupName) (path []GroupName, in bool) {
	return s.path(s.hostGroups(h), name)
}

// MembersOf calls f for every user in the group, directly or through nested
// groups, until f returns false; a user who is in by several ways may come
// more than once. It visits at most limit member values, and reports whether
// it saw them all.
func (s *Snapshot) MembersOf(name GroupName, limit int, f func(*User) bool) (whole bool) {
	g, ambiguous := s.groupsByName.get(name)
	if g == nil || ambiguous {
		return true
	}
	seen := map[groupHandle]bool{g.handle: true}
	for todo := []*group{g}; len(todo) > 0; {
		g, todo = todo[len(todo)-1], todo[:len(todo)-1]
		for _, dn := range g.Members {
			if limit--; limit < 0 {
				return false
			}
			if u := s.UserByDN(dn); u != nil {
				if !f(u) {
					return true
				}
			} else if sub, _ := s.groupsByDN.get(dn); sub != nil && !seen[sub.handle] {
				seen[sub.handle] = true
				todo = append(todo, sub)
			}
		}
		for _, n := range g.MemberUsers {
			if limit--; limit < 0 {
				return false
			}
			if u, amb := s.User(n); u != nil && !amb && !f(u) {
				return true
			}
		}
	}
	return true
}

// Host returns the host of that name, any of its names, in any case; nil when
// there is none or several share the name.
func (s *Snapshot) Host(name HostName) *Host {
	r, several := s.hostsByName.get(HostName(strings.ToLower(string(name))))
	if r == nil || several {
		return nil
	}
	return r.host
}

// HostByAddr returns the host with that address, nil when none or several.
func (s *Snapshot) HostByAddr(a netip.Addr) *Host {
	r, several := s.hostsByAddr.get(a.Unmap().WithZone(""))
	if r == nil || several {
		return nil
	}
	return r.host
}

// HostByID returns the host with that entryUUID or nil.
func (s *Snapshot) HostByID(id EntryID) *Host { h, _ := s.hostsByID.get(id); return h }

// Hosts calls f for every host until f returns false, in no order.
func (s *Snapshot) Hosts(f func(*Host) bool) { s.hostsByID.walk(f) }

// Rules returns all rules in the order of their names. The slice is shared:
// it must not be changed.
func (s *Snapshot) Rules() []*Rule { return s.rules.sorted }

// RuleByID returns the rule with that entryUUID or nil.
func (s *Snapshot) RuleByID(id EntryID) *Rule { r, _ := s.rules.byID.get(id); return r }
