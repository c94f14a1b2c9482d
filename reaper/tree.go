package reaper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// registryDir is where sessions are remembered that have no folder of cgroup2.
const registryDir = "/run/sekisho-reaper"

// tree is a session without a folder.
type tree struct {
	audit uint32           // the audit session id that it got, or noAudit
	known map[int32]uint64 // pids that were its, with their start times
}

// auditOf is the audit session id that a session got when it began; noAudit if
// it goes on with its parent's, or with ours (sekishod was started in it).
func auditOf(leader process) uint32 {
	a := auditSession(leader.pid)
	if a == auditSession(leader.parent) || a == auditSession(int32(os.Getpid())) {
		return noAudit
	}
	return a
}

// entry is what is remembered of a tree, in a file with a folder's name.
func (s *session) entry(boot string) []byte {
	return fmt.Appendf(nil, "%s %d %t\n", boot, s.tree.audit, s.fresh)
}

func (s *session) readEntry(b []byte, boot string) error {
	f := strings.Fields(string(b))
	if len(f) != 3 || f[0] != boot {
		return errors.New("it is of another boot, or has another form")
	}
	audit, err := decimal(f[1])
	if err != nil || audit > uint64(noAudit) || f[2] != "true" && f[2] != "false" {
		return errors.New("it has another form")
	}
	s.tree, s.fresh = &tree{audit: uint32(audit), known: map[int32]uint64{}}, f[2] == "true"
	return nil
}

func (s *session) entryFile() string {
	return filepath.Join(registryDir, folderName(s.id, s.pid, s.started))
}

// members finds a session's processes among all. stop are processes that belong
// to no session or to one that is nested in none, with all their descendants.
func (s *session) members(all map[int32]process, stop map[int32]bool) map[int32]process {
	children, sids := map[int32][]int32{}, map[int32][]int32{}
	for pid, p := range all {
		children[p.parent] = append(children[p.parent], pid)
		sids[p.sid] = append(sids[p.sid], pid)
	}
	spread := func(in map[int32]bool, from int32) {
		for next := []int32{from}; len(next) > 0; next = next[1:] {
			for _, more := range [][]int32{children[next[0]], sids[next[0]]} {
				for _, c := range more {
					if !in[c] && !stop[c] {
						in[c] = true
						next = append(next, c)
					}
				}
			}
		}
	}
	others := map[int32]bool{}
	for pid := range stop {
		if pid != 1 { // it is everybody's ancestor
			others[pid] = true
			spread(others, pid)
		}
	}
	in := map[int32]bool{}
	for pid, p := range all {
		started, known := s.tree.known[pid]
		if pid == s.pid && p.started == s.started || known && p.started == started ||
			s.tree.audit != noAudit && auditSession(pid) == s.tree.audit {
			in[pid] = true
			spread(in, pid)
		}
	}
	// The number of a session (setsid(2)) is not given again while it has members.
	for pid := range s.tree.known {
		if _, ok := all[pid]; !ok {
			for _, c := range sids[pid] {
				in[c] = true
				spread(in, c)
			}
		}
	}
	out := map[int32]process{}
	for pid := range in {
		if !others[pid] && !stop[pid] {
			out[pid], s.tree.known[pid] = all[pid], all[pid].started
		}
	}
	return out
}

// stopOf are the processes at which the tree of a session ends: init, sekishod
// and this program; and the sessions from outside, but those around it.
func (r *Server) stopOf(s *session, all map[int32]process) map[int32]bool {
	stop := map[int32]bool{1: true, r.self: true, r.c.Sekishod: true}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.all {
		if p, ok := all[o.pid]; ok && o != s && o.fresh && p.started == o.started && o.pid != s.pid {
			stop[o.pid] = true
		}
	}
	for pid, n := s.pid, 0; n < 1000; n++ { // its own ancestors do not end it
		p, ok := all[pid]
		if !ok || p.parent <= 1 {
			break
		}
		if pid = p.parent; pid != r.self && pid != r.c.Sekishod {
			delete(stop, pid)
		}
	}
	return stop
}

// tree finds the processes of a session without a folder.
func (r *Server) tree(s *session) (map[int32]process, error) {
	all, err := everybody()
	if err != nil {
		return nil, err
	}
	return s.members(all, r.stopOf(s, all)), nil
}

// killTree stops the processes of a tree until there are no new ones, so that
// none is left without a parent by which it could be found; then it kills them.
func (r *Server) killTree(s *session) error {
	stopped := map[int32]uint64{}
	var in map[int32]process
	for range 50 {
		var err error
		if in, err = r.tree(s); err != nil {
			return err
		}
		fresh := false
		for pid, p := range in {
			if stopped[pid] != p.started {
				fresh, stopped[pid] = true, p.started
				if err := signalTo(p, nil, unix.SIGSTOP); err != nil {
					return err
				}
			}
		}
		if !fresh {
			break
		}
	}
	for _, p := range in {
		if err := signalTo(p, nil, unix.SIGKILL); err != nil {
			return err
		}
	}
	return nil
}
