package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/pamhelper"
	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

// TestMain: a copy of this test binary with the program's name is the program,
// so that the race detector watches it.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "sekisho-pam" {
		os.Exit(run(os.Args[1:]))
	}
	testenv.Main(m)
}

// program is that copy, where hosts see it, and odd the module of testdata.
var program, odd = sync.OnceValues(copyProgram), sync.OnceValues(buildOdd)

func copyProgram() (string, error) {
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "program")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "sekisho-pam")
	return path, os.WriteFile(path, b, 0o755)
}

func buildOdd() (string, error) {
	dir, err := os.MkdirTemp("", "odd")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "odd.so")
	out, err := exec.Command("gcc", "-Wall", "-Wextra", "-Werror", "-O1", "-fPIC", "-shared", "-o", path, "testdata/odd.c", "-lpam").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
}

// stacks are the PAM stacks of the test's host; ODD is the odd module's path.
var stacks = map[string]string{
	"unix":   "auth required pam_unix.so\naccount required pam_unix.so\n",
	"twice":  "auth required pam_unix.so\nauth required ODD ask=1\naccount required pam_permit.so\n",
	"permit": "auth required pam_permit.so\naccount required pam_permit.so\n",
	"deny":   "auth required pam_deny.so\naccount required pam_permit.so\n",
	"shut":   "auth required pam_permit.so\naccount required pam_deny.so\n",
	"echo":   "auth optional pam_echo.so file=/etc/welcome\nauth required ODD ask=1\nauth optional pam_echo.so bye\naccount required pam_permit.so\n",
	"exec":   "auth required pam_exec.so quiet expose_authtok stdout /etc/check.sh\naccount required pam_permit.so\n",
	"hung":   "auth required pam_exec.so quiet /bin/sleep 98765\naccount required pam_permit.so\n",
	"absent": "auth required pam_there_is_none.so\naccount required pam_permit.so\n",
}

// odds are what the odd module is told, by the name of a stack.
var odds = map[string]string{
	"odd-hang": "hang", "odd-stubborn": "stubborn", "odd-askhang": "askhang", "odd-crash": "crash", "odd-askcrash": "askcrash",
	"odd-endcrash": "endcrash", "odd-exit": "exit", "odd-kill": "kill", "odd-leave": "leave", "odd-ask1": "ask=1",
	"odd-ask16": "ask=16", "odd-ask17": "ask=17", "odd-both": "both", "odd-binary": "binary", "odd-flood": "flood",
	"odd-strange": "strange", "odd-env": "env", "odd-manyenv": "manyenv", "odd-bigenv": "bigenv", "odd-user": "user=bob",
}

// server is a sekisho-pam on a host.
type server struct {
	*testenv.Daemon
	host  *testenv.Host
	stack pamhelper.Stack
}

// start runs the program, listening on a socket.
func start(t testing.TB) *server {
	t.Helper()
	h := prepared(t, testenv.ForTest(t).Need(t, "web1"))
	exe, err := program()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--socket", "/run/sekisho-pam"}
	for name := range allStacks() {
		args = append(args, "--service", name)
	}
	d, err := h.Start(t.Context(), testenv.DaemonConfig{
		Path: exe, Args: args, Env: []string{"SEKISHO_SECRET=not for modules"},
		Ready: func(context.Context) error { _, err := os.Stat(h.Path("/run/sekisho-pam")); return err },
	})
	if err != nil {
		t.Fatal(err)
	}
	return &server{d, h, pamhelper.Stack{Dial: pamhelper.Socket(h.Path("/run/sekisho-pam"))}}
}

func allStacks() map[string]string {
	all := map[string]string{}
	for name, text := range stacks {
		all[name] = text
	}
	for name, arg := range odds {
		all[name] = "auth required ODD " + arg + "\naccount required pam_permit.so\n"
	}
	for code := 1; code <= 31; code++ {
		all["code-"+strconv.Itoa(code)] = fmt.Sprintf("auth required ODD code=%d\naccount required pam_permit.so\n", code)
	}
	all["account"] = "auth required pam_permit.so\naccount required ODD acct=13\n"
	return all
}

// prepared gives the host stacks, and the user alice with a password.
func prepared(t testing.TB, h *testenv.Host) *testenv.Host {
	t.Helper()
	module, err := odd()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range allStacks() {
		put(t, h, "/etc/pam.d/"+name, strings.ReplaceAll(text, "ODD", module), 0o644)
	}
	put(t, h, "/etc/welcome", "welcome to %h\nplease be careful\n", 0o644)
	put(t, h, "/etc/check.sh", "#!/bin/sh\nread -r p\n[ \"$p\" = sesame ] && [ \"$PAM_USER\" = alice ] && echo opened\n", 0o755)
	for _, name := range []string{"alice", "bob"} {
		if err := h.AddUser(testenv.LocalUser{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	cmd := h.Command(t.Context(), "chpasswd", "-c", "SHA256", "-s", "1000")
	cmd.Stdin = strings.NewReader("alice:correct horse\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return h
}

func put(t testing.TB, h *testenv.Host, path, text string, mode os.FileMode) {
	t.Helper()
	if err := h.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// replying answers each prompt that wants it with the next of replies, and
// notes all that was shown.
type replying struct {
	replies []string
	shown   []string
}

func (r *replying) ask(_ context.Context, ps []pamhelper.Prompt) ([]string, error) {
	var out []string
	for _, p := range ps {
		r.shown = append(r.shown, p.Line())
		if p.Kind.WantsReply() {
			if len(r.replies) == 0 {
				return nil, errors.New("there is no reply to " + p.Text)
			}
			out, r.replies = append(out, r.replies[0]), r.replies[1:]
		}
	}
	return out, nil
}

func (s *server) run(t *testing.T, c pamhelper.Call, replies ...string) (pamhelper.Result, []string, error) {
	t.Helper()
	if c.User == "" {
		c.User = "alice"
	}
	r := &replying{replies: replies}
	got, err := s.stack.Run(t.Context(), c, r.ask)
	return got, r.shown, err
}

// answers checks one conversation.
func (s *server) answers(t *testing.T, service string, want wire.Outcome, reason string, replies ...string) (pamhelper.Result, []string) {
	t.Helper()
	got, shown, err := s.run(t, pamhelper.Call{Service: service}, replies...)
	if err != nil || got.Outcome != want || got.Reason != reason {
		t.Errorf("%s %q: %+v, %v; want %v %s", service, replies, got, err, want, reason)
	}
	return got, shown
}

// children are the commands of all processes below the program, itself left out.
func (s *server) children(t *testing.T) string {
	t.Helper()
	out, err := s.host.Command(t.Context(), "ps", "-eo", "args").Output()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.SplitSeq(string(out), "\n") {
		if strings.Contains(line, conversationArg) || strings.Contains(line, "98765") {
			found = append(found, line)
		}
	}
	return strings.Join(found, "; ")
}

// nothingLeft waits until no process of any conversation is left.
func (s *server) nothingLeft(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		left := s.children(t)
		if left == "" {
			return
		}
		if time.Now().After(end) {
			t.Errorf("still there: %s", left)
			return
		}
	}
}
