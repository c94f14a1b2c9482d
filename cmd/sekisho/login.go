package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/ccache"
	"github.com/sekisho/sekisho/krb/client"
	"github.com/sekisho/sekisho/krb/krb5conf"
)

// usualLife is how long a ticket is asked for when nothing else is said, as kinit
// does; the KDC gives less where its policy says so.
const usualLife = 24 * time.Hour

// How long a password server may take, and all of a change: nobody gains by an
// early "perhaps".
const (
	changeTry   = 15 * time.Second
	changeTotal = 30 * time.Second
)

// signIn is one sekisho login.
type signIn struct {
	life, renewable string
	cache           string
	forward, local  bool // --forwardable, --no-forwardable
	renew           bool

	conf     *krb5conf.Config
	defaults krb5conf.Defaults
	kdcs     []string
	offset   time.Duration // the KDC's clock minus ours, 0 when that is not sure
}

func (a *app) loginCommand() *cobra.Command {
	var s signIn
	c := &cobra.Command{
		Use: "login [PRINCIPAL|USER]", Short: "Get a Kerberos ticket, for ssh without a password", Args: takes(0, 1, "at most one user or principal"),
		Long: `Get a ticket from the KDC for your password, and keep it where ssh and other
programs look for it. It does what kinit does and needs neither MIT's tools nor
sekishod: KDCs and settings are those of /etc/krb5.conf, or of the files that
KRB5_CONFIG names. Without a name it is for whom the cache was before, else for
the user that you are here.

An expired password is changed on the way: the new one is asked for twice.
--password-file - reads the password from standard input.

With -R the ticket in the cache is renewed; that takes no password.

Spans of time are written 10h, 1d12h, 90m, or h:m:s.

Exit codes: 0 there is a ticket; 1 the KDC said no; 2 wrong usage or configuration;
3 could not find out: no KDC answers, or the clocks differ too much.`,
		Example: `  sekisho login
  sekisho login alice -l 10h -r 7d
  sekisho login alice@EXAMPLE.ORG -c FILE:/tmp/other
  sekisho login -R`,
		RunE: func(c *cobra.Command, args []string) error {
			if s.renew {
				for _, f := range []string{"lifetime", "renewable", "forwardable", "no-forwardable"} {
					if c.Flags().Changed(f) {
						return usagef("-R renews the ticket as it is: --%s has no place there", f)
					}
				}
				if len(args) > 0 {
					return usagef("-R renews the ticket that is in the cache: name no principal")
				}
				return a.renewTicket(c.Context(), &s)
			}
			return a.getTicket(c.Context(), &s, strings.Join(args, ""))
		},
	}
	f := c.Flags()
	f.StringVarP(&s.life, "lifetime", "l", "", "how long the ticket is good for (default: ticket_lifetime of krb5.conf, else 24h)")
	f.StringVarP(&s.renewable, "renewable", "r", "", "how long it can be renewed (default: renew_lifetime of krb5.conf, else not at all)")
	f.StringVarP(&s.cache, "cache", "c", "", "the credential cache (default: KRB5CCNAME, else default_ccache_name of krb5.conf)")
	f.BoolVar(&s.forward, "forwardable", false, "a ticket that ssh may take along (default: forwardable of krb5.conf)")
	f.BoolVar(&s.local, "no-forwardable", false, "a ticket that stays on this machine")
	f.BoolVarP(&s.renew, "renew", "R", false, "renew the ticket in the cache")
	c.MarkFlagsMutuallyExclusive("forwardable", "no-forwardable")
	a.complete(c, "user")
	return c
}

// kerberos reads krb5.conf; what is wrong there is wrong configuration.
func (s *signIn) kerberos() error {
	var err error
	if s.conf, err = krb5conf.Default(); err != nil {
		return usageError{err}
	}
	if s.defaults, err = s.conf.Defaults(""); err != nil {
		return usageError{err}
	}
	return nil
}

// client is for the KDCs of a realm; patient waits longer for each answer.
func (s *signIn) client(realm string, patient bool) (*client.Client, error) {
	var err error
	if s.defaults, err = s.conf.Defaults(realm); err != nil {
		return nil, usageError{err}
	}
	if s.kdcs, err = s.conf.KDCs(realm); err != nil {
		return nil, usageError{err}
	}
	if len(s.kdcs) == 0 && !s.defaults.DNSLookupKDC {
		return nil, usagef("krb5.conf names no KDC of %s, and dns_lookup_kdc is off: add kdc = HOST under [realms]", realm)
	}
	cfg := client.Config{Realm: realm, KDCs: s.kdcs, MaxSkew: s.defaults.ClockSkew,
		Observe: func(_ string, offset, bound time.Duration) {
			s.offset = 0
			if offset.Abs() > bound {
				s.offset = offset
			}
		}}
	if patient {
		cfg.Try, cfg.Total = changeTry, changeTotal
	}
	cl, err := client.New(cfg)
	if err != nil {
		return nil, usageError{err}
	}
	return cl, nil
}

// cacheName is the cache that is meant, as MIT's programs find it.
func cacheName(flag string, conf *krb5conf.Config) (string, error) {
	if flag != "" {
		return flag, nil
	}
	name, err := ccache.DefaultName(ccache.Config{Configured: conf.Value("libdefaults", "default_ccache_name"), UserName: callerName})
	if err != nil {
		return "", usageError{err}
	}
	return name, nil
}

func (a *app) getTicket(ctx context.Context, s *signIn, name string) error {
	if err := s.kerberos(); err != nil {
		return err
	}
	cache, err := cacheName(s.cache, s.conf)
	if err != nil {
		return err
	}
	before, err := ccache.Open(cache)
	if err != nil {
		return usageError{err}
	}
	who, err := s.principal(ctx, name, before)
	if err != nil {
		return err
	}
	cl, err := s.client(who.Realm, false)
	if err != nil {
		return err
	}
	o, err := s.options()
	if err != nil {
		return err
	}
	pw, err := a.bindPassword(who.String())
	if err != nil {
		return err
	}
	if err := krb.CheckPassword(string(pw)); err != nil {
		return usageError{err}
	}
	cred, err := cl.Login(ctx, who, string(pw), o)
	if is(err, client.PasswordExpired) {
		cred, err = a.changeExpired(ctx, s, expired{cl, who, string(pw), o})
	}
	if err != nil {
		return s.explain(err, who)
	}
	store := before
	if s.cache == "" {
		if store, err = ccache.ForPrincipal(ctx, cache, ccache.NameOf(who)); err != nil {
			return err
		}
	}
	fresh := ccache.New(cred)
	if s.defaults.KDCTimeSync {
		fresh.SetOffset(s.offset)
	}
	if err := store.Write(ctx, fresh); err != nil {
		return err
	}
	if s.cache == "" {
		if err := store.Choose(); err != nil {
			return err
		}
	}
	return a.sayTicket("ticket of", cred, store.Name())
}

// principal is who shall have a ticket.
func (s *signIn) principal(ctx context.Context, name string, before *ccache.Store) (krb.Principal, error) {
	if name == "" {
		if c, err := before.Read(ctx); err == nil {
			if p, err := c.Principal.Principal(); err == nil {
				return p, nil
			}
		}
		var err error
		if name, err = callerName(); err != nil {
			return krb.Principal{}, usagef("your user has no name here: say whose ticket, sekisho login USER@REALM")
		}
	}
	if strings.Contains(name, "@") {
		p, err := krb.ParsePrincipal(name)
		if err != nil {
			return p, usageError{err}
		}
		return p, nil
	}
	if s.defaults.Realm == "" {
		return krb.Principal{}, usagef("there is no default_realm in krb5.conf: write %.80s@REALM", name)
	}
	p, err := krb.NewPrincipal(name, s.defaults.Realm)
	if err != nil {
		return p, usageError{err}
	}
	return p, nil
}

// options are what the ticket shall be, by flags or else by krb5.conf.
func (s *signIn) options() (client.LoginOptions, error) {
	o := client.LoginOptions{Life: s.defaults.TicketLifetime, Renew: s.defaults.RenewLifetime, Forwardable: s.defaults.Forwardable && !s.local || s.forward}
	for flag, v := range map[string]struct {
		text string
		to   *time.Duration
	}{"-l": {s.life, &o.Life}, "-r": {s.renewable, &o.Renew}} {
		if v.text == "" {
			continue
		}
		d, err := krb5conf.ParseDuration(v.text)
		if err != nil {
			return o, usagef("%s %w", flag, err)
		}
		*v.to = d
	}
	if o.Life == 0 {
		o.Life = usualLife
	}
	return o, nil
}

// loginResult is what login prints for programs.
type loginResult struct {
	Principal      string     `json:"principal"`
	Cache          string     `json:"cache"`
	Expires        time.Time  `json:"expires"`
	RenewableUntil *time.Time `json:"renewable_until,omitempty"`
	Forwardable    bool       `json:"forwardable"`
}

func (a *app) sayTicket(what string, c krb.Credential, cache string) error {
	r := loginResult{Principal: c.Client.String(), Cache: cache, Expires: c.EndTime.UTC(), Forwardable: c.Flags&krb.FlagForwardable != 0}
	text := fmt.Sprintf("%s %s until %s", what, c.Client, localTime(c.EndTime))
	if c.Flags&krb.FlagRenewable != 0 {
		till := c.RenewTill.UTC()
		r.RenewableUntil = &till
		text += ", renewable until " + localTime(till)
	}
	if a.json {
		return a.printJSON(r)
	}
	a.say("%s, in %s", text, cache)
	return nil
}

// localTime is for people, in their own zone.
func localTime(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }
