package pamhelper

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sekisho/sekisho/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lying serves one conversation with fixed answers: faults that sekisho-pam
// cannot be made to show. It is tested with real stacks in cmd/sekisho-pam.
func lying(t *testing.T, answers ...string) Stack {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for _, a := range answers {
			if _, err := wire.ReadRequest(c, nil); err != nil {
				return
			}
			if _, err := io.WriteString(c, a); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return Stack{Dial: Socket(l.Addr().String())}
}

func replyX(_ context.Context, ps []Prompt) ([]string, error) {
	return slices.Repeat([]string{"x"}, wanted(ps)), nil
}

func TestAnswersThatAreNone(t *testing.T) {
	prompt := "1 no 1 reason=prompt\nsecret Password: \n"
	for name, answers := range map[string][]string{
		"nothing":                     {""},
		"half":                        {"1 yes"},
		"yes with a reason":           {"1 yes 0 reason=auth-err\n"},
		"no without":                  {"1 no 0\n"},
		"unknown without":             {"1 unknown 0\n"},
		"environment of a no":         {"1 no 1 reason=auth-err\nenv A eA==\n"},
		"environment unread":          {"1 yes 1\nenv A e\n"},
		"environment nameless":        {"1 yes 1\nenv  eA==\n"},
		"environment with NUL":        {"1 yes 1\nenv A AA==\n"},
		"a prompt at the end":         {"1 yes 1\nsecret Password: \n"},
		"a line of no kind":           {"1 yes 1\nlogin x\n"},
		"too many lines":              {"1 yes 200\n" + strings.Repeat("info x\n", 200)},
		"a prompt that asks nothing":  {"1 no 1 reason=prompt\ninfo x\n"},
		"a prompt that says yes":      {"1 yes 1 reason=prompt\nsecret Password: \n"},
		"a prompt with environment":   {"1 no 2 reason=prompt\nsecret Password: \nenv A eA==\n"},
		"a prompt that asks too much": {"1 no 9 reason=prompt\n" + strings.Repeat("secret x\n", 9)},
		"a prompt too long":           {"1 no 1 reason=prompt\nsecret " + strings.Repeat("x", MaxText+1) + "\n"},
		"prompts without end":         slices.Repeat([]string{prompt}, MaxRounds+2),
		"an end after a prompt":       {prompt, ""},
		"another version":             {"2 yes 0\n"},
		"two answers":                 {"1 no 0 reason=auth-err\n1 yes 0\n"},
	} {
		got, err := lying(t, answers...).Run(t.Context(), Call{Service: "login", User: "alice"}, replyX)
		if err == nil || !reflect.DeepEqual(got, Result{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	got, err := lying(t, prompt, "1 yes 2\ninfo hello\nenv A eAo=\n").Run(t.Context(), Call{Service: "login", User: "alice"}, replyX)
	if want := (Result{Outcome: wire.Yes, Messages: []Prompt{{Info, "hello"}}, Env: []string{"A=x\n"}}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestSilence: Run waits a little longer than sekisho-pam lets a stack run.
func TestSilence(t *testing.T) {
	release := make(chan struct{})
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := l.Accept(); err == nil {
			<-release
			c.Close()
		}
	}()
	defer func() { close(release); l.Close(); <-done }()
	begin := time.Now()
	got, err := Stack{Dial: Socket(l.Addr().String())}.Run(t.Context(), Call{Service: "login", User: "alice"}, replyX)
	if d := time.Since(begin); err == nil || got.Outcome != wire.Unknown || d < AnswerTime || d > AnswerTime+20*time.Second {
		t.Errorf("%+v, %v after %v", got, err, d)
	}
}

// TestHeldHangs: a sekisho-pam that takes nothing does not hang its askers.
func TestHeldHangs(t *testing.T) {
	hold, give, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer give.Close()
	h, err := Hold(hold)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for range 10_000 {
		c, err := h.Dial(t.Context())
		if err != nil {
			if !strings.Contains(err.Error(), "hangs") && !errors.Is(err, syscall.ETOOMANYREFS) {
				t.Error(err)
			}
			return
		}
		c.Close()
	}
	t.Error("10,000 connections were taken that nobody takes")
}

func TestHoldRefuses(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.Close(fds[1])
	if h, err := Hold(os.NewFile(uintptr(fds[0]), "stream")); err == nil {
		h.Close()
		t.Error("a stream was taken for the pair that it is not")
	}
}

func FuzzReadCall(f *testing.F) {
	f.Add([]byte("1 run service=login user=alice\n"))
	f.Add([]byte("1 run service=a_-9 user=a tty=ssh rhost=2001:db8::1 ruser=%C3%A9 env-1=SEKISHO_A=%0A env-2=SSH_CLIENT=\n"))
	f.Add([]byte("1 answer a1=%00 a2=\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := wire.ParseRequest(line)
		if err != nil {
			return
		}
		if c, err := ReadCall(r); err == nil {
			again, err := c.Request()
			if err != nil {
				t.Fatal(err)
			}
			if back, err := ReadCall(again); err != nil || !reflect.DeepEqual(back, c) {
				t.Errorf("%+v became %+v, %v", c, back, err)
			}
			if strings.ContainsAny(c.Service, "/.\x00") || strings.ContainsAny(c.User, "/\x00\n") {
				t.Errorf("%+v", c)
			}
		} else if !reflect.DeepEqual(c, Call{}) {
			t.Errorf("%+v beside %v", c, err)
		}
		for n := range MaxReplies {
			values, err := ReadReplies(r, n)
			if err == nil && !reflect.DeepEqual(len(Replies(values).Fields), n) {
				t.Errorf("%q", values)
			}
		}
	})
}

func FuzzBody(f *testing.F) {
	f.Add([]byte("1 no 1 reason=prompt\nsecret Password: \n"))
	f.Add([]byte("1 yes 2\ninfo \nenv A eA==\n"))
	f.Add([]byte("1 yes 1\nenv A\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := wire.ParseAnswer(b)
		if err != nil {
			return
		}
		ps, env, err := readBody(a.Body)
		if err != nil {
			if ps != nil || env != nil {
				t.Errorf("%q %q beside %v", ps, env, err)
			}
			return
		}
		var again []string
		for _, line := range a.Body {
			if !strings.HasPrefix(line, "env ") {
				again, ps = append(again, ps[0].Line()), ps[1:]
				continue
			}
			text, err := FormatEnv(env[0])
			if err != nil {
				t.Fatal(err)
			}
			again, env = append(again, text), env[1:]
		}
		if !slices.Equal(again, a.Body) {
			t.Errorf("%q became %q", a.Body, again)
		}
	})
}

func FuzzPrompts(f *testing.F) {
	f.Add("Password: ")
	f.Add("two\nlines\r\n")
	f.Add("\x1b[2J\xff" + strings.Repeat("é", 400))
	f.Fuzz(func(t *testing.T, text string) {
		for k := Info; k <= Visible; k++ {
			ps := Prompts(k, text)
			if len(ps) == 0 || len(ps) > MaxPrompts || (k.WantsReply() && len(ps) != 1) {
				t.Errorf("%d", len(ps))
			}
			var body []string
			for _, p := range ps {
				body = append(body, p.Line())
			}
			back, _, err := readBody(body)
			if err != nil || !slices.Equal(back, ps) {
				t.Errorf("%q became %q, %v", ps, back, err)
			}
			if b, err := wire.AppendAnswer(nil, wire.Answer{Body: body}); err != nil || bytes.Contains(b, []byte("\x1b")) {
				t.Error(err)
			}
		}
	})
}
