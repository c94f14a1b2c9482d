package feed

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	"github.com/sekisho/sekisho/broker"
)

// mirror is the host's copy of its view, and the snapshot that is made of it.
type mirror struct {
	snap   *broker.Snapshot // nil until there is one
	self   *self
	users  map[broker.EntryID]bool // whether another entry shares its name
	groups map[broker.EntryID]*groupCopy
	rules  map[broker.EntryID][32]byte // their hashes

	stream     string
	seq        uint64
	generation uint64 // the broker's
	digest     digest
	inGroups   digest // that part of it which is of groups
	floor      uint64 // the snapshot's generation is greater
}

type groupCopy struct {
	head    wireGroup
	members []broker.DN       // sorted
	names   []broker.UserName // sorted
}

func newMirror() *mirror {
	return &mirror{users: map[broker.EntryID]bool{}, groups: map[broker.EntryID]*groupCopy{}, rules: map[broker.EntryID][32]byte{}}
}

// selfName is the host's canonical name.
func (m *mirror) selfName() broker.HostName {
	if m.self == nil {
		return ""
	}
	return m.self.Names[0]
}

// tx is a change that is not committed yet. Only commit changes the mirror.
type tx struct {
	m      *mirror
	reset  bool
	users  map[broker.EntryID]*wireUser // nil: gone
	groups map[broker.EntryID]*groupCopy
	rules  map[broker.EntryID]*wireRule
	self   *self
	kept   []frameKept
	lost   int // users who went, after the commit
	began  bool

	// delta is what the changes make of the groups' part of the digest: of the
	// mirror's, or with reset of that of no groups.
	delta digest
}

// frameKept is a frame as it came, for the disk.
type frameKept struct {
	what kind
	body []byte
}

func (m *mirror) begin() *tx {
	return &tx{m: m, users: map[broker.EntryID]*wireUser{}, groups: map[broker.EntryID]*groupCopy{}, rules: map[broker.EntryID]*wireRule{}}
}

func (t *tx) keep(what kind, body []byte) {
	t.kept = append(t.kept, frameKept{what, slices.Clone(body)})
}

// ops takes changes in.
func (t *tx) ops(o *ops) error {
	if o.Reset {
		if t.began {
			return nonsense("a whole view in the midst of a change")
		}
		t.reset = true
	}
	t.began = true
	for i := range o.Users {
		t.users[broker.EntryID(o.Users[i].ID)] = &o.Users[i]
	}
	for _, x := range o.GoneUsers {
		t.users[broker.EntryID(x)] = nil
	}
	for i := range o.Rules {
		t.rules[broker.EntryID(o.Rules[i].ID)] = &o.Rules[i]
	}
	for _, x := range o.GoneRules {
		t.rules[broker.EntryID(x)] = nil
	}
	for i := range o.Groups {
		if err := t.group(&o.Groups[i]); err != nil {
			return err
		}
	}
	for _, x := range o.GoneGroups {
		if g := t.base(broker.EntryID(x)); g != nil {
			t.delta.group(broker.EntryID(x), g, (*digest).sub)
		}
		t.groups[broker.EntryID(x)] = nil
	}
	return nil
}

// base is a group as it is so far; nil for none.
func (t *tx) base(x broker.EntryID) *groupCopy {
	if g, here := t.groups[x]; here {
		return g
	}
	if t.reset {
		return nil
	}
	return t.m.groups[x]
}

func (t *tx) group(o *groupOp) error {
	x := broker.EntryID(o.ID)
	old := t.base(x)
	if old == nil && o.Head == nil {
		return nonsense("members of a group that is not there")
	}
	g := &groupCopy{}
	if old != nil {
		*g = *old
	}
	if o.Head != nil {
		if old != nil {
			t.delta.sub(headHash(o.ID, encodeEntry(g.head)))
		}
		g.head = *o.Head
		t.delta.add(headHash(o.ID, encodeEntry(g.head)))
	}
	g.members = merge(g.members, o.Add, o.Cut)
	g.names = merge(g.names, o.AddNames, o.CutNames)
	if old == nil {
		old = &groupCopy{}
	}
	count := func(what byte, name string, in bool) {
		if in {
			t.delta.add(memberHash(o.ID, what, name))
		} else {
			t.delta.sub(memberHash(o.ID, what, name))
		}
	}
	broker.Diff(old.members, g.members, func(m broker.DN, in bool) { count('m', string(m), in) })
	broker.Diff(old.names, g.names, func(n broker.UserName, in bool) { count('n', string(n), in) })
	t.groups[x] = g
	return nil
}

// merge is a sorted list with some added and some cut; list stays as it is.
func merge[T ~string](list []T, add, cut []string) []T {
	if len(add)+len(cut) == 0 {
		return list
	}
	list = slices.Clone(list)
	for _, s := range add {
		list = append(list, T(s))
	}
	if len(add) > 0 {
		slices.Sort(list)
		list = slices.Compact(list)
	}
	if len(cut) == 0 {
		return list
	}
	gone := make(map[T]bool, len(cut))
	for _, s := range cut {
		gone[T(s)] = true
	}
	return slices.DeleteFunc(list, func(x T) bool { return gone[x] })
}

// textOf is a user of the snapshot as he was sent.
func (m *mirror) textOf(x broker.EntryID) []byte {
	if m.snap == nil {
		return nil
	}
	u := m.snap.UserByID(x)
	if u == nil {
		return nil
	}
	return encodeUser(u, m.users[x])
}

func (d *digest) group(x broker.EntryID, g *groupCopy, change func(*digest, [32]byte)) {
	change(d, headHash(id(x), encodeEntry(g.head)))
	for _, n := range g.members {
		change(d, memberHash(id(x), 'm', string(n)))
	}
	for _, n := range g.names {
		change(d, memberHash(id(x), 'n', string(n)))
	}
}

// commit makes the change valid, unless what comes of it is not what the broker
// says. reserve gives a generation that no snapshot had before.
func (m *mirror) commit(t *tx, c *commit, reserve func(uint64) uint64) (before, after *broker.Snapshot, err error) {
	if t.reset { // whatever is not sent is gone
		for x := range m.users {
			if _, in := t.users[x]; !in {
				t.users[x] = nil
			}
		}
		for x := range m.groups {
			if _, in := t.groups[x]; !in {
				t.groups[x] = nil
			}
		}
		for x := range m.rules {
			if _, in := t.rules[x]; !in {
				t.rules[x] = nil
			}
		}
	} else if m.stream == c.Stream && c.Seq < m.seq {
		return nil, nil, nonsense("an older state (%d) than the one before (%d)", c.Seq, m.seq)
	}
	if t.self == nil && m.self == nil {
		return nil, nil, nonsense("a view without its host")
	}

	d := m.digest
	users, err := t.newUsers(&d)
	if err != nil {
		return nil, nil, err
	}
	rules := map[broker.EntryID]broker.Rule{}
	hashes := map[broker.EntryID][32]byte{}
	for x, w := range t.rules {
		old, had := m.rules[x]
		if had {
			d.sub(old)
		}
		if w == nil {
			continue
		}
		if hashes[x] = hash('r', encodeEntry(*w)); hashes[x] != old || !had {
			if rules[x], err = w.rule(); err != nil {
				return nil, nil, err
			}
		}
		d.add(hashes[x])
	}
	groups := t.delta
	if !t.reset {
		groups.plus(m.inGroups)
	}
	for i := range d {
		d[i] += groups[i] - m.inGroups[i]
	}
	if d != c.Digest {
		return nil, nil, nonsense("a view that is not what its digest says")
	}

	before = m.snap
	e := m.snap.Edit()
	changed := m.snap == nil
	for x, w := range t.users {
		switch _, had := m.users[x]; {
		case w == nil && had:
			e.RemoveUser(x)
			e.RemoveUser(twin('u', x))
			delete(m.users, x)
			t.lost++
			changed = true
		case w != nil && users[x] != nil:
			e.PutUser(*users[x])
			m.twinUser(e, x, users[x], w.Shared)
			m.users[x] = w.Shared
			changed = true
		}
	}
	for x, h := range hashes {
		m.rules[x] = h
	}
	for x, r := range rules {
		e.PutRule(r)
		_ = x
		changed = true
	}
	for x, w := range t.rules {
		if w == nil {
			changed = e.RemoveRule(x) || changed
			delete(m.rules, x)
		}
	}
	changed = m.putSelf(e, t) || changed
	for x, g := range t.groups {
		changed = m.putGroup(e, x, g) || changed
	}
	m.stream, m.seq, m.generation, m.digest, m.inGroups = c.Stream, c.Seq, c.Generation, d, groups
	if changed {
		if m.snap == nil {
			m.floor = reserve(0)
		}
		next := max(m.floor, m.snapGeneration()) + 1
		if next > m.floor+generations {
			m.floor = reserve(next)
			next = m.floor + 1
		}
		e.SetGeneration(next - 1)
		m.snap = e.Commit()
	}
	return before, m.snap, nil
}

func (m *mirror) snapGeneration() uint64 {
	if m.snap == nil {
		return 0
	}
	return m.snap.Generation()
}

// newUsers are those of the change that are not as they were, and brings the
// digest on.
func (t *tx) newUsers(d *digest) (map[broker.EntryID]*broker.User, error) {
	m := t.m
	out := map[broker.EntryID]*broker.User{}
	for x, w := range t.users {
		var old []byte
		if _, had := m.users[x]; had {
			old = m.textOf(x)
			d.sub(hash('u', old))
		}
		if w == nil {
			continue
		}
		u, err := w.user()
		if err != nil {
			return nil, err
		}
		text := encodeUser(&u, w.Shared)
		d.add(hash('u', text))
		if string(text) != string(old) {
			out[x] = &u
		}
	}
	return out, nil
}

// twin is the ID of an entry that stands for all others with the same name or
// number: it makes the name ambiguous here as it is in the directory, and tells
// nothing of them.
func twin(what byte, x broker.EntryID) (out broker.EntryID) {
	sum := sha256.Sum256(append([]byte{'t', what}, x[:]...))
	copy(out[:], sum[:])
	return out
}

func twinDN(x broker.EntryID) broker.DN { return broker.DN("another:" + hex.EncodeToString(x[:])) }

func (m *mirror) twinUser(e *broker.Edit, x broker.EntryID, u *broker.User, shared bool) {
	y := twin('u', x)
	e.RemoveUser(y)
	if shared {
		e.PutUser(broker.User{ID: y, DN: twinDN(y), Name: u.Name, UID: u.UID, Home: "/nonexistent", Shell: "/usr/sbin/nologin"})
	}
}

// putSelf brings the host's own entry to what it is now. The groups that name it
// are put again.
func (m *mirror) putSelf(e *broker.Edit, t *tx) bool {
	if t.self == nil {
		return false
	}
	a, _ := json.Marshal(m.self)
	b, _ := json.Marshal(t.self)
	if string(a) == string(b) {
		return false
	}
	old := m.self
	m.self = t.self
	if old != nil {
		e.RemoveHost(broker.EntryID(old.ID))
		e.RemoveHost(twin('h', broker.EntryID(old.ID)))
		for _, x := range old.Groups {
			m.again(t, broker.EntryID(x))
		}
	}
	for _, x := range m.self.Groups {
		m.again(t, broker.EntryID(x))
	}
	x := broker.EntryID(m.self.ID)
	e.PutHost(broker.Host{ID: x, DN: broker.DN(m.self.DN), Names: m.self.Names, Addrs: m.self.Addrs})
	if len(m.self.SharedNames)+len(m.self.SharedAddrs) > 0 {
		y := twin('h', x)
		h := broker.Host{ID: y, DN: twinDN(y)}
		for _, i := range m.self.SharedNames {
			h.Names = append(h.Names, m.self.Names[i])
		}
		for _, i := range m.self.SharedAddrs {
			h.Addrs = append(h.Addrs, m.self.Addrs[i])
		}
		e.PutHost(h)
	}
	return true
}

// again has a group that is not in the change put anew.
func (m *mirror) again(t *tx, x broker.EntryID) {
	if _, in := t.groups[x]; !in && m.groups[x] != nil {
		t.groups[x] = m.groups[x]
	}
}

func (m *mirror) putGroup(e *broker.Edit, x broker.EntryID, g *groupCopy) bool {
	if g == nil {
		delete(m.groups, x)
		e.RemoveGroup(twin('n', x))
		e.RemoveGroup(twin('d', x))
		return e.RemoveGroup(x)
	}
	m.groups[x] = g
	out := broker.Group{ID: x, DN: broker.DN(g.head.DN), Name: broker.GroupName(g.head.Name), GID: g.head.GID, Members: g.members, MemberUsers: g.names}
	if slices.Contains(m.self.Groups, id(x)) {
		out.Members = append(slices.Clone(out.Members), broker.DN(m.self.DN))
		slices.Sort(out.Members)
	}
	old := e.Snapshot().GroupByID(x)
	changed := old == nil || old.DN != out.DN || old.Name != out.Name || old.GID != out.GID ||
		!slices.Equal(old.Members, out.Members) || !slices.Equal(old.MemberUsers, out.MemberUsers)
	if changed {
		e.PutGroup(out)
	}
	for _, t := range []struct {
		what   byte
		shared bool
		g      broker.Group
	}{
		{'n', g.head.SharedName, broker.Group{Name: out.Name}},
		{'d', g.head.SharedGID, broker.Group{GID: out.GID}},
	} {
		y := twin(t.what, x)
		old := e.Snapshot().GroupByID(y)
		if t.g.ID, t.g.DN = y, twinDN(y); t.g.Name == "" {
			t.g.Name = broker.GroupName(strings.ReplaceAll(string(t.g.DN), ":", "-"))
		}
		if old != nil && (!t.shared || old.Name != t.g.Name || old.GID != t.g.GID) {
			e.RemoveGroup(y)
			old, changed = nil, true
		}
		if old == nil && t.shared {
			e.PutGroup(t.g)
			changed = true
		}
	}
	return changed
}

// dump is the whole mirror as frames, for the disk.
func (m *mirror) dump() []frameKept {
	ch := newChange(m.snap)
	for x := range m.users {
		ch.users = append(ch.users, m.textOf(x))
	}
	for x := range m.rules {
		if r := m.snap.RuleByID(x); r != nil {
			ch.rules = append(ch.rules, encodeRule(&broker.TargetRule{Rule: r, Targets: r.Targets}))
		}
	}
	for x, g := range m.groups {
		op := groupOp{ID: id(x), Head: &g.head}
		for _, n := range g.members {
			op.Add = append(op.Add, string(n))
		}
		for _, n := range g.names {
			op.AddNames = append(op.AddNames, string(n))
		}
		ch.groups = append(ch.groups, op)
	}
	frames := append(ch.frames(true), newFrame(kindSelf, m.self), newFrame(kindCommit, commit{m.stream, m.seq, m.generation, m.digest}))
	out := make([]frameKept, len(frames))
	for i, f := range frames {
		out[i] = frameKept{kind(f[4]), f[5:]}
	}
	return out
}
