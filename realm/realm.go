// Package realm makes and keeps an embedded realm: a private OpenLDAP server
// (slapd) and a private MIT Kerberos KDC over the same directory tree, both in
// one state directory and run as children of this process.
//
// Open makes the realm where there is none yet (a private CA, the directory,
// the Kerberos master key) and does nothing where there is one. Run starts the
// two servers, restarts them when they die and stops them when its context
// ends. Everything that a program needs to speak to the realm is in Info.
//
// The package also knows how an entry with a Kerberos key looks (Issuer), so that
// an account is one LDAP add and a password change one LDAP modify, with no kadmin.
//
// Who may do what in the directory is in access.go. Over ldapi the kernel names the
// caller: root is the administrator, the service user is the broker, which reads
// what is not secret, and any other local user is nobody.
package realm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/krb"
)

// Info is what clients of a realm need.
type Info struct {
	// Layout is the tree: base DN, Kerberos realm and the containers.
	Layout Layout
	// LDAPI is the URL of the unix socket, where SASL EXTERNAL names the caller.
	LDAPI string
	// LDAPS holds an ldaps:// URL for each listen address.
	LDAPS []string
	// LDAP holds an ldap:// URL for each listen address; binds need StartTLS there.
	LDAP []string
	// KDC holds the IP:port addresses of the KDC (UDP and TCP).
	KDC []string
	// Kpasswd holds the IP:port addresses at which passwords are changed (UDP and
	// TCP, RFC 3244).
	Kpasswd []string
	// Service is the realm's own service, sekisho/FQDN, and Keytab the file with its
	// keys, readable by root and the service user alone. A KDC that does not know
	// them is not the realm's.
	Service krb.Principal
	Keytab  string
	// CAFile is the PEM file of the private CA, readable by all.
	CAFile string
	// Cert and CertKey are the PEM files of the servers' certificate and its key,
	// readable by root and the service user alone.
	Cert, CertKey string
	// KRB5Conf is a krb5.conf for clients on this machine, readable by all.
	KRB5Conf string
	// Stash is the Kerberos master key's stash file, readable by root and the
	// service user alone.
	Stash string
	// OTP is the unix socket at which the KDC asks whether a password with a
	// one-time code behind it is right, by RADIUS; its folder, which only the
	// service user can enter, is there. Who runs the realm answers at it.
	OTP string
}

// Status is the state of one child.
type Status struct {
	// Name is slapd or krb5kdc.
	Name string
	// PID is 0 while the child is not running.
	PID int
	// Ready says that the child was seen to answer since it last started.
	Ready bool
	// Restarts counts the starts after the first one.
	Restarts int
	// Since is when the child was last started or ended.
	Since time.Time
	// LastError is why it last died; empty if it never did.
	LastError string
}

// certCheck is how often a running realm looks whether its certificate is due.
const certCheck = time.Hour

// roomCheck is how often it looks whether a full disk has room again.
const roomCheck = time.Second

// Realm is an embedded realm. Its methods may be called from any goroutine.
type Realm struct {
	maker      maker         // immutable after Open
	slapd, kdc *child        // immutable after Open
	lock       *os.File      // held until Close
	ready      chan struct{} // closed when both have answered

	// slapd's goroutine alone has these: whether it ended last without closing its
	// database, and how many first writes it has refused.
	unclean bool
	touched int

	done   chan struct{} // closed when Run has returned
	turns  chan struct{} // one for each password being set
	checks chan struct{} // one for each password being checked

	mu      sync.Mutex // guards all below
	cancel  context.CancelFunc
	started bool
	closed  bool
	runErr  error
}

// Open prepares the realm in cfg.Dir, making it on first use, and starts nothing.
// An interrupted first Open is started over by the next one. A second Open
// changes no file, unless a certificate is due or the configuration differs. It
// ends a slapd or KDC that an earlier run of the same realm left behind.
func Open(ctx context.Context, cfg Config) (*Realm, error) {
	r, err := open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("opening the realm: %w", err)
	}
	return r, nil
}

func open(ctx context.Context, cfg Config) (*Realm, error) {
	c, err := cfg.validate()
	if err != nil {
		return nil, err
	}
	m := maker{c: c}
	if m.layout, err = NewLayout(c.Domain); err != nil {
		return nil, err
	}
	if m.sys, err = findSystem(); err != nil {
		return nil, err
	}
	if m.hostname, err = os.Hostname(); err != nil {
		return nil, err
	}
	// What the children will need is looked at now, for its error to come early.
	if _, err := attributes(c, lowPort(c.LDAP, c.LDAPS, c.KDC, c.Kpasswd)); err != nil {
		return nil, err
	}
	for _, d := range []string{c.Dir, c.RunDir} {
		if err := makeDir(c, d, 0o755); err != nil {
			return nil, err
		}
	}
	f := c.files()
	if err := makeDir(c, f.otpDir, 0o700); err != nil {
		return nil, err
	}
	r := &Realm{maker: m, ready: make(chan struct{}), done: make(chan struct{}),
		turns: make(chan struct{}, 4), checks: checksAtOnce()}
	if r.lock, err = lockFile(f.lock); err != nil {
		return nil, err
	}
	r.slapd = r.newChild("slapd", f.slapdPID, r.slapdCommand, r.probeSlapd)
	r.kdc = r.newChild("krb5kdc", f.kdcPID, r.kdcCommand, func(ctx context.Context) error {
		return probeKDC(ctx, dialable(c.KDC[0]), m.layout.Realm)
	})
	r.slapd.litter, r.kdc.litter = []string{f.socket, f.socketNew}, []string{f.kdcMark}
	r.slapd.begins, r.slapd.ends = r.slapdBegins, r.slapdEnds
	for _, step := range []func() error{
		func() error { return stopLeftover(ctx, f.kdcPID, m.sys.krb5kdc, f.kdcMark) },
		func() error { return stopLeftover(ctx, f.slapdPID, m.sys.slapd, f.slapdD) },
		func() error { return m.makeRealm(ctx) },
		func() error { return m.derive(ctx) },
	} {
		if err := step(); err != nil {
			r.lock.Close()
			return nil, err
		}
	}
	return r, nil
}

func (r *Realm) newChild(name, pidFile string, command func() *exec.Cmd, probe func(context.Context) error) *child {
	c := r.maker.c
	log := c.Log.WithField("child", name)
	return &child{
		name: name, command: command, probe: probe, pidFile: pidFile, now: c.Now, log: log,
		output: tail{each: func(line string) { log.Debug(line) }},
		hint: func() string {
			return apparmorHint("/", command().Path, c.Dir, c.RunDir)
		},
	}
}

// makeDir makes a directory of the service user's where there is none.
func makeDir(c Config, dir string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	err := os.Mkdir(dir, mode)
	if errors.Is(err, os.ErrExist) {
		st, err := os.Stat(dir)
		if err == nil && !st.IsDir() {
			err = fmt.Errorf("%s is not a directory", dir)
		}
		return err
	}
	if err != nil {
		return err
	}
	return own(c, dir)
}

// lockFile keeps a second sekishod out of the state directory. The kernel lets go
// of it when this process ends, however it does.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another sekishod runs the realm in %s: stop it first", filepath.Dir(path))
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return f, nil
}

// lowPort says whether some address needs a privilege to listen on.
func lowPort(lists ...[]string) bool {
	first := uint16(1024)
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 16); err == nil {
			first = uint16(n)
		}
	}
	for _, l := range lists {
		for _, a := range l {
			if ap, err := netip.ParseAddrPort(a); err == nil && ap.Port() < first {
				return true
			}
		}
	}
	return false
}

func (r *Realm) slapdCommand() *exec.Cmd {
	c, f := r.maker.c, r.maker.c.files()
	urls := []string{socketURL(f.socketNew) + "/????x-mod=-rwxrwxrwx"} // see probeSlapd
	for _, a := range c.LDAP {
		urls = append(urls, "ldap://"+a+"/")
	}
	for _, a := range c.LDAPS {
		urls = append(urls, "ldaps://"+a+"/")
	}
	// 32768 logs what is always logged, to stderr, and keeps slapd in the foreground.
	cmd := exec.Command(r.maker.sys.slapd, "-d", "32768", "-F", f.slapdD, "-h", strings.Join(urls, " "))
	cmd.Env = append(baseEnv(c), "KRB5_CONFIG="+f.slapdKrb5, "KRB5_KTNAME=FILE:"+f.ldapKeytab,
		"KRB5RCACHENAME=file2:"+filepath.Join(f.realm, "slapd.rcache"))
	r.prepare(cmd, c.LDAP, c.LDAPS)
	return cmd
}

func (r *Realm) kdcCommand() *exec.Cmd {
	c, f := r.maker.c, r.maker.c.files()
	cmd := exec.Command(r.maker.sys.krb5kdc, "-n", "-r", r.maker.layout.Realm, "-P", f.kdcMark)
	cmd.Env = append(baseEnv(c), "KRB5_CONFIG="+f.kdcKrb5, "KRB5_KDC_PROFILE="+f.kdcConf)
	r.prepare(cmd, c.KDC)
	return cmd
}

func (r *Realm) prepare(cmd *exec.Cmd, listens ...[]string) {
	cmd.Dir = r.maker.c.Dir
	attrs, err := attributes(r.maker.c, lowPort(listens...))
	if err != nil {
		cmd.Err = err // Start reports it
	}
	cmd.SysProcAttr = attrs
}

// Info tells how to reach the realm.
func (r *Realm) Info() Info { return r.maker.c.info() }

// Run starts slapd and the KDC, supervises them, changes passwords for who asks at
// Info.Kpasswd, and returns when ctx ends and all have stopped. It returns an error when the first start of either fails; later
// deaths are mended by a restart and seen in Status. It may be called once.
func (r *Realm) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.mu.Lock()
	if r.started || r.closed {
		r.mu.Unlock()
		return errors.New("the realm is closed or was run before")
	}
	r.started, r.cancel = true, cancel
	r.mu.Unlock()

	err := r.run(ctx)
	r.mu.Lock()
	r.runErr = err
	r.mu.Unlock()
	close(r.done)
	return err
}

func (r *Realm) run(ctx context.Context) error {
	// The KDC stops before slapd, which it reads from.
	slapdCtx, stopSlapd := context.WithCancel(context.WithoutCancel(ctx))
	var slapd, others sync.WaitGroup
	defer func() {
		others.Wait()
		stopSlapd()
		slapd.Wait()
	}()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	start := func(wg *sync.WaitGroup, c *child, life context.Context) error {
		first := make(chan error, 1)
		wg.Go(func() { c.run(life, first) })
		select {
		case err := <-first:
			if err != nil {
				return fmt.Errorf("starting the realm: %w", err)
			}
			return nil
		case <-ctx.Done():
			return nil
		}
	}
	if err := start(&slapd, r.slapd, slapdCtx); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	if err := start(&others, r.kdc, ctx); err != nil && ctx.Err() == nil {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	var room <-chan time.Time // while there is none for what kpasswd keeps
	full := r.startKpasswd(ctx, &others)
	if errors.Is(full, unix.ENOSPC) || errors.Is(full, unix.EDQUOT) {
		r.maker.c.Log.WithError(full).Error("passwords cannot be changed over the network; make room on the disk: it is tried again until it works")
		look := time.NewTicker(roomCheck)
		defer look.Stop()
		room = look.C
	} else if full != nil {
		return fmt.Errorf("starting the realm: %w", full)
	}
	close(r.ready)
	tick := time.NewTicker(certCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-room:
			err := r.startKpasswd(ctx, &others)
			switch {
			case err == nil:
				room = nil
				r.maker.c.Log.Info("passwords can be changed over the network")
			case err.Error() != full.Error():
				full = err
				r.maker.c.Log.WithError(err).Error("passwords cannot be changed over the network; it is tried again until it works")
			}
		case <-tick.C:
			r.checkCert()
		}
	}
}

// checkCert renews the certificates that are due, and has who uses them load them.
func (r *Realm) checkCert() {
	m := r.maker
	f, now := m.c.files(), m.c.Now()
	for _, k := range []struct {
		whose string
		renew func() (bool, error)
		child *child
	}{
		{"directory", func() (bool, error) { return renewCert(f, certNames(m.c, m.hostname), now) }, r.slapd},
		{"KDC", func() (bool, error) { return renewKDCCert(f, m.layout.Realm, now) }, r.kdc},
	} {
		made, err := k.renew()
		if err == nil && made {
			err = own(m.c, filepath.Dir(f.cert))
		}
		if err != nil {
			m.c.Log.WithError(err).Errorf("renewing the %s's certificate failed", k.whose)
			continue
		}
		if made {
			m.c.Log.Infof("the %s has a new certificate: restarting %s", k.whose, k.child.name)
			k.child.restart()
		}
	}
}

// Ready waits until slapd has answered a bind and the KDC a request, and returns
// nil; or ctx's error, or Run's.
func (r *Realm) Ready(ctx context.Context) error {
	select {
	case <-r.ready:
		return nil
	case <-r.done:
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.runErr != nil {
			return r.runErr
		}
		return errors.New("the realm was stopped before it was ready")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Status reports on slapd and krb5kdc, in that order.
func (r *Realm) Status() []Status { return []Status{r.slapd.get(), r.kdc.get()} }

// Close stops a running realm, waits for it and lets go of the state directory. It
// may be called twice.
func (r *Realm) Close() error {
	r.mu.Lock()
	cancel, started, closed := r.cancel, r.started, r.closed
	r.closed = true
	r.mu.Unlock()
	if started {
		cancel()
		<-r.done
	}
	if closed {
		return nil
	}
	return r.lock.Close()
}
