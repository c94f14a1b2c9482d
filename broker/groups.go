package broker

import (
	"encoding/binary"
	"slices"
)

// handles are group handles packed as four bytes each, sorted.
type handles string

func (h handles) all(f func(groupHandle) bool) bool {
	for i := 0; i+4 <= len(h); i += 4 {
		if !f(h.at(i)) {
			return false
		}
	}
	return true
}

func (h handles) at(i int) groupHandle {
	return groupHandle(h[i])<<24 | groupHandle(h[i+1])<<16 | groupHandle(h[i+2])<<8 | groupHandle(h[i+3])
}

// find gives the byte offset of g, or of where it belongs.
func (h handles) find(g groupHandle) (at int, found bool) {
	lo, hi := 0, len(h)/4
	for lo < hi {
		mid := (lo + hi) / 2
		if h.at(4*mid) < g {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return 4 * lo, 4*lo < len(h) && h.at(4*lo) == g
}

func (h handles) with(g groupHandle) handles {
	at, found := h.find(g)
	if found {
		return h
	}
	b := make([]byte, 0, len(h)+4)
	b = append(b, h[:at]...)
	b = binary.BigEndian.AppendUint32(b, uint32(g))
	return handles(append(b, h[at:]...))
}

func (h handles) without(g groupHandle) handles {
	at, found := h.find(g)
	if !found {
		return h
	}
	return h[:at] + h[at+4:]
}

// link writes under key that group g names it, or no longer does. Members with
// the same groups share their handles where they come one after the other.
func link[K comparable](e *Edit, t *trie[K, membership[K]], key K, g groupHandle, member bool) {
	old, _ := t.get(key)
	var was handles
	if old != nil {
		was, key = old.groups, old.member
	}
	if l := &e.linked; l.group != g || l.member != member || l.was != was {
		l.group, l.member, l.was = g, member, was
		if l.now = was.without(g); member {
			l.now = was.with(g)
		}
	}
	now := &membership[K]{key, e.linked.now}
	switch {
	case old != nil && now.groups != "":
		t.swap(e.tok, old, now)
	case old != nil:
		t.remove(e.tok, old)
	case now.groups != "":
		t.put(e.tok, now)
	}
}

// linkMembers brings the reverse index from was to now, the two states of the
// group behind handle.
func (e *Edit) linkMembers(handle groupHandle, was, now *Group) {
	slices.Sort(now.Members)
	now.Members = slices.Compact(now.Members)
	slices.Sort(now.MemberUsers)
	now.MemberUsers = slices.Compact(now.MemberUsers)
	slices.Sort(now.MemberHosts)
	now.MemberHosts = slices.Compact(now.MemberHosts)
	e.shareNames(was.Members, now.Members)
	Diff(was.Members, now.Members, func(dn DN, member bool) {
		link(e, &e.s.membersByDN, dn, handle, member)
		e.s.groupsByDN.each(dn, func(sub *group) bool {
			e.markStale(sub.handle)
			return true
		})
	})
	Diff(was.MemberUsers, now.MemberUsers, func(n UserName, member bool) {
		link(e, &e.s.membersByUser, n, handle, member)
	})
	Diff(was.MemberHosts, now.MemberHosts, func(n HostName, member bool) {
		link(e, &e.s.membersByHost, n, handle, member)
	})
}

// shareNames makes the strings of now those of was, or of the user with that
// DN: a million members' names are kept once. Both are sorted.
func (e *Edit) shareNames(was, now []DN) {
	for i, dn := range now {
		for len(was) > 0 && was[0] < dn {
			was = was[1:]
		}
		if len(was) > 0 && was[0] == dn {
			now[i] = was[0]
		} else if u := e.s.UserByDN(dn); u != nil {
			now[i] = u.DN
		}
	}
}

// Diff calls f for what only one of two sorted lists has, in their order; in says
// that it is the second.
func Diff[T ~string](was, now []T, f func(x T, in bool)) {
	for i, j := 0, 0; i < len(was) || j < len(now); {
		switch {
		case j == len(now) || i < len(was) && was[i] < now[j]:
			f(was[i], false)
			i++
		case i == len(was) || now[j] < was[i]:
			f(now[j], true)
			j++
		default:
			i, j = i+1, j+1
		}
	}
}

func (e *Edit) markStale(h groupHandle) { e.stale[h] = true }

// resolve works out anew what contains the groups that were marked and all
// that is nested in them.
func (e *Edit) resolve() {
	todo := make([]groupHandle, 0, len(e.stale))
	for h := range e.stale {
		todo = append(todo, h)
	}
	for len(todo) > 0 {
		h := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		g, _ := e.s.groupsByHandle.get(h)
		if g == nil {
			continue
		}
		for _, dn := range g.Members {
			e.s.groupsByDN.each(dn, func(sub *group) bool {
				if !e.stale[sub.handle] {
					e.stale[sub.handle] = true
					todo = append(todo, sub.handle)
				}
				return true
			})
		}
	}
	for h := range e.stale {
		old, _ := e.s.groupsByHandle.get(h)
		if old == nil {
			continue
		}
		n := *old
		n.above = e.s.containing(old)
		if slices.Equal(n.above, old.above) {
			continue
		}
		e.s.groupsByID.swap(e.tok, old, &n)
		e.s.groupsByName.swap(e.tok, old, &n)
		if n.GID != 0 {
			e.s.groupsByGID.swap(e.tok, old, &n)
		}
		e.s.groupsByDN.swap(e.tok, old, &n)
		e.s.groupsByHandle.swap(e.tok, old, &n)
	}
	clear(e.stale)
}

// containing walks up from g: g itself and all that contains it, sorted.
func (s *Snapshot) containing(g *group) []groupHandle {
	seen := map[groupHandle]bool{g.handle: true}
	above := []groupHandle{g.handle}
	for i := 0; i < len(above); i++ {
		x, _ := s.groupsByHandle.get(above[i])
		s.directlyAbove(x, func(h groupHandle) bool {
			if !seen[h] {
				seen[h] = true
				above = append(above, h)
			}
			return true
		})
	}
	slices.Sort(above)
	return above
}

func (s *Snapshot) directlyAbove(g *group, f func(groupHandle) bool) {
	if g == nil {
		return
	}
	if m, _ := s.membersByDN.get(g.DN); m != nil {
		m.groups.all(f)
	}
}

// userGroups are the groups that name the user directly: by DN, by name, and
// by his primary gid number.
func (s *Snapshot) userGroups(u *User) []groupHandle {
	var hs []groupHandle
	add := func(h groupHandle) bool { hs = append(hs, h); return true }
	if m, _ := s.membersByDN.get(u.DN); m != nil {
		m.groups.all(add)
	}
	if m, _ := s.membersByUser.get(u.Name); m != nil {
		m.groups.all(add)
	}
	if u.GID != 0 {
		if g, several := s.groupsByGID.get(u.GID); g != nil && !several {
			add(g.handle)
		}
	}
	return hs
}

func (s *Snapshot) hostGroups(h *Host) []groupHandle {
	var hs []groupHandle
	add := func(g groupHandle) bool { hs = append(hs, g); return true }
	if m, _ := s.membersByDN.get(h.DN); m != nil {
		m.groups.all(add)
	}
	for _, n := range h.Names {
		if m, _ := s.membersByHost.get(n); m != nil {
			m.groups.all(add)
		}
	}
	return hs
}

// closure calls f once for each group above one of direct.
func (s *Snapshot) closure(direct []groupHandle, f func(*group) bool) {
	var all []groupHandle
	for _, h := range direct {
		if g, _ := s.groupsByHandle.get(h); g != nil {
			all = append(all, g.above...)
		}
	}
	slices.Sort(all)
	for _, h := range slices.Compact(all) {
		if g, _ := s.groupsByHandle.get(h); g != nil && !f(g) {
			return
		}
	}
}

// within reports whether one of direct is, or is nested in, the group of that
// name. A name that two groups share is nobody's.
func (s *Snapshot) within(direct []groupHandle, name GroupName) bool {
	g, several := s.groupsByName.get(name)
	if g == nil || several {
		return false
	}
	for _, h := range direct {
		if h == g.handle {
			return true
		}
		if d, _ := s.groupsByHandle.get(h); d != nil {
			if _, in := slices.BinarySearch(d.above, g.handle); in {
				return true
			}
		}
	}
	return false
}

// path is within with a shortest way: from the group that names the member to
// the one asked for.
func (s *Snapshot) path(direct []groupHandle, name GroupName) ([]GroupName, bool) {
	if !s.within(direct, name) {
		return nil, false
	}
	goal, _ := s.groupsByName.get(name)
	from := map[groupHandle]groupHandle{}
	todo := slices.Clone(direct)
	for _, h := range direct {
		from[h] = h
	}
	for i := 0; i < len(todo); i++ {
		g, _ := s.groupsByHandle.get(todo[i])
		if g == goal {
			var names []GroupName
			for h := todo[i]; ; h = from[h] {
				x, _ := s.groupsByHandle.get(h)
				names = append(names, x.Name)
				if from[h] == h {
					break
				}
			}
			slices.Reverse(names)
			return names, true
		}
		s.directlyAbove(g, func(h groupHandle) bool {
			if _, seen := from[h]; !seen {
				from[h] = todo[i]
				todo = append(todo, h)
			}
			return true
		})
	}
	return nil, false
}
