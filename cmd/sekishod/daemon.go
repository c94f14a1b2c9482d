package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/audit"
	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/accounts"
	"github.com/sekisho/sekisho/cmd/internal/config"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/cmd/internal/roster"
	"github.com/sekisho/sekisho/door/local"
	"github.com/sekisho/sekisho/door/pam"
	"github.com/sekisho/sekisho/feed"
	"github.com/sekisho/sekisho/krb/clock"
	"github.com/sekisho/sekisho/ldapsync"
	"github.com/sekisho/sekisho/otp/prove"
	"github.com/sekisho/sekisho/pamhelper"
	"github.com/sekisho/sekisho/realm"
	"github.com/sekisho/sekisho/reaper"
	"github.com/sekisho/sekisho/state"
	"github.com/sekisho/sekisho/wire"
)

// daemon is everything that runs. All fields are immutable after build.
type daemon struct {
	cfg     config.Config
	log     *logrus.Entry
	now     func() time.Time
	started time.Time

	realm  *realm.Realm // nil with an external directory
	sync   follower
	audit  *audit.Log
	broker *broker.Broker
	state  state.Store
	local  *local.Server
	socket *net.UnixListener
	users  *usersDoor // nil when switched off

	ldap     *ldapsync.Sync // what sync is; nil when a broker is followed
	upstream *feed.Client   // what sync is; nil unless a broker is followed
	// codesUpstream says that the broker checks one-time codes.
	codesUpstream bool
	feed          *feed.Server // nil unless hosts may follow this broker
	feedSockets   []net.Listener
	roster        *roster.Roster // nil unless several brokers share a store

	provider  ldapsync.Provider // of the directory
	clock     *clock.Guard
	passwords *passwords
	guesses   *guesses
	codes     *prove.Checker // nil unless pam.otp is totp
	proofs    *proofMemory
	stacks    *pamhelper.Held // nil without a PAM stack as a prover
	pam       *pam.Server     // nil when switched off
	pamSocket *net.UnixListener
	kdcDoor   *kdcDoor       // nil without an embedded realm
	reaper    *reaper.Client // ends sessions
}

// build makes all parts and starts none but the realm's preparation.
func build(ctx context.Context, c config.Config, in inherited, log *logrus.Entry, rec *recorder) (*daemon, error) {
	d := &daemon{cfg: c, log: log, now: time.Now, started: time.Now()}
	provider, base, err := d.directory(ctx, in)
	if err != nil {
		return nil, err
	}
	d.provider = provider
	if err := d.buildFollower(provider, base); err != nil {
		return nil, err
	}
	if err := d.buildClock(); err != nil {
		return nil, err
	}
	if err := d.buildState(ctx); err != nil {
		return nil, err
	}
	if err := d.buildAudit(); err != nil {
		return nil, err
	}
	if d.passwords, err = d.buildPasswords(provider, base, in); err != nil {
		return nil, err
	}
	switch totp := c.PAM.Enabled && c.OTPProver() == "totp"; {
	case totp && c.Follows():
		d.codesUpstream = true
		d.passwords.provers[broker.ProofOTP] = d.proveCodeUpstream
	case totp:
		if err := d.buildCodes(in, base); err != nil {
			return nil, err
		}
	}
	d.proofs = newProofMemory(d.state, d.now, log.WithField("part", "codes"))
	if err := d.buildGuesses(); err != nil {
		return nil, err
	}
	if d.upstream != nil {
		d.guesses.call, d.guesses.codes = d.callUpstream, d.codesUpstream
	}
	if d.broker, err = broker.New(broker.Config{Directory: d.sync.View, Record: d.record(rec), RecordSession: d.recordSession, Judged: d.judged, Now: d.now,
		Provers: d.passwords.provers, Change: d.passwords.change, Clock: d.wrongClock,
		Recent: d.proofs.recent, Remember: d.proofs.remember,
		Take: d.guesses.take, Settle: d.guesses.settle, Pause: pause,
		MaxSessions: c.Sessions.MaxPerUser}); err != nil {
		return nil, err
	}
	d.buildRoster()
	if err := d.buildUserDB(in); err != nil {
		return nil, err
	}
	if err := d.buildLocal(); err != nil {
		return nil, err
	}
	if err := d.buildReaper(in); err != nil {
		return nil, err
	}
	if err := d.buildPAM(); err != nil {
		return nil, err
	}
	if err := d.buildKDCDoor(); err != nil {
		return nil, err
	}
	if err := d.buildFeed(); err != nil {
		return nil, err
	}
	return d, nil
}

// directory says how to reach the directory, and prepares the embedded one.
func (d *daemon) directory(ctx context.Context, in inherited) (ldapsync.Provider, string, error) {
	c := d.cfg
	if c.Follows() {
		return ldapsync.Provider{}, "", nil
	}
	if !c.Embedded() {
		p, err := c.Provider()
		if err != nil {
			return p, "", err
		}
		if c.Directory.BindDN != "" {
			secret, ok, err := in.password()
			if err == nil && !ok {
				secret, err = config.ReadSecret(c.Directory.PasswordFile)
			}
			if err != nil {
				return p, "", err
			}
			p.Password = func() ([]byte, error) { return []byte(secret), nil }
		}
		return p, c.Directory.Base, nil
	}
	rc := c.RealmConfig(os.Getuid(), os.Getgid())
	rc.Log = d.log.WithField("part", "realm")
	// The service user is not the directory's administrator: root is. Whoever
	// runs a realm as himself has no root to ask.
	if u, err := accounts.Lookup(c.User); err != nil || int(u.UID) != os.Getuid() {
		rc.AdminUIDs = []int{os.Getuid()}
	}
	var err error
	if d.realm, err = realm.Open(ctx, rc); err != nil {
		return ldapsync.Provider{}, "", err
	}
	i := d.realm.Info()
	return ldapsync.Provider{URLs: []string{i.LDAPI}, External: true}, i.Layout.Base, nil
}

// buildLocal makes the door on the local socket, and the socket.
func (d *daemon) buildLocal() error {
	var callers []uint32
	for _, name := range d.cfg.Keys.Callers {
		u, err := accounts.Lookup(name)
		if errors.Is(err, accounts.ErrUnknown) {
			d.log.WithField("user", name).Warn("keys.callers: there is no such local user, so sshd cannot ask as him: useradd --system --no-create-home --shell /usr/sbin/nologin " + name)
			continue
		}
		if err != nil {
			return err
		}
		callers = append(callers, u.UID)
	}
	verbs := map[string]local.Verb{
		wire.VerbWhy:    d.whyVerb(),
		wire.VerbStatus: d.statusVerb(),
		wire.VerbAccept: d.acceptVerb(),

		report.VerbLockouts: d.lockoutsVerb(),
		report.VerbUnlock:   d.unlockVerb(),

		report.VerbAccess: d.accessVerb(),

		report.VerbSessions: d.sessionsVerb(),
		report.VerbKill:     d.killVerb(),
		report.VerbRevoked:  d.revokedVerb(),

		report.VerbHosts: d.hostsVerb(),
	}
	if d.realm != nil {
		verbs[report.VerbPasswd] = d.passwdVerb()
	}
	var err error
	d.local, err = local.New(local.Config{Broker: d.broker, Host: broker.HostName(d.cfg.Host), KeysCallers: callers,
		ProofsDeferred: d.proofsDeferred(), Verbs: verbs, Log: d.log.WithField("part", "local")})
	if err != nil {
		return err
	}
	d.socket, err = listen(d.cfg.Socket())
	return err
}

// listen makes a socket that all may connect to. It takes the place of one
// that a killed sekishod left, and never is there with another mode.
func listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(fresh, 0o666); err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	return l, nil
}

// crew is a set of goroutines that are stopped together.
type crew struct {
	ctx    context.Context
	cancel context.CancelFunc
	all    sync.WaitGroup
	log    *logrus.Entry
}

func newCrew(log *logrus.Entry) *crew {
	ctx, cancel := context.WithCancel(context.Background())
	return &crew{ctx: ctx, cancel: cancel, log: log}
}

// do runs f; when it ends before the crew is stopped, everything is.
func (w *crew) do(name string, fail context.CancelCauseFunc, f func(context.Context) error) {
	w.all.Go(func() {
		err := f(w.ctx)
		switch {
		case err != nil && w.ctx.Err() != nil:
			w.log.WithError(err).Warn("stopping " + name)
		case err != nil:
			fail(fmt.Errorf("%s: %w", name, err))
		case w.ctx.Err() == nil:
			fail(fmt.Errorf("%s has ended without being told to", name))
		}
	})
}

func (w *crew) stop() {
	w.cancel()
	w.all.Wait()
}

// run serves until told ends or a part fails, then stops the doors first, the
// sync next and the realm last.
func (d *daemon) run(told context.Context) error {
	ctx, fail := context.WithCancelCause(told)
	defer fail(nil)
	doors, follower, servers := newCrew(d.log), newCrew(d.log), newCrew(d.log)
	if d.realm != nil {
		servers.do("realm", fail, d.realm.Run)
	}
	follower.do("sync", fail, d.sync.Run)
	follower.do("sessions", fail, func(ctx context.Context) error { return d.broker.RunSessions(ctx, d.sync.Wait) })
	doors.do("local", fail, func(ctx context.Context) error { return d.local.Serve(ctx, d.socket) })
	if d.users != nil {
		doors.do("userdb", fail, func(ctx context.Context) error { return d.users.serve(ctx, d) })
	}
	d.servePAM(doors, fail)
	d.serveKDC(doors, fail)
	d.serveFeed(doors, fail)
	follower.all.Go(func() { d.clock.Run(follower.ctx) })
	follower.all.Go(func() { d.proofs.run(follower.ctx) })
	d.runGuesses(follower, fail)
	if d.roster != nil {
		follower.do("sharing sessions", fail, d.roster.Run)
	}
	doors.all.Go(func() { d.watch(doors.ctx) })
	doors.all.Go(func() { d.reap(doors.ctx) })
	doors.all.Go(func() { keepTuned(doors.ctx) })
	doors.all.Go(func() { d.keepAlive(doors.ctx) })

	<-ctx.Done()
	d.log.Info("stopping")
	d.tell("STOPPING=1")
	for _, w := range []*crew{doors, follower, servers} {
		w.stop()
	}
	if err := d.sync.Close(); err != nil {
		d.log.WithError(err).Warn("letting go of the snapshot")
	}
	if d.realm != nil {
		if err := d.realm.Close(); err != nil {
			d.log.WithError(err).Warn("letting go of the realm")
		}
	}
	for _, path := range []string{d.cfg.Socket(), d.cfg.PAMSocket()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			d.log.WithError(err).Warn("removing a socket")
		}
	}
	if d.reaper != nil {
		if err := d.reaper.Close(); err != nil {
			d.log.WithError(err).Warn("ending sekisho-reaper")
		}
	}
	if d.stacks != nil {
		if err := d.stacks.Close(); err != nil {
			d.log.WithError(err).Warn("ending sekisho-pam")
		}
	}
	for _, end := range d.passwords.close {
		if err := end(); err != nil {
			d.log.WithError(err).Warn("letting go of a prover")
		}
	}
	d.closeAudit()
	d.closeState()
	if told.Err() == nil {
		return context.Cause(ctx)
	}
	d.log.Info("stopped")
	return nil
}

// readyWait is how long the service manager is kept waiting for a directory.
const readyWait = 10 * time.Second

// watch says when there is something to answer from, and gives back the memory
// that reading the directory took.
func (d *daemon) watch(ctx context.Context) {
	first, cancel := context.WithTimeout(ctx, readyWait)
	v, err := d.sync.Wait(first, 0)
	cancel()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		d.log.Warn("there is no snapshot yet: every answer is \"could not find out\" until the directory is read; see sekisho status")
	}
	d.tell("READY=1")
	for err != nil || v.AsOf.Before(d.started) {
		seen := uint64(0)
		if err == nil {
			seen = v.Generation()
		}
		if v, err = d.sync.Wait(ctx, seen); err != nil {
			return // ctx has ended
		}
	}
	users, groups, hosts, rules := v.Size()
	d.log.WithFields(logrus.Fields{"users": users, "groups": groups, "hosts": hosts, "rules": rules,
		"generation": v.Generation()}).Info("the directory was read")
	if v.Host(broker.HostName(d.cfg.Host)) == nil {
		d.log.Warnf("the directory has no host %s, so rules for this host by name let nobody in: sekisho host add %s, or set host in the configuration", d.cfg.Host, d.cfg.Host)
	}
	debug.FreeOSMemory() // what reading took
	tune()
}

func (d *daemon) tell(state string) {
	if err := notify(state); err != nil && !errors.Is(err, syscall.ENOENT) {
		d.log.WithError(err).Warn("the service manager does not hear us")
	}
}
