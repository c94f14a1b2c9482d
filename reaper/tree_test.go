package reaper

import "testing"

// TestAPidOfOthers: a pid that a session has had is not its for ever: what gets the
// number later, and makes a session (setsid) of its own, is no part of it.
func TestAPidOfOthers(t *testing.T) {
	take := func(ps ...process) *census {
		c := &census{map[int32]process{}, map[int32][]int32{}, map[int32][]int32{}}
		for _, p := range ps {
			p.audit = noAudit
			c.all[p.pid] = p
			c.children[p.parent] = append(c.children[p.parent], p.pid)
			c.sids[p.sid] = append(c.sids[p.sid], p.pid)
		}
		return c
	}
	leader := process{pid: 100, parent: 50, sid: 100, started: 1}
	stop := map[int32]bool{1: true}
	s := &session{pid: 100, started: 1, tree: &tree{audit: noAudit, known: map[int32]uint64{}}}
	for i, c := range []struct {
		ps   []process
		want []int32
	}{
		{[]process{leader, {pid: 200, parent: 100, sid: 200, started: 2}, {pid: 201, parent: 200, sid: 200, started: 3}, {pid: 300, parent: 100, sid: 100, started: 4}}, []int32{100, 200, 201, 300}},
		// 200 has ended, and what it has left in its session is found by that.
		{[]process{leader, {pid: 201, parent: 1, sid: 200, started: 3}, {pid: 300, parent: 100, sid: 100, started: 4}}, []int32{100, 201, 300}},
		{[]process{leader}, []int32{100}},
		// Long after: daemons of others, which were 200 and 300 when they made sessions.
		{[]process{leader, {pid: 400, parent: 1, sid: 200, started: 90}, {pid: 300, parent: 1, sid: 300, started: 91}}, []int32{100}},
		{[]process{leader, {pid: 400, parent: 1, sid: 200, started: 90}, {pid: 401, parent: 1, sid: 300, started: 92}}, []int32{100}},
	} {
		in := s.members(take(c.ps...), stop)
		if len(in) != len(c.want) {
			t.Errorf("step %d: %v", i, in)
		}
		for _, pid := range c.want {
			if _, ok := in[pid]; !ok {
				t.Errorf("step %d: %d is missing", i, pid)
			}
		}
	}
}
