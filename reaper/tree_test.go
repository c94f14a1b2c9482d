package reaper

import (
	"fmt"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

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

// TestStoppedAndLetGo: a process that is stopped with a tree, and turns out to be the
// beginning of a session from outside meanwhile, goes on.
func TestStoppedAndLetGo(t *testing.T) {
	for range 20 {
		cmd := exec.Command("sh", "-c", "sleep 60 & echo $!; wait")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var child int32
		if _, err := fmt.Fscan(out, &child); err != nil {
			t.Fatal(err)
		}
		leader, err := readProcess(int32(cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		login, err := readProcess(child)
		if err != nil {
			t.Fatal(err)
		}
		r := &Server{self: -1, c: Config{Sekishod: -2}, all: map[string]*session{}}
		// A census with thousands that have just gone, so that there is time between two looks.
		c := &census{map[int32]process{leader.pid: leader, child: login}, map[int32][]int32{leader.pid: {child}}, map[int32][]int32{}}
		for pid := int32(1 << 22); pid < 1<<22+20000; pid++ {
			c.all[pid], c.children[leader.pid] = process{pid: pid, parent: leader.pid, started: 1}, append(c.children[leader.pid], pid)
		}
		r.people.begun, r.people.last = time.Now().Add(time.Hour), c
		s := &session{pid: leader.pid, started: leader.started, tree: &tree{audit: noAudit, known: map[int32]uint64{}}}
		done := make(chan error, 1)
		go func() { done <- r.killTree(s) }()
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
			if p, err := readProcess(child); err != nil || p.state == 'T' {
				break
			}
		}
		r.mu.Lock()
		r.all["login"] = &session{pid: child, started: login.started, fresh: true}
		r.mu.Unlock()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		p, err := readProcess(child)
		syscall.Kill(int(child), syscall.SIGKILL)
		cmd.Wait()
		if err == nil && !p.dead() {
			if p.state == 'T' {
				t.Error("it was stopped, and let go like that")
			}
			return
		}
	}
	t.Error("it was killed each time, before it could be let go")
}
