// Package site is a small site for the demo, the chaos runs, the tests and the
// benchmarks: a broker with an embedded realm, hosts that have joined it as their
// administrator would have them join, with unmodified sshd, and a client's machine.
package site

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

// Paths on every machine of the site.
const (
	Sekisho = "/usr/local/bin/sekisho"
	State   = "/var/lib/sekisho"
	Realm   = "SEKISHO.INTERNAL"
	Base    = "dc=sekisho,dc=internal"
)

// FeedPort is where the broker is followed.
const FeedPort = 7464

// Config is what a site is made of.
type Config struct {
	// Hosts are the names of those that people log in to.
	Hosts []string
	// Directory: the hosts follow the directory, not the broker.
	Directory bool
	// Broker is more of the broker's configuration.
	Broker string
}

// Site is one site. Its methods return errors and may be used by several
// goroutines, but for Start and Kill of one machine.
type Site struct {
	Ctx            context.Context
	Broker, Client *testenv.Host
	Hosts          []*testenv.Host

	c        Config
	daemons  map[*testenv.Host]*testenv.Daemon
	krb5conf []byte
}

// New makes the machines and starts nothing.
func New(ctx context.Context, w *testenv.World, c Config) (*Site, error) {
	s := &Site{Ctx: ctx, c: c, daemons: map[*testenv.Host]*testenv.Daemon{}}
	var err error
	if s.Broker, err = w.Host("broker"); err != nil {
		return nil, err
	}
	for _, name := range c.Hosts {
		h, err := w.Host(name)
		if err != nil {
			return nil, err
		}
		s.Hosts = append(s.Hosts, h)
	}
	s.Client, err = w.Host("client")
	return s, err
}

// All are all machines with a sekishod.
func (s *Site) All() []*testenv.Host { return append([]*testenv.Host{s.Broker}, s.Hosts...) }

// StartRealm starts sekishod on the broker's machine: its configuration says
// little more than where to listen.
func (s *Site) StartRealm() error {
	a := s.Broker.Addr
	conf := fmt.Sprintf("[realm]\nldap = [\"127.0.0.1:389\"]\nldaps = [\"%s:636\"]\nkdc = [\"%s:88\"]\nnames = [%q]\n[clock]\nservers = [%q]\n", a, a, s.Broker.FQDN, a)
	if !s.c.Directory {
		conf += fmt.Sprintf("[feed]\nlisten = [\"%s:%d\"]\n", a, FeedPort)
	}
	if err := s.Broker.WriteFile("/etc/sekisho/sekishod.toml", []byte(conf+s.c.Broker), 0o644); err != nil {
		return err
	}
	// So that slapd's and the KDC's clocks can be moved later.
	if err := s.Broker.MoveClock(0); err != nil {
		return err
	}
	if _, err := s.Broker.StartChronyd(s.Ctx, testenv.ChronydConfig{}); err != nil {
		return err
	}
	if err := s.Start(s.Broker); err != nil {
		return err
	}
	// For kinit and ssh on the client.
	ca, err := s.Broker.ReadFile(State + "/realm/tls/ca.crt")
	if err != nil {
		return err
	}
	s.krb5conf = fmt.Appendf(nil, "[libdefaults]\n default_realm = %s\n dns_lookup_kdc = false\n dns_canonicalize_hostname = false\n rdns = false\n"+
		"[realms]\n %s = {\n  kdc = %s\n  kpasswd_server = %s\n  pkinit_anchors = FILE:/root/ca.crt\n }\n", Realm, Realm, a, a)
	return errors.Join(s.Client.WriteFile("/etc/krb5.conf", s.krb5conf, 0o644), s.Client.WriteFile("/root/ca.crt", ca, 0o644))
}

// Start starts a machine's sekishod and waits until it answers from a snapshot.
func (s *Site) Start(h *testenv.Host) error {
	d, err := h.Start(s.Ctx, testenv.DaemonConfig{
		Name: "sekishod", Path: "/usr/local/bin/sekishod",
		ReadyTimeout: 2 * time.Minute, StopTimeout: time.Minute,
		Ready: func(ctx context.Context) error { return h.Command(ctx, Sekisho, "status", "--json").Run() },
	})
	if err == nil {
		s.daemons[h] = d
	}
	return err
}

// Sekishod is the one that runs on a machine.
func (s *Site) Sekishod(h *testenv.Host) *testenv.Daemon { return s.daemons[h] }

// Join makes a host of the realm as its administrator would: the host's bundle
// is carried over, and `sekisho host enrol` sets up sekishod, Kerberos, NSS, PAM
// and sshd. There is no systemd here, so the servers are started by hand.
func (s *Site) Join(h *testenv.Host) error {
	file := "/root/" + h.Name + ".bundle"
	if err := s.Run("", "host", "add", h.Name, "--addr", h.Addr.String(), "--alias", h.FQDN); err != nil {
		return err
	}
	if err := s.Run("", "host", "bundle", h.Name, "--out", file); err != nil {
		return err
	}
	bundle, err := s.Broker.ReadFile(file)
	if err != nil {
		return err
	}
	// All machines of the site have the same krb5.conf.
	if err := errors.Join(h.WriteFile(file, bundle, 0o600), h.WriteFile("/etc/krb5.conf", s.krb5conf, 0o644),
		h.WriteFile("/etc/ssh/sshd_config", []byte(sshdConfig), 0o644)); err != nil {
		return err
	}
	if out, err := h.Command(s.Ctx, Sekisho, "host", "enrol", file, "--yes").CombinedOutput(); err != nil && ExitCode(err) != 3 {
		return Said(err, string(out))
	}
	if err := s.Start(h); err != nil {
		return err
	}
	_, err = h.Start(s.Ctx, testenv.DaemonConfig{
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
MaxStartups 200
Subsystem sftp internal-sftp
`

// Run runs sekisho as root on the broker's machine; stdin may be empty.
func (s *Site) Run(stdin string, args ...string) error {
	c := s.Broker.Command(s.Ctx, Sekisho, args...)
	c.Stdin = strings.NewReader(stdin)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("sekisho %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Login is a real ssh from the client; the error is ssh's own.
func (s *Site) Login(user string, key *testenv.Key, to *testenv.Host) error {
	out, err := s.Client.SSH(s.Ctx, testenv.SSHCall{To: to, User: user, Key: key, Command: "id -un"}).CombinedOutput()
	if err != nil {
		return Said(err, string(out))
	}
	if got := strings.TrimSpace(string(out)); got != user {
		return fmt.Errorf("logged in as %q", got)
	}
	return nil
}

// Refused is a login that sshd must refuse for want of a key.
func (s *Site) Refused(user string, key *testenv.Key, to *testenv.Host) error {
	err := s.Login(user, key, to)
	switch {
	case err == nil:
		return errors.New("was let in")
	case !strings.Contains(err.Error(), "Permission denied"):
		return fmt.Errorf("the login failed, but not by refusal: %w", err)
	}
	return nil
}

// Soon waits until f says nil, within d.
func (s *Site) Soon(d time.Duration, f func() error) error {
	for end := time.Now().Add(d); ; time.Sleep(10 * time.Millisecond) {
		err := f()
		if err == nil || time.Now().After(end) || s.Ctx.Err() != nil {
			return err
		}
	}
}

// Status is what is read of `sekisho status --json`.
type Status struct {
	Sync struct {
		State string  `json:"state"`
		Age   float64 `json:"age_seconds"`
		Users int     `json:"users"`
		Hosts int     `json:"hosts"`
		Rules int     `json:"rules"`
	} `json:"sync"`
	Realm []struct {
		Name string `json:"name"`
		PID  int    `json:"pid"`
	} `json:"realm"`
}

// Status asks a machine's sekishod.
func (s *Site) Status(h *testenv.Host) (st Status, err error) {
	out, err := h.Command(s.Ctx, Sekisho, "status", "--json").Output()
	if err != nil {
		return st, fmt.Errorf("sekisho status: %w", err)
	}
	if err := json.Unmarshal(out, &st); err != nil {
		return st, fmt.Errorf("sekisho status: %w: %s", err, out)
	}
	return st, nil
}

// Signal sends one to the broker's slapd or krb5kdc.
func (s *Site) Signal(server string, sig syscall.Signal) error {
	st, err := s.Status(s.Broker)
	if err != nil {
		return err
	}
	for _, c := range st.Realm {
		if c.Name == server && c.PID > 0 {
			return s.Broker.Command(s.Ctx, "kill", fmt.Sprintf("-%d", sig), fmt.Sprint(c.PID)).Run()
		}
	}
	return fmt.Errorf("sekisho status names no %s", server)
}

// ExitCode is a program's; -1 when it did not end by itself.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// Said adds a program's words to its error.
func Said(err error, out string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", err, strings.TrimSpace(out))
}
