package broker

import (
	"net/netip"
	"slices"
	"strings"
	"unique"

	"github.com/sekisho/sekisho/keys"
)

// Edit collects changes on top of a snapshot. It costs what it changes: all
// else is shared with the snapshot that it began from, which stays as it was.
// An Edit is used by one goroutine and is over with Commit.
type Edit struct {
	s     Snapshot
	tok   *editToken
	stale map[groupHandle]bool // groups whose containment must be resolved again
	rules bool                 // rules changed

	// linked is the last change of a member's groups, see link.
	linked struct {
		group    groupHandle
		member   bool
		was, now handles
	}
}

// Edit begins a change. A nil snapshot is an empty one.
func (s *Snapshot) Edit() *Edit {
	e := &Edit{tok: new(editToken), stale: map[groupHandle]bool{}}
	if s != nil {
		e.s = *s
	}
	e.s.init()
	return e
}

// init gives a zero Snapshot's tries their keys.
func (s *Snapshot) init() {
	if s.usersByID.key != nil {
		return
	}
	s.usersByID.key = func(u *User) EntryID { return u.ID }
	s.usersByName.key = func(u *User) UserName { return u.Name }
	s.usersByUID.key = func(u *User) uint32 { return u.UID }
	s.usersByDN.key = func(u *User) DN { return u.DN }
	s.keyOwners.key = (*keyOwner).fingerprint
	s.groupsByID.key = func(g *group) EntryID { return g.ID }
	s.groupsByName.key = func(g *group) GroupName { return g.Name }
	s.groupsByGID.key = func(g *group) uint32 { return g.GID }
	s.groupsByDN.key = func(g *group) DN { return g.DN }
	s.groupsByHandle.key = func(g *group) groupHandle { return g.handle }
	s.membersByDN.key = func(m *membership[DN]) DN { return m.member }
	s.membersByUser.key = func(m *membership[UserName]) UserName { return m.member }
	s.membersByHost.key = func(m *membership[HostName]) HostName { return m.member }
	s.hostsByID.key = func(h *Host) EntryID { return h.ID }
	s.hostsByName.key = func(r *hostRef) HostName { return r.name }
	s.hostsByAddr.key = func(r *hostRef) netip.Addr { return r.addr }
	s.hostsByDN.key = func(h *Host) DN { return h.DN }
	s.rules.byID.key = func(r *Rule) EntryID { return r.ID }
}

// PutUser adds a user or replaces the one with the same ID. The user's strings
// are copied into one block of their own, so that nothing of the message they
// were read from stays in memory.
func (e *Edit) PutUser(u User) {
	packUser(&u)
	if old, _ := e.s.usersByID.get(u.ID); old != nil {
		e.s.usersByID.swap(e.tok, old, &u)
		e.s.usersByName.swap(e.tok, old, &u)
		e.s.usersByUID.swap(e.tok, old, &u)
		e.s.usersByDN.swap(e.tok, old, &u)
		e.disownKeys(old)
	} else {
		e.s.usersByID.put(e.tok, &u)
		e.s.usersByName.put(e.tok, &u)
		e.s.usersByUID.put(e.tok, &u)
		e.s.usersByDN.put(e.tok, &u)
	}
	for i := range u.Keys {
		if !slices.ContainsFunc(u.Keys[:i], func(l keys.Line) bool { return l.Key == u.Keys[i].Key }) {
			e.s.keyOwners.put(e.tok, &keyOwner{&u, i})
		}
	}
}

// RemoveUser takes a user out; it reports whether there was one.
func (e *Edit) RemoveUser(id EntryID) bool {
	u, _ := e.s.usersByID.get(id)
	if u == nil {
		return false
	}
	e.s.usersByID.remove(e.tok, u)
	e.s.usersByName.remove(e.tok, u)
	e.s.usersByUID.remove(e.tok, u)
	e.s.usersByDN.remove(e.tok, u)
	e.disownKeys(u)
	return true
}

func (e *Edit) disownKeys(u *User) {
	for i := range u.Keys {
		var own *keyOwner
		e.s.keyOwners.each((&keyOwner{u, i}).fingerprint(), func(o *keyOwner) bool {
			if o.user == u {
				own = o
			}
			return own == nil
		})
		if own != nil { // nil for a key that the entry lists twice
			e.s.keyOwners.remove(e.tok, own)
		}
	}
}

// PutGroup adds a group or replaces the one with the same ID. Its lists are
// copied: they may come from a snapshot.
func (e *Edit) PutGroup(g Group) {
	g.Members, g.MemberUsers, g.MemberHosts = slices.Clone(g.Members), slices.Clone(g.MemberUsers), slices.Clone(g.MemberHosts)
	n := &group{Group: g}
	old, _ := e.s.groupsByID.get(g.ID)
	if old != nil {
		n.handle, n.above = old.handle, old.above
		e.dropGroup(old)
	} else {
		n.handle = e.s.nextHandle
		e.s.nextHandle++
	}
	e.s.groupsByID.put(e.tok, n)
	e.s.groupsByName.put(e.tok, n)
	if n.GID != 0 {
		e.s.groupsByGID.put(e.tok, n)
	}
	e.s.groupsByDN.put(e.tok, n)
	e.s.groupsByHandle.put(e.tok, n)

	var was Group
	if old != nil {
		was = old.Group
	}
	e.linkMembers(n.handle, &was, &n.Group)
	if old == nil || old.DN != n.DN {
		// Who contains this group is written under its DN.
		e.markStale(n.handle)
	}
}

// RemoveGroup takes a group out; it reports whether there was one.
func (e *Edit) RemoveGroup(id EntryID) bool {
	g, _ := e.s.groupsByID.get(id)
	if g == nil {
		return false
	}
	e.linkMembers(g.handle, &g.Group, &Group{})
	e.dropGroup(g)
	delete(e.stale, g.handle)
	return true
}

func (e *Edit) dropGroup(g *group) {
	e.s.groupsByID.remove(e.tok, g)
	e.s.groupsByName.remove(e.tok, g)
	if g.GID != 0 {
		e.s.groupsByGID.remove(e.tok, g)
	}
	e.s.groupsByDN.remove(e.tok, g)
	e.s.groupsByHandle.remove(e.tok, g)
}

// PutHost adds a host or replaces the one with the same ID. Its lists are
// copied.
func (e *Edit) PutHost(h Host) {
	e.RemoveHost(h.ID)
	h.Names, h.Addrs, h.FeedKeys = slices.Clone(h.Names), slices.Clone(h.Addrs), slices.Clone(h.FeedKeys)
	for i, n := range h.Names {
		h.Names[i] = HostName(strings.ToLower(string(n)))
	}
	e.s.hostsByID.put(e.tok, &h)
	e.s.hostsByDN.put(e.tok, &h)
	for _, n := range h.Names {
		e.s.hostsByName.put(e.tok, &hostRef{name: n, host: &h})
	}
	for i, a := range h.Addrs {
		h.Addrs[i] = a.Unmap().WithZone("")
		e.s.hostsByAddr.put(e.tok, &hostRef{addr: h.Addrs[i], host: &h})
	}
}

// RemoveHost takes a host out; it reports whether there was one.
func (e *Edit) RemoveHost(id EntryID) bool {
	h, _ := e.s.hostsByID.get(id)
	if h == nil {
		return false
	}
	e.s.hostsByID.remove(e.tok, h)
	e.s.hostsByDN.remove(e.tok, h)
	for _, n := range h.Names {
		removeRef(e.tok, &e.s.hostsByName, n, h)
	}
	for _, a := range h.Addrs {
		removeRef(e.tok, &e.s.hostsByAddr, a, h)
	}
	return true
}

func removeRef[K comparable](tok *editToken, t *trie[K, hostRef], k K, h *Host) {
	var ref *hostRef
	t.each(k, func(r *hostRef) bool {
		if r.host == h {
			ref = r
		}
		return ref == nil
	})
	if ref != nil {
		t.remove(tok, ref)
	}
}

// PutRule adds a rule or replaces the one with the same ID.
func (e *Edit) PutRule(r Rule) {
	e.RemoveRule(r.ID)
	e.s.rules.byID.put(e.tok, &r)
	e.rules = true
}

// RemoveRule takes a rule out; it reports whether there was one.
func (e *Edit) RemoveRule(id EntryID) bool {
	r, _ := e.s.rules.byID.get(id)
	if r == nil {
		return false
	}
	e.s.rules.byID.remove(e.tok, r)
	e.rules = true
	return true
}

// Commit resolves what nesting the changes touched and returns the new
// snapshot, one generation on. The Edit must not be used again.
func (e *Edit) Commit() *Snapshot {
	e.resolve()
	if e.rules {
		e.s.rules.sort()
	}
	e.s.generation++
	s := e.s
	e.tok, e.s = nil, Snapshot{}
	return &s
}

// Snapshot is the directory with the changes so far, for looking single entries
// up; nesting is not resolved in it. It holds until the next change or Commit.
func (e *Edit) Snapshot() *Snapshot { return &e.s }

// SetGeneration makes the next Commit continue from a generation that was read
// back from disk, so that generations never repeat over a restart.
func (e *Edit) SetGeneration(g uint64) { e.s.generation = max(e.s.generation, g) }

// packUser copies the user's own strings into one block.
func packUser(u *User) {
	var b strings.Builder
	inDN := strings.Index(string(u.DN), string(u.Name))
	size := len(u.DN) + len(u.Gecos) + len(u.Home)
	if inDN < 0 {
		size += len(u.Name)
	}
	b.Grow(size)
	b.WriteString(string(u.DN))
	if inDN < 0 {
		b.WriteString(string(u.Name))
	}
	b.WriteString(u.Gecos)
	b.WriteString(u.Home)
	all := b.String()
	cut := func(n int) (s string) { s, all = all[:n], all[n:]; return s }
	u.DN = DN(cut(len(u.DN)))
	if inDN >= 0 {
		u.Name = UserName(u.DN[inDN : inDN+len(u.Name)])
	} else {
		u.Name = UserName(cut(len(u.Name)))
	}
	u.Gecos, u.Home = cut(len(u.Gecos)), cut(len(u.Home))
	u.Shell = unique.Make(u.Shell).Value()
}
