package ldapsync

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/keys"
)

// Config is what a Sync is made of. URLs, BaseDN, StateDir and Log must be set.
// Without External or BindDN it reads as anonymous.
type Config struct {
	Provider

	// BaseDN is the subtree to follow, for example dc=sekisho,dc=internal.
	BaseDN string
	// Schema says which entries mean what; the zero value is RFC2307bis().
	Schema Schema
	// StateDir holds the last good snapshot; made if absent, mode 0700. One
	// process at a time may use it.
	StateDir string

	// UIDFloor: users with a smaller uid number are skipped, and users with a
	// smaller primary gid number too (but for 100, "users"), so that the
	// directory can never name a system account. A group with a smaller gid
	// number counts as one without a number. Default 1000.
	UIDFloor uint32
	// KeyPolicy judges sshPublicKey values; the zero value is the strict one.
	KeyPolicy keys.Policy
	// LockoutDuration is how long a pwdAccountLockedTime holds where no
	// password policy entry that we can read says otherwise; 0, the default,
	// is until an administrator unlocks.
	LockoutDuration time.Duration

	// HoldShare is the share of the users, over 0 and at most 1, above which
	// their going is held back. Default 0.3; 1 holds back only a refresh
	// without any entry.
	HoldShare float64
	// HoldMin is how many users must go, whatever the share. Default 10.
	HoldMin int
	// HoldWindow is the time over which deletions in the persist stage are
	// added up. Default 5 minutes.
	HoldWindow time.Duration

	// MaxAge is the greatest age of the snapshot that a decision may rest on;
	// it is handed on in View. Default 24 hours.
	MaxAge time.Duration
	// FullRefresh is how often everything is read anew without a cookie: it
	// mends what a restored backup can hide from RFC 4533. Default 24 hours,
	// negative never.
	FullRefresh time.Duration

	// ProbeEvery is the time between two proofs of life. Default 3 seconds.
	ProbeEvery time.Duration
	// StallTimeout ends a refresh in which the provider has sent nothing for
	// so long. Default 60 seconds.
	StallTimeout time.Duration
	// BackoffMin and BackoffMax bound the wait before the next try after all
	// providers failed; each wait is doubled, and a random part of it used.
	// Default 250 ms and 30 s.
	BackoffMin, BackoffMax time.Duration
	// RollbackWait is how long a provider that is behind what we have seen is
	// given to catch up, before its state is taken as the truth (a restored
	// backup). Default 1 minute.
	RollbackWait time.Duration
	// MaxMessage bounds one LDAP message in bytes; a group of 50,000 is about
	// 4 MB. A longer entry is skipped, and its user or group is gone. Default
	// 64 MiB, at least 64 KiB.
	MaxMessage int

	// Now is the clock; default time.Now.
	Now func() time.Time
	// Log gets what happens; never nil.
	Log *logrus.Entry
}

// Provider is how to reach and bind to directory servers.
type Provider struct {
	// URLs are tried in order: ldaps://host[:port], ldap://host[:port] with
	// StartTLS, or ldapi:///path and ldapi://%2Fpath for a unix socket.
	URLs []string
	// BindDN and Password bind by name. Password is called when it is needed,
	// and its result wiped after use; see PasswordFile. It is refused over
	// plain ldap:// unless the host is a loopback address.
	BindDN   string
	Password func() ([]byte, error)
	// External binds by SASL EXTERNAL: who we are on an ldapi socket.
	External bool
	// StartTLS secures ldap:// URLs; ldaps needs none.
	StartTLS bool
	// CAFile is a PEM file of the CAs to trust; empty: the system's.
	CAFile string
	// Timeout bounds a connection's making, TLS and bind included, and any
	// single request. Default 5 seconds.
	Timeout time.Duration
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// validate fills in defaults and tells what cannot be.
func (c *Config) validate() error {
	if err := c.Provider.validate(); err != nil {
		return err
	}
	if _, err := NormalizeDN(c.BaseDN); err != nil || c.BaseDN == "" {
		return fmt.Errorf("base DN %q: must be a DN like dc=example,dc=org", c.BaseDN)
	}
	if c.StateDir == "" || c.Log == nil {
		return errors.New("StateDir and Log must be set")
	}
	if c.Schema.isZero() {
		c.Schema = RFC2307bis()
	}
	if err := c.Schema.validate(); err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	if err := c.KeyPolicy.Validate(); err != nil {
		return fmt.Errorf("key policy: %w", err)
	}
	setDefault(&c.UIDFloor, 1000)
	setDefault(&c.HoldShare, 0.3)
	setDefault(&c.HoldMin, 10)
	setDefault(&c.HoldWindow, 5*time.Minute)
	setDefault(&c.MaxAge, 24*time.Hour)
	setDefault(&c.FullRefresh, 24*time.Hour)
	setDefault(&c.ProbeEvery, 3*time.Second)
	setDefault(&c.StallTimeout, time.Minute)
	setDefault(&c.BackoffMin, 250*time.Millisecond)
	setDefault(&c.BackoffMax, 30*time.Second)
	setDefault(&c.RollbackWait, time.Minute)
	setDefault(&c.MaxMessage, 64<<20)
	if c.Now == nil {
		c.Now = time.Now
	}
	switch {
	case c.HoldShare < 0 || c.HoldShare > 1:
		return fmt.Errorf("hold share %v: must be over 0 and at most 1", c.HoldShare)
	case c.HoldMin < 1:
		return fmt.Errorf("hold minimum %d: must be at least 1", c.HoldMin)
	case c.MaxMessage < 64<<10:
		return fmt.Errorf("greatest message of %d bytes: must be at least 65536", c.MaxMessage)
	case c.ProbeEvery < 0 || c.StallTimeout < 0 || c.BackoffMin < 0 || c.BackoffMax < c.BackoffMin ||
		c.RollbackWait < 0 || c.MaxAge < 0 || c.LockoutDuration < 0 || c.HoldWindow < 0:
		return errors.New("a duration is negative, or BackoffMax is under BackoffMin")
	}
	return nil
}

func (p *Provider) validate() error {
	if len(p.URLs) == 0 {
		return errors.New("no directory URL: give one like ldaps://ldap.example.org")
	}
	for _, u := range p.URLs {
		e, err := parseURL(u)
		if err != nil {
			return err
		}
		if err := p.checkBind(e); err != nil {
			return err
		}
	}
	switch {
	case p.External && p.BindDN != "":
		return errors.New("External and BindDN exclude each other")
	case p.BindDN != "" && p.Password == nil:
		return errors.New("BindDN without a Password")
	}
	if p.BindDN != "" {
		if _, err := ldap.ParseDN(p.BindDN); err != nil {
			return fmt.Errorf("bind DN %q: must be a DN like cn=sekishod,ou=services,dc=example,dc=org", p.BindDN)
		}
	}
	setDefault(&p.Timeout, 5*time.Second)
	return nil
}

// checkBind refuses to send a password where others can read it.
func (p *Provider) checkBind(e endpoint) error {
	switch {
	case p.External && e.network != "unix":
		return fmt.Errorf("%s: SASL EXTERNAL works over ldapi:// only; use BindDN and Password", e.url)
	case p.BindDN != "" && !e.tls && !p.StartTLS && e.network != "unix" && !e.loopback():
		return fmt.Errorf("%s: a password would cross the network in the clear; use ldaps:// or StartTLS", e.url)
	}
	return nil
}
