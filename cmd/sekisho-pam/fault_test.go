package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/pamhelper"
	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

func itoa(n int) string { return strconv.Itoa(n) }

// TestCrash: a module that ends the process costs its own conversation.
func TestCrash(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, service := range []string{"odd-crash", "odd-askcrash", "odd-endcrash", "odd-exit", "odd-kill"} {
		s.answers(t, service, wire.Unknown, pamhelper.ReasonCrashed, "reply")
		s.answers(t, "unix", wire.Yes, "", "correct horse")
	}
	s.answers(t, "odd-leave", wire.Yes, "")
	s.nothingLeft(t)
	if log := s.Log(); strings.Contains(log, "reply") || strings.Contains(log, "horse") || !strings.Contains(log, "odd-crash") {
		t.Error(log)
	}
}

// TestHung: a stack that hangs is killed with all its processes, in time for
// its answer to arrive, and others are answered meanwhile.
func TestHung(t *testing.T) {
	t.Parallel()
	s := start(t)
	var all sync.WaitGroup
	for _, service := range []string{"odd-hang", "odd-stubborn", "odd-askhang", "hung"} {
		all.Go(func() {
			// Not by pamhelper.Stack, which a slow machine may have give up first.
			begin := time.Now()
			requests := []string{"1 run service=" + service + " user=alice\n"}
			if service == "odd-askhang" {
				requests = append(requests, "1 answer a1=reply\n")
			}
			if a := s.say(t, requests...); a.Outcome != wire.Unknown || a.Reason != pamhelper.ReasonHung {
				t.Errorf("%s: %+v", service, a)
			}
			if d := time.Since(begin); d < pamhelper.StackTime || d > pamhelper.AnswerTime+20*time.Second {
				t.Errorf("%s took %v", service, d)
			}
		})
	}
	s.answers(t, "unix", wire.Yes, "", "correct horse")
	all.Wait()
	s.nothingLeft(t)
}

// TestDeadlines nest: the caller's context ends the wait at once; a person who
// thinks is not taken for a stack that hangs.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	got, err := s.stack.Run(ctx, pamhelper.Call{Service: "odd-hang", User: "alice"}, (&replying{}).ask)
	if d := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || got.Outcome != wire.Unknown || d > 6*time.Second {
		t.Errorf("%+v, %v after %v", got, err, d)
	}
	slow := func(context.Context, []pamhelper.Prompt) ([]string, error) {
		time.Sleep(pamhelper.AnswerTime + time.Second)
		return []string{"correct horse"}, nil
	}
	got, err = s.stack.Run(t.Context(), pamhelper.Call{Service: "unix", User: "alice"}, slow)
	if err != nil || got.Outcome != wire.Yes {
		t.Errorf("%+v, %v", got, err)
	}
	gone := errors.New("he has gone")
	leave := func(context.Context, []pamhelper.Prompt) ([]string, error) { return nil, gone }
	if got, err = s.stack.Run(t.Context(), pamhelper.Call{Service: "unix", User: "alice"}, leave); !errors.Is(err, gone) || got.Outcome != wire.Unknown {
		t.Errorf("%+v, %v", got, err)
	}
	s.nothingLeft(t)
}

// TestNestedConstants: each waits longer than the next further in.
func TestNestedConstants(t *testing.T) {
	if !(pamhelper.StackTime < pamhelper.AnswerTime && pamhelper.AnswerTime < 10*time.Second && replyTime <= wholeTime) {
		t.Error("a deadline is shorter than one further in")
	}
}

// TestKilled: SIGKILL in mid-conversation is "could not find out", and the
// conversations' processes go as well.
func TestKilled(t *testing.T) {
	t.Parallel()
	s := start(t)
	kill := func(context.Context, []pamhelper.Prompt) ([]string, error) {
		s.Kill()
		return []string{"correct horse"}, nil
	}
	got, err := s.stack.Run(t.Context(), pamhelper.Call{Service: "unix", User: "alice"}, kill)
	if err == nil || got.Outcome != wire.Unknown {
		t.Errorf("%+v, %v", got, err)
	}
	s.nothingLeft(t)
	if got, _, err := s.run(t, pamhelper.Call{Service: "permit"}); err == nil || got.Outcome != wire.Unknown {
		t.Errorf("%+v, %v", got, err)
	}
}

// brokenOff is an error unless a conversation ended without yes or no.
func brokenOff(got pamhelper.Result, err error) error {
	if err == nil && (got.Outcome != wire.Unknown || got.Reason != pamhelper.ReasonLeft) {
		return fmt.Errorf("the conversation was not broken off: %+v", got)
	}
	return nil
}

// TestStopped: so is an orderly end, which waits for nobody.
func TestStopped(t *testing.T) {
	t.Parallel()
	s := start(t)
	asked := make(chan struct{})
	done := make(chan error, 2)
	go func() {
		got, err := s.stack.Run(t.Context(), pamhelper.Call{Service: "odd-ask1", User: "alice"}, func(ctx context.Context, _ []pamhelper.Prompt) ([]string, error) {
			close(asked)
			<-s.Done()
			return []string{"yes"}, nil
		})
		done <- brokenOff(got, err)
	}()
	go func() {
		got, err := s.stack.Run(t.Context(), pamhelper.Call{Service: "odd-stubborn", User: "alice"}, (&replying{}).ask)
		done <- brokenOff(got, err)
	}()
	<-asked
	time.Sleep(300 * time.Millisecond)
	begin := time.Now()
	if err := s.Stop(); err != nil || s.Err() != nil {
		t.Error(err, s.Err())
	}
	if d := time.Since(begin); d > 5*time.Second { // a stack that hangs would last longer
		t.Errorf("stopping took %v", d)
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	s.nothingLeft(t)
}

// TestMany: 256 at once are held, the next is told so, and all get their answer.
func TestMany(t *testing.T) {
	t.Parallel()
	s := start(t)
	begin := time.Now()
	var asked, all sync.WaitGroup
	asked.Add(maxConversations)
	release := make(chan struct{})
	for i := range maxConversations {
		all.Go(func() {
			reply, want := "yes", wire.Yes
			if i%2 == 1 {
				reply, want = "no", wire.No
			}
			var once sync.Once
			defer once.Do(asked.Done)
			got, err := s.stack.Run(t.Context(), pamhelper.Call{Service: "odd-ask1", User: "alice"}, func(context.Context, []pamhelper.Prompt) ([]string, error) {
				once.Do(asked.Done)
				<-release
				return []string{reply}, nil
			})
			if err != nil || got.Outcome != want {
				t.Errorf("%d: %+v, %v", i, got, err)
			}
		})
	}
	asked.Wait()
	t.Logf("%d conversations stand after %v", maxConversations, time.Since(begin))
	s.answers(t, "permit", wire.Unknown, wire.ReasonBusy)
	close(release)
	all.Wait()
	s.nothingLeft(t)
	s.answers(t, "permit", wire.Yes, "")
}

// TestHeld: over a pair of sockets, as sekishod has it. Closing our end ends
// the program, whatever it is at.
func TestHeld(t *testing.T) {
	t.Parallel()
	h := prepared(t, testenv.ForTest(t).Need(t, "web1"))
	exe, err := testenv.Program("sekisho-pam") // as it is shipped
	if err != nil {
		t.Fatal(err)
	}
	hold, give, err := pamhelper.Pair()
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.Command(t.Context(), exe, "--fd", "3", "--service", "unix", "--service", "odd-hang")
	cmd.ExtraFiles = append(cmd.ExtraFiles, give)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	give.Close()
	held, err := pamhelper.Hold(hold)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	s := &server{host: h, stack: pamhelper.Stack{Dial: held.Dial}}
	watched := make(chan error, 1)
	go func() { watched <- held.Watch() }()
	for range 50 {
		s.answers(t, "unix", wire.Yes, "", "correct horse")
	}
	s.answers(t, "unix", wire.No, "auth-err", "wrong")
	s.answers(t, "permit", wire.Unknown, pamhelper.ReasonService)
	broken := make(chan error, 1)
	go func() {
		got, err := s.stack.Run(t.Context(), pamhelper.Call{Service: "odd-hang", User: "alice"}, (&replying{}).ask)
		broken <- brokenOff(got, err)
	}()
	for !strings.Contains(s.children(t), conversationArg) {
		time.Sleep(10 * time.Millisecond)
	}
	held.Close()
	if err := held.Close(); err != nil {
		t.Error(err)
	}
	if err := <-watched; err != nil {
		t.Error(err)
	}
	if err := <-broken; err != nil {
		t.Error(err)
	}
	s.nothingLeft(t)
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		out, err := h.Command(t.Context(), "ps", "-eo", "args").Output()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(out), "sekisho-pam") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it is still there:\n%s", out)
		}
	}
	if got, err := s.stack.Run(t.Context(), pamhelper.Call{Service: "unix", User: "alice"}, (&replying{}).ask); err == nil {
		t.Errorf("%+v", got)
	}
}

// TestHeldKilled: sekishod learns that sekisho-pam has gone.
func TestHeldKilled(t *testing.T) {
	t.Parallel()
	h := prepared(t, testenv.ForTest(t).Need(t, "web1"))
	exe, err := program()
	if err != nil {
		t.Fatal(err)
	}
	hold, give, err := pamhelper.Pair()
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.Command(t.Context(), exe, "--fd", "3", "--service", "permit")
	cmd.ExtraFiles = append(cmd.ExtraFiles, give)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	give.Close()
	held, err := pamhelper.Hold(hold)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := h.Command(t.Context(), "sh", "-c", "kill -9 $(ps -eo pid,args | awk '/--background/ && !/awk/ {print $1}')").Run(); err != nil {
		t.Fatal(err)
	}
	if err := held.Watch(); err == nil || !strings.Contains(err.Error(), "restart sekishod") {
		t.Error(err)
	}
	got, err := pamhelper.Stack{Dial: held.Dial}.Run(t.Context(), pamhelper.Call{Service: "permit", User: "alice"}, (&replying{}).ask)
	if err == nil || got.Outcome != wire.Unknown {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestCallers: root and the service user are answered, nobody else even when
// he gets at the socket.
func TestCallers(t *testing.T) {
	t.Parallel()
	s := start(t)
	const socket, ask = "/run/sekisho-pam", `import socket,sys
s = socket.socket(socket.AF_UNIX); s.connect("/run/sekisho-pam")
try:
	s.sendall(b"1 run service=permit user=alice\n")
except BrokenPipeError:
	pass
print(s.makefile("rb").readline().decode(), end="")`
	as := func(login string) string {
		out, err := s.host.CommandAs(t.Context(), login, "python3", "-c", ask).CombinedOutput()
		if err != nil {
			return err.Error() + string(out)
		}
		return string(out)
	}
	if got := as("sekisho"); got != "1 yes 0\n" {
		t.Errorf("sekisho: %q", got)
	}
	if got := as("alice"); !strings.Contains(got, "Permission denied") {
		t.Errorf("alice: %q", got)
	}
	if err := s.host.Inside(func() error { return os.Chmod(socket, 0o666) }); err != nil {
		t.Fatal(err)
	}
	if got := as("alice"); !strings.HasPrefix(got, "1 unknown 0 reason=caller ") {
		t.Errorf("alice, let in: %q", got)
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, service := range []string{"su", "other", "unix/../su", "../pam.d/unix", "/etc/pam.d/unix", "Unix", "", strings.Repeat("a", 65)} {
		got, _, err := s.run(t, pamhelper.Call{Service: service})
		if err == nil && got.Reason != pamhelper.ReasonService {
			t.Errorf("%q: %+v", service, got)
		}
	}
	for request, reason := range map[string]string{
		"1 run service=su user=alice\n":                                pamhelper.ReasonService,
		"1 run service=permit%2F user=alice\n":                         wire.ReasonMalformed,
		"1 run service=permit user=\n":                                 wire.ReasonMalformed,
		"1 run service=permit user=-f\n":                               wire.ReasonMalformed,
		"1 run service=permit user=a%00\n":                             wire.ReasonMalformed,
		"1 run service=permit user=a rhost=%1B\n":                      wire.ReasonMalformed,
		"1 run service=permit user=a env-2=SEKISHO_A=1\n":              wire.ReasonMalformed,
		"1 run service=permit user=a env-1=LD_PRELOAD=x\n":             wire.ReasonMalformed,
		"1 run service=permit user=a more=1\n":                         wire.ReasonMalformed,
		"1 answer a1=yes\n":                                            wire.ReasonMalformed,
		"1 keys user=alice\n":                                          wire.ReasonMalformed,
		"GET / HTTP/1.1\r\n":                                           wire.ReasonMalformed,
		"1 run service=permit user=" + strings.Repeat("a", 300) + "\n": wire.ReasonMalformed,
	} {
		if a := s.say(t, request); a.Outcome != wire.Unknown || a.Reason != reason {
			t.Errorf("%q: %+v", request, a)
		}
	}
	// Wrong replies to a prompt end the conversation.
	for _, reply := range []string{"1 answer\n", "1 answer a1=yes a2=yes\n", "1 answer a2=yes\n", "1 run service=permit user=alice\n", "1 answer a1=yes%00\n", "\n", "x"} {
		if a := s.say(t, "1 run service=odd-ask1 user=alice\n", reply); a.Outcome != wire.Unknown {
			t.Errorf("%q: %+v", reply, a)
		}
	}
	// A stack that is taken away is not asked under another name.
	if err := s.host.Inside(func() error { return os.Remove("/etc/pam.d/permit") }); err != nil {
		t.Fatal(err)
	}
	s.answers(t, "permit", wire.Unknown, pamhelper.ReasonService)
	s.nothingLeft(t)
}

// say sends raw requests, one after each answer, hangs up for writing, and
// returns the last answer; the zero one when there was none.
func (s *server) say(t *testing.T, requests ...string) (last wire.Answer) {
	t.Helper()
	c, err := net.Dial("unix", s.host.Path("/run/sekisho-pam"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	for i, r := range requests {
		if _, err := io.WriteString(c, r); err != nil {
			return wire.Answer{}
		}
		if i == len(requests)-1 {
			c.(*net.UnixConn).CloseWrite()
		}
		if last, err = wire.ReadAnswer(c); err != nil {
			return wire.Answer{}
		}
	}
	return last
}

func TestUsage(t *testing.T) {
	t.Parallel()
	h := prepared(t, testenv.ForTest(t).Need(t, "web1"))
	exe, err := program()
	if err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]struct {
		code int
		says string
	}{
		"":                                      {2, "--service"},
		"--service unix":                        {2, "--fd N or --socket PATH"},
		"--service unix --socket /run/x --fd 3": {2, "--fd N or --socket PATH"},
		"--service unix --fd 1":                 {2, "--fd N or --socket PATH"},
		"--service ../unix --socket /run/x":     {2, "no name of a file"},
		"--service unix --socket /run/x more":   {2, "no argument"},
		"--nonsense":                            {2, "Usage"},
		"--help":                                {0, "Usage"},
		"--version":                             {0, "sekisho-pam "},
		"--service there-is-none --socket /run/x":           {1, "make /etc/pam.d/there-is-none"},
		"--service unix --socket /run/x --user nobodyatall": {1, "no local user"},
		"--service unix --socket x":                         {1, "must be absolute"},
		"--service unix --socket /tmp/x":                    {1, "only root may write there"},
		"--service unix --socket /etc/passwd":               {1, "something else"},
		"--service unix --fd 0x":                            {2, "Usage"},
		"--service unix --fd 3":                             {1, "no end of a pair"},
	} {
		cmd := h.Command(t.Context(), exe, strings.Fields(args)...)
		out, err := cmd.CombinedOutput()
		var exit interface{ ExitCode() int }
		code := 0
		if errors.As(err, &exit) {
			code = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if code != want.code || !strings.Contains(string(out), want.says) {
			t.Errorf("%s: %d %s", args, code, out)
		}
	}
	out, err := h.CommandAs(t.Context(), "alice", exe, "--service", "unix", "--socket", "/run/x").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not root") {
		t.Errorf("%v: %s", err, out)
	}
}
