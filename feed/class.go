package feed

import (
	"crypto/rand"
	"encoding/json"
	"slices"
	"strings"

	"github.com/sekisho/sekisho/broker"
)

// class is the view of all hosts that the same rules lead to and that are in
// the same groups: they are sent the same bytes, and each its own entry besides. It
// belongs to the server's loop.
type class struct {
	key        string
	rules      map[broker.EntryID]ruleSent
	subjects   []broker.Subject // of all rules, each once
	hostGroups []broker.EntryID

	users  map[broker.EntryID]userSent
	refs   map[broker.EntryID]int // groups, by how many users (and the hosts) are below them
	groups map[broker.EntryID]*groupSent

	digest digest
	stream string
	seq    uint64
	steps  []step // the last changes, the newest last
	kept   int    // bytes in steps
	whole  [][]byte
	conns  map[*conn]struct{} // that follow it
	idle   int                // rounds without any
}

type ruleSent struct {
	rule *broker.Rule
	text []byte
}

type userSent struct {
	user   *broker.User
	shared bool
}

type groupSent struct {
	head    []byte
	members []broker.DN       // sorted
	names   []broker.UserName // sorted
}

// step is one change of a class.
type step struct {
	seq    uint64
	frames [][]byte // without the commit
	size   int
}

// Bounds of the changes that are kept for hosts that come back.
const (
	maxSteps     = 512
	maxStepBytes = 4 << 20
)

// kin is what makes a host's class: rules with their targets, and groups.
func kin(s *broker.Snapshot, h *broker.Host) (key string, rules []broker.TargetRule, groups []broker.EntryID) {
	rules = s.RulesFor(h)
	s.GroupsOfHost(h, func(g *broker.Group) bool { groups = append(groups, g.ID); return true })
	slices.SortFunc(groups, func(a, b broker.EntryID) int { return strings.Compare(string(a[:]), string(b[:])) })
	var b strings.Builder
	for _, r := range rules {
		b.Write(r.Rule.ID[:])
		for _, t := range r.Targets {
			b.WriteString(t.String())
			b.WriteByte(0)
		}
		b.WriteByte(1)
	}
	b.WriteByte(2)
	for _, g := range groups {
		b.Write(g[:])
	}
	return b.String(), rules, groups
}

// newClass works a view out from nothing; the change leads from an empty view
// to it.
func newClass(s *broker.Snapshot, key string, rules []broker.TargetRule, groups []broker.EntryID) (*class, *change) {
	c := &class{key: key, hostGroups: groups, stream: rand.Text(), seq: 1, rules: map[broker.EntryID]ruleSent{},
		users: map[broker.EntryID]userSent{}, refs: map[broker.EntryID]int{}, groups: map[broker.EntryID]*groupSent{}, conns: map[*conn]struct{}{}}
	ch := newChange(s)
	c.setRules(ch, rules)
	for _, g := range groups {
		c.refer(ch, g, 1)
	}
	s.SubjectUsers(c.subjects, func(u *broker.User) {
		if _, has := c.users[u.ID]; !has {
			t := newTouched(s, s, u.ID)
			t.was, t.wasGroups, t.wasNear = nil, nil, nil
			c.setUser(ch, t)
		}
	})
	c.recut(ch)
	c.digest.plus(ch.delta)
	return c, ch
}

func (d *digest) plus(o digest) {
	for i := range d {
		d[i] += o[i]
	}
}

// setRules brings the rules to those given.
func (c *class) setRules(ch *change, rules []broker.TargetRule) {
	var subjects []broker.Subject
	seen := map[broker.Subject]bool{}
	now := map[broker.EntryID]bool{}
	for i := range rules {
		r := rules[i].Rule
		text := encodeRule(&rules[i])
		if text == nil {
			continue
		}
		now[r.ID] = true
		for _, x := range r.Subjects {
			if !seen[x] {
				seen[x] = true
				subjects = append(subjects, x)
			}
		}
		old, had := c.rules[r.ID]
		if had && string(old.text) == string(text) {
			c.rules[r.ID] = ruleSent{r, old.text}
			continue
		}
		if had {
			ch.delta.sub(hash('r', old.text))
		}
		ch.delta.add(hash('r', text))
		ch.rules = append(ch.rules, text)
		c.rules[r.ID] = ruleSent{r, text}
	}
	for x, old := range c.rules {
		if !now[x] {
			ch.delta.sub(hash('r', old.text))
			ch.goneRules = append(ch.goneRules, id(x))
			delete(c.rules, x)
		}
	}
	c.subjects = subjects
}

// setUser brings one user to what he is now.
func (c *class) setUser(ch *change, t *touched) {
	was, had := c.users[t.id]
	in := t.now != nil && ch.now.IsSubject(t.now, c.subjects) && t.text() != nil
	if !had && !in {
		return
	}
	if had && (!in || was.user != t.now || was.shared != t.shared) {
		ch.delta.sub(hash('u', t.oldText(was)))
	}
	switch {
	case !in:
		delete(c.users, t.id)
		ch.goneUsers = append(ch.goneUsers, id(t.id))
	case !had || was.user != t.now || was.shared != t.shared:
		c.users[t.id] = userSent{t.now, t.shared}
		ch.delta.add(hash('u', t.text()))
		ch.users = append(ch.users, t.text())
	}
	if had {
		for _, g := range t.wasGroups {
			c.refer(ch, g, -1)
		}
	}
	if in {
		for _, g := range t.nowGroups {
			c.refer(ch, g, 1)
		}
	}
	if had != in || t.was != nil && t.now != nil && (t.was.DN != t.now.DN || t.was.Name != t.now.Name) {
		for _, g := range t.wasNear {
			ch.dirty[g] = true
		}
		for _, g := range t.nowNear {
			ch.dirty[g] = true
		}
	}
}

// refer counts users below a group: one with any is sent.
func (c *class) refer(ch *change, g broker.EntryID, n int) {
	before := c.refs[g]
	if before+n == 0 {
		delete(c.refs, g)
	} else {
		c.refs[g] = before + n
	}
	if before == 0 || before+n == 0 {
		ch.dirty[g] = true
		for _, s := range []*broker.Snapshot{ch.was, ch.now} { // by a DN that it had, one may still name it
			if s == nil {
				continue
			}
			if x := s.GroupByID(g); x != nil {
				ch.now.GroupNamedBy(x, func(above *broker.Group) { ch.dirty[above.ID] = true })
			}
		}
	}
}

// recut brings the groups that were marked to what they are now.
func (c *class) recut(ch *change) {
	for g := range ch.dirty {
		c.recutOne(ch, g)
	}
}

func (c *class) recutOne(ch *change, x broker.EntryID) {
	old, now := c.groups[x], c.cut(ch.now, x)
	switch {
	case old == nil && now == nil:
		return
	case now == nil:
		ch.delta.sub(headHash(id(x), old.head))
		for _, m := range old.members {
			ch.delta.sub(memberHash(id(x), 'm', string(m)))
		}
		for _, n := range old.names {
			ch.delta.sub(memberHash(id(x), 'n', string(n)))
		}
		ch.goneGroups = append(ch.goneGroups, id(x))
		delete(c.groups, x)
		return
	}
	op := groupOp{ID: id(x)}
	if old == nil {
		old = &groupSent{}
	}
	if string(old.head) != string(now.head) {
		if old.head != nil {
			ch.delta.sub(headHash(id(x), old.head))
		}
		ch.delta.add(headHash(id(x), now.head))
		op.Head = new(wireGroup)
		_ = json.Unmarshal(now.head, op.Head) // it is our own
	}
	broker.Diff(old.members, now.members, func(m broker.DN, in bool) {
		if in {
			op.Add = append(op.Add, string(m))
			ch.delta.add(memberHash(id(x), 'm', string(m)))
		} else {
			op.Cut = append(op.Cut, string(m))
			ch.delta.sub(memberHash(id(x), 'm', string(m)))
		}
	})
	broker.Diff(old.names, now.names, func(n broker.UserName, in bool) {
		if in {
			op.AddNames = append(op.AddNames, string(n))
			ch.delta.add(memberHash(id(x), 'n', string(n)))
		} else {
			op.CutNames = append(op.CutNames, string(n))
			ch.delta.sub(memberHash(id(x), 'n', string(n)))
		}
	})
	c.groups[x] = now
	if op.Head != nil || len(op.Add)+len(op.Cut)+len(op.AddNames)+len(op.CutNames) > 0 {
		ch.groups = append(ch.groups, op)
	}
}

// cut is a group with those of its members alone that are sent; nil when it is
// not sent itself.
func (c *class) cut(s *broker.Snapshot, x broker.EntryID) *groupSent {
	g := s.GroupByID(x)
	if g == nil || !c.sends(g) {
		return nil
	}
	name, gid := s.GroupShared(g)
	out := &groupSent{head: encodeEntry(wireGroup{string(g.DN), string(g.Name), g.GID, name, gid})}
	for _, dn := range g.Members {
		if u := s.UserByDN(dn); u != nil {
			if _, in := c.users[u.ID]; in {
				out.members = append(out.members, dn)
			}
		} else if sub := s.GroupByDN(dn); sub != nil && c.sends(sub) {
			out.members = append(out.members, dn)
		}
	}
	for _, n := range g.MemberUsers {
		in := false
		s.SubjectUsers([]broker.Subject{{User: n}}, func(u *broker.User) {
			if _, has := c.users[u.ID]; has {
				in = true
			}
		})
		if in {
			out.names = append(out.names, n)
		}
	}
	return out
}

func (c *class) sends(g *broker.Group) bool {
	return c.refs[g.ID] > 0 && valid(string(g.DN), string(g.Name))
}

// has tells whether the view has a user of that name.
func (c *class) has(s *broker.Snapshot, name broker.UserName) (in bool) {
	s.SubjectUsers([]broker.Subject{{User: name}}, func(u *broker.User) {
		if _, has := c.users[u.ID]; has {
			in = true
		}
	})
	return in
}
