package endtoend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

// withMallory gives entries of somebody who has a key and, once onlyAlice is
// done, no rule.
func withMallory(t *testing.T) (mallory *person, ldif string) {
	t.Helper()
	mallory = &person{name: "mallory", key: newKey(t, "mallory")}
	return mallory, userEntry("mallory", 10666, string(mallory.key.Public)) + userEntry("local", 10667)
}

// onlyAlice takes the rule for everybody away.
func onlyAlice(t *testing.T, v *outside) {
	t.Helper()
	need(t, v.realm.modify(v.realm.dn("everybody", "access"), "sekishoEnabled", "FALSE"))
	caughtUp(t, v.site)
}

// storm logs in again and again from n clients until told to stop, and counts.
type storm struct {
	in, refused, cut, other atomic.Int64 // cut: sshd hung up, since NSS knew nobody any more
	slowest                 atomic.Int64 // of the good one's logins, ns
	all                     sync.WaitGroup
	halt                    chan struct{}
}

func startStorm(t *testing.T, v *site, good, bad *person, n int) *storm {
	s := &storm{halt: make(chan struct{})}
	for i := range n {
		s.all.Go(func() {
			for j := 0; ; j++ {
				select {
				case <-s.halt:
					return
				default:
				}
				p := good
				if (i+j)%3 == 0 {
					p = bad
				}
				begin := time.Now()
				out, err := p.ssh(context.Background(), call{to: v, command: "echo in"})
				took := int64(time.Since(begin))
				switch {
				case err == nil && p == bad:
					t.Errorf("%s was let in: %s", p.name, out)
				case err == nil:
					s.in.Add(1)
				case refusal(out, err) == nil:
					if p == good {
						s.refused.Add(1)
					}
				case strings.Contains(out, "Connection closed by"), strings.Contains(out, "Connection reset by"),
					code(err) == 254 && !strings.HasSuffix(out, "in"): // the session's process found no account
					s.cut.Add(1)
				default:
					s.other.Add(1)
					t.Logf("%s: neither in nor refused: %v: %s", p.name, err, out)
				}
				for p == good {
					old := s.slowest.Load()
					if took <= old || s.slowest.CompareAndSwap(old, took) {
						break
					}
				}
			}
		})
	}
	return s
}

func (s *storm) stop(t *testing.T, what string) {
	close(s.halt)
	s.all.Wait()
	t.Logf("%s: %d logins, %d refused, %d cut off, slowest %s", what, s.in.Load(), s.refused.Load(), s.cut.Load(), time.Duration(s.slowest.Load()).Round(time.Millisecond))
}

// someIn says whether somebody has come in.
func (s *storm) someIn() error {
	if s.in.Load() == 0 {
		return errors.New("nobody has come in")
	}
	return nil
}

// A directory that hangs in the midst of logins is not noticed by them.
func TestDirectoryHangs(t *testing.T) {
	t.Parallel()
	mallory, ldif := withMallory(t)
	v := newOutside(t, "hang", outsideConfig{ldif: ldif})
	onlyAlice(t, v)
	s := startStorm(t, v.site, world.alice, mallory, 3)
	soon(t, s.someIn)
	need(t, v.slapd.Hang())
	// So many that each client has begun a login while it hung, and come in.
	during := s.in.Load() + 9
	soon(t, func() error {
		if n := s.in.Load(); n < during && s.refused.Load()+s.cut.Load()+s.other.Load() == 0 {
			return fmt.Errorf("%d logins are missing while slapd hangs", during-n)
		}
		return nil
	})
	need(t, v.slapd.Resume())
	s.stop(t, "a hung slapd")
	if s.refused.Load() != 0 || s.cut.Load() != 0 || s.other.Load() != 0 {
		t.Errorf("%d were refused, %d failed", s.refused.Load(), s.cut.Load()+s.other.Load())
	}
	if slow := time.Duration(s.slowest.Load()); slow > 20*time.Second { // libnss-systemd would wait for 45
		t.Errorf("a login took %s", slow)
	}
	// And what changes afterwards is heard.
	need(t, v.realm.modify(v.realm.dn("alice", "access"), "sekishoEnabled", "FALSE"))
	caughtUp(t, v.site)
	world.alice.out(t, call{to: v.site})
}

// sekishod killed again and again: each login is served or refused.
func TestBrokerKilled(t *testing.T) {
	t.Parallel()
	mallory, ldif := withMallory(t)
	v := newOutside(t, "kill", outsideConfig{ldif: ldif})
	onlyAlice(t, v)
	s := startStorm(t, v.site, world.alice, mallory, 3)
	soon(t, s.someIn)
	for range 8 {
		time.Sleep(250 * time.Millisecond)
		v.daemon.Kill()
		need(t, v.start(t.Context()))
	}
	s.stop(t, "sekishod killed")
	if s.other.Load() != 0 {
		t.Errorf("%d failed otherwise than by refusal", s.other.Load())
	}
	world.alice.in(t, call{to: v.site})
	mallory.out(t, call{to: v.site})
	// And with no sekishod at all.
	v.daemon.Kill()
	world.alice.out(t, call{to: v.site})
}

// sekishod stopped: sekisho-keys gives up after two seconds, and sshd refuses.
func TestBrokerStopped(t *testing.T) {
	t.Parallel()
	v := newOutside(t, "stop", outsideConfig{sshd: []string{"LoginGraceTime 12"}})
	// A local account of the user's name: NSS needs no sekishod for it.
	need(t, v.AddUser(testenv.LocalUser{Name: "deploy"}))
	need(t, v.realm.modify(v.realm.dn("alice", "access"), "sekishoLogin", "deploy", "self"))
	caughtUp(t, v.site)
	world.alice.in(t, call{to: v.site, as: "deploy"})
	need(t, v.daemon.Signal(syscall.SIGSTOP))
	defer v.daemon.Signal(syscall.SIGCONT)

	ids, err := v.Command(t.Context(), "sh", "-c", "grep ^sekisho-keys: /etc/passwd | cut -d: -f3,4 --output-delimiter=' '").Output()
	need(t, err)
	var uid, gid uint32
	_, err = fmt.Sscan(string(ids), &uid, &gid)
	need(t, err)
	begin := time.Now()
	keys := v.Command(t.Context(), "/usr/local/lib/sekisho/sekisho-keys", "deploy")
	keys.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	out, err := keys.CombinedOutput()
	if took := time.Since(begin); code(err) != 75 || took < time.Second || took > 20*time.Second { // it would wait for ever
		t.Errorf("sekisho-keys: exit code %d after %s: %s", code(err), took, out)
	}
	// sshd looks up the groups of sekisho-keys before it starts it, and a
	// directory user before that. libnss-systemd waits 45 s for a service that
	// is silent and blocks the alarm of LoginGraceTime meanwhile: the refusal
	// comes then, not sooner, and not later.
	var all sync.WaitGroup
	for _, as := range []string{"deploy", "alice"} {
		all.Go(func() {
			begin := time.Now()
			out, err := world.alice.ssh(context.Background(), call{to: v.site, as: as})
			took := time.Since(begin)
			if err == nil || took > patience-20*time.Second {
				t.Errorf("as %s, after %s: %v: %s", as, took, err, out)
			}
			t.Logf("a login as %s failed after %s: %s", as, took.Round(time.Millisecond), out)
		})
	}
	all.Wait()
	need(t, v.daemon.Signal(syscall.SIGCONT))
	world.alice.in(t, call{to: v.site})
}

// 200 logins in bursts, and one login while 2,000 connections stand.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	mallory, ldif := withMallory(t)
	v := newOutside(t, "many", outsideConfig{ldif: ldif})
	onlyAlice(t, v)
	begin := time.Now()
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			for j := range 5 {
				p := world.alice
				if (i+j)%10 == 0 {
					p = mallory
				}
				out, err := p.ssh(context.Background(), call{to: v.site})
				switch {
				case p == mallory:
					if err := refusal(out, err); err != nil {
						t.Errorf("mallory: %v", err)
					}
				case err != nil:
					t.Errorf("alice: %v: %s", err, out)
				}
			}
		})
	}
	all.Wait()
	t.Logf("200 logins, 40 at once: %s", time.Since(begin).Round(time.Millisecond))

	// 2,000 connections of 40 local users, who say nothing, half a request, or
	// rubbish. Each may have 64 at most.
	before, err := v.status(t.Context())
	need(t, err)
	conns := crowd(t, v.site, 40, 50)
	begin = time.Now()
	world.alice.in(t, call{to: v.site})
	mallory.out(t, call{to: v.site})
	t.Logf("two logins beside %d connections: %s", len(conns), time.Since(begin).Round(time.Millisecond))
	st, err := v.status(t.Context())
	need(t, err)
	t.Logf("%d open, %d turned away", st.Socket.Open, st.Socket.Busy-before.Socket.Busy)
	if st.Socket.Open < 100 {
		t.Errorf("only %d connections stand: this test saw nothing", st.Socket.Open)
	}
	for _, c := range conns {
		c.Close()
	}
	soon(t, func() error {
		st, err := v.status(t.Context())
		if err == nil && st.Socket.Open > 20 {
			err = fmt.Errorf("%d connections are still open", st.Socket.Open)
		}
		return err
	})
}

// crowd opens connections to the local socket as many unprivileged users.
func crowd(t *testing.T, v *site, users, each int) (conns []net.Conn) {
	t.Helper()
	words := []string{"", "1 ke", "GET / HTTP/1.1\r\n\r\n", "1 keys user=root\n", strings.Repeat("x", 20000)}
	for u := range users {
		var fds []int
		need(t, v.Inside(func() error {
			runtime.LockOSThread() // never unlocked: the thread ends with its ids
			id := uintptr(70000 + u)
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); e != 0 {
				return e
			}
			for range each {
				fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				fds = append(fds, fd)
				if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: socketPath}); err != nil {
					return fmt.Errorf("connecting as %d: %w", id, err)
				}
			}
			return nil
		}))
		for i, fd := range fds {
			f := os.NewFile(uintptr(fd), "socket")
			c, err := net.FileConn(f)
			f.Close()
			need(t, err)
			c.SetDeadline(time.Now().Add(patience))
			if w := words[i%len(words)]; w != "" {
				c.Write([]byte(w)) // it may have been turned away already
			}
			conns = append(conns, c)
		}
	}
	return conns
}

// A full disk under the snapshot: sekishod goes on, and says so.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	v := newOutside(t, "full", outsideConfig{prior: func(h *testenv.Host) error {
		// The snapshot's alone: while the audit record cannot be written, nobody gets in.
		out, err := h.Command(t.Context(), "sh", "-c", "mkdir -p /var/lib/sekisho/snapshot && chown sekisho: /var/lib/sekisho && chmod 700 /var/lib/sekisho && "+
			"mount -t tmpfs -o size=96k,mode=0700,uid=$(id -u sekisho) tmpfs /var/lib/sekisho/snapshot").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	}})
	world.alice.in(t, call{to: v.site})
	p, fill := &person{name: "late", key: newKey(t, "late")}, newKey(t, "fill")
	for i := range 12 {
		for j := range 10 {
			need(t, v.addPerson(fmt.Sprintf("fill%d-%d", i, j), 40000+10*i+j, strings.TrimSpace(string(fill.Public))+" "+strings.Repeat("x", 2000)))
		}
		st, err := v.status(t.Context())
		need(t, err)
		if st.Sync.DiskError != "" {
			break
		}
	}
	caughtUp(t, v.site)
	soon(t, func() error {
		st, err := v.status(t.Context())
		if err == nil && st.Sync.DiskError == "" {
			err = errors.New("status shows no error of the disk")
		}
		return err
	})
	out, err := v.Command(t.Context(), "/usr/local/bin/sekisho", "status").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "SNAPSHOT NOT WRITTEN") {
		t.Errorf("status: %v %s", err, out)
	}
	// It hears and answers as before.
	need(t, v.addPerson("late", 45000, string(p.key.Public)))
	caughtUp(t, v.site)
	p.in(t, call{to: v.site})
	need(t, v.realm.modify(v.realm.dn("late", "people"), "loginShell", "/bin/false"))
	caughtUp(t, v.site)
	p.out(t, call{to: v.site})
	world.alice.in(t, call{to: v.site})
	// A restart finds a whole snapshot, or none, and never a wrong one.
	v.daemon.Kill()
	need(t, v.start(t.Context()))
	caughtUp(t, v.site)
	world.alice.in(t, call{to: v.site})
	p.out(t, call{to: v.site})
}

// A directory whose certificate is not sound is not read: the last snapshot
// goes on, and the message names the mend.
func TestBadCertificates(t *testing.T) {
	t.Parallel()
	v := newOutside(t, "cert", outsideConfig{})
	world.alice.in(t, call{to: v.site})
	other, err := testenv.NewCA("another CA")
	need(t, err)
	names := []string{v.ldap.FQDN, v.ldap.Addr.String()}
	for _, c := range []struct {
		what string
		ca   *testenv.CA
		cfg  testenv.CertConfig
		says []string
	}{
		{"expired", v.ca, testenv.CertConfig{Names: names, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-24 * time.Hour)}, []string{"expired"}},
		{"another CA", other, testenv.CertConfig{Names: names}, []string{"CA"}},
		{"another name", v.ca, testenv.CertConfig{Names: []string{"elsewhere.example.org"}}, []string{"elsewhere.example.org"}},
	} {
		cert, err := c.ca.Issue(c.cfg)
		need(t, err)
		need(t, v.ldap.WriteFile("/run/slapd-389/cert.pem", cert.CertPEM, 0o600))
		need(t, v.ldap.WriteFile("/run/slapd-389/key.pem", cert.KeyPEM, 0o600))
		need(t, v.slapd.Restart(t.Context()))
		var st status
		soon(t, func() error {
			if st, err = v.status(t.Context()); err != nil {
				return err
			}
			for _, w := range append(c.says, "certificate") {
				if !strings.Contains(st.Sync.LastError, w) {
					return fmt.Errorf("%s: the message does not say %q: %s", c.what, w, st.Sync.LastError)
				}
			}
			return nil
		})
		t.Logf("%s: %s", c.what, st.Sync.LastError)
		if st.Sync.State == "live" {
			t.Errorf("%s: the directory is followed", c.what)
		}
		world.alice.in(t, call{to: v.site})
	}
}

// yes asks the door and wants a yes or a no.
func (v *site) yes(p *person) (bool, error) {
	a, err := v.keyAnswer(p.name, p.key)
	if err == nil && a.Outcome == wire.Unknown {
		err = fmt.Errorf("could not find out: %s", a.Reason)
	}
	return a.Outcome == wire.Yes, err
}
