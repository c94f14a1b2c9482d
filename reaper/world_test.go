package reaper

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

// site is a host with sshd, whose sessions are adopted, and a client.
type site struct {
	t           testing.TB
	web, client *testenv.Host
	door        *testenv.Daemon
	rpc         *rpc.Client
	key         *testenv.Key
}

const sessionPAM = `auth     required pam_deny.so
account  required pam_permit.so
session  required pam_mkhomedir.so umask=0077
%s
session  required /usr/local/lib/sekisho/pam_sekisho.so
%s
`

// kind is what a host's sessions can be known by.
type kind struct {
	name             string
	cgroups, auditID bool
	before, after    string // lines of the PAM stack around ours
}

var kinds = []kind{{name: "cgroup", cgroups: true}, {name: "audit", auditID: true}, {name: "bare"}}

func newSite(t testing.TB, k kind) *site {
	t.Helper()
	for _, p := range []string{"sekisho-reaper", "pam_sekisho.so"} {
		if _, err := testenv.Program(p); err != nil {
			t.Fatal(err)
		}
	}
	w, err := testenv.NewWorld(testenv.WorldConfig{NoCgroup: !k.cgroups})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			w.ShowLogs(t.Logf)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &site{t: t, web: w.Need(t, "web1"), client: w.Need(t, "client")}
	if s.key, err = testenv.NewKey("alice@client"); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"alice", "bob"} {
		if err := s.web.AddUser(testenv.LocalUser{Name: name, UID: 2001 + i, Shell: "/bin/bash"}); err != nil {
			t.Fatal(err)
		}
		s.put("/home/"+name+"/.ssh/authorized_keys", string(s.key.Public))
	}
	s.put("/root/.ssh/authorized_keys", string(s.key.Public))
	if k.auditID {
		k.before = "session  required pam_loginuid.so"
	}
	pam := fmt.Sprintf(sessionPAM, k.before, k.after)
	for _, name := range []string{"su", "sudo"} {
		s.put("/etc/pam.d/"+name, "auth required pam_permit.so\naccount required pam_permit.so\nsession required /usr/local/lib/sekisho/pam_sekisho.so\n")
	}
	s.startDoor()
	if _, err := s.web.StartSSHD(t.Context(), testenv.SSHDConfig{PAM: pam, Lines: []string{"StrictModes no", "LogLevel ERROR", "MaxStartups 200", "MaxSessions 20"}}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) put(path, text string) {
	s.t.Helper()
	if err := s.web.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// ownProgram is this program where hosts see it.
var ownProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "door")
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", err
	}
	path := dir + "/door"
	return path, os.WriteFile(path, b, 0o755)
})

// startDoor starts another sekishod, with a sekisho-reaper of its own.
func (s *site) startDoor() {
	s.t.Helper()
	exe, err := ownProgram()
	if err != nil {
		s.t.Fatal(err)
	}
	program, err := testenv.Program("sekisho-reaper")
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.web.Inside(func() error { os.Remove(ctlPath); return nil }); err != nil {
		s.t.Fatal(err)
	}
	s.door, err = s.web.Start(s.t.Context(), testenv.DaemonConfig{Name: "door", Path: exe, Args: []string{doorArg, program},
		Ready: func(context.Context) error { return s.dial() }})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) dial() error {
	c, err := net.Dial("unix", s.web.Path(ctlPath))
	if err == nil {
		s.rpc = rpc.NewClient(c)
		s.t.Cleanup(func() { c.Close() })
	}
	return err
}

// ask calls a method of the Door.
func ask[To any](s *site, method string, args any) To {
	s.t.Helper()
	to, err := try[To](s, method, args)
	if err != nil {
		s.t.Fatalf("%s: %v", method, err)
	}
	return to
}

func try[To any](s *site, method string, args any) (To, error) {
	var to To
	err := s.rpc.Call("Door."+method, args, &to)
	return to, err
}

// login is a session that a client of ours holds open.
type login struct {
	*site
	Opened Opened
	cmd    *testenv.Cmd
	out    *output
	in     *os.File
	done   chan struct{} // closed when ssh has ended
}

// output is what ssh has said so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

var one sync.Mutex // logs in; so that a session is known by its order

// log logs a user in. The command must print "ready" when all is as a test wants
// it.
func (s *site) log(user, command string, options ...string) *login {
	s.t.Helper()
	l := s.open(testenv.SSHCall{User: user, Command: command, Options: options})
	l.until("ready")
	return l
}

// open is log without a word of the command's.
func (s *site) open(call testenv.SSHCall, flags ...string) *login {
	s.t.Helper()
	one.Lock()
	defer one.Unlock()
	before := len(s.all())
	call.To, call.Key = s.web, s.key
	l := s.ssh(call, flags...)
	eventually(s.t, "no session is opened", func() bool { return len(s.all()) > before || !l.lives() })
	l.Opened = s.sessionAt(before)
	return l
}

func (s *site) all() []Opened { return ask[[]Opened](s, "All", Nothing{}) }

// sessionAt is the session that was opened as the nth.
func (s *site) sessionAt(n int) Opened {
	s.t.Helper()
	all := s.all()
	if len(all) <= n {
		s.t.Fatal("no session was opened")
	}
	if all[n].Err != "" {
		s.t.Fatalf("adopting a session: %s", all[n].Err)
	}
	return all[n]
}

// ssh starts ssh, whose input stays open.
func (s *site) ssh(call testenv.SSHCall, flags ...string) *login {
	s.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	l := &login{site: s, cmd: s.client.SSH(s.t.Context(), call), out: &output{}, in: w, done: make(chan struct{})}
	l.cmd.Args = slices.Insert(l.cmd.Args, 1, flags...)
	l.cmd.Stdin, l.cmd.Stdout, l.cmd.Stderr = r, l.out, l.out
	if err := l.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	r.Close()
	go func() { l.cmd.Wait(); close(l.done) }()
	s.t.Cleanup(func() { w.Close(); l.cmd.Process.Kill(); <-l.done })
	return l
}

func (l *login) until(text string) {
	l.t.Helper()
	eventually(l.t, "there is no "+text, func() bool { return strings.Contains(l.out.String(), text) || !l.lives() })
	if !strings.Contains(l.out.String(), text) {
		l.t.Fatalf("ssh has ended and said %q", l.out)
	}
}

// ends waits for ssh's end.
func (l *login) ends() {
	l.t.Helper()
	select {
	case <-l.done:
	case <-time.After(time.Minute):
		l.t.Errorf("ssh goes on, and has said %q", l.out)
	}
}

func (l *login) lives() bool {
	select {
	case <-l.done:
		return false
	default:
		return true
	}
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

var marks atomic.Int64

// mark is a number of seconds by which a process is found.
func mark() string { return fmt.Sprint(100_000_000 + marks.Add(1)) }

// running are the processes of the host whose arguments hold a mark.
func (s *site) running(mark string) (found []string) {
	s.t.Helper()
	out, err := s.web.Command(s.t.Context(), "ps", "-eo", "pid,ppid,sid,stat,args", "--no-headers").Output()
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, mark) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// sleeping are those of them that sleep, and not the shells that were told to
// start them.
func (s *site) sleeping(mark string) []string {
	s.t.Helper()
	return slices.DeleteFunc(s.running(mark), func(line string) bool { return !strings.HasSuffix(line, " sleep "+mark) })
}

// end ends a session and looks whether all of it has gone.
func (l *login) end(text string) Ended {
	l.t.Helper()
	return l.endBy(Order{Text: text})
}

// endBy is end with an order of the test's own: one with a long Grace gives a slow
// sshd the time to send on what is written to the terminal.
func (l *login) endBy(o Order) Ended {
	l.t.Helper()
	o.ID = l.Opened.ID
	e := ask[Ended](l.site, "End", o)
	if len(e.Left) > 0 {
		l.t.Errorf("left: %+v", e.Left)
	}
	for _, x := range ask[[]Session](l.site, "Recover", Nothing{}) {
		if x.ID == l.Opened.ID {
			l.t.Errorf("it is still adopted: %+v", x)
		}
	}
	return e
}

// reaper is the pid of the host's sekisho-reaper, on the host; "" when there is
// none.
func (s *site) reaper() string {
	out, _ := s.web.Command(s.t.Context(), "pgrep", "-x", "sekisho-reaper").Output()
	return strings.TrimSpace(string(out))
}

// sh runs a script as root of the host.
func (s *site) sh(script string) string {
	s.t.Helper()
	out, err := s.web.Command(s.t.Context(), "sh", "-c", script).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

func (s *site) emptied(id string) bool {
	s.t.Helper()
	return slices.Contains(ask[[]string](s, "Events", Nothing{}), id)
}
