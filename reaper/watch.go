package reaper

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/wire"
)

// maxPlaced is how often a session is put into a folder: logind moves it once,
// when its module comes behind ours.
const maxPlaced = 3

const maxTold = 256 // ids in a packet

const emptiedWord = "emptied "

// readEmptied reads a line of an event.
func readEmptied(line string) (id string, ok bool) {
	id, ok = strings.CutPrefix(line, emptiedWord)
	return id, ok && idForm.MatchString(id)
}

// hear takes the kernel's word that a folder's cgroup.events has changed, until
// inotify is closed. A session that is idle costs nothing.
func (r *Server) hear() {
	b := make([]byte, 64<<10)
	for {
		n, err := r.note.Read(b)
		if err != nil {
			return
		}
		for at := 0; at+unix.SizeofInotifyEvent <= n; {
			wd := int32(binary.NativeEndian.Uint32(b[at:]))
			mask := binary.NativeEndian.Uint32(b[at+4:])
			at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[at+12:]))
			if mask&unix.IN_Q_OVERFLOW != 0 {
				r.lookAtAll()
				continue
			}
			r.mu.Lock()
			s := r.watched[wd]
			r.mu.Unlock()
			if s != nil && mask&unix.IN_IGNORED == 0 {
				r.look(s)
			}
		}
	}
}

// lookAtAll is for words of the kernel that were lost, and for sessions of which
// it says nothing.
func (r *Server) lookAtAll() {
	r.mu.Lock()
	all := make([]*session, 0, len(r.all))
	for _, s := range r.all {
		all = append(all, s)
	}
	r.mu.Unlock()
	for _, s := range all {
		r.look(s)
	}
}

// look finds out whether a session has become empty. Whoever holds it just now
// is told, and looks himself first. It is called by the loops alone.
func (r *Server) look(s *session) {
	select {
	case s.changed <- struct{}{}:
	default:
	}
	r.loops.Go(func() { r.settle(s) })
}

// settle lets go of a session that has no process any more, and has it told.
func (r *Server) settle(s *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.mu.Lock()
	known := r.all[s.id] == s
	r.mu.Unlock()
	if !known {
		return
	}
	log := r.c.Log.WithField("session", s.id)
	alive, err := r.alive(s)
	if err != nil {
		log.WithError(err).Warn("a session may have ended")
		return
	}
	if alive {
		return
	}
	if p, err := readProcess(s.pid); err == nil && p.started == s.started && !p.dead() {
		if err := r.again(s, p); err == nil {
			return
		} else if !errors.Is(err, ErrProcess) {
			log.WithError(err).Warn("a session's process was taken out of its folder")
		}
	}
	r.drop(s)
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.forgotten {
		return
	}
	r.gone = append(r.gone, s.id)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// again puts a session into another folder, whose process somebody has moved; as
// a last resort it is a tree.
func (r *Server) again(s *session, p process) error {
	old := s.dir
	if s.placed < maxPlaced {
		err := r.place(s)
		if err == nil {
			return removeFolder(old)
		}
		if errors.Is(err, ErrProcess) {
			return err
		}
		r.c.Log.WithError(err).WithField("session", s.id).Warn("a session gets no folder: it is its tree of processes")
	}
	r.mu.Lock()
	r.detach(s)
	s.dir, s.how, s.tree = "", InTree, &tree{audit: auditOf(p), known: map[int32]uint64{}}
	r.attach(s)
	r.mu.Unlock()
	if err := removeFolder(old); err != nil {
		return err
	}
	return r.remember(s)
}

// sweep looks at the sessions of which the kernel says nothing, until ctx ends; and
// at all of them now and then, and when a folder has gone in which others may have
// been: the kernel's last word on a folder comes up to 10 ms late, and never when the
// folder was removed in them (by us, or by systemd with a scope).
func (r *Server) sweep(ctx context.Context) {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for n := 1; ; n++ {
		all := n%sweepAll == 0
		select {
		case <-ctx.Done():
			return
		case <-r.nested:
			all = true
		case <-t.C:
		}
		r.mu.Lock()
		var some []*session
		if all || r.swept > 0 {
			for _, s := range r.all {
				if all || s.watch < 0 {
					some = append(some, s)
				}
			}
		}
		r.mu.Unlock()
		for _, s := range some {
			r.settle(s)
		}
	}
}

// tell tells sekishod which sessions have ended, until ctx ends.
func (r *Server) tell(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		r.mu.Lock()
		ids := r.gone
		r.gone = nil
		r.mu.Unlock()
		for some := range slices.Chunk(ids, maxTold) {
			a := wire.Answer{Outcome: wire.Yes}
			for _, id := range some {
				a.Body = append(a.Body, emptiedWord+id)
			}
			r.answer(0, a)
		}
	}
}
