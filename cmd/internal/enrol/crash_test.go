package enrol

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

// stepper copies this test binary to where web sees it.
func stepper(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "enrol-step")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// step runs the stepper until it kills itself before step n, and says what that
// was; done when it came to the end instead.
func (s *site) step(exe, what string, n int) (step string, done bool) {
	s.t.Helper()
	out, err := s.web.Command(s.t.Context(), exe, what, fmt.Sprint(n), s.bundle).Output()
	text := strings.TrimSpace(string(out))
	var exit interface{ ExitCode() int }
	switch {
	case err == nil && text == "done":
		return "", true
	case errors.As(err, &exit) && exit.ExitCode() == -1:
		return text, false
	}
	s.t.Fatalf("%s, to be killed before step %d: %v: %s", what, n, err, out)
	return "", false
}

// ownUsersGetIn: root and carol pass PAM by their passwords, sshd would start,
// and PAM does not let in whom nobody has proved.
func (s *site) ownUsersGetIn(when string) {
	s.t.Helper()
	for _, user := range []string{"root", "carol"} {
		if err := s.pam(user, password); err != nil {
			s.t.Errorf("%s: %v", when, err)
		}
		if err := s.pam(user, "wrong"); err == nil {
			s.t.Errorf("%s: %s gets in by a wrong password", when, user)
		}
	}
	if err := s.pam("alice", password); err == nil {
		s.t.Errorf("%s: alice gets in without sekishod", when)
	}
	if out, err := s.web.Command(s.t.Context(), "sshd", "-t").CombinedOutput(); err != nil {
		s.t.Errorf("%s: sshd would not start: %s", when, out)
	}
}

// pam signs in by sshd's stack.
func (s *site) pam(user, password string) error {
	s.t.Helper()
	c := s.web.Command(s.t.Context(), "pamtester", "sshd", user, "authenticate", "acct_mgmt")
	c.Stdin = strings.NewReader(password + "\n")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", user, err, out)
	}
	return nil
}

// TestKilledAnywhere: SIGKILL before each step. At that moment root and the
// machine's own users get in; --undo puts all back, also when it is killed itself.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.must(s.web, "mkdir", "-p", "/run/sshd")
	exe, before := stepper(t), s.tree()
	s.ownUsersGetIn("at first")
	var steps []string
	for n := 0; ; n++ {
		step, done := s.step(exe, "enrol", n)
		if done {
			break
		}
		steps = append(steps, step)
		s.ownUsersGetIn("killed before " + step)
		if out, code := s.enrol(s.bundle, "--dry-run"); n > 0 && (code != 1 || !strings.Contains(out, "broken off")) {
			t.Errorf("killed before %s: %d %s", step, code, out)
		}
		// One more step of the undo each time: in the end all have been killed at.
		if n > 0 {
			for u := 0; u <= n; u += max(n, 1) {
				if step, done := s.step(exe, "undo", u); done {
					break
				} else if s.ownUsersGetIn("undo killed before " + step); t.Failed() {
					t.FailNow()
				}
			}
			if out, code := s.enrol("--undo"); code != 0 && !strings.Contains(out, "nothing to undo") {
				t.Errorf("--undo after %s: %d %s", step, code, out)
			}
		}
		s.unchanged(before, "killed before "+step)
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d steps: %s", len(steps), strings.Join(steps, ", "))
	if len(steps) < 18 || steps[len(steps)-1] != "confirm" {
		t.Error("there are fewer steps than there should be")
	}
	// It is enrolled now. Each step of the undo.
	for n := 0; ; n++ {
		s.ownUsersGetIn(fmt.Sprintf("undo killed %d times", n))
		if _, done := s.step(exe, "undo", n); done || n > 40 {
			break
		}
		if s.web.Inside(func() error { _, err := os.Stat("/var/lib/sekisho-enrol/0001"); return err }) != nil {
			break
		}
	}
	if out, code := s.enrol("--undo"); code != 0 && !strings.Contains(out, "nothing to undo") {
		t.Errorf("--undo: %d %s", code, out)
	}
	s.unchanged(before, "after an undo that was killed many times")
}

// TestNextRunMends: without --undo, the next run puts back what was left, and
// goes on.
func TestNextRunMends(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	exe, before := stepper(t), s.tree()
	if step, done := s.step(exe, "enrol", 12); done {
		t.Fatal("it came to an end")
	} else if out := s.enrolled(s.bundle, "--yes"); !strings.Contains(out, "put back first") {
		t.Errorf("killed before %s: %s", step, out)
	}
	s.startSekishod(s.web)
	s.startSSHD()
	s.works(s.login("alice", s.key))
	s.stopAll()
	s.enrolled("--undo")
	s.unchanged(before, "after --undo")
}

// terminal runs sekisho host enrol at a terminal, where somebody types.
func (s *site) terminal(typed func(say func(string), saw func(string) bool), args ...string) (string, int) {
	s.t.Helper()
	line := binDir + "/sekisho host enrol " + strings.Join(args, " ")
	log := "/run/terminal"
	if err := s.web.Inside(func() error { os.Remove(log); return nil }); err != nil {
		s.t.Fatal(err)
	}
	c := s.web.Command(s.t.Context(), "script", "-qefc", line, log)
	in, err := c.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	read := func() string { b, _ := s.web.ReadFile(log); return string(b) }
	typed(func(text string) { fmt.Fprintln(in, text) }, func(text string) bool {
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if strings.Contains(read(), text) {
				return true
			}
		}
		s.t.Errorf("it never says %q:\n%s", text, read())
		return false
	})
	in.Close()
	err = c.Wait()
	return read(), exitCode(s.t, err)
}

// TestConfirm: what nobody says yes to is put back, and so is what does not
// work; what works stays.
func TestConfirm(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	before := s.tree()

	out, code := s.terminal(func(say func(string), saw func(string) bool) {
		saw("Make these changes? [y/N]")
		say("n")
	}, s.bundle)
	if code != 1 || !strings.Contains(out, "nothing was done") {
		t.Errorf("%d %s", code, out)
	}
	s.unchanged(before, "nobody wanted it")

	out, code = s.terminal(func(say func(string), saw func(string) bool) {
		saw("[y/N]")
		say("y")
		saw("Type yes within 5m0s")
		say("hm")
	}, s.bundle)
	if code != 1 || !strings.Contains(out, "nobody said yes: everything was put back") {
		t.Errorf("%d %s", code, out)
	}
	s.unchanged(before, "nobody said yes")

	// A yes without a sekishod that answers is a mistake.
	out, code = s.terminal(func(say func(string), saw func(string) bool) {
		saw("[y/N]")
		say("y")
		saw("now: start sekishod")
		saw("Type yes within")
		say("yes")
	}, s.bundle)
	if code != 1 || !strings.Contains(out, "sekishod does not answer") {
		t.Errorf("%d %s", code, out)
	}
	s.unchanged(before, "sekishod did not answer")

	var sekishod *testenv.Daemon
	out, code = s.terminal(func(say func(string), saw func(string) bool) {
		saw("[y/N]")
		say("y")
		saw("Type yes within")
		sekishod = s.startSekishod(s.web)
		s.startSSHD()
		s.works(s.login("alice", s.key))
		s.works(s.byPassword("carol", password))
		say("yes")
	}, s.bundle)
	if code != 0 || !strings.Contains(out, "done; sekisho host enrol --undo") {
		t.Errorf("%d %s", code, out)
	}
	s.works(s.byPassword("alice", password))

	// The terminal that goes away before a yes: SIGHUP puts everything back. Here
	// on a host that is enrolled, with a file that lacks something again.
	if sekishod == nil {
		t.FailNow()
	}
	s.put(s.web, "/etc/sekisho/sekishod.toml", "host = \"web1\"\n", 0o644)
	s.terminal(func(say func(string), saw func(string) bool) {
		saw("[y/N]")
		say("y")
		saw("Type yes within")
		s.must(s.web, "sh", "-c", "kill -HUP $(ps -eo pid,args | awk '$2 ~ /bin.sekisho$/ && $4 == \"enrol\" {print $1}')")
	}, s.bundle)
	if b, err := s.web.ReadFile("/etc/sekisho/sekishod.toml"); err != nil || string(b) != "host = \"web1\"\n" {
		t.Errorf("%v %s", err, b)
	}
}

// TestEdited: an undo does not silently lose what others have written since.
func TestEdited(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	before := s.tree()
	s.enrolled(s.bundle, "--yes")
	const mine = "# mine\npasswd: files\n"
	s.put(s.web, "/etc/nsswitch.conf", mine, 0o644)
	if out, code := s.enrol("--undo"); code != 2 || !strings.Contains(out, "say --yes") {
		t.Errorf("%d %s", code, out)
	}
	out, code := s.terminal(func(say func(string), saw func(string) bool) {
		saw("/etc/nsswitch.conf")
		say("n")
	}, "--undo")
	if b, err := s.web.ReadFile("/etc/nsswitch.conf"); code != 1 || err != nil || string(b) != mine {
		t.Errorf("%d %s %s %v", code, out, b, err)
	}
	out = s.enrolled("--undo", "--yes")
	_, kept, _ := strings.Cut(out, "what others had changed is in ")
	kept, _, _ = strings.Cut(kept, "\n")
	if b, err := s.web.ReadFile(kept + "/etc-nsswitch.conf"); err != nil || string(b) != mine {
		t.Errorf("%q: %v %s\n%s", kept, err, b, out)
	}
	s.must(s.web, "rm", "-r", kept)
	s.unchanged(before, "after --undo --yes")
}
