package broker

import (
	"slices"
	"time"
)

// TargetRule is a rule that can lead to a host, with those of its targets that
// do.
type TargetRule struct {
	Rule    *Rule
	Targets []RuleTarget
}

// RulesFor returns the rules whose target can be h, in the order of their
// names, without those that are switched off.
func (s *Snapshot) RulesFor(h *Host) []TargetRule {
	q := question{View: View{Snapshot: s}, host: h, hostGroups: s.hostGroups(h)}
	var out []TargetRule
	for _, r := range s.Rules() {
		if r.Disabled {
			continue
		}
		var fit []RuleTarget
		for _, t := range r.Targets {
			if q.isTarget(t) {
				fit = append(fit, t)
			}
		}
		if fit != nil {
			out = append(out, TargetRule{r, fit})
		}
	}
	return out
}

// IsSubject reports whether u is one of the subjects.
func (s *Snapshot) IsSubject(u *User, subjects []Subject) bool {
	q := question{View: View{Snapshot: s}, Request: Request{User: u.Name}, user: u, userGroups: s.userGroups(u)}
	return slices.ContainsFunc(subjects, q.isSubject)
}

// SubjectUsers calls f for every user who is one of the subjects; a user who is
// so in several ways may come more than once. It costs what it finds, but for
// groups that are somebody's primary one: then it looks at all users.
func (s *Snapshot) SubjectUsers(subjects []Subject, f func(*User)) {
	if slices.ContainsFunc(subjects, func(x Subject) bool { return x.Anyone }) {
		s.usersByID.walk(func(u *User) bool { f(u); return true })
		return
	}
	var begin []*group
	for _, x := range subjects {
		switch {
		case x.User != "":
			s.usersByName.each(x.User, func(u *User) bool { f(u); return true })
		case x.Group != "":
			if g, several := s.groupsByName.get(x.Group); g != nil && !several {
				begin = append(begin, g)
			}
		}
	}
	s.below(begin, f)
}

// GroupUsers calls f for every user in a group, directly or through other groups,
// or by his primary one; a user may come more than once. It goes by the group's
// entry, so that a name which two groups share does not hide it; nobody, when the
// snapshot has none of that DN.
func (s *Snapshot) GroupUsers(dn DN, f func(*User)) {
	var begin []*group
	s.groupsByDN.each(dn, func(g *group) bool { begin = append(begin, g); return true })
	s.below(begin, f)
}

// below walks down from groups to the users in them.
func (s *Snapshot) below(begin []*group, f func(*User)) {
	every := func(u *User) bool { f(u); return true }
	seen := map[groupHandle]bool{}
	gids := map[uint32]bool{}
	var todo []*group
	add := func(g *group) bool {
		if !seen[g.handle] {
			seen[g.handle] = true
			todo = append(todo, g)
		}
		return true
	}
	for _, g := range begin {
		add(g)
	}
	for len(todo) > 0 {
		g := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, dn := range g.Members {
			s.usersByDN.each(dn, every)
			s.groupsByDN.each(dn, add)
		}
		for _, n := range g.MemberUsers {
			s.usersByName.each(n, every)
		}
		if g.GID != 0 {
			gids[g.GID] = true
		}
	}
	if len(gids) > 0 {
		s.usersByID.walk(func(u *User) bool {
			if gids[u.GID] {
				f(u)
			}
			return true
		})
	}
}

// GroupsOfHost calls f for every group that h is in, directly or through other
// groups, once each, until f returns false.
func (s *Snapshot) GroupsOfHost(h *Host, f func(*Group) bool) {
	s.closure(s.hostGroups(h), func(g *group) bool { return f(&g.Group) })
}

// HostNamedBy calls f for every group that names h directly; one that does so
// in several ways may come more than once.
func (s *Snapshot) HostNamedBy(h *Host, f func(*Group)) {
	for _, x := range s.hostGroups(h) {
		if g, _ := s.groupsByHandle.get(x); g != nil {
			f(&g.Group)
		}
	}
}

// GroupShared tells whether another group has g's name, or its gid number.
func (s *Snapshot) GroupShared(g *Group) (name, gid bool) {
	_, name = s.groupsByName.get(g.Name)
	if g.GID != 0 {
		_, gid = s.groupsByGID.get(g.GID)
	}
	return name, gid
}

// HostShared tells which of h's names and addresses, by their places, other
// hosts have too.
func (s *Snapshot) HostShared(h *Host) (names, addrs []int) {
	for i, n := range h.Names {
		if _, several := s.hostsByName.get(n); several {
			names = append(names, i)
		}
	}
	for i, a := range h.Addrs {
		if _, several := s.hostsByAddr.get(a); several {
			addrs = append(addrs, i)
		}
	}
	return names, addrs
}

// Attributes prints the rule as the values of its entry, so that ParseRule
// makes the same rule of them; the entry's ID and DN are not among them.
func (r *Rule) Attributes() RuleAttributes {
	a := RuleAttributes{Name: string(r.Name), Description: r.Description, Door: r.Doors, Login: r.Logins, Permit: r.Permit.Values()}
	for _, s := range r.Subjects {
		a.Subject = append(a.Subject, s.String())
	}
	for _, t := range r.Targets {
		a.Target = append(a.Target, t.String())
	}
	for _, p := range r.From {
		a.From = append(a.From, p.String())
	}
	for _, w := range r.Times {
		a.Time = append(a.Time, w.text)
	}
	for _, p := range r.Proofs {
		a.Proof = append(a.Proof, p.String())
	}
	for _, t := range []struct {
		to   *string
		from time.Time
	}{{&a.NotBefore, r.NotBefore}, {&a.Expires, r.Expires}} {
		if !t.from.IsZero() {
			*t.to = t.from.UTC().Format("20060102150405Z")
		}
	}
	if r.MaxAge != 0 {
		a.MaxAge = r.MaxAge.String()
	}
	if r.Disabled {
		a.Enabled = "FALSE"
	}
	return a
}

// String prints the subject as its attribute value.
func (s Subject) String() string {
	switch {
	case s.Anyone:
		return "*"
	case s.User != "":
		return "user:" + string(s.User)
	}
	return "group:" + string(s.Group)
}

// String prints the target as its attribute value.
func (t RuleTarget) String() string {
	switch {
	case t.Anywhere:
		return "*"
	case t.Host != "":
		return "host:" + t.Host
	case t.HostGroup != "":
		return "hostgroup:" + string(t.HostGroup)
	}
	return "net:" + t.Net.String()
}

// GroupByDN returns the group with that DN or nil.
func (s *Snapshot) GroupByDN(dn DN) *Group {
	if x, _ := s.groupsByDN.get(dn); x != nil {
		return &x.Group
	}
	return nil
}

// UserNamedBy calls f for every group that lists u as a member, and GroupNamedBy
// for every group that lists g; the same one may come twice.
func (s *Snapshot) UserNamedBy(u *User, f func(*Group)) {
	if m, _ := s.membersByDN.get(u.DN); m != nil {
		s.eachHandle(m.groups, f)
	}
	if m, _ := s.membersByUser.get(u.Name); m != nil {
		s.eachHandle(m.groups, f)
	}
}

func (s *Snapshot) GroupNamedBy(g *Group, f func(*Group)) {
	if m, _ := s.membersByDN.get(g.DN); m != nil {
		s.eachHandle(m.groups, f)
	}
}

func (s *Snapshot) eachHandle(hs handles, f func(*Group)) {
	hs.all(func(h groupHandle) bool {
		if g, _ := s.groupsByHandle.get(h); g != nil {
			f(&g.Group)
		}
		return true
	})
}

// Below calls f for every user who is in one of the groups, by any way, and for
// those whose primary group one of them is. The groups may be another
// snapshot's: they count by their ID. The same user may come more than once.
func (s *Snapshot) Below(groups []*Group, f func(*User)) {
	var begin []*group
	for _, g := range groups {
		if x, _ := s.groupsByID.get(g.ID); x != nil {
			begin = append(begin, x)
		}
	}
	s.below(begin, f)
}
