package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

// loginWorld is a realm of MIT's own, with its password server, and a user's
// machine that has neither sekishod nor a keytab.
type loginWorld struct {
	t            *testing.T
	kdc, web, pc *testenv.Host
	k            *testenv.KDC
	dir          string
}

const loginPassword = "first password"

func startLoginWorld(t *testing.T) *loginWorld {
	t.Helper()
	w := testenv.ForTest(t)
	l := &loginWorld{t: t, kdc: w.Need(t, "kdc"), web: w.Need(t, "web1"), pc: w.Need(t, "pc"), dir: t.TempDir()}
	ctx := t.Context()
	if err := l.kdc.MoveClock(0); err != nil { // the servers follow later moves
		t.Fatal(err)
	}
	var err error
	if l.k, err = testenv.StartKDC(ctx, testenv.KDCConfig{Dir: l.dir, Host: l.kdc}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.k.Close() })
	l.admin("addpol", "-minlength", "10", "people")
	for _, u := range []string{"alice", "bob", "carol", "dave"} {
		l.admin("addprinc", "-policy", "people", "-pw", loginPassword, u)
	}
	kadmind, err := l.kdc.Start(ctx, testenv.DaemonConfig{Path: "/usr/sbin/kadmind", Args: []string{"-nofork"}, Env: l.env(),
		Ready: func(ctx context.Context) error {
			return l.kdc.Command(ctx, "sh", "-c", "ss -Hltn 'sport = :464' | grep -q .").Run()
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kadmind.Stop() })
	conf, err := os.ReadFile(l.k.KRB5Conf)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []*testenv.Host{l.web, l.pc} {
		if err := h.WriteFile("/etc/krb5.conf", conf, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, u := range []string{"alice", "bob"} {
			if err := h.AddUser(testenv.LocalUser{Name: u}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return l
}

func (l *loginWorld) env() []string {
	return []string{"KRB5_CONFIG=" + l.k.KRB5Conf, "KRB5_KDC_PROFILE=" + filepath.Join(l.dir, "kdc.conf")}
}

func (l *loginWorld) admin(args ...string) {
	l.t.Helper()
	cmd := l.kdc.Command(l.t.Context(), "kadmin.local", args...)
	cmd.Env = append(cmd.Env, l.env()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("kadmin.local %q: %v: %s", args, err, out)
	}
}

// pcRuns runs a script on the user's machine, as a user there, at a terminal where
// the lines are typed. It gives what was shown and the exit code.
func (l *loginWorld) pcRuns(user, script string, typed ...string) (string, int) {
	l.t.Helper()
	return l.pcReads(user, script, strings.NewReader(strings.Join(typed, "\n")+"\n"), &screen{})
}

func (l *loginWorld) pcReads(user, script string, keys io.Reader, shown *screen) (string, int) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 3*time.Minute)
	defer cancel()
	cmd := l.pc.CommandAs(ctx, user, "script", "-qec", "export PATH=/usr/local/bin:/usr/bin:/bin TZ=UTC; "+script, "/dev/null")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = keys, shown, shown
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		l.t.Fatalf("%s: %v", script, err)
	}
	return strings.ReplaceAll(shown.String(), "\r\n", "\n"), cmd.ProcessState.ExitCode()
}

func (l *loginWorld) expect(what, out string, code, want int, texts ...string) {
	l.t.Helper()
	if code != want {
		l.t.Errorf("%s: exit code %d, not %d:\n%s", what, code, want, out)
	}
	for _, s := range texts {
		if !strings.Contains(out, s) {
			l.t.Errorf("%s: no %q in\n%s", what, s, out)
		}
	}
}

// TestLoginThenSSH: a ticket of sekisho login opens an unmodified sshd to an
// unmodified ssh, and MIT's klist, kvno and kdestroy take its cache.
func TestLoginThenSSH(t *testing.T) {
	l := startLoginWorld(t)
	ctx := t.Context()
	keytab := filepath.Join(l.dir, "web1.keytab")
	if err := l.k.AddService(ctx, "host/"+l.web.FQDN, keytab); err != nil {
		t.Fatal(err)
	}
	if _, err := l.web.StartSSHD(ctx, testenv.SSHDConfig{Lines: []string{"GSSAPIAuthentication yes", "PubkeyAuthentication no"},
		Env: []string{"KRB5_KTNAME=FILE:" + keytab}}); err != nil {
		t.Fatal(err)
	}
	ssh := func(command string, options ...string) (string, error) {
		t.Helper()
		out, err := l.pc.SSH(ctx, testenv.SSHCall{To: l.web, User: "alice", Local: "alice", Command: command,
			Options: append(options, "GSSAPIAuthentication=yes", "PreferredAuthentications=gssapi-with-mic")}).CombinedOutput()
		return string(out), err
	}
	if out, err := ssh("id -un"); err == nil {
		t.Fatalf("without a ticket:\n%s", out)
	}
	out, code := l.pcRuns("alice", "sekisho login --forwardable -l 1h", loginPassword)
	l.expect("login", out, code, 0, "Password of alice@EXAMPLE.ORG: ", "ticket of alice@EXAMPLE.ORG until ", "in FILE:/tmp/krb5cc_2000")
	if out, err := ssh("id -un"); err != nil || out != "alice\n" {
		t.Errorf("%v\n%s", err, out)
	}
	// The ticket goes along when it is asked to.
	if out, err := ssh("klist -f", "GSSAPIDelegateCredentials=yes"); err != nil || !strings.Contains(out, "Default principal: alice@EXAMPLE.ORG") {
		t.Errorf("%v\n%s", err, out)
	}
	out, code = l.pcRuns("alice", "klist -f && kvno host/"+l.web.FQDN+" && sekisho tickets")
	l.expect("MIT's programs", out, code, 0, "Ticket cache: FILE:/tmp/krb5cc_2000", "krbtgt/EXAMPLE.ORG@EXAMPLE.ORG", "kvno = ", "host/web1.example.org@EXAMPLE.ORG", "59 min")
	out, code = l.pcRuns("alice", "kdestroy && sekisho tickets")
	l.expect("after kdestroy", out, code, 1, "there are no tickets in FILE:/tmp/krb5cc_2000: sekisho login gets one")
	if out, err := ssh("id -un"); err == nil {
		t.Errorf("after kdestroy:\n%s", out)
	}
	// In the kernel, with MIT's: in a user namespace, whose keyrings go with it.
	out, code = l.pcRuns("alice", `unshare -U sh -ec '
		export KRB5CCNAME=KEYRING:session:work
		sekisho login alice
		klist; kvno host/`+l.web.FQDN+`
		sekisho tickets
		kinit -R || echo not renewable
		sekisho logout
		klist -s || echo gone'`, loginPassword)
	l.expect("in the kernel", out, code, 0, "in KEYRING:session:work:work", "Ticket cache: KEYRING:session:work:work", "host/web1.example.org@EXAMPLE.ORG  ", "destroyed KEYRING:session:work:work", "gone\n")
}

// TestLoginRefused: what the KDC says no to is named, and an expired password is
// changed on the way.
func TestLoginRefused(t *testing.T) {
	l := startLoginWorld(t)
	l.admin("modprinc", "-pwexpire", "yesterday", "bob")
	l.admin("modprinc", "-allow_tix", "carol")
	l.admin("modprinc", "-expire", "yesterday", "dave")
	for user, want := range map[string]string{
		"carol": "carol@EXAMPLE.ORG is locked", "dave": "the account dave@EXAMPLE.ORG has expired", "nobody": "knows no nobody@EXAMPLE.ORG",
	} {
		out, code := l.pcRuns("alice", "sekisho login "+user, loginPassword)
		l.expect(user, out, code, 1, want)
	}
	out, code := l.pcRuns("alice", "sekisho login", "not that")
	l.expect("a wrong password", out, code, 1, "sekisho: the password of alice@EXAMPLE.ORG is wrong\n")

	// Without a terminal nobody is asked for a new password.
	out, code = l.pcRuns("bob", "echo '"+loginPassword+"' | sekisho login --password-file -")
	l.expect("expired, by pipe", out, code, 1, "the password of bob@EXAMPLE.ORG has expired", "at a terminal")
	out, code = l.pcRuns("bob", "sekisho login", loginPassword, "one password", "another password", "short", "short", "second password", "second password")
	l.expect("expired", out, code, 0, "The password of bob@EXAMPLE.ORG has expired: choose a new one.", "New password of bob@EXAMPLE.ORG: ", "Once more: ",
		"The two differ.", "The new password is refused: ", "The password is changed.", "ticket of bob@EXAMPLE.ORG until ")
	out, code = l.pcRuns("bob", "sekisho logout && kinit && klist", "second password")
	l.expect("kinit with the new one", out, code, 0, "Default principal: bob@EXAMPLE.ORG")
	out, code = l.pcRuns("bob", "sekisho login", loginPassword)
	l.expect("with the old one", out, code, 1, "is wrong")
	// Whoever does not know the old one is not asked for a new one.
	l.admin("modprinc", "-pwexpire", "yesterday", "bob")
	out, code = l.pcRuns("bob", "sekisho login", "not that", "third password", "third password")
	l.expect("expired, and wrong", out, code, 1, "the password of bob@EXAMPLE.ORG is wrong")
	out, code = l.pcRuns("bob", "sekisho login", "second password", "short", "short", "short", "short", "short", "short")
	l.expect("never a good one", out, code, 1, "no new password was taken")
}

// TestLoginClock: a wrong clock is named with its amount, and one that is wrong by
// less is noted in the cache, so that MIT's programs work in spite of it.
func TestLoginClock(t *testing.T) {
	l := startLoginWorld(t)
	move := func(d time.Duration) {
		t.Helper()
		if err := l.kdc.MoveClock(d); err != nil {
			t.Fatal(err)
		}
	}
	for offset, want := range map[time.Duration]string{
		10*time.Minute + 30*time.Second:               "this machine's clock is 10 min N s behind the KDC's (" + l.kdc.Addr.String() + ":88, ± ",
		-3*time.Hour - 5*time.Minute - 30*time.Second: "this machine's clock is 3 h 5 min ahead of the KDC's (",
	} {
		move(offset)
		// How many seconds, depends on how long the answer took.
		out, code := l.pcRuns("alice", "sekisho login", loginPassword)
		found := strings.Contains(regexp.MustCompile(`10 min \d+ s`).ReplaceAllString(out, "10 min N s"), want)
		l.expect("a wrong clock", out, code, 3, "5 min 0 s is allowed): set it right, for example with chronyd -q")
		if !found || strings.Contains(out, "password of alice@EXAMPLE.ORG is wrong") {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	move(200 * time.Second)
	out, code := l.pcRuns("alice", "sekisho login -r 1d && sekisho tickets && kvno krbtgt/EXAMPLE.ORG && kinit -R && klist -s")
	_ = out
	if code == 0 {
		t.Error("no password was typed, and there is a ticket")
	}
	out, code = l.pcRuns("alice", "sekisho login -r 1d && sekisho tickets && kvno krbtgt/EXAMPLE.ORG && sekisho tickets --json", loginPassword)
	l.expect("200 s", out, code, 0, "when the ticket was got, this machine's clock was 3 min ", " behind the KDC's")
	_, doc, _ := strings.Cut(out, "\n{")
	var got struct {
		Caches []struct {
			Valid  bool
			Offset float64 `json:"offset_seconds"`
		}
	}
	if err := json.Unmarshal([]byte("{"+doc), &got); err != nil || len(got.Caches) != 1 || !got.Caches[0].Valid || got.Caches[0].Offset < 170 || got.Caches[0].Offset > 230 {
		t.Errorf("%v, %+v in\n%s", err, got, out)
	}
	move(0)
	out, code = l.pcRuns("alice", "sekisho login", loginPassword)
	l.expect("mended", out, code, 0, "ticket of alice@EXAMPLE.ORG")
}

// TestLoginUnreachable names the KDCs that were asked, within the deadline.
func TestLoginUnreachable(t *testing.T) {
	l := startLoginWorld(t)
	if err := l.kdc.Partition(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	out, code := l.pcRuns("alice", "sekisho login", loginPassword)
	l.expect("no KDC", out, code, 3, "no KDC of EXAMPLE.ORG answers (asked: "+l.kdc.Addr.String()+":88)")
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("it took %s", d)
	}
	if err := l.kdc.Heal(); err != nil {
		t.Fatal(err)
	}
	out, code = l.pcRuns("alice", "sekisho login", loginPassword)
	l.expect("back", out, code, 0, "ticket of alice@EXAMPLE.ORG")
}

// TestInterrupt: nobody is held at a question, and the terminal shows again what
// is typed. There is no KDC: none is asked before there is a password.
func TestInterrupt(t *testing.T) {
	l := &loginWorld{t: t}
	w := testenv.ForTest(t)
	l.pc = w.Need(t, "pc")
	if err := l.pc.AddUser(testenv.LocalUser{Name: "alice"}); err != nil {
		t.Fatal(err)
	}
	if err := l.pc.WriteFile("/etc/krb5.conf", []byte("[libdefaults]\n default_realm = EXAMPLE.ORG\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	shown := &screen{}
	out, code := l.pcReads("alice", "sekisho login; echo ended with $?; stty -a; echo that is all",
		io.MultiReader(shown.until("Password of "), strings.NewReader("half a pass\x03"), shown.until("that is all")), shown)
	l.expect("^C", out, code, 0, "Password of alice@EXAMPLE.ORG: ", "sekisho: interrupted: nothing was done\n", "ended with 1\n", " echo ")
	if strings.Contains(out, "half a pass") {
		t.Errorf("the password was shown:\n%s", out)
	}
}

// screen is what a program has shown so far.
type screen struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// until is a reader that has nothing, and ends when the words are there.
func (s *screen) until(words string) io.Reader {
	return waiting(func() {
		for end := time.Now().Add(time.Minute); !strings.Contains(s.String(), words) && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
	})
}

type waiting func()

func (w waiting) Read([]byte) (int, error) {
	w()
	return 0, io.EOF
}
