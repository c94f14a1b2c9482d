package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/ccache"
	"github.com/sekisho/sekisho/krb/clock"
	"github.com/sekisho/sekisho/krb/krb5conf"
)

func (a *app) logoutCommand() *cobra.Command {
	var cache string
	var all bool
	c := &cobra.Command{
		Use: "logout", Short: "Destroy your Kerberos tickets", Args: noArgs,
		Long: `Destroy the tickets in your credential cache, as kdestroy does: a file is removed
and its bytes overwritten. With -A all caches of a DIR or KEYRING collection are.

Exit codes: 0 they are gone; 1 there were none; 2 wrong usage or configuration;
3 they could not be destroyed.`,
		Example: `  sekisho logout
  sekisho logout -A
  sekisho logout -c FILE:/tmp/other`,
		RunE: func(c *cobra.Command, _ []string) error {
			stores, name, err := openCaches(c.Context(), cache, all)
			if err != nil {
				return err
			}
			gone := []string{}
			for _, s := range stores {
				if err := s.Destroy(c.Context()); err != nil {
					return noTickets(err, s.Name())
				}
				gone = append(gone, s.Name())
				a.say("destroyed %s", s.Name())
			}
			if len(gone) == 0 {
				return noTickets(ccache.ErrNone, name)
			}
			if a.json {
				return a.printJSON(struct {
					Destroyed []string `json:"destroyed"`
				}{gone})
			}
			return nil
		},
	}
	c.Flags().StringVarP(&cache, "cache", "c", "", "the credential cache (default: KRB5CCNAME, else default_ccache_name of krb5.conf)")
	c.Flags().BoolVarP(&all, "all", "A", false, "all caches of the collection")
	return c
}

func (a *app) ticketsCommand() *cobra.Command {
	var cache string
	var all, silent bool
	c := &cobra.Command{
		Use: "tickets", Short: "Show your Kerberos tickets", Args: noArgs,
		Long: `Show the tickets in your credential cache, as klist does. With -A the tickets in
all caches of a DIR or KEYRING collection are shown, the primary one first. With -s
nothing is printed, and the exit code tells whether there is a ticket that is good
now: the ticket-granting ticket of your realm, or where there is none, any.

Exit codes: 0 there are tickets (with -s: a good one); 1 there are none; 2 wrong
usage or configuration; 3 the cache cannot be read.`,
		Example: `  sekisho tickets
  sekisho tickets -s || sekisho login
  sekisho tickets -A --json`,
		RunE: func(c *cobra.Command, _ []string) error {
			stores, name, err := openCaches(c.Context(), cache, all)
			if err != nil {
				return silence(silent, err)
			}
			var out []cacheReport
			good := false
			now := time.Now()
			for _, s := range stores {
				content, err := s.Read(c.Context())
				if errors.Is(err, ccache.ErrNone) && all {
					continue // it has gone meanwhile
				}
				if err != nil {
					return silence(silent, noTickets(err, s.Name()))
				}
				r := reportCache(s, content, now)
				good = good || r.Valid
				out = append(out, r)
			}
			switch {
			case len(out) == 0:
				return silence(silent, noTickets(ccache.ErrNone, name))
			case silent && good:
				return nil
			case silent:
				return exit(exitNo)
			case a.json:
				return a.printJSON(struct {
					Caches []cacheReport `json:"caches"`
				}{out})
			}
			for i, r := range out {
				if i > 0 {
					fmt.Fprintln(a.out)
				}
				if err := a.printCache(r, now); err != nil {
					return err
				}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVarP(&cache, "cache", "c", "", "the credential cache (default: KRB5CCNAME, else default_ccache_name of krb5.conf)")
	f.BoolVarP(&all, "all", "A", false, "all caches of the collection")
	f.BoolVarP(&silent, "silent", "s", false, "print nothing, only tell by the exit code")
	return c
}

// silence leaves of an error its exit code.
func silence(silent bool, err error) error {
	if silent && err != nil {
		return exit(codeOf(err))
	}
	return err
}

// openCaches finds the cache that is meant, or all of its collection.
func openCaches(ctx context.Context, flag string, all bool) ([]*ccache.Store, string, error) {
	conf, err := krb5conf.Default()
	if err != nil {
		return nil, "", usageError{err}
	}
	name, err := cacheName(flag, conf)
	if err != nil {
		return nil, "", err
	}
	s, err := ccache.Open(name)
	if err != nil {
		return nil, "", usageError{err}
	}
	if !all {
		return []*ccache.Store{s}, s.Name(), nil
	}
	list, err := ccache.Collection(ctx, name)
	return list, name, err
}

// noTickets makes "there is none" a no, with the mend.
func noTickets(err error, name string) error {
	if errors.Is(err, ccache.ErrNone) {
		return refusedError{fmt.Errorf("there are no tickets in %s: sekisho login gets one", name)}
	}
	return err
}

func (a *app) warn(s *ccache.Store) {
	for _, w := range s.Warnings() {
		fmt.Fprintf(a.err, "sekisho: %s: %s\n", clean(s.Name()), clean(w))
	}
}

// cacheReport is what tickets prints for programs.
type cacheReport struct {
	Name      string `json:"name"`
	Principal string `json:"principal"`
	// Valid is what -s tells.
	Valid bool `json:"valid"`
	// OffsetSeconds is the KDC's clock minus this machine's when the ticket was
	// got, when the cache says so.
	OffsetSeconds *float64       `json:"offset_seconds,omitempty"`
	Warnings      []string       `json:"warnings"`
	Tickets       []ticketReport `json:"tickets"`
}

type ticketReport struct {
	Server string `json:"server"`
	// Client is named when it is not the cache's principal.
	Client         string     `json:"client,omitempty"`
	Issued         time.Time  `json:"issued"`
	Starts         time.Time  `json:"starts"`
	Expires        time.Time  `json:"expires"`
	RenewableUntil *time.Time `json:"renewable_until,omitempty"`
	Expired        bool       `json:"expired"`
	Flags          []string   `json:"flags"`
	KeyType        int16      `json:"key_type"`
}

// flagWords are the flags of RFC 4120 §2 that klist knows.
var flagWords = []struct {
	flag krb.TicketFlags
	word string
}{
	{krb.FlagForwardable, "forwardable"}, {krb.FlagForwarded, "forwarded"}, {krb.FlagProxiable, "proxiable"}, {krb.FlagProxy, "proxy"},
	{krb.FlagPostdated, "postdated"}, {krb.FlagInvalid, "invalid"}, {krb.FlagRenewable, "renewable"}, {krb.FlagInitial, "initial"},
	{krb.FlagPreAuthent, "pre-authenticated"}, {krb.FlagHWAuthent, "hardware-authenticated"}, {krb.FlagOKDelegate, "ok-as-delegate"},
	{krb.FlagAnonymous, "anonymous"},
}

func reportCache(s *ccache.Store, c ccache.Cache, now time.Time) cacheReport {
	r := cacheReport{Name: s.Name(), Principal: c.Principal.String(), Warnings: append([]string{}, s.Warnings()...), Tickets: []ticketReport{}}
	if off, ok := c.Offset(); ok {
		sec := off.Seconds()
		r.OffsetSeconds = &sec
	}
	now = kdcTime(r, now)
	tgt, goodTGT, good := false, false, false
	for _, e := range c.Tickets() {
		t := ticketReport{Server: e.Server.String(), Issued: time.Unix(int64(e.AuthTime), 0).UTC(), Starts: e.Start(), Expires: e.End(),
			Expired: !e.End().After(now), Flags: []string{}, KeyType: int16(e.EType)}
		if !e.Client.Equal(c.Principal) {
			t.Client = e.Client.String()
		}
		if e.Flags&krb.FlagRenewable != 0 && e.RenewTill != 0 {
			till := e.Renewable()
			t.RenewableUntil = &till
		}
		for _, f := range flagWords {
			if e.Flags&f.flag != 0 {
				t.Flags = append(t.Flags, f.word)
			}
		}
		if e.IsTGT(c.Principal.Realm) {
			tgt, goodTGT = true, goodTGT || !t.Expired
		} else {
			good = good || !t.Expired
		}
		r.Tickets = append(r.Tickets, t)
	}
	r.Valid = goodTGT || !tgt && good
	return r
}

// startsSoon is how far tickets that are good now may seem to start in the future:
// kinit notes the clocks' offset in whole seconds, and a KDC gives times in such.
const startsSoon = 2 * time.Second

// kdcTime is the time by the KDC's clock: by it tickets end.
func kdcTime(r cacheReport, now time.Time) time.Time {
	if r.OffsetSeconds == nil {
		return now
	}
	return now.Add(time.Duration(*r.OffsetSeconds * float64(time.Second)))
}

func (a *app) printCache(r cacheReport, now time.Time) error {
	for _, w := range r.Warnings {
		fmt.Fprintf(a.err, "sekisho: %s: %s\n", clean(r.Name), clean(w))
	}
	a.say("%s, in %s", r.Principal, r.Name)
	if off := kdcTime(r, now).Sub(now); off.Abs() >= time.Second {
		way := "behind"
		if off < 0 {
			way = "ahead of"
		}
		a.say("when the ticket was got, this machine's clock was %s %s the KDC's", clock.Span(off), way)
	}
	now = kdcTime(r, now)
	var rows [][]string
	for _, t := range r.Tickets {
		left := "EXPIRED"
		if !t.Expired {
			left = ageText(int64(t.Expires.Sub(now) / time.Second))
			if t.Starts.Sub(now) > startsSoon {
				left = "NOT YET"
			}
		}
		renew := "no"
		if t.RenewableUntil != nil {
			renew = "until " + localTime(*t.RenewableUntil)
		}
		server := t.Server
		if t.Client != "" {
			server += " (for " + t.Client + ")"
		}
		rows = append(rows, []string{server, localTime(t.Expires), left, renew, list(t.Flags)})
	}
	return a.table([]string{"TICKET FOR", "EXPIRES", "LEFT", "RENEWABLE", "FLAGS"}, rows)
}
