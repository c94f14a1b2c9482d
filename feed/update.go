package feed

import (
	"encoding/json"
	"slices"

	"github.com/sekisho/sekisho/broker"
)

// news is what differs between two snapshots, worked out once for all classes.
type news struct {
	was, now *broker.Snapshot
	changes  broker.Changes
	users    []*touched
	groups   []broker.EntryID
}

func newNews(was, now *broker.Snapshot) *news {
	n := &news{was: was, now: now, changes: now.Changes(was)}
	n.users = touch(was, now, n.changes)
	n.changes.Groups(func(old, now *broker.Group) bool {
		if old != nil {
			n.groups = append(n.groups, old.ID)
		} else {
			n.groups = append(n.groups, now.ID)
		}
		if old != nil && now != nil && (old.DN != now.DN || old.Name != now.Name) {
			n.namedBy(old)
			n.namedBy(now)
		}
		return true
	})
	n.changes.TouchedGroups(func(g *broker.Group) bool { n.groups = append(n.groups, g.ID); return true })
	return n
}

// namedBy adds the groups that list g: of their members those alone are sent that
// are sent themselves, and which those are goes by g's DN, and by its name.
func (n *news) namedBy(g *broker.Group) {
	n.now.GroupNamedBy(g, func(above *broker.Group) { n.groups = append(n.groups, above.ID) })
}

// update brings the class to the new snapshot. rules are those that lead to its
// hosts now, nil when no rule has changed.
func (c *class) update(n *news, rules []broker.TargetRule) *change {
	ch := newChange(n.now)
	ch.was = n.was
	before := c.subjects
	if rules != nil {
		c.setRules(ch, rules)
	}
	for _, t := range n.users {
		c.setUser(ch, t)
	}
	if !slices.Equal(before, c.subjects) {
		c.askAll(ch, n)
	}
	for _, g := range n.groups {
		if c.refs[g] > 0 || c.groups[g] != nil {
			ch.dirty[g] = true
		}
	}
	c.recut(ch)
	c.digest.plus(ch.delta)
	return ch
}

// askAll looks at everybody who is or may become a subject.
func (c *class) askAll(ch *change, n *news) {
	seen := make(map[broker.EntryID]bool, len(n.users))
	for _, t := range n.users {
		seen[t.id] = true
	}
	var todo []broker.EntryID
	add := func(x broker.EntryID) {
		if !seen[x] {
			seen[x] = true
			todo = append(todo, x)
		}
	}
	for x := range c.users {
		add(x)
	}
	n.now.SubjectUsers(c.subjects, func(u *broker.User) { add(u.ID) })
	for _, x := range todo {
		c.setUser(ch, newTouched(n.was, n.now, x))
	}
}

// record keeps a change for those who come back.
func (c *class) record(frames [][]byte) {
	c.seq++
	c.whole = nil
	st := step{seq: c.seq, frames: frames}
	for _, f := range frames {
		st.size += len(f)
	}
	c.steps = append(c.steps, st)
	c.kept += st.size
	for len(c.steps) > maxSteps || c.kept > maxStepBytes && len(c.steps) > 0 {
		c.kept -= c.steps[0].size
		c.steps = c.steps[1:]
	}
}

// since gives the changes after seq, when all of them are still there.
func (c *class) since(stream string, seq uint64) (frames [][]byte, ok bool) {
	if stream != c.stream || seq > c.seq || c.seq-seq > uint64(len(c.steps)) {
		return nil, false
	}
	for _, st := range c.steps[uint64(len(c.steps))-(c.seq-seq):] {
		frames = append(frames, st.frames...)
	}
	return frames, true
}

// all is the whole view, encoded once for all who need it.
func (c *class) all(s *broker.Snapshot) [][]byte {
	if c.whole == nil {
		c.whole = from(nil, c, s).frames(true)
	}
	return c.whole
}

// from is the change that leads from class a's view, or from none, to b's.
func from(a, b *class, s *broker.Snapshot) *change {
	ch := newChange(s)
	if a == nil {
		a = &class{}
	}
	for x := range a.users {
		if _, in := b.users[x]; !in {
			ch.goneUsers = append(ch.goneUsers, id(x))
		}
	}
	for x, u := range b.users {
		if a.users[x] != u {
			ch.users = append(ch.users, encodeUser(u.user, u.shared))
		}
	}
	for x := range a.rules {
		if _, in := b.rules[x]; !in {
			ch.goneRules = append(ch.goneRules, id(x))
		}
	}
	for x, r := range b.rules {
		if string(a.rules[x].text) != string(r.text) {
			ch.rules = append(ch.rules, r.text)
		}
	}
	for x := range a.groups {
		if b.groups[x] == nil {
			ch.goneGroups = append(ch.goneGroups, id(x))
		}
	}
	for x, g := range b.groups {
		old := a.groups[x]
		if old == nil {
			old = &groupSent{}
		}
		op := groupOp{ID: id(x)}
		if string(old.head) != string(g.head) {
			op.Head = new(wireGroup)
			_ = json.Unmarshal(g.head, op.Head) // it is our own
		}
		broker.Diff(old.members, g.members, func(m broker.DN, in bool) {
			if in {
				op.Add = append(op.Add, string(m))
			} else {
				op.Cut = append(op.Cut, string(m))
			}
		})
		broker.Diff(old.names, g.names, func(m broker.UserName, in bool) {
			if in {
				op.AddNames = append(op.AddNames, string(m))
			} else {
				op.CutNames = append(op.CutNames, string(m))
			}
		})
		if op.Head != nil || len(op.Add)+len(op.Cut)+len(op.AddNames)+len(op.CutNames) > 0 {
			ch.groups = append(ch.groups, op)
		}
	}
	return ch
}

// selfOf is a host's own entry as it is sent.
func selfOf(s *broker.Snapshot, h *broker.Host) *self {
	m := &self{ID: id(h.ID), DN: string(h.DN), Names: h.Names, Addrs: h.Addrs}
	m.SharedNames, m.SharedAddrs = s.HostShared(h)
	s.HostNamedBy(h, func(g *broker.Group) {
		if x := id(g.ID); !slices.Contains(m.Groups, x) && valid(string(g.DN), string(g.Name)) {
			m.Groups = append(m.Groups, x)
		}
	})
	return m
}
