package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

// scene is the world and what the story needs of it.
type scene struct {
	ctx                     context.Context
	broker, web, db, client *testenv.Host
	sekishod                map[*testenv.Host]*testenv.Daemon
	alice, bob              *testenv.Key
	krb5conf                []byte
	failed                  bool
}

// world runs inside the sandbox: it tells the story and then stays, as the
// parent of every daemon in it.
func world() (int, error) {
	ctx, stop := context.WithTimeout(context.Background(), limit)
	defer stop()
	w, err := testenv.NewWorld(testenv.WorldConfig{})
	if err != nil {
		return 1, err
	}
	s := &scene{ctx: ctx, sekishod: map[*testenv.Host]*testenv.Daemon{}}
	s.tell(w)
	code := 0
	if s.failed {
		code = 1
		w.ShowLogs(func(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) })
	}
	fmt.Printf("%s%d\n", endMark, code)
	select {} // until the sandbox is stopped
}

// step runs one part of the story and prints how it went and how long it took.
// After a part that failed the story goes on only when the rest can stand
// without it.
func (s *scene) step(what string, f func() error) bool {
	t := time.Now()
	err := f()
	took := time.Since(t)
	if err != nil {
		s.failed = true
		fmt.Printf("FAIL  %-74s %8s\n      %s\n", what, round(took), strings.ReplaceAll(err.Error(), "\n", "\n      "))
		return false
	}
	fmt.Printf("ok    %-74s %8s\n", what, round(took))
	return true
}

func round(d time.Duration) string {
	if d < 100*time.Millisecond {
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}

// sekisho runs the command as root on the broker's machine; stdin may be empty.
func (s *scene) sekisho(stdin string, args ...string) error {
	c := s.broker.Command(s.ctx, "/usr/local/bin/sekisho", args...)
	c.Stdin = strings.NewReader(stdin)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("sekisho %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// login is a real ssh from the client; the error is ssh's own.
func (s *scene) login(user string, key *testenv.Key, to *testenv.Host) error {
	out, err := s.client.SSH(s.ctx, testenv.SSHCall{To: to, User: user, Key: key, Command: "id -un"}).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	if got := strings.TrimSpace(string(out)); got != user {
		return fmt.Errorf("logged in as %q", got)
	}
	return nil
}

// refused is a login that sshd must refuse for want of a key.
func (s *scene) refused(user string, key *testenv.Key, to *testenv.Host) error {
	err := s.login(user, key, to)
	switch {
	case err == nil:
		return errors.New("was let in")
	case !strings.Contains(err.Error(), "Permission denied"):
		return fmt.Errorf("the login failed, but not by refusal: %w", err)
	}
	return nil
}

// soon waits until f says nil, within d.
func (s *scene) soon(d time.Duration, f func() error) error {
	for end := time.Now().Add(d); ; time.Sleep(10 * time.Millisecond) {
		err := f()
		if err == nil || time.Now().After(end) || s.ctx.Err() != nil {
			return err
		}
	}
}

// why asks the host itself, and wants its answer to hold all of the words.
func (s *scene) why(on *testenv.Host, user string, code int, words ...string) error {
	args := []string{"why", user, "keys", on.Name}
	out, err := on.Command(s.ctx, "/usr/local/bin/sekisho", args...).CombinedOutput()
	if got := exitCode(err); got != code {
		return fmt.Errorf("sekisho %s: exit code %d, want %d: %s", strings.Join(args, " "), got, code, out)
	}
	for _, w := range words {
		if !strings.Contains(string(out), w) {
			return fmt.Errorf("sekisho %s does not say %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
	return nil
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// hosts starts the machines.
func (s *scene) hosts(w *testenv.World) error {
	if err := os.MkdirAll(pidDir, 0o755); err != nil {
		return err
	}
	for _, h := range []struct {
		name string
		to   **testenv.Host
	}{{"broker", &s.broker}, {"web1", &s.web}, {"db1", &s.db}, {"client", &s.client}} {
		var err error
		if *h.to, err = w.Host(h.name); err != nil {
			return err
		}
		if err := os.WriteFile(pidDir+"/"+h.name, fmt.Append(nil, (*h.to).Pid), 0o644); err != nil {
			return err
		}
	}
	var err error
	if s.alice, err = testenv.NewKey("alice@client"); err != nil {
		return err
	}
	if s.bob, err = testenv.NewKey("bob@client"); err != nil {
		return err
	}
	// For a person who comes to look: `ssh alice@web1` on the client just works.
	conf := "Host *\n  IdentityFile /root/.ssh/%r\n  IdentitiesOnly yes\n  KexAlgorithms curve25519-sha256\n"
	for path, data := range map[string][]byte{"alice": s.alice.Private, "bob": s.bob.Private, "config": []byte(conf)} {
		if err := s.client.WriteFile("/root/.ssh/"+path, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// realm starts sekishod on the broker's machine: its configuration says only
// where to listen.
func (s *scene) realm() error {
	a := s.broker.Addr
	conf := fmt.Sprintf("[realm]\nldap = [\"127.0.0.1:389\"]\nldaps = [\"%s:636\"]\nkdc = [\"%s:88\"]\nnames = [%q]\n[clock]\nservers = [%q]\n", a, a, s.broker.FQDN, a)
	if err := s.broker.WriteFile("/etc/sekisho/sekishod.toml", []byte(conf), 0o644); err != nil {
		return err
	}
	// So that slapd's and the KDC's clocks can be moved later.
	if err := s.broker.MoveClock(0); err != nil {
		return err
	}
	if _, err := s.broker.StartChronyd(s.ctx, testenv.ChronydConfig{}); err != nil {
		return err
	}
	if err := s.start(s.broker); err != nil {
		return err
	}
	// For kinit and ssh on the client.
	krb5 := fmt.Sprintf("[libdefaults]\n default_realm = SEKISHO.INTERNAL\n dns_lookup_kdc = false\n dns_canonicalize_hostname = false\n rdns = false\n"+
		"[realms]\n SEKISHO.INTERNAL = {\n  kdc = %s\n  kpasswd_server = %s\n }\n", a, a)
	ca, err := s.broker.ReadFile("/var/lib/sekisho/realm/tls/ca.crt")
	if err != nil {
		return err
	}
	s.krb5conf = []byte(krb5)
	return errors.Join(s.client.WriteFile("/etc/krb5.conf", s.krb5conf, 0o644), s.client.WriteFile("/root/ca.crt", ca, 0o644))
}

// start starts a host's sekishod and waits until it answers from a snapshot.
func (s *scene) start(h *testenv.Host) error {
	d, err := h.Start(s.ctx, testenv.DaemonConfig{
		Name: "sekishod", Path: "/usr/local/bin/sekishod",
		ReadyTimeout: 30 * time.Second, StopTimeout: 15 * time.Second,
		Ready: func(ctx context.Context) error {
			return h.Command(ctx, "/usr/local/bin/sekisho", "status", "--json").Run()
		},
	})
	if err == nil {
		s.sekishod[h] = d
	}
	return err
}

// join makes a host of the realm as its administrator would: the host's bundle
// is carried over, and `sekisho host enrol` sets up sekishod, Kerberos, NSS, PAM
// and sshd. There is no systemd here, so the servers are started by hand.
func (s *scene) join(h *testenv.Host) error {
	file := "/root/" + h.Name + ".bundle"
	if err := s.sekisho("", "host", "add", h.Name, "--addr", h.Addr.String(), "--alias", h.FQDN); err != nil {
		return err
	}
	if err := s.sekisho("", "host", "bundle", h.Name, "--out", file); err != nil {
		return err
	}
	bundle, err := s.broker.ReadFile(file)
	if err != nil {
		return err
	}
	// All machines of the site have the same krb5.conf.
	if err := errors.Join(h.WriteFile(file, bundle, 0o600), h.WriteFile("/etc/krb5.conf", s.krb5conf, 0o644),
		h.WriteFile("/etc/ssh/sshd_config", []byte(sshdConfig), 0o644)); err != nil {
		return err
	}
	if out, err := h.Command(s.ctx, "/usr/local/bin/sekisho", "host", "enrol", file, "--yes").CombinedOutput(); err != nil && exitCode(err) != 3 {
		return said(err, string(out))
	}
	if err := s.start(h); err != nil {
		return err
	}
	_, err = h.Start(s.ctx, testenv.DaemonConfig{
		Name: "sshd", Path: "/usr/sbin/sshd", Args: []string{"-D", "-e"},
		Ready: func(context.Context) error {
			return h.Inside(func() error { _, err := os.Stat("/run/sshd.pid"); return err })
		},
	})
	return err
}

// sshdConfig is a host's before it joins: Debian's, with a quicker key exchange.
const sshdConfig = `Include /etc/ssh/sshd_config.d/*.conf
HostKey /etc/ssh/ssh_host_ed25519_key
KexAlgorithms curve25519-sha256
PidFile /run/sshd.pid
KbdInteractiveAuthentication no
UsePAM yes
UseDNS no
PrintMotd no
PrintLastLog no
Subsystem sftp internal-sftp
`
