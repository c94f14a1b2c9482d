package pam

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/wire"
)

// holder is a Reaper that holds no process: what it is told is what counts here.
// The real one is tested with sshd.
type holder struct {
	mu    sync.Mutex
	held  map[string]bool // guarded by mu, as all below
	texts []string
	fail  error
	// adopting and looking, if set, are called while a session is adopted, and
	// when it was found out which are alive; without mu.
	adopting, looking func()
}

func (h *holder) Adopt(_ context.Context, o Opening) error {
	if h.adopting != nil {
		h.adopting()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail == nil {
		h.held[o.ID] = true
	}
	return h.fail
}

func (h *holder) End(_ context.Context, id, text string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.texts = append(h.texts, text)
	if h.fail == nil {
		delete(h.held, id)
	}
	return h.fail
}

func (h *holder) Forget(_ context.Context, id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.held, id)
	return nil
}

func (h *holder) Alive(_ context.Context, ids []string) ([]string, error) {
	if h.looking != nil {
		defer h.looking()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !h.held[id] }), h.fail
}

func (h *holder) set(fail error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail = fail
}

func newHeldWorld(t *testing.T) (*world, *holder) {
	h := &holder{held: map[string]bool{}}
	return newWorld(t, func(c *Config) { c.Reaper = h }), h
}

// begin opens a session of alice, who has signed in, and returns its id.
func (w *world) begin(t *testing.T) broker.SessionID {
	t.Helper()
	a := w.say("session user=alice service=login op=open tty=/dev/tty1 login=" + w.signIn())
	if a.Outcome != wire.Yes {
		t.Fatalf("open: %s", show(a))
	}
	return broker.SessionID(strings.TrimPrefix(a.Body[0], "session "))
}

func (w *world) tracked() (ids []broker.SessionID) {
	w.c.Broker.Sessions(func(s *broker.Session) bool { ids = append(ids, s.ID); return true })
	return ids
}

func TestASessionRestsOnItsRules(t *testing.T) {
	w, h := newHeldWorld(t)
	id := w.begin(t)
	s, ok := w.c.Broker.Session(id)
	if !ok || s.Basis != broker.BasisRules || s.Request.User != "alice" || s.Place != "web1" || !slices.Contains(s.Proofs, broker.ProofPassword) || !h.held[string(id)] {
		t.Fatalf("tracked is %+v, held %v", s, h.held)
	}
	// The user logs out, and a program of his goes on: it is still his session.
	w.say("session user=alice service=login op=close session=" + string(id))
	if len(w.s.Sessions()) != 1 || len(w.tracked()) != 1 {
		t.Error("a session is forgotten while it has processes")
	}
	w.s.Emptied(string(id))
	if len(w.s.Sessions()) != 0 || len(w.tracked()) != 0 || exists(filepath.Join(w.c.Sessions, string(id))) {
		t.Error("something is left of a session whose last process has gone")
	}
}

func TestSomebodyOfNoDirectoryIsNeverJudged(t *testing.T) {
	w, _ := newHeldWorld(t)
	a := w.say("session user=root service=su op=open")
	if a.Outcome != wire.Yes {
		t.Fatalf("open: %s", show(a))
	}
	if s, ok := w.c.Broker.Session(w.tracked()[0]); !ok || s.Basis != broker.BasisNone {
		t.Errorf("root's own session is %+v", s)
	}
}

func TestWhatCannotBeHeldIsRefused(t *testing.T) {
	w, h := newHeldWorld(t)
	token := w.signIn()
	h.set(errors.New("the reaper is gone"))
	if a := w.say("session user=alice service=login op=open login=" + token); a.Outcome != wire.Unknown {
		t.Errorf("a session that could not be ended begins: %s", show(a))
	}
	if len(w.s.Sessions()) != 0 || len(w.tracked()) != 0 {
		t.Error("it is tracked")
	}
	h.set(nil)
	if err := w.s.hold(t.Context(), nil, &Session{}, true); err == nil {
		t.Error("a process that nobody sees is held")
	}
	h.set(errors.New("the reaper is gone"))
	// Root's own way in does not hang on it.
	if a := w.say("session user=root service=login op=open"); a.Outcome != wire.Yes {
		t.Errorf("root: %s", show(a))
	}
}

func TestAnEndIsTheReapers(t *testing.T) {
	w, h := newHeldWorld(t)
	id := w.begin(t)
	s, _ := w.c.Broker.Session(id)
	h.set(errors.New("busy"))
	w.s.End(broker.Ending{Session: s, Reason: broker.ReasonKilled, Text: "bye\x1b[2J"})
	await(t, "the first order", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.texts) == 1 })
	if len(w.s.Sessions()) != 1 || len(w.tracked()) != 1 {
		t.Error("a session that could not be ended is forgotten")
	}
	h.set(nil)
	w.s.End(broker.Ending{Session: s, Reason: broker.ReasonKilled, Text: "bye\x1b[2J"})
	await(t, "the end", func() bool { return len(w.s.Sessions()) == 0 && len(w.tracked()) == 0 })
	if h.texts[1] != "bye?[2J" {
		t.Errorf("the terminal gets %q", h.texts[1])
	}
}

func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}

// A restart finds the sessions that live, and loses those that do not.
func TestRestart(t *testing.T) {
	w, h := newHeldWorld(t)
	lives, ended, old := w.begin(t), w.begin(t), w.begin(t)
	w.stop()
	delete(h.held, string(ended))
	if err := w.s.sessions.update(old, func(s *Session) { s.Boot = "another" }); err != nil {
		t.Fatal(err)
	}
	for _, id := range []broker.SessionID{lives, ended, old} {
		w.c.Broker.CloseSession(id, broker.ReasonNone) // as a new broker would not know them
	}
	w.start()
	w.s.sessions.recover(t.Context())
	if got := w.tracked(); !slices.Equal(got, []broker.SessionID{lives}) || len(w.s.Sessions()) != 1 {
		t.Errorf("after the restart %v are tracked, %d remembered; %s lives", got, len(w.s.Sessions()), lives)
	}
	names, err := os.ReadDir(w.c.Sessions)
	if err != nil || len(names) != 1 {
		t.Errorf("files: %v, %v", names, err)
	}
}

// A session that ends while the ones of the last sekishod are taken up, or before,
// is neither forgotten nor tracked for ever.
func TestEndsAmongARestart(t *testing.T) {
	for _, when := range []string{"before", "meanwhile"} {
		t.Run(when, func(t *testing.T) {
			w, h := newHeldWorld(t)
			id := w.begin(t)
			w.stop()
			w.c.Broker.CloseSession(id, broker.ReasonNone) // as a new broker would not know it
			w.start()
			ends := func() {
				h.mu.Lock()
				delete(h.held, string(id))
				h.mu.Unlock()
				w.s.Emptied(string(id))
			}
			if when == "before" {
				ends()
				if s := w.s.Sessions(); len(s) != 1 {
					t.Error("it is forgotten before anybody could record its end")
				}
			} else {
				h.looking = ends
			}
			w.s.sessions.recover(t.Context())
			if got := w.tracked(); len(got) != 0 || len(w.s.Sessions()) != 0 {
				t.Errorf("%v are tracked and %d remembered", got, len(w.s.Sessions()))
			}
		})
	}
}

// A login that comes while sessions are taken up is none of them.
func TestALoginAmongARestart(t *testing.T) {
	w, h := newHeldWorld(t)
	h.adopting = func() { w.s.sessions.recover(t.Context()) }
	id := w.begin(t)
	if got := w.tracked(); !slices.Equal(got, []broker.SessionID{id}) {
		t.Errorf("%v are tracked", got)
	}
}
