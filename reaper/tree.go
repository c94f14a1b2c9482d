package reaper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

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

// members finds a session's processes. stop are those at which its tree ends.
func (s *session) members(c *census, stop map[int32]bool) map[int32]process {
	others := map[int32]bool{}
	for pid := range stop {
		if pid != 1 { // it is everybody's ancestor
			others[pid] = true
			c.spread(others, pid, stop)
		}
	}
	in := map[int32]bool{}
	for pid, p := range c.all {
		started, known := s.tree.known[pid]
		if pid == s.pid && p.started == s.started || known && p.started == started ||
			s.tree.audit != noAudit && p.audit == s.tree.audit {
			in[pid] = true
			c.spread(in, pid, stop)
		}
	}
	// The number of a session (setsid(2)) is not given again while it has members; once
	// it has none, it is anybody's.
	for pid, started := range s.tree.known {
		p, ok := c.all[pid]
		if ok && p.started == started {
			continue
		}
		if ok || len(c.sids[pid]) == 0 {
			delete(s.tree.known, pid)
			continue
		}
		for _, m := range c.sids[pid] {
			in[m] = true
			c.spread(in, m, stop)
		}
	}
	out := map[int32]process{}
	for pid := range in {
		if !others[pid] && !stop[pid] {
			out[pid], s.tree.known[pid] = c.all[pid], c.all[pid].started
		}
	}
	return out
}

// stopOf are the processes at which the tree of a session ends: init, sekishod
// and this program; and the sessions from outside, but those around it.
func (r *Server) stopOf(s *session, c *census) map[int32]bool {
	stop := map[int32]bool{1: true, r.self: true, r.c.Sekishod: true}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.all {
		if p, ok := c.all[o.pid]; ok && o != s && o.fresh && p.started == o.started && o.pid != s.pid {
			stop[o.pid] = true
		}
	}
	for pid, n := s.pid, 0; n < 1000; n++ { // its own ancestors do not end it
		p, ok := c.all[pid]
		if !ok || p.parent <= 1 {
			break
		}
		if pid = p.parent; pid != r.self && pid != r.c.Sekishod {
			delete(stop, pid)
		}
	}
	return stop
}

// counted is one census for all who ask for it at the same time.
type counted struct {
	mu    sync.Mutex // guards all below, and is held while one is taken
	begun time.Time
	last  *census
}

// take is a census that has begun after the call.
func (c *counted) take() (*census, error) {
	asked := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil && c.begun.After(asked) {
		return c.last, nil
	}
	c.begun, c.last = time.Now(), nil
	var err error
	c.last, err = takeCensus()
	return c.last, err
}

// tree finds the processes of a session without a folder.
func (r *Server) tree(s *session) (map[int32]process, error) {
	c, err := r.people.take()
	if err != nil {
		return nil, err
	}
	return s.members(c, r.stopOf(s, c)), nil
}

// killTree stops the processes of a tree until there are no new ones, so that
// none is left without a parent by which it could be found; then it kills them.
func (r *Server) killTree(s *session) error {
	stopped := map[int32]process{}
	var in map[int32]process
	for range 50 {
		var err error
		if in, err = r.tree(s); err != nil {
			return err
		}
		fresh := false
		for pid, p := range in {
			if stopped[pid].started != p.started {
				fresh, stopped[pid] = true, p
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
	for pid, p := range stopped {
		if _, is := in[pid]; !is { // it has begun a session from outside meanwhile
			if err := signalTo(p, nil, unix.SIGCONT); err != nil {
				return err
			}
		}
	}
	return nil
}
