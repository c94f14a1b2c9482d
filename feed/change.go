package feed

import (
	"encoding/json"

	"github.com/sekisho/sekisho/broker"
)

// change is what differs between two states of a class, as it is sent.
type change struct {
	was   *broker.Snapshot // nil: from nothing
	now   *broker.Snapshot
	dirty map[broker.EntryID]bool // groups to be looked at

	users, rules                     [][]byte
	goneUsers, goneGroups, goneRules []id
	groups                           []groupOp
	delta                            digest
}

func newChange(s *broker.Snapshot) *change {
	return &change{now: s, dirty: map[broker.EntryID]bool{}}
}

func (ch *change) empty() bool {
	return len(ch.users)+len(ch.rules)+len(ch.goneUsers)+len(ch.goneGroups)+len(ch.goneRules)+len(ch.groups) == 0
}

// touched is a user who may be another, or in other groups, than before; what
// all classes need to know of him is worked out once.
type touched struct {
	id                   broker.EntryID
	was, now             *broker.User
	wasGroups, nowGroups []broker.EntryID // that he is in, by any way
	wasNear, nowNear     []broker.EntryID // that name him
	shared               bool

	coded    bool
	textNow  []byte
	oldFor   userSent
	textWas  []byte
	oldCoded bool
}

func newTouched(was, now *broker.Snapshot, x broker.EntryID) *touched {
	t := &touched{id: x}
	if was != now {
		if t.was = was.UserByID(x); t.was != nil {
			t.wasGroups, t.wasNear = about(was, t.was)
		}
	}
	if t.now = now.UserByID(x); t.now != nil {
		t.nowGroups, t.nowNear = about(now, t.now)
		_, t.shared = now.User(t.now.Name)
	}
	return t
}

func about(s *broker.Snapshot, u *broker.User) (all, near []broker.EntryID) {
	s.GroupsOf(u, func(g *broker.Group) bool { all = append(all, g.ID); return true })
	s.UserNamedBy(u, func(g *broker.Group) { near = append(near, g.ID) })
	return all, near
}

func (t *touched) text() []byte {
	if !t.coded {
		t.coded, t.textNow = true, encodeUser(t.now, t.shared)
	}
	return t.textNow
}

func (t *touched) oldText(was userSent) []byte {
	if !t.oldCoded || t.oldFor != was {
		t.oldCoded, t.oldFor, t.textWas = true, was, encodeUser(was.user, was.shared)
	}
	return t.textWas
}

// touch finds the users who may be others, or in other groups, in now than in
// was.
func touch(was, now *broker.Snapshot, c broker.Changes) []*touched {
	seen := map[broker.EntryID]bool{}
	var out []*touched
	add := func(u *broker.User) {
		if !seen[u.ID] {
			seen[u.ID] = true
			out = append(out, newTouched(was, now, u.ID))
		}
	}
	c.TouchedUsers(func(n broker.UserName) bool {
		one := []broker.Subject{{User: n}}
		was.SubjectUsers(one, add)
		now.SubjectUsers(one, add)
		return true
	})
	// Of groups that are contained in others than before, whoever is in them now;
	// those who no longer are have been found above, or by their own group.
	var moved []*broker.Group
	c.TouchedGroups(func(g *broker.Group) bool { moved = append(moved, g); return true })
	if len(moved) > 0 {
		was.Below(moved, add)
		now.Below(moved, add)
	}
	return out
}

// frameSize is how much is put into one frame of changes, about.
const frameSize = 256 << 10

// rawOps is ops with entries that are encoded already.
type rawOps struct {
	Reset      bool              `json:"reset,omitempty"`
	Users      []json.RawMessage `json:"users,omitempty"`
	GoneUsers  []id              `json:"gone_users,omitempty"`
	Groups     []groupOp         `json:"groups,omitempty"`
	GoneGroups []id              `json:"gone_groups,omitempty"`
	Rules      []json.RawMessage `json:"rules,omitempty"`
	GoneRules  []id              `json:"gone_rules,omitempty"`
}

// packer fills frames.
type packer struct {
	out  [][]byte
	now  rawOps
	size int
	any  bool
}

func (p *packer) room(n int) {
	if p.any && p.size+n > frameSize {
		p.flush()
	}
	p.size += n
	p.any = true
}

func (p *packer) flush() {
	if p.any {
		p.out = append(p.out, newFrame(kindOps, p.now))
	}
	p.now, p.size, p.any = rawOps{}, 0, false
}

// frames encodes a change, without a commit. A reset begins a whole view.
func (ch *change) frames(reset bool) [][]byte {
	var p packer
	p.now.Reset, p.any = reset, reset
	for _, g := range ch.goneRules {
		p.room(40)
		p.now.GoneRules = append(p.now.GoneRules, g)
	}
	for _, g := range ch.goneUsers {
		p.room(40)
		p.now.GoneUsers = append(p.now.GoneUsers, g)
	}
	for _, g := range ch.goneGroups {
		p.room(40)
		p.now.GoneGroups = append(p.now.GoneGroups, g)
	}
	for _, r := range ch.rules {
		p.room(len(r))
		p.now.Rules = append(p.now.Rules, r)
	}
	for _, u := range ch.users {
		p.room(len(u))
		p.now.Users = append(p.now.Users, u)
	}
	for _, g := range ch.groups {
		p.group(g)
	}
	p.flush()
	return p.out
}

// group splits a group's members over as many frames as they need.
func (p *packer) group(g groupOp) {
	part := groupOp{ID: g.ID, Head: g.Head}
	size := 1024
	put := func() {
		p.room(size)
		p.now.Groups = append(p.now.Groups, part)
		part, size = groupOp{ID: g.ID}, 64
	}
	for i, list := range [][]string{g.Cut, g.Add, g.CutNames, g.AddNames} {
		to := []*[]string{&part.Cut, &part.Add, &part.CutNames, &part.AddNames}[i]
		for _, m := range list {
			if size+6*len(m)+4 > frameSize {
				put()
			}
			*to = append(*to, m)
			size += len(m) + 4
		}
	}
	put()
}
