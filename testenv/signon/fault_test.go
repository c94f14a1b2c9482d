package signon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

func errorOf(out string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", err, out)
}

// signal reaches a server of the embedded realm, by its name.
func (r *realm) signal(t *testing.T, name string, sig syscall.Signal) {
	t.Helper()
	st, err := r.broker.status()
	need(t, err)
	for _, c := range st.Realm {
		if c.Name == name && c.PID > 0 {
			need(t, r.broker.Command(t.Context(), "kill", fmt.Sprintf("-%d", sig), fmt.Sprint(c.PID)).Run())
			return
		}
	}
	t.Fatalf("the realm has no %s: %+v", name, st.Realm)
}

// moduleWaits is the outermost deadline. A slow machine may add to it, but nothing
// waits for so much longer as overdue.
const (
	moduleWaits = 12 * time.Second
	overdue     = moduleWaits + 25*time.Second
)

// unavailable wants pamtester told "could not find out", not before a time; and,
// unless reason is "", because sekishod itself had found out that much in time.
func (v *site) unavailable(t *testing.T, p *person, least time.Duration, reason string) {
	t.Helper()
	mark := len(v.daemon.Log())
	began := time.Now()
	out, err := v.pamtester(t.Context(), p.password+"\n", "alone", p.name, "authenticate")
	took := time.Since(began)
	if err == nil || !strings.Contains(out, saysUnavail) {
		t.Errorf("%s: PAM says %v: %s", v.Name, err, out)
	}
	if took < least || took > overdue {
		t.Errorf("%s: it took %s, which should be %s to %s", v.Name, took, least, overdue)
	}
	if reason != "" {
		logged(t, func() string { return v.daemon.Log()[mark:] }, `"user":"`+p.name+`"`, `"outcome":"unknown","reason":"`+reason+`"`)
	}
	t.Logf("%s: could not be found out, after %s", v.Name, took.Round(10*time.Millisecond))
}

func (v *site) accepts(p *person) error {
	out, err := v.pamtester(context.Background(), p.password+"\n", "alone", p.name, "authenticate", "acct_mgmt")
	return errorOf(out, err)
}

// locals get in by key and by password whatever becomes of sekishod.
func (v *site) locals(t *testing.T, key *testenv.Key, password string, users ...string) {
	t.Helper()
	began := time.Now()
	for _, user := range users {
		local := &person{r: v.r, name: user, key: key, password: password}
		c := byKey.on(v).with(local)
		c.port = 2206
		local.in(t, c)
		c = byPassword.on(v).with(local)
		c.port = 2206
		local.in(t, c)
		if out, err := v.pamtester(t.Context(), password+"\n", "login", user, "authenticate", "acct_mgmt", "open_session", "close_session"); err != nil {
			t.Errorf("%s at login: %v: %s", user, err, out)
		}
	}
	if took := time.Since(began); took > overdue {
		t.Errorf("local users had to wait: their logins took %s", took)
	}
}

// What each server's silence does to sign-ins, from the inside out; each comes
// back with nothing else restarted.
func TestSilence(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r, err := newRealm(ctx)
	need(t, err)
	var web, bind *site
	var all sync.WaitGroup
	var errs [2]error
	all.Go(func() { web, errs[0] = r.join(ctx, joining{name: "web1", prover: "kdc"}) })
	all.Go(func() { bind, errs[1] = r.join(ctx, joining{name: "ldap1", prover: "ldap"}) })
	all.Wait()
	need(t, errors.Join(errs[:]...))
	p := r.someone(t, "patient", web)
	need(t, r.caughtUp(bind))

	key, err := testenv.NewKey("root@client")
	need(t, err)
	password := newSecret()
	need(t, web.AddUser(testenv.LocalUser{Name: "local", UID: 900}))
	set := web.Command(ctx, "chpasswd", "-c", "SHA256")
	set.Stdin = strings.NewReader("local:" + password + "\nroot:" + password + "\n")
	need(t, set.Run())
	for _, u := range []string{"root", "local"} {
		need(t, web.WriteFile("/etc/ssh/keys/"+u, key.Public, 0o644))
	}
	need(t, web.startSSHD(ctx, 2206, "KbdInteractiveAuthentication yes", "PermitRootLogin yes", "AuthorizedKeysFile /etc/ssh/keys/%u"))
	web.locals(t, key, password, "root", "local")
	well := func(vs ...*site) {
		t.Helper()
		for _, v := range vs {
			soon(t, func() error { return v.accepts(p) })
		}
	}
	well(web, bind)

	t.Run("KDC hangs", func(t *testing.T) {
		r.signal(t, "krb5kdc", syscall.SIGSTOP)
		defer r.signal(t, "krb5kdc", syscall.SIGCONT)
		p.in(t, byKey.on(web).with(p))
		if err := bind.accepts(p); err != nil {
			t.Errorf("a host that does not need the KDC: %v", err)
		}
		web.unavailable(t, p, time.Second, "unreachable")
		out := p.out(t, byPassword.on(web).with(p))
		says(t, out, "could not be found out")
		if out, err := web.pamtester(ctx, p.password+"\n", "fallback", p.name, "authenticate"); err != nil {
			t.Errorf("a stack with a fallback: %v: %s", err, out)
		}
		logged(t, web.daemon.Log, `"reason":"unreachable"`)
	})
	well(web)
	if out, err := web.pamtester(ctx, p.password+"x\n", "fallback", p.name, "authenticate"); err == nil {
		t.Errorf("the fallback is for outages, and let a wrong password in: %s", out)
	}
	t.Run("directory hangs", func(t *testing.T) {
		r.signal(t, "slapd", syscall.SIGSTOP)
		defer func() { need(t, r.broker.Command(ctx, "pkill", "-CONT", "-x", "slapd").Run()) }()
		p.in(t, byKey.on(web).with(p))
		var both sync.WaitGroup
		both.Go(func() { bind.unavailable(t, p, time.Second, "unreachable") })
		both.Go(func() { web.unavailable(t, p, time.Second, "unreachable") }) // the KDC reads the directory
		both.Wait()
	})
	well(web, bind)
	t.Run("sekishod hangs", func(t *testing.T) {
		need(t, web.daemon.Signal(syscall.SIGSTOP))
		defer web.daemon.Signal(syscall.SIGCONT)
		var both sync.WaitGroup
		both.Go(func() { web.unavailable(t, p, moduleWaits, "") })
		both.Go(func() { web.locals(t, key, password, "root") })
		both.Go(func() { // sshd would look for his groups, and nss-systemd waits 45 s for a server that hangs
			if out, err := web.pamtester(ctx, password+"\n", "su", "local", "authenticate", "acct_mgmt"); err != nil {
				t.Errorf("local: %v: %s", err, out)
			}
		})
		both.Wait()
	})
	well(web)
	t.Run("backlog full", func(t *testing.T) {
		need(t, web.daemon.Signal(syscall.SIGSTOP))
		var held []net.Conn
		defer func() {
			for _, c := range held {
				c.Close()
			}
			web.daemon.Signal(syscall.SIGCONT)
		}()
		for len(held) < 20000 {
			c, err := net.DialTimeout("unix", web.Path(pamSocket), patience)
			if err != nil {
				if !errors.Is(err, syscall.EAGAIN) {
					t.Fatalf("filling the backlog: %v", err)
				}
				break
			}
			held = append(held, c)
		}
		t.Logf("the backlog was full after %d connections", len(held))
		web.unavailable(t, p, 0, "")
	})
	well(web)
	t.Run("killed in mid-conversation", func(t *testing.T) {
		d := talk(t, web.Command(ctx, "pamtester", "-v", "alone", p.name, "authenticate"))
		d.say("Password: ", "")
		d2 := talk(t, web.Command(ctx, "pamtester", "-v", "alone", p.name, "authenticate"))
		defer d2.end()
		if err := poll(func() error {
			if !strings.Contains(d2.text(), "Password: ") {
				return errors.New("no prompt")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		web.daemon.Kill()
		began := time.Now()
		d2.say("Password: ", p.password)
		out, err := d2.end()
		if err == nil || !strings.Contains(out, saysUnavail) || time.Since(began) > overdue {
			t.Errorf("%v after %s: %s", err, time.Since(began), out)
		}
		d.end()
		web.locals(t, key, password, "root", "local") // while it is dead
		web.unavailable(t, p, 0, "")
		need(t, web.start(ctx))
	})
	well(web)
	t.Run("KDC dead", func(t *testing.T) {
		need(t, r.broker.daemon.Signal(syscall.SIGSTOP)) // so that nobody starts it again
		need(t, r.broker.Command(ctx, "pkill", "-KILL", "-x", "krb5kdc").Run())
		defer r.broker.daemon.Signal(syscall.SIGCONT)
		p.in(t, byKey.on(web).with(p))
		web.unavailable(t, p, 0, "unreachable")
	})
	well(web)
	t.Run("off the network", func(t *testing.T) {
		need(t, r.broker.Partition())
		defer r.broker.Heal()
		p.in(t, byKey.on(web).with(p))
		var both sync.WaitGroup
		both.Go(func() { web.unavailable(t, p, time.Second, "unreachable") })
		both.Go(func() { bind.unavailable(t, p, time.Second, "unreachable") })
		both.Wait()
	})
	well(web, bind)
}

// A prover that hangs for good is cut off by the broker, before the module gives up.
func TestProverHangs(t *testing.T) {
	t.Parallel()
	h, err := calm.w.Host("slow1")
	need(t, err)
	need(t, h.WriteFile("/etc/pam.d/slow", []byte("auth required pam_exec.so quiet /usr/local/bin/hang\n"), 0o644))
	need(t, h.WriteFile("/usr/local/bin/hang", []byte("#!/bin/sh\nexec sleep 60\n"), 0o755))
	v, err := calm.join(t.Context(), joining{name: "slow1", prover: "pam:slow"})
	need(t, err)
	p := calm.someone(t, "waiter", v)
	v.unavailable(t, p, 7*time.Second, "prover")
}

// Another KDC at the realm's address, with the realm's name and a user alice whose
// password is the attacker's: it is not believed.
func TestFalseKDC(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := calm.someone(t, "duped", calm.web)
	const wrong = "what the liar takes for it" // no secret: kadmin.local has it as an argument
	h, err := calm.w.Host("liar")
	need(t, err)
	kdc, err := testenv.StartKDC(ctx, testenv.KDCConfig{Dir: t.TempDir(), Realm: realmName, Host: h})
	need(t, err)
	t.Cleanup(func() { kdc.Close() })
	need(t, kdc.AddUser(ctx, p.name, wrong))
	v, err := calm.join(ctx, joining{name: "web2", prover: "kdc", krb5: krb5Conf(h.Addr.String())})
	need(t, err)
	need(t, calm.caughtUp(v))
	for _, with := range []struct{ what, sname, reason string }{
		{"it knows no service of our name", "", "false-kdc"},
		{"it knows one, with another key", "sekisho/" + v.FQDN, "false-kdc"},
	} {
		if with.sname != "" { // keys of its own making
			need(t, kdc.AddService(ctx, with.sname, t.TempDir()+"/keytab"))
		}
		mark := len(v.daemon.Log())
		out, err := v.pamtester(ctx, wrong+"\n", "alone", p.name, "authenticate")
		if err == nil || !strings.Contains(out, saysUnavail) {
			t.Errorf("%s: %v: %s", with.what, err, out)
		}
		p.out(t, byPassword.on(v).saying(wrong))
		logged(t, func() string { return v.daemon.Log()[mark:] }, `"outcome":"unknown","reason":"`+with.reason+`"`)
	}
	p.in(t, byKey.on(v).with(p))
}
