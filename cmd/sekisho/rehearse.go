package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sekisho/sekisho/audit"
	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/rehearsal"
	"github.com/sekisho/sekisho/ldapsync"
	"github.com/sekisho/sekisho/ldapsync/ldif"
)

type rehearseOptions struct {
	since      string
	user, host string
}

func (a *app) rehearseCommand() *cobra.Command {
	var o rehearseOptions
	c := &cobra.Command{
		Use: "rehearse CHANGE.ldif", Short: "Show who would gain and lose by a change, before it is made", Args: takes(1, 1, "a file in LDIF, or - for standard input"),
		Long: `Read changes in LDIF, as ldapmodify takes them, and show what they would do if they were
made now: which ways in are gained and lost, by the directory as it is; which open
sessions would end; and which decisions of the audit record would come out otherwise.
Nothing is changed, neither in the directory nor here.

Entries without changetype are additions. Values by URL (:<) and controls are refused.
The directory itself may still refuse a change, by its access rules or its schema, or
make more of it by overlays of its own. With the embedded realm, groups are taken to
follow the deletion and renaming of their members, as its overlay refint has it; with
another directory they are not.

Run it as root on a broker's machine: sessions and the audit record are those of this
machine's sekishod. A host that follows a broker knows no directory.

Exit codes: 0 nobody loses anything and no session ends; 1 somebody would, or a session
would; 2 wrong usage, or a change that the directory would refuse; 3 could not find out,
or not all of it.`,
		Example: `  sekisho rehearse change.ldif
  sekisho rehearse --user alice --since 7d --json - <<'END'
  dn: cn=web-admins,ou=access,dc=example,dc=org
  changetype: modify
  delete: sekishoSubject
  sekishoSubject: group:contractors
  END`,
		RunE: func(c *cobra.Command, args []string) error { return a.rehearse(c.Context(), args[0], o) },
	}
	f := c.Flags()
	f.StringVar(&o.since, "since", "30d", "how far back the audit record is read: 12h, 30d; 0 for not at all")
	f.StringVar(&o.user, "user", "", "only this user")
	f.StringVar(&o.host, "host", "", "only this host, by its full name")
	a.completeFlag(c, "user", "user")
	a.completeFlag(c, "host", "host")
	return c
}

// rehearsed is all that is shown.
type rehearsed struct {
	Entries []entryChange `json:"entries"`
	rehearsal.Result
	Faults []fault  `json:"faults"`
	Notes  []string `json:"notes,omitempty"`

	SessionsOpen int                    `json:"sessions_open"`
	SessionsEnd  []rehearsal.SessionEnd `json:"sessions_end"`
	Audit        *rehearsal.Past        `json:"audit,omitempty"`
	// Unknown is what could not be found out.
	Unknown []string `json:"unknown,omitempty"`
}

// fault is an entry that cannot be used afterwards, or not wholly.
type fault struct {
	DN      string `json:"dn"`
	Why     string `json:"why"`
	Whole   bool   `json:"whole"`
	Already bool   `json:"already"`
}

// entryChange is one user, group, host or rule that differs.
type entryChange struct {
	Kind string    `json:"kind"`
	Name string    `json:"name"`
	DN   broker.DN `json:"dn"`
	What string    `json:"what"` // added, removed, changed
}

// rehearse does all of it.
func (a *app) rehearse(ctx context.Context, path string, o rehearseOptions) error {
	back, err := parseBack(o.since)
	if err != nil {
		return err
	}
	changes, err := a.readLDIF(path)
	if err != nil {
		return err
	}
	now := time.Now()
	r, err := a.rehearseDirectory(ctx, changes)
	if err != nil {
		return err
	}
	out := rehearsed{Entries: entryChanges(r), Faults: []fault{}, SessionsEnd: []rehearsal.SessionEnd{}}
	for _, f := range r.Faults {
		out.Faults = append(out.Faults, fault{f.DN, f.Why, f.Whole, f.Already})
	}
	out.Result = rehearsal.Compare(rehearsal.Config{Before: r.Before, After: r.After, Now: now, User: broker.UserName(o.user),
		Host: broker.HostName(strings.ToLower(o.host)), Progress: func(done, total int) { a.progress("comparing %d of %d kinds of users", done, total) }})
	a.progress("")
	if out.Result.Changes == nil {
		out.Result.Changes = []rehearsal.Change{}
	}
	if out.Cut != "" {
		out.Unknown = append(out.Unknown, out.Cut)
	}
	if n := a.heldBack(r); n != "" {
		out.Notes = append(out.Notes, n)
	}
	a.rehearseSessions(ctx, r, o, now, &out)
	if back > 0 {
		if err := a.rehearseAudit(ctx, r, o, now.Add(-back), &out); err != nil {
			out.Unknown = append(out.Unknown, "the audit record: "+err.Error())
		}
	}
	if a.json {
		err = a.printJSON(out)
	} else {
		err = a.printRehearsal(out)
	}
	if err != nil {
		return err
	}
	return out.code()
}

// code is the exit code as an error.
func (r rehearsed) code() error {
	for _, c := range r.Changes {
		if c.Kind == rehearsal.Lost || c.Kind == rehearsal.Narrower {
			return exit(exitNo)
		}
	}
	for _, s := range r.SessionsEnd {
		if !s.Anyway {
			return exit(exitNo)
		}
	}
	if len(r.Unknown) > 0 {
		return exit(exitUnknown)
	}
	return nil
}

// parseBack reads 12h or 30d; 0 is none.
func parseBack(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if h, err := time.ParseDuration(days + "h"); err == nil && h > 0 && h <= 10_000*time.Hour {
			return 24 * h, nil
		}
	} else if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return d, nil
	}
	return 0, usagef("--since %q: write a time like 12h or 30d, or 0", s)
}

func (a *app) readLDIF(path string) ([]ldif.Record, error) {
	var in io.Reader = a.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usageError{err}
		}
		defer f.Close()
		in = f
	} else if a.passwordFile == "-" {
		return nil, usagef("standard input cannot hold both the changes and the password")
	}
	changes, err := ldif.Parse(in)
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", path, err)}
	}
	return changes, nil
}

// rehearseDirectory reads the directory as the caller.
func (a *app) rehearseDirectory(ctx context.Context, changes []ldif.Record) (*ldapsync.Rehearsed, error) {
	_, client, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	c, err := a.config()
	if err != nil {
		return nil, err
	}
	p, err := a.place()
	if err != nil {
		return nil, err
	}
	schema, err := c.Schema()
	if err != nil {
		return nil, usageError{err}
	}
	r, err := ldapsync.Rehearse(ctx, ldapsync.Rehearsal{
		Client: client, BaseDN: p.layout.Base, Schema: schema, UIDFloor: c.UserDB.UIDMin, KeyPolicy: c.Policy(),
		Refint: p.info != nil, Nobody: "cn=nobody," + p.layout.Base, Changes: changes,
		Progress: func(n int) { a.progress("%d entries read", n) },
	})
	a.progress("")
	var refused *ldapsync.ChangeError
	switch {
	case errors.As(err, &refused):
		return nil, usageError{fmt.Errorf("the directory would refuse it: %w", refused)}
	case err != nil: // whatever the directory has said, it is no answer to the question
		return nil, errors.New("rehearsing: " + err.Error())
	}
	return r, nil
}

// progress shows how far it is, at a terminal; an empty text takes it away.
func (a *app) progress(format string, args ...any) {
	if f, ok := a.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(f, "\r\x1b[K"+format, args...)
	}
}

// heldBack says when so many users go that sekishod would not believe it.
func (a *app) heldBack(r *ldapsync.Rehearsed) string {
	c, err := a.config()
	if err != nil {
		return ""
	}
	gone := 0
	r.After.Changes(r.Before).Users(func(_, now *broker.User) bool {
		if now == nil {
			gone++
		}
		return true
	})
	users, _, _, _ := r.Before.Size()
	if gone >= 10 && float64(gone) > c.Snapshot.HoldShare*float64(users) {
		return fmt.Sprintf("%d of %d users would be gone: sekishod holds such a change back until sekisho sync accept (snapshot.hold_share)", gone, users)
	}
	return ""
}

func (a *app) rehearseSessions(ctx context.Context, r *ldapsync.Rehearsed, o rehearseOptions, now time.Time, out *rehearsed) {
	fail := func(err error) { out.Unknown = append(out.Unknown, "open sessions: "+err.Error()) }
	if os.Geteuid() != 0 {
		fail(errors.New("only root sees those of others"))
		return
	}
	p, err := a.sessions(ctx, sessionsAsked{user: o.user, host: o.host})
	if err != nil {
		fail(err)
		return
	}
	if p.Problem != "" {
		fail(errors.New(p.Problem))
	}
	out.SessionsOpen = len(p.Sessions)
	ends, err := rehearsal.Sessions(r.Before, r.After, p.Sessions, now)
	if err != nil {
		fail(err)
		return
	}
	out.SessionsEnd = ends
}

func (a *app) rehearseAudit(ctx context.Context, r *ldapsync.Rehearsed, o rehearseOptions, since time.Time, out *rehearsed) error {
	c, err := a.config()
	if err != nil {
		return err
	}
	h := rehearsal.NewHistory(since)
	q := audit.Query{Since: since, Kinds: []audit.Kind{audit.KindDecision}}
	for _, s := range []string{o.user, o.host} {
		if s != "" {
			q.Has = append(q.Has, s)
		}
	}
	n := 0
	dir := filepath.Join(c.StateDir, "audit")
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	err = audit.Scan(ctx, dir, q, func(rec *audit.Record) bool {
		if n++; n%10_000 == 0 {
			a.progress("%d audit records read", n)
		}
		h.Add(rec)
		return true
	})
	a.progress("")
	if err != nil {
		return err
	}
	p, err := h.Judge(r.Before, r.After, broker.UserName(o.user), broker.HostName(strings.ToLower(o.host)))
	if err != nil {
		return err
	}
	if out.Audit = &p; p.Left > 0 {
		return fmt.Errorf("%d records were not looked at: there are too many different ones; use a shorter --since, or --user or --host", p.Left)
	}
	return nil
}

// entryChanges lists what differs.
func entryChanges(r *ldapsync.Rehearsed) []entryChange {
	out := []entryChange{}
	ch := r.After.Changes(r.Before)
	note := func(kind, name string, dn broker.DN, old, now bool) {
		what := "changed"
		if !old {
			what = "added"
		} else if !now {
			what = "removed"
		}
		out = append(out, entryChange{kind, name, dn, what})
	}
	ch.Users(func(old, now *broker.User) bool {
		u := now
		if u == nil {
			u = old
		}
		note("user", string(u.Name), u.DN, old != nil, now != nil)
		return true
	})
	ch.Groups(func(old, now *broker.Group) bool {
		g := now
		if g == nil {
			g = old
		}
		note("group", string(g.Name), g.DN, old != nil, now != nil)
		return true
	})
	ch.Hosts(func(old, now *broker.Host) bool {
		h := now
		if h == nil {
			h = old
		}
		note("host", string(h.Names[0]), h.DN, old != nil, now != nil)
		return true
	})
	ch.Rules(func(old, now *broker.Rule) bool {
		x := now
		if x == nil {
			x = old
		}
		note("rule", string(x.Name), x.DN, old != nil, now != nil)
		return true
	})
	return out
}
