package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/audit"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/wire"
)

// entry is one way in: who, where, through which door.
type entry struct {
	User string `json:"user"`
	Host string `json:"host"`
	Door string `json:"door"`
	// Now is yes, no or unknown: whether the directory as it is allows it, with all
	// the proofs that rules ask for.
	Now    string   `json:"now"`
	Logins []string `json:"logins,omitempty"` // now
	From   []string `json:"from,omitempty"`   // now; empty: anywhere
	Until  string   `json:"until,omitempty"`  // now
	// Rules are those that allow it now or have done in the period.
	Rules []string `json:"rules,omitempty"`
	// Of the period.
	Grants   int             `json:"grants"`
	Refusals int             `json:"refusals"`
	Sessions int             `json:"sessions"`
	seen     map[string]bool // sessions, by ID
	Last     *time.Time      `json:"last,omitempty"` // the last grant or session
}

// auditReport is what `sekisho audit report --json` prints.
type auditReport struct {
	User  string     `json:"user,omitempty"`
	Host  string     `json:"host,omitempty"`
	Since *time.Time `json:"since,omitempty"`
	Until *time.Time `json:"until,omitempty"`
	// RecordOf is the machine whose record it is: others have their own.
	RecordOf string `json:"record_of,omitempty"`
	// First is the first record that there is, when it is younger than since.
	First *time.Time `json:"first,omitempty"`
	// NowError is why it is not known who may enter now.
	NowError string  `json:"now_error,omitempty"`
	TooMany  int     `json:"too_many,omitempty"` // users who may enter now, too many to be listed
	Entries  []entry `json:"entries"`
}

func (a *app) auditReportCommand() *cobra.Command {
	var dir, user, host, since, until string
	c := &cobra.Command{
		Use: "report", Short: "Show who could and who did enter what", Args: noArgs,
		Long: `Show for one user or one host who could enter what in a period, and who did.

NOW is what sekishod answers from the directory as it is: yes, if somebody with all
the proofs that a rule asks for, from the networks that it names, would be let in. The
directory's past is not kept: somebody who could have entered in the period, never
tried, and may not now, is not shown. GRANTS and REFUSALS are recorded decisions of
the period (door keys: asked for by sshd, once or more for each login), REFUSALS clear
noes (not what could not be found out, or wanted more proof), SESSIONS those that began
or ended. So "could" is NOW yes or GRANTS above 0, and "did" is SESSIONS above 0.

Each machine has a record of its own. A broker's has the ends of the sessions on the
hosts that follow it; their decisions, and sessions that are open yet, are in theirs.

With --dir it reads a copied record, and NOW is not asked for.

Exit codes: 0; 3 the record could not be read, or who may enter now not be found out.`,
		Example: "  sekisho audit report --user alice\n  sekisho audit report --host db1 --since 90d\n" +
			"  sekisho audit report --host db1 --since 2030-01-01 --until 2030-02-01 --json",
		RunE: func(c *cobra.Command, _ []string) error {
			if (user == "") == (host == "") {
				return usagef("name a user or a host: --user NAME or --host NAME")
			}
			from, to, err := period(since, until, time.Now())
			if err != nil {
				return err
			}
			copied := dir != ""
			if dir, err = a.auditDir(dir); err != nil {
				return err
			}
			r := auditReport{User: user, Host: strings.ToLower(host), Since: &from, Entries: []entry{}}
			if !to.IsZero() {
				r.Until = &to
			}
			all := ways{}
			if err := r.recorded(c.Context(), dir, audit.Query{Since: from, Until: to}, all); err != nil {
				return auditError(err)
			}
			var asked error
			if copied {
				r.NowError = "a copied record says nothing of the directory"
			} else if asked = a.mayNow(c.Context(), &r, all); asked != nil {
				r.NowError = asked.Error()
			}
			for _, e := range all {
				if r.NowError != "" || r.TooMany > 0 {
					e.Now = "unknown"
				}
				r.Entries = append(r.Entries, *e)
			}
			slices.SortFunc(r.Entries, func(a, b entry) int {
				return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Door, b.Door))
			})
			if a.json {
				err = a.printJSON(r)
			} else {
				err = a.printReport(r)
			}
			if err == nil && asked != nil {
				return exit(exitUnknown)
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "dir", "", "a copied folder (default: that of this machine's sekishod)")
	f.StringVar(&user, "user", "", "a user: which hosts")
	f.StringVar(&host, "host", "", "a host: which users")
	f.StringVar(&since, "since", "30d", "the period begins at this time, or this long ago")
	f.StringVar(&until, "until", "", "and ends before this time (default: now)")
	a.completeFlag(c, "user", "user")
	a.completeFlag(c, "host", "host")
	return c
}

// ways are the ways in, by user, host and door.
type ways map[[3]string]*entry

func (x ways) at(user, host, door string) *entry {
	k := [3]string{user, host, door}
	if x[k] == nil {
		x[k] = &entry{User: user, Host: host, Door: door, Now: "no"}
	}
	return x[k]
}

// recorded gathers what the record has.
func (r *auditReport) recorded(ctx context.Context, dir string, q audit.Query, all ways) error {
	void, err := voided(ctx, dir, q)
	if err != nil {
		return err
	}
	if err := audit.Scan(ctx, dir, audit.Query{}, func(x *audit.Record) bool {
		if x.Time.After(q.Since) {
			r.First = &x.Time
		}
		r.RecordOf = x.Host
		return false
	}); err != nil {
		return err
	}
	q.Kinds = []audit.Kind{audit.KindDecision, audit.KindSession}
	if r.User != "" {
		q.Has = []string{r.User}
	}
	user := audit.Clip(r.User)
	return audit.Scan(ctx, dir, q, func(x *audit.Record) bool {
		host := cmp.Or(x.Place, x.Target)
		if r.User != "" && x.User != user || !hostMeant(host, r.Host) {
			return true
		}
		e := all.at(x.User, host, x.Door)
		switch {
		case x.Kind == audit.KindSession: // one is opened, and later told to end, closed or lost
			if e.seen == nil {
				e.seen = map[string]bool{}
			}
			e.seen[x.Session] = true
			e.Sessions = len(e.seen)
		case x.Outcome == "allow" && x.Reason == "rule" && !void[x.Seq]:
			e.Grants++
		case x.Outcome == "allow": // it let nobody in by itself
			return true
		default:
			if x.Outcome == "deny" {
				e.Refusals++
			}
			return true
		}
		for _, n := range x.Rules {
			if !slices.Contains(e.Rules, n) {
				e.Rules = append(e.Rules, n)
			}
		}
		if e.Last == nil || x.Time.After(*e.Last) {
			e.Last = &x.Time
		}
		return true
	})
}

// mayNow asks sekishod who may enter as the directory is now.
func (a *app) mayNow(ctx context.Context, r *auditReport, all ways) error {
	for after := ""; ; {
		q := wire.Request{Verb: report.VerbAccess}
		for _, f := range []wire.Field{{Name: wire.FieldUser, Value: r.User}, {Name: report.FieldHost, Value: r.Host}, {Name: report.FieldAfter, Value: after}} {
			if f.Value != "" {
				q.Fields = append(q.Fields, f)
			}
		}
		ans, err := a.ask(ctx, q)
		if err != nil {
			return err
		}
		if ans.Outcome == wire.No { // not in the directory: nobody may
			return nil
		}
		if ans.Outcome != wire.Yes {
			return errors.New(cmp.Or(ans.Text, ans.Reason))
		}
		p, err := report.DecodeAccess(ans)
		if err != nil {
			return err
		}
		r.TooMany = p.TooMany
		for _, x := range p.Access {
			e := all.at(x.User, x.Host, x.Door)
			e.Now, e.Logins, e.From, e.Until = "yes", x.Logins, x.From, x.Until
			for _, n := range x.Rules {
				if !slices.Contains(e.Rules, n) {
					e.Rules = append(e.Rules, n)
				}
			}
		}
		if p.After == "" {
			return nil
		}
		after = p.After
	}
}

func (a *app) printReport(r auditReport) error {
	head := []string{"USER", "HOST", "DOOR", "NOW", "GRANTS", "REFUSALS", "SESSIONS", "LAST", "RULES", "FROM"}
	rows := [][]string{}
	for _, e := range r.Entries {
		last := "-"
		if e.Last != nil {
			last = e.Last.UTC().Format("2006-01-02 15:04")
		}
		from := list(e.From)
		if e.Now == "yes" && from == "" {
			from = "anywhere"
		}
		rows = append(rows, []string{e.User, e.Host, e.Door, e.Now, fmt.Sprint(e.Grants), fmt.Sprint(e.Refusals), fmt.Sprint(e.Sessions), last, list(e.Rules), from})
	}
	if err := a.table(head, rows); err != nil {
		return err
	}
	did, could := 0, 0
	for _, e := range r.Entries {
		if e.Sessions > 0 {
			did++
		}
		if e.Now == "yes" || e.Grants > 0 {
			could++
		}
	}
	until := "now"
	if r.Until != nil {
		until = whenText(r.Until.Format(time.RFC3339))
	}
	a.say("from %s to %s: %d of these ways could be gone, %d were", whenText(r.Since.UTC().Format(time.RFC3339)), until, could, did)
	if r.RecordOf != "" {
		a.say("this is the record of %s alone: other machines have their own", clean(r.RecordOf))
	}
	if r.First != nil {
		a.say("the record begins with %s: what was before is not known", whenText(r.First.UTC().Format(time.RFC3339)))
	}
	if r.TooMany > 0 {
		a.say("the rules of this host are for %d users: too many to ask about each; see sekisho rule ls", r.TooMany)
	}
	if r.NowError != "" {
		a.say("who may enter NOW could not be found out: %s", r.NowError)
	}
	return nil
}
