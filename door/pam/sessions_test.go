package pam

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/wire"
)

// establish does what the module does: it makes the folder and the file.
func (w *world) establish(token string, more ...string) (session, file string) {
	w.t.Helper()
	a := w.say("credentials user=alice op=establish login=" + token + strings.Join(more, ""))
	if a.Outcome != wire.Yes || len(a.Body) < 3 {
		w.t.Fatalf("credentials: %.100s", show(a))
	}
	session, _ = strings.CutPrefix(a.Body[0], "session ")
	dir, _ := strings.CutPrefix(a.Body[1], "dir ")
	var text string
	for _, l := range a.Body[2:] {
		part, ok := strings.CutPrefix(l, "cache ")
		if !ok || len(part) > cacheChunk {
			w.t.Fatalf("a line is %.50s", l)
		}
		text += part
	}
	cache, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(cache) != 80000 {
		w.t.Fatalf("%d bytes of cache: %v", len(cache), err)
	}
	full := filepath.Join(w.c.Tickets, dir)
	if err := os.Mkdir(full, 0o770); err != nil {
		w.t.Fatal(err)
	}
	file = filepath.Join(full, ticketFile)
	if err := os.WriteFile(file, cache, 0o660); err != nil {
		w.t.Fatal(err)
	}
	return session, file
}

// aliceIn is a session of hers that a process has opened.
func aliceIn(id broker.SessionID, pid int32) Session {
	e := Session{Opened: true, PID: pid, Started: startOf(pid)}
	e.ID, e.Request.Login = id, "alice"
	return e
}

func exists(path string) bool { _, err := os.Lstat(path); return err == nil }

func TestTicketsBelongToTheSession(t *testing.T) {
	w := newWorld(t, nil)
	token := w.signIn()
	session, file := w.establish(token)
	if a := w.say("credentials user=alice op=establish login=" + token); show(a) != "yes" {
		t.Errorf("the tickets are given twice: %.80s", show(a))
	}
	if a := w.say("session user=alice service=sshd op=open rhost=198.51.100.7 session=" + session); show(a) != "yes [session "+session+"]" {
		t.Fatalf("open: %s", show(a))
	}
	ss := w.s.Sessions()
	if len(ss) != 1 || ss[0].PID != int32(os.Getpid()) || ss[0].Request.From.String() != "198.51.100.7" || !ss[0].Opened || ss[0].TicketsEnd.IsZero() {
		t.Fatalf("sessions are %+v", ss)
	}
	w.stop()
	w.start() // a restart forgets nothing
	w.s.sessions.recover(t.Context())
	if len(w.s.Sessions()) != 1 {
		t.Fatal("a restart forgot the session")
	}
	if a := w.say("session user=bob service=sshd op=close session=" + session); show(a) != "yes" || !exists(file) {
		t.Errorf("a session is closed in another's name: %s", show(a))
	}
	if a := w.say("session user=alice service=sshd op=close session=" + session); show(a) != "yes" {
		t.Errorf("close: %s", show(a))
	}
	if exists(filepath.Dir(file)) || len(w.s.Sessions()) != 0 || exists(filepath.Join(w.c.Sessions, session)) {
		t.Error("something is left")
	}
}

func TestNobodyGetsTicketsWithoutHisToken(t *testing.T) {
	w := newWorld(t, nil)
	token := w.signIn()
	for _, ask := range []string{"credentials user=bob op=establish login=" + token, "credentials user=alice op=establish login=" + strings.Repeat("A", 43),
		"credentials user=alice op=establish"} {
		if got := show(w.say(ask)); got != "yes" {
			t.Errorf("%s: %.60s", ask, got)
		}
	}
}

func TestSessionsEndWithoutAWord(t *testing.T) {
	w := newWorld(t, nil)
	_, waits := w.establish(w.signIn())
	gone, file := w.establish(w.signIn())
	child := exec.Command("sleep", "100")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid := int32(child.Process.Pid)
	if _, err := w.s.sessions.open(aliceIn(broker.SessionID(gone), pid)); err != nil {
		t.Fatal(err)
	}
	w.s.sessions.sweep(t.Context())
	if !exists(file) || !exists(waits) {
		t.Fatal("a session that lives is swept away")
	}
	child.Process.Kill()
	child.Wait()
	w.s.sessions.sweep(t.Context())
	if exists(filepath.Dir(file)) {
		t.Error("the tickets outlive their session")
	}
	if !exists(waits) {
		t.Error("the tickets of a session that begins just now are gone")
	}
	later := w.now.Load().Add(openWithin + time.Second)
	w.now.Store(&later)
	w.s.sessions.sweep(t.Context())
	if exists(waits) || len(w.s.Sessions()) != 0 {
		t.Error("tickets wait for ever for a session that never begins")
	}
}

func TestStrayTicketsAreDestroyed(t *testing.T) {
	w := newWorld(t, nil)
	stray := filepath.Join(w.c.Tickets, string(newID()))
	if err := os.MkdirAll(filepath.Join(stray, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(stray, ticketFile), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, file := w.establish(w.signIn())
	w.s.sessions.removeStray()
	if exists(stray) || !exists(file) {
		t.Error("stray tickets are left, or others are gone")
	}
}

func TestRenewal(t *testing.T) {
	var given [][]byte
	var end time.Time
	var fail error
	w := newWorld(t, func(c *Config) {
		c.Renew = func(_ context.Context, old []byte) ([]byte, time.Time, error) {
			given = append(given, old)
			return []byte("renewed"), end, fail
		}
	})
	_, file := w.establish(w.signIn())
	pass := func(d time.Duration) { now := w.now.Load().Add(d); w.now.Store(&now) }
	token := w.s.Sessions()[0].ID
	if _, err := w.s.sessions.open(aliceIn(token, int32(os.Getpid()))); err != nil {
		t.Fatal(err)
	}
	pass(4 * time.Hour)
	w.s.sessions.sweep(t.Context())
	if len(given) != 0 {
		t.Fatal("renewed while more than half is left")
	}
	pass(90 * time.Minute)
	fail = errors.New("no KDC")
	w.s.sessions.sweep(t.Context())
	w.s.sessions.sweep(t.Context())
	if b, _ := os.ReadFile(file); len(given) != 1 || len(b) != 80000 {
		t.Fatalf("a renewal that fails is tried %d times at once, and leaves %d bytes", len(given), len(b))
	}
	pass(renewAgain)
	fail, end = nil, w.now.Load().Add(10*time.Hour)
	st, _ := os.Stat(file)
	w.s.sessions.sweep(t.Context())
	b, _ := os.ReadFile(file)
	st2, _ := os.Stat(file)
	if string(b) != "renewed" || !os.SameFile(st, st2) || !w.s.Sessions()[0].TicketsEnd.Equal(end.UTC()) {
		t.Errorf("after renewal the cache is %.20q until %v", b, w.s.Sessions()[0].TicketsEnd)
	}
	// A link in its place is the user's doing: nothing is written through it.
	target := filepath.Join(t.TempDir(), "shadow")
	os.WriteFile(target, []byte("precious"), 0o600)
	os.Remove(file)
	if err := os.Symlink(target, file); err != nil {
		t.Fatal(err)
	}
	pass(6 * time.Hour)
	w.s.sessions.sweep(t.Context())
	if b, _ := os.ReadFile(target); !bytes.Equal(b, []byte("precious")) {
		t.Errorf("written through a link: %q", b)
	}
	if !w.s.Sessions()[0].TicketsEnd.IsZero() {
		t.Error("it goes on trying")
	}
	w.s.sessions.end(token, "test")
	if !exists(target) || exists(file) {
		t.Error("the link's target is gone, or the link is not")
	}
}

func TestUnreadableSessionsAreSaidAndLeft(t *testing.T) {
	w := newWorld(t, nil)
	w.stop()
	for name, text := range map[string]string{string(newID()): "{", "x": "{}", ".half": "{"} {
		if err := os.WriteFile(filepath.Join(w.c.Sessions, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.log.Reset()
	w.start()
	if len(w.s.Sessions()) != 0 || len(w.log.AllEntries()) != 2 {
		t.Errorf("%d sessions, %d lines", len(w.s.Sessions()), len(w.log.AllEntries()))
	}
}

// sshd may open the session before anybody asks for its tickets.
func TestTicketsOfASessionThatIsOpen(t *testing.T) {
	w := newWorld(t, nil)
	token := w.signIn()
	a := w.say("session user=alice service=sshd op=open login=" + token)
	id, ok := strings.CutPrefix(a.Body[0], "session ")
	if a.Outcome != wire.Yes || !ok {
		t.Fatalf("open: %s", show(a))
	}
	session, file := w.establish(token, " session="+id)
	if ss := w.s.Sessions(); session != id || len(ss) != 1 || ss[0].TicketsEnd.IsZero() || !ss[0].Opened {
		t.Fatalf("the tickets belong to %s, the session is %s; all: %+v", session, id, ss)
	}
	w.say("session user=alice service=sshd op=close session=" + id)
	if exists(filepath.Dir(file)) || len(w.s.Sessions()) != 0 {
		t.Error("something is left")
	}
	// Another user's session gets none of them.
	b := w.say("session user=bob service=sshd op=open")
	other, _ := strings.CutPrefix(b.Body[0], "session ")
	if mine, _ := w.establish(w.signIn(), " session="+other); mine == other {
		t.Error("alice's tickets went to bob's session")
	}
}
