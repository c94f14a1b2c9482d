package broker

import (
	"maps"
	"net/netip"
	"slices"
)

// gather adds a session that may live to those of this pass, once.
func (r *rests) gather(to []*tracked, t *tracked) []*tracked {
	if t.pass == r.pass || t.Basis == BasisNone || !t.Ending.IsZero() {
		return to
	}
	t.pass = r.pass
	return append(to, t)
}

// touched gathers the sessions whose answer may be another in now than in old,
// and brings the index up to now.
func (r *rests) touched(now, old *Snapshot) []*tracked {
	c := now.Changes(old)
	grounds := map[*ground]struct{}{}
	add := func(g *ground) {
		if g != nil {
			grounds[g] = struct{}{}
		}
	}
	c.TouchedUsers(func(n UserName) bool { add(r.accounts[n]); return true })
	c.TouchedHosts(func(n HostName, a netip.Addr) bool { add(r.targets[Target{n, a}]); return true })
	r.touchedGroups(c, func(m map[*ground]struct{}) { maps.Copy(grounds, m) })

	var out []*tracked
	gather := func(t *tracked) { out = r.gather(out, t) }
	maps.Copy(grounds, r.ahead)
	clear(r.ahead)
	for t := range r.unsure {
		gather(t)
	}
	fragile := false
	c.Rules(func(old, now *Rule) bool {
		if old != nil {
			for set := range r.byRule[old.Name] {
				for _, t := range set.sessions {
					gather(t)
				}
			}
		}
		fragile = fragile || now != nil
		return true
	})
	if fragile {
		for t := range r.fragile {
			gather(t)
		}
	}
	for g := range grounds {
		r.refresh(g, now)
		for _, t := range g.sessions {
			gather(t)
		}
	}
	return out
}

// touchedGroups calls add with those in groups that have changed for them.
func (r *rests) touchedGroups(c Changes, add func(map[*ground]struct{})) {
	named := map[groupHandle]bool{} // groups whose name leads to them, or does so no longer
	c.groups(func(g groupChange) bool {
		if g.moved || g.renamed || g.renumbered {
			add(r.byGroup[either(g.now, g.old).ID])
		}
		for _, x := range []*group{g.old, g.now} {
			if x != nil && g.renumbered {
				add(r.byGID[x.GID])
			}
		}
		c.sharing(g, func(x *group) bool {
			if x != g.now || g.old != nil { // all in a new group are in one that has moved into it
				named[x.handle] = true
			}
			return true
		}, func(*group) bool { return true })
		return true
	})
	if len(named) == 0 {
		return
	}
	for id, in := range r.byGroup {
		x, _ := c.now.groupsByID.get(id)
		if x != nil && slices.ContainsFunc(x.above, func(h groupHandle) bool { return named[h] }) {
			add(in)
		}
	}
}

// everything gathers all sessions, and brings the index up to now.
func (r *rests) everything(now *Snapshot) (out []*tracked) {
	clear(r.ahead)
	for _, g := range r.targets {
		r.refresh(g, now)
	}
	for _, g := range r.accounts {
		r.refresh(g, now)
		for _, t := range g.sessions {
			out = r.gather(out, t)
		}
	}
	return out
}
