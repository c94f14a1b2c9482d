package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/ccache"
	"github.com/sekisho/sekisho/krb/client"
	"github.com/sekisho/sekisho/krb/clock"
	"github.com/sekisho/sekisho/krb/kpasswd"
	"github.com/sekisho/sekisho/krb/krb5conf"
	"github.com/sekisho/sekisho/ldapsync"
	"github.com/sekisho/sekisho/realm"
)

// passwords is what proves passwords, changes them, and renews the tickets that
// came of them.
type passwords struct {
	// realm is the Kerberos realm of the directory's users; "" without one.
	realm   string
	provers map[broker.Proof]broker.Prover
	change  broker.Changer
	renew   func(ctx context.Context, cache []byte) ([]byte, time.Time, error)
	// kdcs are asked for the time; host:port.
	kdcs  []string
	close []func() error
}

// kerberos is a realm as this host reaches it.
type kerberos struct {
	realm         string
	kdcs, kpasswd []string // empty: DNS
	keytab        string
}

// buildPasswords makes the provers that the configuration names. One that
// cannot work is an error: it is never left out in silence.
func (d *daemon) buildPasswords(provider ldapsync.Provider, base string, in inherited) (*passwords, error) {
	p := &passwords{provers: map[broker.Proof]broker.Prover{}}
	if !d.cfg.PAM.Enabled {
		return p, nil
	}
	var err error
	switch how := d.cfg.PasswordProver(); how {
	case "none":
	case "kdc":
		err = d.proveByKDC(p)
	case "ldap":
		err = d.proveByBind(p, provider, base)
	default:
		p.provers[broker.ProofPassword], err = d.proveByPAM(in, strings.TrimPrefix(how, "pam:"), broker.ProofPassword)
	}
	if err != nil {
		return nil, fmt.Errorf("pam.password: %w", err)
	}
	if service, ok := strings.CutPrefix(d.cfg.OTPProver(), "pam:"); ok {
		if p.provers[broker.ProofOTP], err = d.proveByPAM(in, service, broker.ProofOTP); err != nil {
			return nil, fmt.Errorf("pam.otp: %w", err)
		}
	}
	return p, nil
}

// kerberos finds the realm: the embedded one, or that of krb5.conf.
func (d *daemon) kerberos() (kerberos, error) {
	if d.realm != nil {
		i := d.realm.Info()
		return kerberos{realm: i.Layout.Realm, kdcs: i.KDC, keytab: i.Keytab}, nil
	}
	c := d.cfg.Kerberos
	conf, err := krb5conf.Load(c.Config)
	if err != nil {
		return kerberos{}, fmt.Errorf("kerberos.config: %w", err)
	}
	defaults, err := conf.Defaults(c.Realm)
	if err != nil {
		return kerberos{}, err
	}
	k := kerberos{realm: c.Realm, keytab: c.Keytab}
	if k.realm == "" {
		k.realm = defaults.Realm
	}
	if k.realm == "" {
		return k, fmt.Errorf("%s names no default_realm: add it, or set kerberos.realm", c.Config)
	}
	if k.kdcs, err = conf.KDCs(k.realm); err != nil {
		return k, err
	}
	if len(k.kdcs) == 0 && !defaults.DNSLookupKDC {
		return k, fmt.Errorf("%s names no KDC of %s, and dns_lookup_kdc is off there: add kdc = HOST", c.Config, k.realm)
	}
	k.kpasswd, err = conf.KpasswdServers(k.realm)
	return k, err
}

// proveByKDC has the realm's KDC say whether a password is right.
func (d *daemon) proveByKDC(p *passwords) error {
	k, err := d.kerberos()
	if err != nil {
		return err
	}
	cl, err := client.New(client.Config{Realm: k.realm, KDCs: k.kdcs, MaxSkew: time.Duration(d.cfg.Clock.Skew), Now: d.now, Observe: d.clock.Observe})
	if err != nil {
		return err
	}
	entries, err := krb.ReadKeytab(k.keytab)
	if err != nil {
		return fmt.Errorf("%w: a KDC is believed only when it knows a key of ours; on the realm's machine: sekisho host keytab, or on this one: sekisho host enrol", err)
	}
	at := slices.IndexFunc(entries, func(e krb.KeytabEntry) bool { return e.Principal.Realm == k.realm })
	if at < 0 {
		return fmt.Errorf("%s has no key of the realm %s", k.keytab, k.realm)
	}
	p.realm = k.realm
	p.change = d.changeByKpasswd(kpasswd.Client{KDC: cl, Servers: k.kpasswd, Now: d.now}, k.realm)
	if d.realm != nil {
		p.change = d.changeInRealm
	}
	for _, a := range k.kdcs {
		if _, _, err := net.SplitHostPort(a); err != nil {
			a = net.JoinHostPort(a, "88")
		}
		p.kdcs = append(p.kdcs, a)
	}
	p.renew = renewBy(cl)
	// Of somebody whom the KDC asks for a code, the realm itself knows the password. A
	// bind would not do: slapd wants the code too.
	var beside broker.Prover
	switch {
	case d.realm != nil:
		beside = d.provePasswordInRealm
	case d.upstream != nil:
		beside = d.provePasswordUpstream
	}
	p.provers[broker.ProofPassword], err = client.NewProver(client.ProverConfig{
		Client: cl, Service: entries[at].Principal,
		Keys:   func() ([]krb.KeytabEntry, error) { return krb.ReadKeytab(k.keytab) },
		Ticket: client.LoginOptions{Life: time.Duration(d.cfg.PAM.TicketLife), Renew: time.Duration(d.cfg.PAM.TicketRenew), Forwardable: true},
		Pack:   func(c krb.Credential) ([]byte, error) { return ccache.Format(ccache.New(c)) },
		Change: p.change, Beside: beside, Clock: d.wrongClock, Host: d.cfg.Host, Log: d.log.WithField("part", "kerberos"),
	})
	return err
}

// proveByBind has the directory say whether a password is right.
func (d *daemon) proveByBind(p *passwords, provider ldapsync.Provider, base string) error {
	provider.BindDN, provider.Password, provider.External = "", nil, false
	b, err := ldapsync.NewProver(ldapsync.ProverConfig{Provider: provider, BaseDN: base, Log: d.log.WithField("part", "bind")})
	if err != nil {
		return err
	}
	p.close = append(p.close, b.Close)
	p.provers[broker.ProofPassword], p.change = b.Prove, b.ChangePassword
	if d.realm != nil { // one modify for both stores
		p.change = d.changeInRealm
	}
	return nil
}

// changeInRealm changes a password in the embedded realm: both stores by one
// modify.
func (d *daemon) changeInRealm(ctx context.Context, c broker.Claim, old, new string) broker.Proven {
	err := d.realm.ChangePassword(ctx, string(c.User), old, new)
	var refused *realm.PasswordRefused
	switch {
	case err == nil:
		return broker.Proven{Outcome: broker.Allow}
	case errors.Is(err, realm.ErrWrongPassword):
		return broker.Proven{Reason: broker.ReasonWrongPassword}
	case errors.Is(err, realm.ErrLocked):
		return broker.Proven{Reason: broker.ReasonLocked}
	case errors.As(err, &refused):
		return broker.Proven{Reason: broker.ReasonPasswordRefused, Text: clip(refused.Error())}
	}
	d.log.WithError(err).WithField("user", string(c.User)).Warn("password not changed")
	return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonProver, Text: "the password could not be changed: try again later"}
}

// changeByKpasswd changes a password over the network (RFC 3244).
func (d *daemon) changeByKpasswd(k kpasswd.Client, realm string) broker.Changer {
	return func(ctx context.Context, c broker.Claim, old, new string) broker.Proven {
		who, err := krb.NewPrincipal(string(c.User), realm)
		if err == nil {
			err = k.Change(ctx, who, old, new)
		}
		var refused *kpasswd.Refused
		var denied *kpasswd.Denied
		var said *client.Error
		out := broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonProver, Text: "the password could not be changed: try again later"}
		switch {
		case err == nil:
			return broker.Proven{Outcome: broker.Allow}
		case errors.As(err, &refused):
			return broker.Proven{Reason: broker.ReasonPasswordRefused, Text: clip(refused.Error())}
		case errors.As(err, &denied):
			return broker.Proven{Reason: broker.ReasonPasswordRefused, Text: clip(denied.Error())}
		case errors.Is(err, kpasswd.ErrUnsure):
			out.Text = kpasswd.ErrUnsure.Error()
		case errors.As(err, &said):
			switch said.Kind {
			case client.WrongPassword, client.UnknownPrincipal:
				return broker.Proven{Reason: broker.ReasonWrongPassword}
			case client.Locked:
				return broker.Proven{Reason: broker.ReasonLocked}
			case client.AccountExpired:
				return broker.Proven{Reason: broker.ReasonKerberosExpired}
			case client.Skew:
				out.Reason, out.Text = broker.ReasonClock, d.wrongClock()
			case client.Unreachable, client.Unavailable:
				out.Reason = broker.ReasonUnreachable
			}
		}
		d.log.WithError(err).WithField("user", string(c.User)).Warn("password not changed")
		return out
	}
}

// renewBy renews the ticket-granting ticket of a cache.
func renewBy(cl *client.Client) func(context.Context, []byte) ([]byte, time.Time, error) {
	return func(ctx context.Context, old []byte) ([]byte, time.Time, error) {
		cache, err := ccache.Parse(old)
		if err != nil {
			return nil, time.Time{}, err
		}
		tgt, err := cache.TGT()
		if err != nil {
			return nil, time.Time{}, err
		}
		if tgt, err = cl.Renew(ctx, tgt); err != nil {
			return nil, time.Time{}, err
		}
		fresh, err := ccache.Format(ccache.New(tgt))
		return fresh, tgt.EndTime, err
	}
}

// buildClock makes the clock guard.
func (d *daemon) buildClock() (err error) {
	d.clock, err = clock.New(clock.Config{Servers: d.cfg.Clock.Servers, Skew: time.Duration(d.cfg.Clock.Skew), Probe: d.probeClocks,
		Now: d.now, Log: d.log.WithField("part", "clock")})
	return err
}

// probeClocks asks the KDCs and the directory what time it is.
func (d *daemon) probeClocks(ctx context.Context, g *clock.Guard) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, addr := range d.passwords.kdcs {
		all.Go(func() {
			if err := g.AskKDC(ctx, addr, d.passwords.realm); err != nil {
				d.log.WithError(err).WithField("kdc", addr).Debug("the KDC does not tell its time")
			}
		})
	}
	if d.ldap == nil {
		return // the KDCs tell
	}
	cl, err := ldapsync.Dial(ctx, ldapsync.ClientConfig{Provider: d.provider})
	if err != nil {
		d.log.WithError(err).Debug("the directory was not asked for its time")
		return
	}
	defer cl.Close()
	t, err := cl.Time(ctx)
	if err != nil {
		d.log.WithError(err).Debug("the directory does not tell its time")
		return
	}
	offset, bound := t.Offset()
	g.ObserveDirectory(cl.URL(), offset, bound)
}

// wrongClock is the sentence about a clock that makes tickets worthless, or "".
func (d *daemon) wrongClock() string {
	if r := d.clock.Check(); r != nil {
		return r.Text
	}
	return ""
}
