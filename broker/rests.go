package broker

import (
	"slices"
	"strings"
	"time"
)

// tracked is a session with its places in the index. All of it is guarded by
// live.mu.
type tracked struct {
	Session
	// account, target and rules are what it rests on, nil for what it does not;
	// at are its places in their crowds.
	account, target *ground
	rules           *ruleSet
	at              [3]int32

	// due is when it is judged again, or its keeper is told again, at the latest:
	// microseconds since the Unix epoch, 0 for no such time. place is where it
	// stands in the heap of those times, -1 when it does not.
	due   int64
	place int32

	pass uint32 // the last pass that gathered it
	told uint8  // how often its keeper was told to end it
	// opening: its beginning is being recorded; nobody is in it yet.
	opening bool
	// gone: it is tracked no longer.
	gone bool
	// queued: it waits for its keeper.
	queued bool
	by     string // who had it killed
}

const (
	onAccount = iota
	onTarget
	onRules
)

// crowd is the sessions that rest on one thing.
type crowd []*tracked

// add and remove keep each session's place; slot says which of its places is
// the one in this crowd.
func (c *crowd) add(t *tracked, slot int) {
	t.at[slot] = int32(len(*c))
	*c = append(*c, t)
}

func (c *crowd) remove(t *tracked, slot int) {
	last := len(*c) - 1
	moved := (*c)[last]
	(*c)[t.at[slot]], moved.at[slot] = moved, t.at[slot]
	(*c)[last] = nil
	*c = (*c)[:last]
}

// ground is a user name or a target that sessions rest on, and the groups that
// name the user or the host directly. What contains those is in the snapshot.
type ground struct {
	sessions crowd
	user     UserName // empty for a target
	target   Target
	gid      uint32    // the user's primary one
	groups   []EntryID // sorted
}

// ruleSet is rules that grant sessions together, by name; most sessions have
// the same few sets.
type ruleSet struct {
	sessions crowd
	names    []RuleName // shared with the sessions, never changed
}

// rests is the index of sessions by what they rest on. Groups stand in it under
// their entries' IDs, which hold over renames and from one line of snapshots to
// another.
type rests struct {
	accounts map[UserName]*ground
	targets  map[Target]*ground
	byGroup  map[EntryID]map[*ground]struct{}
	byGID    map[uint32]map[*ground]struct{} // users by their primary gid number
	ruleSets map[string]*ruleSet
	byRule   map[RuleName]map[*ruleSet]struct{}
	// fragile are those that a rule can end which they do not rest on, see
	// verdict; unsure are judged again at any change.
	fragile, unsure map[*tracked]struct{}
	ahead           map[*ground]struct{} // those on a newer snapshot than the last pass was
	due             dueHeap
	words           words
	pass            uint32 // grows with each that gathers sessions
}

func newRests() rests {
	return rests{accounts: map[UserName]*ground{}, targets: map[Target]*ground{}, byGroup: map[EntryID]map[*ground]struct{}{},
		byGID: map[uint32]map[*ground]struct{}{}, ruleSets: map[string]*ruleSet{}, byRule: map[RuleName]map[*ruleSet]struct{}{},
		fragile: map[*tracked]struct{}{}, unsure: map[*tracked]struct{}{}, ahead: map[*ground]struct{}{}, words: words{}}
}

// targetKey is what Decide looks a target up by.
func targetKey(t Target) Target {
	if t.Host != "" {
		return Target{Host: HostName(strings.ToLower(string(t.Host)))}
	}
	return Target{Addr: t.Addr.Unmap().WithZone("")}
}

// add puts a session in, on what s says of its user and target. ahead says that
// the last pass was on another snapshot than s: the next does not see what is
// between those, and must look again.
func (r *rests) add(t *tracked, s *Snapshot, ahead bool) {
	begin := func(g *ground) {
		if r.refresh(g, s); ahead {
			r.ahead[g] = struct{}{}
		}
	}
	t.place = -1
	r.own(&t.Session)
	q := &t.Request
	a := r.accounts[q.User]
	if a == nil {
		a = &ground{user: q.User}
		r.accounts[a.user] = a
		begin(a)
	}
	a.sessions.add(t, onAccount)
	t.account = a
	if t.Basis == BasisRules {
		key := targetKey(q.Target)
		g := r.targets[key]
		if g == nil {
			g = &ground{target: key}
			r.targets[key] = g
			begin(g)
		}
		g.sessions.add(t, onTarget)
		t.target = g
		r.setRules(t, t.Rules)
	}
}

// remove takes a session out, and all that no other rests on.
func (r *rests) remove(t *tracked) {
	r.settle(t)
	t.account.sessions.remove(t, onAccount)
	if len(t.account.sessions) == 0 {
		delete(r.accounts, t.account.user)
		r.drop(t.account)
	}
	if t.target != nil {
		t.target.sessions.remove(t, onTarget)
		if len(t.target.sessions) == 0 {
			delete(r.targets, t.target.target)
			r.drop(t.target)
		}
	}
	names := t.Rules
	r.setRules(t, nil)
	t.Rules = names
	r.disown(&t.Session)
	t.gone = true
}

// settle takes a session out of what has it judged again by itself.
func (r *rests) settle(t *tracked) {
	delete(r.fragile, t)
	delete(r.unsure, t)
	r.setDue(t, time.Time{})
}

// setRules says which rules a session rests on.
func (r *rests) setRules(t *tracked, names []RuleName) {
	if t.rules != nil && slices.Equal(t.rules.names, names) {
		return
	}
	if old := t.rules; old != nil {
		old.sessions.remove(t, onRules)
		if len(old.sessions) == 0 {
			delete(r.ruleSets, join(old.names, "\n"))
			for _, n := range old.names {
				if delete(r.byRule[n], old); len(r.byRule[n]) == 0 {
					delete(r.byRule, n)
				}
			}
		}
	}
	t.rules, t.Rules = nil, nil
	if len(names) == 0 {
		return
	}
	key := join(names, "\n") // names hold no control characters
	set := r.ruleSets[key]
	if set == nil {
		set = &ruleSet{names: slices.Clone(names)}
		r.ruleSets[key] = set
		for _, n := range set.names {
			if r.byRule[n] == nil {
				r.byRule[n] = map[*ruleSet]struct{}{}
			}
			r.byRule[n][set] = struct{}{}
		}
	}
	set.sessions.add(t, onRules)
	t.rules, t.Rules = set, set.names
}

// refresh writes down anew which groups of s name a user or host.
func (r *rests) refresh(g *ground, s *Snapshot) {
	r.clearGroups(g)
	if s == nil {
		return
	}
	var direct []groupHandle
	if g.user != "" {
		if u, ambiguous := s.User(g.user); u != nil && !ambiguous {
			direct, g.gid = s.userGroups(u), u.GID
			put(r.byGID, g.gid, g)
		}
	} else if h := s.at(g.target); h != nil {
		direct = s.hostGroups(h)
	}
	for _, d := range direct {
		if x, _ := s.groupsByHandle.get(d); x != nil {
			g.groups = append(g.groups, x.ID)
			put(r.byGroup, x.ID, g)
		}
	}
	slices.SortFunc(g.groups, func(a, b EntryID) int { return slices.Compare(a[:], b[:]) })
	g.groups = slices.Clip(slices.Compact(g.groups))
}

func (r *rests) drop(g *ground) {
	r.clearGroups(g)
	delete(r.ahead, g)
}

func (r *rests) clearGroups(g *ground) {
	for _, id := range g.groups {
		take(r.byGroup, id, g)
	}
	take(r.byGID, g.gid, g)
	g.groups, g.gid = nil, 0
}

func put[K comparable](m map[K]map[*ground]struct{}, k K, g *ground) {
	if m[k] == nil {
		m[k] = map[*ground]struct{}{}
	}
	m[k][g] = struct{}{}
}

func take[K comparable](m map[K]map[*ground]struct{}, k K, g *ground) {
	if delete(m[k], g); len(m[k]) == 0 {
		delete(m, k)
	}
}

// at is the host that a target key means, nil for none.
func (s *Snapshot) at(key Target) *Host {
	if key.Host != "" {
		return s.Host(key.Host)
	}
	return s.HostByAddr(key.Addr)
}
