package reaper

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lookEvery     = 20 * time.Millisecond // in case the kernel does not tell
	lookTreeEvery = 10 * time.Millisecond
)

// end ends a session.
func (r *Server) end(q request) (Ended, error) {
	begin := time.Now()
	s, err := r.held(q.id)
	if err != nil {
		return Ended{}, err
	}
	defer s.mu.Unlock()
	e := Ended{How: s.how}
	ps, err := r.processes(s)
	if err != nil {
		return Ended{}, err
	}
	if q.text != "" {
		for i := range ps {
			if ps[i].tty != 0 {
				ps[i].readUIDs() // 0, 0, 0 when it has gone
			}
		}
		if e.Terminals = tell(ps, q.text); e.Terminals > 0 {
			r.wait(s, forwardTime)
		}
	}
	// The leader is left to see the others end, and to close its PAM session.
	for _, p := range ps {
		if p.pid == s.pid && len(ps) > 1 {
			continue
		}
		if err := signalTo(p, s.has(p.pid), unix.SIGHUP, unix.SIGTERM, unix.SIGCONT); err != nil {
			return Ended{}, err
		}
	}
	empty, err := r.wait(s, q.grace)
	for until := time.Now().Add(killWait); err == nil && !empty && time.Now().Before(until); {
		e.Killed = true
		if err = r.kill(s); err == nil {
			empty, err = r.wait(s, killWait/10)
		}
	}
	if err != nil {
		return Ended{}, err
	}
	e.Took = time.Since(begin)
	if empty {
		r.drop(s)
		return e, nil
	}
	if ps, err = r.processes(s); err != nil {
		return Ended{}, err
	}
	for _, p := range ps[:min(len(ps), MaxLeft)] {
		e.Left = append(e.Left, Process{PID: p.pid, Name: p.name, State: p.state})
	}
	return e, nil
}

// processes are a session's, the first maxProcs of them; s.mu is held. sekishod
// must not be among them.
func (r *Server) processes(s *session) ([]process, error) {
	var out []process
	if s.dir == "" {
		in, err := r.tree(s)
		if err != nil {
			return nil, err
		}
		for _, p := range in {
			out = append(out, p)
		}
		return out, nil
	}
	pids, err := inFolder(s.dir, 1<<22)
	if err != nil {
		return nil, err
	}
	if slices.Contains(pids, r.self) || slices.Contains(pids, r.c.Sekishod) || slices.Contains(pids, 1) {
		return nil, fmt.Errorf("%w: sekishod itself runs in this session: restart it as a service", ErrRefused)
	}
	for _, pid := range pids[:min(len(pids), maxProcs)] {
		if p, err := readProcess(pid); err == nil && !p.dead() {
			out = append(out, p)
		}
	}
	return out, nil
}

// has makes sure that a pid is still one of the session's. A tree's are known by
// their start times alone.
func (s *session) has(pid int32) func() bool {
	if s.dir == "" {
		return nil
	}
	return inDir(pid, s.dir)
}

func (r *Server) kill(s *session) error {
	if s.dir == "" {
		return r.killTree(s)
	}
	if _, err := r.processes(s); err != nil {
		return err
	}
	return killFolder(s.dir)
}

// wait waits until a session is empty, for d at most; s.mu is held.
func (r *Server) wait(s *session, d time.Duration) (empty bool, err error) {
	end := time.NewTimer(d)
	defer end.Stop()
	every := lookEvery
	if s.dir == "" {
		every = lookTreeEvery
	}
	look := time.NewTicker(every)
	defer look.Stop()
	for {
		alive, err := r.populated(s)
		if err != nil || !alive {
			return !alive, err
		}
		select {
		case <-s.changed:
		case <-look.C:
		case <-end.C:
			alive, err := r.populated(s)
			return !alive, err
		}
	}
}

// populated is alive for one that is being ended: of a tree all is looked at,
// so that what is started meanwhile is known before its parent has gone.
func (r *Server) populated(s *session) (bool, error) {
	if s.dir != "" {
		return populated(s.dir)
	}
	in, err := r.tree(s)
	return len(in) > 0, err
}
