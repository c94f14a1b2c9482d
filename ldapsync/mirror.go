package ldapsync

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/keys"
)

// mirror is the directory as the provider last showed it, and the edit that is
// being made of it. It is used by one goroutine.
//
// Only cur and edit are undone when a refresh breaks off. The other maps may
// then be ahead; the next refresh, from the same cookie, brings the same
// entries again and makes them agree.
type mirror struct {
	t    translator
	cur  *broker.Snapshot // the last committed state; nil before the first
	edit *broker.Edit     // nil: none begun
	// changed: the edit differs from cur.
	changed bool

	others   map[broker.EntryID]struct{} // known entries that gave nothing
	locks    map[broker.EntryID]userLock // users locked by the password policy
	policies map[broker.EntryID]policy
	lockFor  time.Duration // where no policy says it

	// gone are users that went, until the hold forgets them or they return.
	gone map[broker.EntryID]goneUser
	// deferred are the entries with groups of a refresh, as appendEntry wrote
	// them: done last, they share the DNs of the users they name.
	deferred   []byte
	deferGroup bool

	skips skipList
	now   func() time.Time
}

type userLock struct {
	lock
	state broker.AccountState // without the lock
}

type policy struct {
	dn      broker.DN
	lockout time.Duration
}

type goneUser struct {
	name broker.UserName
	at   time.Time
}

// maxDeferred bounds mirror.deferred in bytes.
const maxDeferred = 64 << 20

func newMirror(c *Config, p *plan) *mirror {
	return &mirror{
		t:      translator{plan: p, floor: c.UIDFloor, policy: c.KeyPolicy},
		others: map[broker.EntryID]struct{}{}, locks: map[broker.EntryID]userLock{},
		policies: map[broker.EntryID]policy{}, gone: map[broker.EntryID]goneUser{},
		lockFor: c.LockoutDuration, now: c.Now,
		skips: skipList{log: c.Log, now: c.Now, all: map[broker.EntryID]skip{}, texts: map[broker.EntryID]Skipped{}},
	}
}

func (m *mirror) begin() {
	if m.edit == nil {
		m.edit, m.changed = m.cur.Edit(), false
	}
}

// commit makes the edit the current state; it reports whether anything changed.
func (m *mirror) commit() bool {
	changed := m.edit != nil && (m.changed || m.cur == nil)
	if changed {
		m.cur = m.edit.Commit()
	}
	m.edit, m.changed = nil, false
	return changed
}

// rollback forgets the edit.
func (m *mirror) rollback() {
	m.edit, m.changed, m.deferred, m.deferGroup = nil, false, m.deferred[:0], false
}

// put takes an entry in, in place of what was known under its id.
func (m *mirror) put(e *entry) {
	m.begin()
	t := &m.t
	t.probs.reset()
	var err error
	if t.dn, err = appendDN(t.dn[:0], e.dn); err != nil {
		t.probs.entry(err)
	}
	k := t.kinds(e)
	if m.deferGroup && k&(kindGroup|kindNetgroup) != 0 && len(m.deferred) < maxDeferred {
		at := len(m.deferred)
		m.deferred = append(m.deferred, 0, 0, 0, 0)
		m.deferred = appendEntry(m.deferred, e)
		putLength(m.deferred[at:])
		return
	}
	dn := str(t.dn)
	if t.probs.whole {
		k = 0
	} else if e.large > 0 {
		t.probs.entry(fmt.Errorf("an entry of %d bytes: too long to be read", e.large))
	} else if k == 0 {
		t.probs.entry(fmt.Errorf("none of its object classes is one that we know"))
	}
	used := false
	if m.putUser(e, k&kindUser != 0 && within(dn, string(t.userBase))) {
		used = true
	}
	if m.putGroup(e, k&(kindGroup|kindNetgroup), within(dn, string(t.groupBase))) {
		used = true
	}
	if m.putHost(e, k&kindHost != 0 && within(dn, string(t.hostBase))) {
		used = true
	}
	if m.putRule(e, k&kindRule != 0 && within(dn, string(t.ruleBase))) {
		used = true
	}
	if m.putPolicy(e, k&kindPolicy != 0) {
		used = true
	}
	if used {
		delete(m.others, e.id)
		t.probs.whole = false
	} else {
		m.others[e.id] = struct{}{}
	}
	m.skips.note(e, &t.probs)
}

// remove forgets an entry.
func (m *mirror) remove(id broker.EntryID) {
	m.begin()
	if len(m.deferred) > 0 {
		m.flushDeferred(true)
	}
	m.dropUser(id)
	changed := m.edit.RemoveGroup(id)
	changed = m.edit.RemoveHost(id) || changed
	changed = m.edit.RemoveRule(id) || changed
	m.changed = m.changed || changed
	if _, ok := m.policies[id]; ok {
		delete(m.policies, id)
		m.relock()
	}
	delete(m.others, id)
	m.skips.forget(id)
}

func (m *mirror) dropUser(id broker.EntryID) {
	delete(m.locks, id)
	if u := m.edit.Snapshot().UserByID(id); u != nil {
		m.gone[id] = goneUser{u.Name, m.now()}
		m.edit.RemoveUser(id)
		m.changed = true
	}
}

func (m *mirror) putUser(e *entry, is bool) bool {
	var u broker.User
	var l *lock
	if is {
		var err error
		if l, err = m.t.user(e, &u); err != nil {
			m.t.probs.entry(err)
			is = false
		}
	}
	if !is {
		m.dropUser(e.id)
		return false
	}
	if l != nil {
		m.locks[e.id] = userLock{*l, u.State}
		l.apply(&u.State, m.lockout(l.policy))
	} else if len(m.locks) > 0 {
		delete(m.locks, e.id)
	}
	if len(m.gone) > 0 {
		delete(m.gone, e.id)
	}
	if m.cur != nil { // else everything is new
		if old := m.edit.Snapshot().UserByID(e.id); old != nil && sameUser(old, &u) {
			return true
		}
	}
	m.edit.PutUser(u)
	m.changed = true
	return true
}

func sameUser(a, b *broker.User) bool {
	return a.Name == b.Name && a.DN == b.DN && a.UID == b.UID && a.GID == b.GID && a.Gecos == b.Gecos &&
		a.Home == b.Home && a.Shell == b.Shell && a.State == b.State && slices.EqualFunc(a.Keys, b.Keys, sameLine)
}

func sameLine(a, b keys.Line) bool {
	return a.Key == b.Key && a.Comment == b.Comment && reflect.DeepEqual(a.Options, b.Options)
}

func (m *mirror) putGroup(e *entry, k kind, inBase bool) bool {
	var g broker.Group
	var err error
	if inBase && k&kindGroup != 0 {
		g, err = m.t.group(e)
	} else if inBase && k&kindNetgroup != 0 {
		g, err = m.t.netgroup(e)
	} else {
		m.changed = m.edit.RemoveGroup(e.id) || m.changed
		return false
	}
	if err != nil {
		m.t.probs.entry(err)
		m.changed = m.edit.RemoveGroup(e.id) || m.changed
		return false
	}
	if old := m.edit.Snapshot().GroupByID(e.id); old != nil {
		if sameGroup(old, &g) {
			return true
		}
	}
	m.edit.PutGroup(g)
	m.changed = true
	return true
}

// sameGroup compares; old is sorted, as broker keeps it, and g gets sorted.
func sameGroup(old, g *broker.Group) bool {
	slices.Sort(g.Members)
	slices.Sort(g.MemberUsers)
	slices.Sort(g.MemberHosts)
	g.Members, g.MemberUsers = slices.Compact(g.Members), slices.Compact(g.MemberUsers)
	g.MemberHosts = slices.Compact(g.MemberHosts)
	return old.DN == g.DN && old.Name == g.Name && old.GID == g.GID && slices.Equal(old.Members, g.Members) &&
		slices.Equal(old.MemberUsers, g.MemberUsers) && slices.Equal(old.MemberHosts, g.MemberHosts)
}

func (m *mirror) putHost(e *entry, is bool) bool {
	var h broker.Host
	if is {
		var err error
		if h, err = m.t.host(e); err != nil {
			m.t.probs.entry(err)
			is = false
		}
	}
	if !is {
		m.changed = m.edit.RemoveHost(e.id) || m.changed
		return false
	}
	if old := m.edit.Snapshot().HostByID(e.id); old == nil || old.DN != h.DN ||
		!slices.Equal(old.Names, h.Names) || !slices.Equal(old.Addrs, h.Addrs) || !slices.Equal(old.FeedKeys, h.FeedKeys) {
		m.edit.PutHost(h)
		m.changed = true
	}
	return true
}

func (m *mirror) putRule(e *entry, is bool) bool {
	var r broker.Rule
	if is {
		var err error
		if r, err = m.t.ruleOf(e); err != nil {
			m.t.probs.entry(fmt.Errorf("the rule is not used: %w", err))
			is = false
		}
	}
	if !is {
		m.changed = m.edit.RemoveRule(e.id) || m.changed
		return false
	}
	if old := m.edit.Snapshot().RuleByID(e.id); old == nil || !reflect.DeepEqual(*old, r) {
		m.edit.PutRule(r)
		m.changed = true
	}
	return true
}

func (m *mirror) putPolicy(e *entry, is bool) bool {
	old, was := m.policies[e.id]
	if !is {
		if was {
			delete(m.policies, e.id)
			m.relock()
		}
		return false
	}
	// Without a duration, or with one that cannot be read, a lock-out holds
	// until an administrator ends it (pwdLockoutDuration of the draft).
	secs, err := strconv.ParseUint(str(e.first(m.t.policyLockout())), 10, 31)
	if err != nil {
		secs = 0
	}
	p := policy{broker.DN(m.t.dn), time.Duration(secs) * time.Second}
	if !was || old != p {
		m.policies[e.id] = p
		m.relock()
	}
	return true
}

func (p *plan) policyLockout() int { return p.policy.lockout }

// lockout is how long a lock-out under that policy lasts; the empty DN is the
// default policy.
func (m *mirror) lockout(dn broker.DN) time.Duration {
	if dn == "" {
		dn = m.t.policyDN
	}
	for _, p := range m.policies {
		if p.dn == dn || dn == "" && len(m.policies) == 1 {
			return p.lockout
		}
	}
	return m.lockFor
}

// relock works the locked users' states out anew after a policy changed.
func (m *mirror) relock() {
	for id, l := range m.locks {
		u := m.edit.Snapshot().UserByID(id)
		if u == nil {
			continue
		}
		state := l.state
		l.apply(&state, m.lockout(l.policy))
		if u.State != state {
			n := *u
			n.State = state
			m.edit.PutUser(n)
			m.changed = true
		}
	}
}

// flushDeferred takes in the groups that were put off.
func (m *mirror) flushDeferred(again bool) {
	all := m.deferred
	m.deferred, m.deferGroup = nil, false
	columns := make([]int, len(m.t.names))
	for i := range columns {
		columns[i] = i
	}
	e := m.t.newEntry()
	for len(all) > 0 {
		n := takeLength(all)
		if err := readEntry(all[4:4+n], columns, e); err != nil {
			panic("ldapsync: " + err.Error()) // our own bytes of a moment ago
		}
		m.put(e)
		all = all[4+n:]
	}
	m.deferGroup = again
}

func putLength(b []byte) {
	n := len(b) - 4
	b[0], b[1], b[2], b[3] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
}

func takeLength(b []byte) int {
	return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 | int(b[3])<<24
}

// known calls f for every entry that the mirror holds.
func (m *mirror) known(f func(broker.EntryID)) {
	if m.cur != nil {
		m.cur.Users(func(u *broker.User) bool { f(u.ID); return true })
		m.cur.Groups(func(g *broker.Group) bool { f(g.ID); return true })
		m.cur.Hosts(func(h *broker.Host) bool { f(h.ID); return true })
		for _, r := range m.cur.Rules() {
			f(r.ID)
		}
	}
	for id := range m.others {
		f(id)
	}
	for id := range m.policies {
		f(id)
	}
}

// empty reports whether not one entry is known.
func (m *mirror) empty() bool {
	if m.cur != nil {
		if u, g, h, r := m.cur.Size(); u+g+h+r > 0 {
			return false
		}
	}
	return len(m.others)+len(m.policies) == 0
}
