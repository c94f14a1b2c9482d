package reaper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// caller is the pid of root's process that made a connection to the PAM door.
func (r *Server) caller(fd int) (int32, error) {
	if fd < 0 {
		return 0, fmt.Errorf("%w: there is no connection of it", ErrRefused)
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return 0, fmt.Errorf("%w: its connection is no socket", ErrRefused)
	}
	here, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	local, ok := here.(*unix.SockaddrUnix)
	// sekishod binds another name first, and renames it. Whose other side has a
	// name was not accepted at the door: whoever pretends so has called somebody
	// who listens, and would have him ended.
	if !ok || kind != unix.SOCK_STREAM || strings.TrimSuffix(local.Name, ".new") != r.c.Socket || !peerUnnamed(fd) {
		return 0, fmt.Errorf("%w: its connection is none to %s", ErrRefused, r.c.Socket)
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	if cred.Uid != 0 {
		return 0, fmt.Errorf("%w: it is uid %d's, and only root opens sessions for others", ErrRefused, cred.Uid)
	}
	return cred.Pid, nil
}

// peerUnnamed: the other side of a unix socket has no address. Its length tells;
// package unix cannot.
func peerUnnamed(fd int) bool {
	var a unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	_, _, e := unix.Syscall(unix.SYS_GETPEERNAME, uintptr(fd), uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&size)))
	return e == 0 && a.Addr.Family == unix.AF_UNIX && size == 2 // only the family
}

// leader makes sure that a process may be adopted.
func (r *Server) leader(q request, fd int) (process, error) {
	pid, err := r.caller(fd)
	if err != nil {
		return process{}, err
	}
	if pid != q.pid {
		return process{}, fmt.Errorf("%w: process %d has made the connection, not %d", ErrRefused, pid, q.pid)
	}
	p, err := readProcess(pid)
	switch {
	case err != nil:
		return p, err
	case p.started != q.started || p.dead():
		return p, ErrProcess
	case pid == 1 || pid == r.self || pid == r.c.Sekishod || p.kernel:
		return p, ErrRefused
	}
	return p, nil
}

func (r *Server) adopt(q request, fd int) (How, error) {
	p, err := r.leader(q, fd)
	if err != nil {
		return "", err
	}
	s := &session{id: q.id, pid: q.pid, started: q.started, fresh: q.fresh, changed: make(chan struct{}, 1), watch: -1}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.mu.Lock()
	old, n := r.all[q.id], len(r.all)
	if old == nil && n < MaxSessions {
		r.all[q.id] = s
		r.swept++
	}
	r.mu.Unlock()
	switch {
	case old != nil && old.pid == q.pid && old.started == q.started:
		if old, err = r.held(q.id); err != nil {
			return "", err
		}
		defer old.mu.Unlock()
		return old.how, nil
	case old != nil:
		return "", ErrExists
	case n >= MaxSessions:
		return "", ErrLimit
	}
	if r.cg != nil {
		if err = r.place(s); err == nil {
			return s.how, nil
		}
		if errors.Is(err, ErrProcess) || errors.Is(err, ErrRefused) {
			r.drop(s)
			return "", err
		}
		r.c.Log.WithError(err).WithField("session", s.id).Warn("a session gets no folder: it is its tree of processes")
	}
	s.how, s.tree = InTree, &tree{audit: auditOf(p), known: map[int32]uint64{}}
	if err := r.remember(s); err != nil { // it could not be found again
		r.drop(s)
		return "", err
	}
	return s.how, nil
}

// remember writes down a session without a folder.
func (r *Server) remember(s *session) error {
	return os.WriteFile(s.entryFile(), s.entry(r.boot), 0o600)
}

// place makes a folder for a session and moves its process there, with the
// children that it has; s.mu is held. It is called again when somebody (logind)
// has moved the process away.
func (r *Server) place(s *session) error {
	// A process may open several sessions at once. Each next one is nested in the
	// one before, and none finds its folder empty.
	mu := &r.placed[int(s.pid)%len(r.placed)]
	mu.Lock()
	defer mu.Unlock()
	cur, err := r.cg.of(s.pid)
	if err != nil {
		return err
	}
	parent, how, err := r.cg.parent(cur, s.pid, s.fresh)
	if err != nil {
		return err
	}
	dir := filepath.Join(parent, folderName(s.id, s.pid, s.started))
	if err = os.Mkdir(dir, 0o755); err != nil && parent != r.cg.top {
		parent, how, dir = r.cg.top, InFolder, filepath.Join(r.cg.top, filepath.Base(dir))
		err = os.Mkdir(dir, 0o755)
	}
	if errors.Is(err, os.ErrNotExist) && r.cg.prepare() == nil { // somebody has tidied up
		err = os.Mkdir(dir, 0o755)
	}
	if err != nil {
		return err
	}
	if err = move(dir, s.pid); err == nil {
		var p process
		if p, err = readProcess(s.pid); err == nil && p.started != s.started {
			move(cur, s.pid) // another has the number by now: it goes back
			err = ErrProcess
		}
	}
	if err != nil {
		removeFolder(dir)
		return err
	}
	r.follow(dir, cur, s.pid)
	r.mu.Lock()
	r.detach(s)
	s.dir, s.how = dir, how
	s.placed++
	r.attach(s)
	r.mu.Unlock()
	if alive, err := populated(dir); err != nil || !alive {
		return ErrProcess
	}
	return nil
}

// follow moves the children that a process has already, and theirs.
func (r *Server) follow(dir, from string, pid int32) {
	for _, c := range childrenOf(pid) {
		if cur, err := r.cg.of(c); err == nil && cur == from {
			if move(dir, c) == nil {
				r.follow(dir, from, c)
			}
		}
	}
}
