package pam

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/wire"
)

const (
	ticketFile = "cc"
	maxTickets = 256 << 10 // bytes of a cache
	cacheChunk = 48 << 10  // of base64 in one line
)

// nameForm is what idOf makes: the names of ticket folders and sessions.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9_-]{22}$`)

// cacheLines is a credential cache in an answer's body.
func cacheLines(cache []byte) []string {
	var out []string
	for text := base64.StdEncoding.EncodeToString(cache); text != ""; {
		n := min(len(text), cacheChunk)
		out = append(out, "cache "+text[:n])
		text = text[n:]
	}
	return out
}

// errNotOurs: the user has taken the cache over, or removed it.
var errNotOurs = errors.New("the ticket cache is no longer ours to write")

// openTickets opens the cache of a folder, locked as MIT's libraries lock it
// (fcntl(2), whole file) when it is to be written. It follows no link: the user
// may have put anything there.
func openTickets(root, dir string, write bool) (*os.File, error) {
	d, err := openDir(root, dir)
	if err != nil {
		return nil, err
	}
	defer unix.Close(d)
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_RDWR
	}
	fd, err := unix.Openat(d, ticketFile, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errNotOurs
	}
	f := os.NewFile(uintptr(fd), ticketFile)
	st, err := f.Stat()
	if err == nil && (!st.Mode().IsRegular() || st.Size() > maxTickets) {
		err = errNotOurs
	}
	if err == nil && write {
		lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
		if unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock) != nil { // in use: the next round will do
			err = errors.New("the ticket cache is locked")
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func openDir(root, dir string) (int, error) {
	if !nameForm.MatchString(dir) {
		return -1, errNotOurs
	}
	fd, err := unix.Open(filepath.Join(root, dir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, errNotOurs
	}
	return fd, nil
}

// rewriteTickets has renew make the new content of a cache, and writes it in
// place: the file is the user's, and only he or root could make another one.
func rewriteTickets(root, dir string, renew func([]byte) ([]byte, error)) error {
	f, err := openTickets(root, dir, true)
	if err != nil {
		return err
	}
	defer f.Close()
	old, err := io.ReadAll(io.LimitReader(f, maxTickets))
	if err != nil {
		return err
	}
	fresh, err := renew(old)
	if err != nil {
		return err
	}
	if len(fresh) > maxTickets {
		return fmt.Errorf("renewed tickets have %d bytes", len(fresh))
	}
	if _, err := f.WriteAt(fresh, 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(fresh)))
}

// removeTickets empties a folder and removes it. A folder that is gone is fine.
func removeTickets(root, dir string) error {
	d, err := openDir(root, dir)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(d), dir)
	defer f.Close()
	names, _ := f.Readdirnames(1000)
	for _, n := range names {
		if n == ticketFile { // the bytes too, as kdestroy does
			if c, err := openTickets(root, dir, true); err == nil {
				if st, err := c.Stat(); err == nil {
					c.WriteAt(make([]byte, st.Size()), 0)
				}
				c.Close()
			}
		}
		if err := unix.Unlinkat(d, n, 0); err == unix.EISDIR {
			unix.Unlinkat(d, n, unix.AT_REMOVEDIR)
		}
	}
	if err := unix.Rmdir(filepath.Join(root, dir)); err != nil {
		return fmt.Errorf("removing the tickets %s: %w", dir, err)
	}
	return nil
}

// dropTickets destroys a session's tickets; one that was not opened yet is over
// with them.
func (s *sessions) dropTickets(id broker.SessionID, user broker.UserName) {
	e := s.get(id)
	switch {
	case e == nil || e.account() != user:
		return
	case !e.Opened:
		s.end(id, "credentials deleted")
		return
	}
	log := s.c.Log.WithField("session", string(id))
	if err := removeTickets(s.c.Tickets, string(id)); err != nil {
		log.WithError(err).Warn("the tickets of a session could not be removed")
	}
	if err := s.update(id, func(now *Session) { now.TicketsEnd = time.Time{} }); err != nil {
		log.WithError(err).Warn("remembering a session")
	}
}

// credentials hands the tickets of a sign-in to its session, and takes them
// back.
func (s *Server) credentials(_ context.Context, p *peer, r wire.Request) wire.Answer {
	user := userOf(r)
	switch op := r.Get("op"); op {
	case "establish", "reinitialize":
		l, ok := s.logins.take(r.Get("login"), p.UID, user)
		if !ok || len(l.evidence.Tickets) == 0 {
			return wire.Answer{Outcome: wire.Yes}
		}
		id, err := s.sessions.keep(broker.SessionID(r.Get("session")), user, p.UID, l.evidence.TicketsEnd)
		if err != nil {
			s.c.Log.WithError(err).Error("remembering the tickets of a session")
			return unknown("session", "the session's tickets could not be stored")
		}
		return wire.Answer{Outcome: wire.Yes, Body: append([]string{"session " + string(id), "dir " + string(id)}, cacheLines(l.evidence.Tickets)...)}
	case "refresh":
		return wire.Answer{Outcome: wire.Yes} // they are renewed without being asked for
	case "delete":
		s.sessions.dropTickets(broker.SessionID(r.Get("session")), user)
		return wire.Answer{Outcome: wire.Yes}
	}
	return unknown(wire.ReasonMalformed, "the op is establish, reinitialize, refresh or delete")
}
