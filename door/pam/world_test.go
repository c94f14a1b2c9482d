package pam

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"go.uber.org/goleak"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/keys"
	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

// The tests need root: callers of several users.
func TestMain(m *testing.M) { goleak.VerifyTestMain(testenv.Sandboxed(m)) }

const aliceUID = 2001

const (
	aliceKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB9jF7mNkNrYd6Wqg8rC+2TqJ9uXSMBcWUpdbHAIDWNw"
	otherKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPL2mAFbVLXk5nQXUZgTwXdtPAy8Yki0mCEXvP1fgyWW"
)

// world is a door with a prover that takes the password "right".
type world struct {
	t      *testing.T
	s      *Server
	c      Config
	path   string
	log    *test.Hook
	now    atomic.Pointer[time.Time]
	stop   context.CancelFunc
	locked atomic.Bool // alice, from now on
}

func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t}
	start := time.Now()
	w.now.Store(&start)
	now := func() time.Time { return *w.now.Load() }
	line, err := keys.ParseLine(aliceKey)
	if err != nil {
		t.Fatal(err)
	}
	view := func() broker.View {
		e := new(broker.Snapshot).Edit()
		e.PutUser(broker.User{ID: broker.EntryID{1}, DN: "uid=alice", Name: "alice", UID: aliceUID, Shell: "/bin/sh", Keys: []keys.Line{line},
			State: broker.AccountState{Locked: w.locked.Load()}})
		e.PutUser(broker.User{ID: broker.EntryID{2}, DN: "uid=bob", Name: "bob", UID: 2002, Shell: "/bin/sh"})
		e.PutUser(broker.User{ID: broker.EntryID{5}, DN: "uid=deploy", Name: "deploy", UID: 2003, Shell: "/bin/sh"})
		e.PutHost(broker.Host{ID: broker.EntryID{3}, DN: "cn=web1", Names: []broker.HostName{"web1"}})
		for i, a := range []broker.RuleAttributes{
			{Name: "pam", Subject: []string{"user:alice"}, Door: []string{"pam"}, Target: []string{"host:web1"}},
			{Name: "keys", Subject: []string{"user:alice"}, Door: []string{"keys"}, Target: []string{"host:web1"}, Proof: []string{"key"}},
			{Name: "deploy", Subject: []string{"user:alice"}, Door: []string{"keys", "pam"}, Target: []string{"host:web1"}, Login: []string{"deploy"}, From: []string{"198.51.100.0/24"}},
		} {
			r, err := broker.ParseRule(a)
			if err != nil {
				t.Error(err)
			}
			r.ID, r.DN = broker.EntryID{4, byte(i)}, broker.DN(a.Name)
			e.PutRule(r)
		}
		return broker.View{Snapshot: e.Commit(), AsOf: now(), MaxAge: time.Hour}
	}
	b, err := broker.New(broker.Config{
		Directory: view, Now: now, Record: func(broker.Request, broker.Decision) error { return nil },
		Provers: map[broker.Proof]broker.Prover{broker.ProofPassword: func(ctx context.Context, _ broker.Claim, ask broker.Asker) broker.Proven {
			got, err := ask(ctx, broker.Prompt{Kind: broker.PromptPassword, Text: "Password: "})
			switch {
			case err != nil:
				return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonConversation}
			case got[0] == "hang":
				<-ctx.Done()
				return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonUnreachable}
			case got[0] == "clock":
				return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonClock, Text: "this host's clock\nis 7 min behind"}
			case got[0] == "many":
				for {
					if _, err := ask(ctx, broker.Prompt{Kind: broker.PromptVisible, Text: "More: "}); err != nil {
						return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonConversation}
					}
				}
			case got[0] != "right":
				return broker.Proven{Reason: broker.ReasonWrongPassword}
			}
			return broker.Proven{Outcome: broker.Allow, Tickets: []byte(strings.Repeat("tickets ", 10000)), TicketsEnd: now().Add(10 * time.Hour)}
		}},
		Change: func(_ context.Context, c broker.Claim, old, new string) broker.Proven {
			if old != "right" {
				return broker.Proven{Reason: broker.ReasonWrongPassword}
			}
			return broker.Proven{Reason: broker.ReasonPasswordRefused, Text: "Password fails quality checking policy"}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	log, hook := test.NewNullLogger()
	log.SetLevel(logrus.DebugLevel)
	dir := t.TempDir()
	w.log, w.path = hook, filepath.Join(dir, "pam.sock")
	w.c = Config{Broker: b, Host: "web1", Realm: "EXAMPLE.ORG", Tickets: filepath.Join(dir, "tickets"), Sessions: filepath.Join(dir, "sessions"),
		Now: now, Log: logrus.NewEntry(log)}
	if change != nil {
		change(&w.c)
	}
	w.start()
	return w
}

// start serves; a second call is a restart.
func (w *world) start() {
	w.t.Helper()
	var err error
	if w.s, err = New(w.c); err != nil {
		w.t.Fatal(err)
	}
	w.c.Broker.Keep(Keeper, w.s.End)
	os.Remove(w.path)
	l, err := net.Listen("unix", w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.Chmod(w.path, 0o666); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func(s *Server) { done <- s.Serve(ctx, l) }(w.s)
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
	w.t.Cleanup(w.stop)
}

func (w *world) dial() net.Conn {
	w.t.Helper()
	c, err := net.Dial("unix", w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

// request is "verb name=value …"; a value may hold %20 for a space.
func request(text string) wire.Request {
	r, err := wire.ParseRequest([]byte("1 " + text + "\n"))
	if err != nil {
		panic(err)
	}
	return r
}

func (w *world) on(c net.Conn, text string) wire.Answer {
	w.t.Helper()
	a, err := wire.Ask(c, request(text))
	if err != nil {
		w.t.Fatalf("%s: %v", text, err)
	}
	return a
}

// say is one request on a connection of its own.
func (w *world) say(text string) wire.Answer {
	w.t.Helper()
	c := w.dial()
	defer c.Close()
	return w.on(c, text)
}

// enter does what sshd does once it has let somebody in: it asks for the account
// with nothing said of the last method, and then opens the session. how is the
// fields login and authinfo.
func (w *world) enter(who, how string) string {
	w.t.Helper()
	early := how
	if at := strings.Index(how, " authinfo="); at >= 0 {
		early = how[:at] + " authinfo="
	}
	a := w.say("account user=" + who + " service=sshd" + early)
	if a.Outcome == wire.Yes {
		if a = w.say("session op=open user=" + who + " service=sshd" + how); a.Outcome == wire.Yes {
			return "yes"
		}
	}
	return show(a)
}

// signIn signs alice in and returns her token.
func (w *world) signIn() string {
	w.t.Helper()
	c := w.dial()
	defer c.Close()
	if a := w.on(c, "auth user=alice service=sshd rhost=198.51.100.7"); show(a) != "no prompt [password Password: ]" {
		w.t.Fatalf("it asks %s", show(a))
	}
	a := w.on(c, "answer a1=right")
	if a.Outcome != wire.Yes || len(a.Body) != 1 {
		w.t.Fatalf("the right password is %s", show(a))
	}
	token, ok := strings.CutPrefix(a.Body[0], "login ")
	if !ok || len(token) != 43 {
		w.t.Fatalf("no token in %s", show(a))
	}
	return token
}

func show(a wire.Answer) string {
	words := []string{a.Outcome.String()}
	for _, w := range []string{a.Reason, a.Text} {
		if w != "" {
			words = append(words, w)
		}
	}
	if len(a.Body) > 0 {
		words = append(words, "["+strings.Join(a.Body, "; ")+"]")
	}
	return strings.Join(words, " ")
}
