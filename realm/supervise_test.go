package realm_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sekisho/sekisho/realm"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
)

// contents hashes all files of the state directory but those that each run changes
// by its nature: the database's lock and data (its content is compared by contextCSN),
// and the replay cache.
func contents(t testing.TB, c realm.Config) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(c.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(c.Dir, path)
		if d.IsDir() || strings.HasPrefix(rel, "realm/db/") || strings.HasPrefix(rel, "realm/changepw.replay") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		out[rel] = hex.EncodeToString(sum[:8]) + st.Mode().String() + st.ModTime().String()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func contextCSN(t testing.TB, r *realm.Realm) string {
	t.Helper()
	res, err := admin(t, r).Search(ldap.NewSearchRequest(r.Info().Layout.Base, ldap.ScopeBaseObject, 0, 0, 0, false,
		"(objectClass=*)", []string{"contextCSN"}, nil))
	if err != nil || len(res.Entries) != 1 {
		t.Fatal(err)
	}
	csns := res.Entries[0].GetAttributeValues("contextCSN")
	slices.Sort(csns)
	if len(csns) == 0 {
		t.Fatal("no contextCSN")
	}
	return strings.Join(csns, " ")
}

func run(t testing.TB, c realm.Config, during func(*realm.Realm)) {
	t.Helper()
	r, err := realm.Open(within(t, time.Minute), c)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Run(context.Background()) }()
	defer func() {
		if err := errors.Join(r.Close(), r.Close(), <-done); err != nil {
			t.Fatal(err)
		}
		for _, s := range r.Status() {
			if s.PID != 0 || s.Ready || s.LastError != "" {
				t.Errorf("after Close: %+v", s)
			}
		}
	}()
	if err := r.Ready(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	during(r)
}

// TestSecondStartChangesNothing also shows that the first is quick, and that a
// second process is kept out meanwhile.
func TestSecondStartChangesNothing(t *testing.T) {
	c := testConfig(t)
	var csn string
	began := time.Now()
	run(t, c, func(r *realm.Realm) {
		if took := time.Since(began); took > 25*time.Second {
			t.Errorf("the first start took %v", took)
		} else {
			t.Logf("first start: %v", took.Round(time.Millisecond))
		}
		csn = contextCSN(t, r)
		if _, err := realm.Open(within(t, time.Minute), c); err == nil || !strings.Contains(err.Error(), "another sekishod") {
			t.Errorf("a second process: %v", err)
		}
	})
	before := contents(t, c)
	began = time.Now()
	run(t, c, func(r *realm.Realm) {
		t.Logf("second start: %v", time.Since(began).Round(time.Millisecond))
		if got := contextCSN(t, r); got != csn {
			t.Errorf("contextCSN was %s, is %s", csn, got)
		}
	})
	after := contents(t, c)
	for f := range after {
		if before[f] != after[f] {
			t.Errorf("%s: was %q, is %q", f, before[f], after[f])
		}
	}
	if len(before) != len(after) || len(after) < 15 {
		t.Errorf("%d files before, %d after", len(before), len(after))
	}
}

// TestNewNames: a new name in the configuration gives a new certificate and a new
// Kerberos key, and leaves the rest alone; also when it crashed half way before.
func TestNewNames(t *testing.T) {
	c := testConfig(t)
	run(t, c, func(r *realm.Realm) { addUser(t, r, "alice", "correct horse", 20001) })
	before := contents(t, c)
	c.Names = append(c.Names, "dir2.sekisho.internal")
	check := func(r *realm.Realm) {
		t.Helper()
		script := "printf '%s\\n' 'correct horse' | kinit alice >/dev/null && kvno -k " +
			filepath.Join(c.Dir, "realm/ldap.keytab") + " ldap/dir2.sekisho.internal"
		if out, err := tool(t, r, "", "sh", "-c", script); err != nil || !strings.Contains(out, "keytab entry valid") {
			t.Errorf("%v\n%s", err, out)
		}
		pem, err := os.ReadFile(filepath.Join(c.Dir, "realm/tls/server.crt"))
		if err != nil || len(pem) == 0 {
			t.Fatal(err)
		}
	}
	run(t, c, check)
	after := contents(t, c)
	for f := range after {
		changed := before[f] != after[f]
		want := slices.Contains([]string{"realm/tls/server.crt", "realm/tls/server.key", "realm/ldap.keytab"}, f)
		if changed != want {
			t.Errorf("%s changed: %v", f, changed)
		}
	}
	// The keytab is lost: it follows from the directory.
	if err := os.Remove(filepath.Join(c.Dir, "realm/ldap.keytab")); err != nil {
		t.Fatal(err)
	}
	run(t, c, check)
}

// TestRestarts: children that are killed come back, and a loop of deaths is slowed
// down.
func TestRestarts(t *testing.T) {
	c := testConfig(t)
	l := logrus.New()
	l.SetOutput(io.Discard)
	said := logtest.NewLocal(l)
	c.Log = logrus.NewEntry(l)
	r := start(t, c)
	addUser(t, r, "alice", "correct horse", 20001)
	kill := func(i, n int) {
		t.Helper()
		said.Reset()
		s, began := r.Status()[i], time.Now()
		if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		again := waitReady(t, r, i, s.PID)
		if again.Restarts != n || !strings.Contains(again.LastError, "killed") || again.Since.Before(began) {
			t.Errorf("%+v", again)
		}
		// The wait is what was said, and was kept: half of 100 ms at least, then of 200, 400, …
		most := 50 * time.Millisecond << n
		var wait time.Duration
		for _, e := range said.AllEntries() {
			if d, ok := e.Data["wait"].(time.Duration); ok {
				wait = d
			}
		}
		if took := time.Since(began); wait < most/2 || wait > most || took < most/2 {
			t.Errorf("%s, death %d: it said %s, and was back after %s", s.Name, n, wait, took)
		}
	}
	for n := range 5 { // at once, for who ran for a while begins anew
		kill(0, n+1)
	}
	for i := range r.Status() {
		if i > 0 {
			kill(i, 1)
		}
	}
	if !kinit(t, r, "alice", "correct horse") || !ldapBind(t, r, "alice", "correct horse") {
		t.Error("no sign-in after the restarts")
	}
}

func waitReady(t testing.TB, r *realm.Realm, i, oldPID int) realm.Status {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if s := r.Status()[i]; s.Ready && s.PID != oldPID && s.PID != 0 {
			return s
		}
	}
	t.Fatalf("not ready: %+v", r.Status()[i])
	return realm.Status{}
}

// TestStopKillsTheStopped: a child that hangs does not keep Close from ending.
func TestStopKillsTheStopped(t *testing.T) {
	c := testConfig(t)
	run(t, c, func(r *realm.Realm) {
		for _, s := range r.Status() {
			if err := syscall.Kill(s.PID, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestStartFails: the error of a start that fails holds what the daemon said.
func TestStartFails(t *testing.T) {
	for name, pick := range map[string]func(realm.Config) string{
		"slapd":   func(c realm.Config) string { return c.LDAPS[0] },
		"krb5kdc": func(c realm.Config) string { return c.KDC[0] },
	} {
		c := testConfig(t)
		l, err := net.Listen("tcp", pick(c))
		if err != nil {
			t.Fatal(err)
		}
		r, err := realm.Open(within(t, time.Minute), c)
		if err != nil {
			t.Fatal(err)
		}
		err = r.Run(context.Background())
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(strings.ToLower(err.Error()), "address already in use") {
			t.Errorf("%s: %v", name, err)
		}
		if rerr := r.Ready(within(t, time.Minute)); rerr == nil || rerr.Error() != err.Error() {
			t.Errorf("%s: Ready says %v", name, rerr)
		}
		for _, s := range r.Status() {
			if s.PID != 0 {
				t.Errorf("left running: %+v", s)
			}
		}
		if err := r.Run(context.Background()); err == nil {
			t.Error("ran twice")
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		l.Close()
		run(t, c, func(*realm.Realm) {}) // and once the cause has gone, all is well
	}
}

// TestKilledParent: kill -9 of sekishod takes its children along, and the next start
// finds the way free at once.
func TestKilledParent(t *testing.T) {
	high, low := testConfig(t), testConfig(t)
	low.LDAP, low.LDAPS, low.KDC, low.Kpasswd = nil, nil, nil, nil // a capability comes with these
	for name, c := range map[string]realm.Config{"high ports": high, "low ports": low} {
		for range 2 {
			cmd := sekishod(t, c, nil, self(t))
			pids := untilReady(t, c, cmd)
			cmd.Process.Kill()
			cmd.Wait()
			began := time.Now()
			for _, pid := range pids {
				for alive(pid) {
					if time.Since(began) > 30*time.Second {
						t.Fatalf("%s: process %d lives on", name, pid)
					}
					time.Sleep(time.Millisecond)
				}
			}
		}
		run(t, c, func(*realm.Realm) {})
	}
}

// TestPartsMissing: a realm that lost a file is not made anew over what is left.
func TestPartsMissing(t *testing.T) {
	c := testConfig(t)
	run(t, c, func(*realm.Realm) {})
	for _, f := range []string{"stash", "tls/ca.key", "db/data.mdb", "kdc.secret", "passwd.secret"} {
		path := filepath.Join(c.Dir, "realm", f)
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		if _, err := realm.Open(within(t, time.Minute), c); err == nil || !strings.Contains(err.Error(), "backup") || !strings.Contains(err.Error(), f) {
			t.Errorf("without %s: %v", f, err)
		}
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
	}
	// What is derived comes back by itself.
	for _, f := range []string{"slapd.d", "slapd.ldif", "kdc.conf", "tls/server.key", "kdc-krb5.conf"} {
		if err := os.RemoveAll(filepath.Join(c.Dir, "realm", f)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(c.RunDir); err != nil {
		t.Fatal(err)
	}
	run(t, c, func(r *realm.Realm) {
		addUser(t, r, "alice", "correct horse", 20001)
		if !kinit(t, r, "alice", "correct horse") {
			t.Error("no ticket")
		}
	})
}

func self(t testing.TB) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// untilReady starts a sekishod, waits for it and gives its children's pids.
func untilReady(t testing.TB, c realm.Config, cmd *exec.Cmd) []int {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		rest, _ := io.ReadAll(out)
		t.Fatalf("%q %v %s", line, err, rest)
	}
	var pids []int
	for _, f := range []string{"slapd.pid", "krb5kdc.pid"} {
		b, err := os.ReadFile(filepath.Join(c.Dir, f))
		if err != nil {
			t.Fatal(err)
		}
		var pid int
		if _, err := fmt.Sscan(string(b), &pid); err != nil || !alive(pid) {
			t.Fatalf("%s: %d, %v", f, pid, err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// TestLeftover: a slapd of the same realm that runs on is found and ended; another
// process under its number is left alone.
func TestLeftover(t *testing.T) {
	c := testConfig(t)
	run(t, c, func(*realm.Realm) {})
	left := exec.Command("/usr/sbin/slapd", "-d", "0", "-F", filepath.Join(c.Dir, "realm/slapd.d"), "-h", "ldaps://"+c.LDAPS[0]+"/")
	left.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(c.UID), Gid: uint32(c.GID)}}
	innocent := exec.Command("sleep", "3600")
	for file, cmd := range map[string]*exec.Cmd{"slapd.pid": left, "krb5kdc.pid": innocent} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer cmd.Process.Kill()
		if err := os.WriteFile(filepath.Join(c.Dir, file), fmt.Appendln(nil, cmd.Process.Pid), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for { // until it has the port
		if conn, err := net.Dial("tcp", c.LDAPS[0]); err == nil {
			conn.Close()
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	go left.Process.Wait() // so that it does not stay as a zombie
	run(t, c, func(*realm.Realm) {})
	if alive(left.Process.Pid) {
		t.Error("the leftover lives")
	}
	if !alive(innocent.Process.Pid) {
		t.Error("another process was killed")
	}
	for _, junk := range []string{"", "x", "-1", "1", "0", "99999999999999999999"} {
		if err := os.WriteFile(filepath.Join(c.Dir, "slapd.pid"), []byte(junk), 0o644); err != nil {
			t.Fatal(err)
		}
		r, err := realm.Open(within(t, time.Minute), c)
		if err != nil {
			t.Fatalf("pid file %q: %v", junk, err)
		}
		r.Close()
	}
}

// TestKilledInFirstStart: kill -9 at any instant of the first start, and the next
// one gives a whole realm.
func TestKilledInFirstStart(t *testing.T) {
	c := testConfig(t)
	whole := 0
	made := func() bool { _, err := os.Stat(filepath.Join(c.Dir, "realm")); return err == nil }
	var took time.Duration // from the start until the realm is made
	for n := range 25 {
		os.RemoveAll(c.Dir)
		cmd := sekishod(t, c, nil, self(t))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if n%12 == 0 { // some after it was made, however slow the machine is
			for !made() && time.Since(began) < time.Minute {
				time.Sleep(time.Millisecond)
			}
			took = time.Since(began)
			time.Sleep(rand.N(20 * time.Millisecond))
		} else {
			time.Sleep(time.Duration(n)*took/20 + rand.N(20*time.Millisecond))
		}
		after := time.Since(began)
		cmd.Process.Kill()
		cmd.Wait()
		if made() {
			whole++
		}
		r, err := realm.Open(within(t, time.Minute), c)
		if err != nil {
			t.Fatalf("killed after %v: %v", after, err)
		}
		if n%5 == 0 {
			done := make(chan error, 1)
			go func() { done <- r.Run(context.Background()) }()
			if err := r.Ready(within(t, time.Minute)); err != nil {
				t.Fatalf("killed after %v: %v", after, err)
			}
			addUser(t, r, "alice", "correct horse", 20001)
			if !kinit(t, r, "alice", "correct horse") {
				t.Errorf("killed after %v: no ticket", after)
			}
			r.Close()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		r.Close()
		if _, err := os.Stat(filepath.Join(c.Dir, "new")); err == nil {
			t.Errorf("killed after %v: new was left behind", after)
		}
	}
	if whole == 0 || whole == 25 {
		t.Errorf("%d of 25 kills came after the realm was made: the instants are badly chosen", whole)
	}
}

// TestStopWhileStarting: the servers end when they are told to, however early that is,
// and none has to be killed.
func TestStopWhileStarting(t *testing.T) {
	c := testConfig(t)
	l := logrus.New()
	l.SetOutput(io.Discard)
	said := logtest.NewLocal(l)
	c.Log = logrus.NewEntry(l)
	for n := range 16 {
		r, err := realm.Open(within(t, time.Minute), c)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- r.Run(context.Background()) }()
		time.Sleep(time.Duration(n) * 12 * time.Millisecond)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		for _, e := range said.AllEntries() {
			if strings.Contains(e.Message, "killing it") {
				t.Errorf("told after %d ms: %s", n*12, e.Message)
			}
		}
		said.Reset()
		if err := <-done; err != nil && !strings.Contains(err.Error(), "closed") {
			t.Errorf("told after %d ms: %v", n*12, err)
		}
	}
}
