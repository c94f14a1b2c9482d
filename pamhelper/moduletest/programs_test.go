package moduletest

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

// dialogue is a program whose prompts are answered as they come.
type dialogue struct {
	t   *testing.T
	cmd *testenv.Cmd
	in  io.WriteCloser

	mu  sync.Mutex
	out bytes.Buffer
	at  int // what was answered ends here
}

func (d *dialogue) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.Write(b)
}

// dialogue starts cmd.
func (s *site) dialogue(cmd *testenv.Cmd) *dialogue {
	s.t.Helper()
	d := &dialogue{t: s.t, cmd: cmd}
	r, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Close()
	d.in = w
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r, d, d
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return d
}

// say waits for a prompt and answers it.
func (d *dialogue) say(prompt, reply string) {
	d.t.Helper()
	if d.sees(prompt) {
		io.WriteString(d.in, reply+"\n")
	}
}

// sees waits for a prompt.
func (d *dialogue) sees(prompt string) bool {
	d.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		d.mu.Lock()
		i := strings.Index(d.out.String()[d.at:], prompt)
		if i >= 0 {
			d.at += i + len(prompt)
		}
		d.mu.Unlock()
		if i >= 0 {
			return true
		}
	}
	d.t.Errorf("no prompt %q; it printed\n%s", prompt, d.text())
	return false
}

func (d *dialogue) text() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.ReplaceAll(d.out.String(), "\r", "")
}

// end waits for the program's end.
func (d *dialogue) end() (out string, err error) {
	err = d.cmd.Wait()
	d.in.Close()
	return d.text(), err
}

// onTerminal runs a command of the host on a terminal of its own.
func (s *site) onTerminal(command string) *testenv.Cmd {
	return s.host.Command(s.t.Context(), "script", "-qec", command, "/dev/null")
}

func TestLogin(t *testing.T) {
	s := newSite(t)
	s.d.plan("auth", prompt("info Hello.", "password Password: "), prompt("secret Code: "), yes("login "+token))
	d := s.dialogue(s.onTerminal("login alice"))
	d.say("Password: ", password)
	d.say("Code: ", "123456")
	d.say("$ ", look+"; exit")
	out, err := d.end()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	s.sees(out, true)
	heard := s.ended()
	wants(t, bare(heard), "auth user=alice service=login", "answer a1="+password, "answer a1=123456", "account user=alice service=login login=TOKEN",
		"session user=alice service=login op=open login=TOKEN", "credentials user=alice op=establish login=TOKEN session="+sessionID,
		"session user=alice service=login op=close login=TOKEN session="+sessionID)
	if !strings.Contains(heard[0], " tty=/dev/pts/") {
		t.Errorf("heard %q", heard[0])
	}
	s.noTickets()

	s.d.plan("auth", prompt("password Password: "), no("locked", "your account is locked"))
	d = s.dialogue(s.onTerminal("login alice"))
	d.say("Password: ", password)
	d.say("login: ", "alice") // and again
	d.sees("Password: ")
	d.in.Close()
	if out := d.text(); strings.Contains(out, "$ ") || !strings.Contains(out, "your account is locked") {
		t.Errorf("it printed\n%s", out)
	}
	d.cmd.Process.Kill()
	d.end()
	s.d.heard()

	// A local account, root too, never meets sekishod.
	d = s.dialogue(s.onTerminal("login local"))
	d.say("Password: ", password)
	d.say("$ ", look+"; exit")
	if out, err := d.end(); err != nil || !strings.Contains(out, "USER=local") {
		t.Errorf("%v\n%s", err, out)
	}
	wants(t, s.d.heard())
}

func TestSu(t *testing.T) {
	s := newSite(t)
	d := s.dialogue(s.host.CommandAs(t.Context(), "bob", "su", "-", "alice", "-c", look))
	d.say("Password: ", password)
	out, err := d.end()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	s.sees(out, true)
	heard := s.ended()
	wants(t, bare(heard), suRequests("alice", "ruser=bob")...)
	s.noTickets()

	s.d.plan("auth", prompt("password Password: "), no("wrong-password", ""))
	d = s.dialogue(s.host.CommandAs(t.Context(), "bob", "su", "alice", "-c", "id"))
	d.say("Password: ", "x")
	if out, err := d.end(); err == nil || strings.Contains(out, "uid=") {
		t.Errorf("in: %s", out)
	}
	s.d.heard()
	s.d.plan("auth", prompt("password Password: "), unknown("unreachable", "the KDC does not answer"))
	d = s.dialogue(s.host.CommandAs(t.Context(), "bob", "su", "alice", "-c", "id"))
	d.say("Password: ", "x")
	if out, err := d.end(); err == nil || !strings.Contains(out, "the KDC does not answer") || !strings.Contains(out, "Authentication service cannot retrieve authentication info") {
		t.Errorf("in: %s", out)
	}
	s.d.heard()

	// To a local account, root.
	d = s.dialogue(s.host.CommandAs(t.Context(), "bob", "su", "-c", "id"))
	d.say("Password: ", password)
	if out, err := d.end(); err != nil || !strings.Contains(out, "uid=0") {
		t.Errorf("%v %s", err, out)
	}
	wants(t, s.d.heard())
	// Root asks nobody for a password, and still opens alice's account and session.
	if out := s.must(s.host.Command(t.Context(), "su", "alice", "-c", "id -un")); out != "alice\n" {
		t.Errorf("it printed %q", out)
	}
	got := bare(s.ended())
	wants(t, got, "account user=alice service=su ruser=root", "session user=alice service=su op=open ruser=root",
		"session user=alice service=su op=close ruser=root session="+sessionID)
	s.d.plan("account", no("locked", "alice is locked"))
	if out, err := s.host.Command(t.Context(), "su", "alice", "-c", "id -un").CombinedOutput(); err == nil {
		t.Errorf("it printed %q", out)
	}
}

// suRequests are those of one sign-in by util-linux's su.
func suRequests(user, ruser string) []string {
	const service = "su-l" // of su -
	return []string{"auth user=" + user + " service=" + service + " " + ruser, "answer a1=" + password,
		"account user=" + user + " service=" + service + " " + ruser + " login=TOKEN",
		"credentials user=" + user + " op=establish login=TOKEN",
		"session user=" + user + " service=" + service + " op=open " + ruser + " login=TOKEN session=" + sessionID,
		"session user=" + user + " service=" + service + " op=close " + ruser + " login=TOKEN session=" + sessionID}
}

func TestSudo(t *testing.T) {
	s := newSite(t)
	if err := s.host.WriteFile("/etc/sudoers.d/alice", []byte("alice ALL=(ALL) ALL\nDefaults timestamp_timeout=0\nDefaults !lecture\n"), 0o440); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"root", "bob"} {
		d := s.dialogue(s.host.CommandAs(t.Context(), "alice", "sudo", "-S", "-u", target, "sh", "-c", look))
		d.say("password for alice: ", password)
		out, err := d.end()
		if err != nil || !strings.Contains(out, "USER="+target) {
			t.Errorf("%v\n%s", err, out)
		}
		// alice proved herself; what follows is another user's: no tickets, no token.
		s.sees(out, false)
		want := []string{"auth user=alice service=sudo ruser=alice", "answer a1=" + password, "account user=alice service=sudo ruser=alice login=TOKEN"}
		heard := s.d.heard()
		if target == "bob" {
			want = append(want, "session user=bob service=sudo op=open ruser=alice", "session user=bob service=sudo op=close ruser=alice session="+sessionID)
		}
		wants(t, bare(heard), want...)
		s.noTickets()
	}
	s.d.plan("account", no("locked", "your account is locked"))
	d := s.dialogue(s.host.CommandAs(t.Context(), "alice", "sudo", "-S", "id"))
	d.say("password for alice: ", password)
	if out, err := d.end(); err == nil || strings.Contains(out, "uid=0") {
		t.Errorf("in:\n%s", out)
	}
}

func TestPasswd(t *testing.T) {
	s := newSite(t)
	change := func() *dialogue { return s.dialogue(s.host.CommandAs(t.Context(), "alice", "passwd")) }
	s.d.plan("passwd check", yes())
	s.d.plan("passwd", prompt("password Current password: "), prompt("new-password New password: ", "new-password New password, again: "),
		prompt("error It is too short.", "new-password New password: ", "new-password New password, again: "), yes("info Changed everywhere."))
	d := change()
	d.say("Current password: ", password)
	d.say("New password: ", "x")
	d.say("again: ", "x")
	d.say("too short.", "longer secret")
	d.say("again: ", "longer secret")
	out, err := d.end()
	if err != nil || !strings.Contains(out, "Changed everywhere.") || !strings.Contains(out, "updated successfully") {
		t.Errorf("%v\n%s", err, out)
	}
	heard := s.d.heard()
	wants(t, bare(heard), "passwd user=alice service=passwd phase=check", "passwd user=alice service=passwd phase=change",
		"answer a1="+password, "answer a1=x a2=x", "answer a1=longer secret a2=longer secret")

	s.d.plan("passwd", prompt("password Current password: "), no("wrong-password", "that is not your password"))
	d = change()
	d.say("Current password: ", "x")
	if out, err := d.end(); err == nil || !strings.Contains(out, "that is not your password") || !strings.Contains(out, "password unchanged") {
		t.Errorf("%v\n%s", err, out)
	}
	s.d.plan("passwd check", unknown("unreachable", "the directory does not answer"))
	s.d.heard()
	d = change()
	if out, err := d.end(); err == nil || !strings.Contains(out, "the directory does not answer") {
		t.Errorf("%v\n%s", err, out)
	}
	wants(t, bare(s.d.heard()), "passwd user=alice service=passwd phase=check")
	// A local account's is in /etc/shadow.
	d = s.dialogue(s.host.CommandAs(t.Context(), "local", "passwd"))
	d.say("Current password: ", password)
	d.say("New password: ", "battery staple 17")
	d.say("Retype new password: ", "battery staple 17")
	if out, err := d.end(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	wants(t, s.d.heard())
}

func TestPamtester(t *testing.T) {
	s := newSite(t)
	if err := s.host.WriteFile("/etc/pam.d/tester", []byte("@include common-auth\n@include common-account\n@include common-password\n@include common-session\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(user, reply string, ops ...string) (string, error) {
		cmd := s.host.Command(t.Context(), "pamtester", append([]string{"-I", "rhost=198.51.100.7", "tester", user}, ops...)...)
		cmd.Stdin = strings.NewReader(reply)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	all := []string{"authenticate", "acct_mgmt", "setcred(PAM_ESTABLISH_CRED)", "open_session", "close_session"}
	out, err := run("alice", password+"\n", all...)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	wants(t, bare(s.d.heard()), "auth user=alice service=tester", "answer a1="+password, "account user=alice service=tester login=TOKEN",
		"credentials user=alice op=establish login=TOKEN", "session user=alice service=tester op=open login=TOKEN session="+sessionID,
		"session user=alice service=tester op=close login=TOKEN session="+sessionID)
	s.noTickets()
	// Without sekishod: local accounts go on, others are not found out about.
	s.host.Inside(func() error { return os.Remove("/run/sekisho/pam.sock") })
	if out, err := run("local", password+"\n", all...); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := run("root", password+"\n", all...); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := run("local", "x\n", all...); err == nil || !strings.Contains(out, "Authentication failure") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, user := range []string{"alice", "stranger"} {
		if out, err := run(user, password+"\n", "authenticate"); err == nil || !strings.Contains(out, "Authentication service cannot retrieve authentication info") {
			t.Errorf("%s: %v\n%s", user, err, out)
		}
	}
	wants(t, s.d.heard())
}
