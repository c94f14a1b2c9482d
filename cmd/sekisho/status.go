package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/wire"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show how this machine's sekishod is doing", Args: noArgs,
		Long: `Show how this machine's sekishod is doing: how old its copy of the directory is,
what it could not use, and whether a change is held back. On a broker that hosts
follow: how many do, and which are behind or gone (where there are at most ` + strconv.Itoa(report.MostHosts) + `, all of
them; --json has all). Only root is told what is wrong.

Exit codes: 0 it answers from a snapshot; 3 it is not running, or has none that is
young enough.`,
		Example: "  sekisho status\n  sekisho status --json",
		RunE: func(c *cobra.Command, _ []string) error {
			ans, err := a.ask(c.Context(), wire.Request{Verb: wire.VerbStatus})
			if err != nil {
				return err
			}
			var s report.Status
			if err := report.Decode(ans, &s); err != nil {
				return err
			}
			if a.json && s.Feed != nil {
				if s.Feed.Hosts, err = a.followingHosts(c.Context()); err != nil {
					return err
				}
			}
			if a.json {
				err = a.printJSON(s)
			} else {
				err = printStatus(a.out, s, time.Now())
			}
			if err != nil {
				return err
			}
			if !s.Sync.Loaded || s.Sync.AgeSeconds > s.Sync.MaxAgeSeconds {
				return exit(exitUnknown)
			}
			return nil
		},
	}
}

// followingHosts asks a broker for all hosts that follow it or may, page by page.
func (a *app) followingHosts(ctx context.Context) ([]report.FeedHost, error) {
	all := []report.FeedHost{}
	r := wire.Request{Verb: report.VerbHosts}
	for {
		ans, err := a.ask(ctx, r)
		if err != nil {
			return nil, err
		}
		p, err := report.DecodeHosts(ans)
		if err != nil {
			return nil, err
		}
		all = append(all, p.Hosts...)
		if !p.More || len(p.Hosts) == 0 {
			return all, nil
		}
		r.Fields = []wire.Field{{Name: report.FieldAfter, Value: all[len(all)-1].Host}}
	}
}

func (a *app) syncCommand() *cobra.Command {
	c := noun("sync", "The copy of the directory that sekishod answers from")
	c.AddCommand(&cobra.Command{
		Use: "accept", Short: "Take over a change that is held back", Args: noArgs,
		Long: `Take over a change that is held back because it would remove many users at once.
Look at sekisho status first: it says who would go. Only root may. When nothing is
held back the exit code is 1.`,
		Example: "  sekisho sync accept",
		RunE: func(c *cobra.Command, _ []string) error {
			ans, err := a.ask(c.Context(), wire.Request{Verb: wire.VerbAccept})
			if err != nil {
				return err
			}
			if ans.Outcome != wire.Yes {
				return refusedError{errors.New(ans.Text)}
			}
			a.say("accepted: the change is in use")
			return nil
		},
	})
	return c
}

// printStatus is the answer for people: what matters first.
func printStatus(out io.Writer, s report.Status, now time.Time) error {
	var b strings.Builder
	y := s.Sync
	switch {
	case !y.Loaded:
		fmt.Fprintf(&b, "%s: NO SNAPSHOT YET, every answer is \"could not find out\"\n", clean(s.Host))
	case y.AgeSeconds > y.MaxAgeSeconds:
		fmt.Fprintf(&b, "%s: SNAPSHOT TOO OLD, every answer is \"could not find out\"\n", clean(s.Host))
	default:
		fmt.Fprintf(&b, "%s: answering\n", clean(s.Host))
	}
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %s\t%s\n", name, clean(fmt.Sprintf(format, args...)))
	}
	if y.Loaded {
		row("snapshot", "generation %d, %s old, %s allowed", y.Generation, ageText(y.AgeSeconds), ageText(y.MaxAgeSeconds))
		row("holds", "%s, %s, %s, %s", count(y.Users, "user"), count(y.Groups, "group"), count(y.Hosts, "host"), count(y.Rules, "rule"))
		if !s.HostKnown {
			row("this host", "NOT IN THE DIRECTORY as %s: sekisho host add %s, or set host in the configuration", s.Host, s.Host)
		}
	}
	sync := y.State
	if y.Provider != "" {
		sync += ", " + y.Provider
	}
	if y.LastChange != nil {
		sync += ", last change " + agoText(now, *y.LastChange)
	}
	row("directory", "%s", sync)
	if y.LastError != "" && y.State != "live" {
		row("last error", "%s", y.LastError)
	}
	if y.RetryAt != nil && y.RetryAt.After(now) {
		row("next try", "in %s", ageText(int64(y.RetryAt.Sub(now)/time.Second)))
	}
	if y.DiskError != "" {
		row("disk", "SNAPSHOT NOT WRITTEN: %s", y.DiskError)
	}
	for _, c := range s.Realm {
		state := "NOT RUNNING"
		switch {
		case c.PID != 0 && c.Ready:
			state = fmt.Sprintf("runs, pid %d, started %s", c.PID, agoText(now, c.Since))
		case c.PID != 0 && now.Sub(c.Since) < 5*time.Second:
			state = fmt.Sprintf("starts, pid %d", c.PID)
		case c.PID != 0:
			state = fmt.Sprintf("DOES NOT ANSWER, pid %d, started %s", c.PID, agoText(now, c.Since))
		}
		if c.Restarts > 0 {
			state += ", " + count(c.Restarts, "restart")
		}
		if c.LastError != "" {
			state += ", last: " + c.LastError
		}
		row(c.Name, "%s", state)
	}
	row("users door", "%s", s.UserDB)
	if p := s.PAM; p != nil {
		prover := "passwords by " + p.Password
		if p.OTP != "" {
			prover += ", codes by " + p.OTP
		}
		row("PAM door", "%s, %s", prover, count(p.Sessions, "session"))
	}
	if c := s.Clock; c != nil {
		state := c.State
		if state == "beyond" {
			state = "WRONG, tickets are worthless"
		}
		row("clock", "%s: %s", state, c.Text)
	}
	if u := s.Audit; u != nil {
		state := fmt.Sprintf("%s, %d sealed, in %s", count(int(u.Seq), "record"), u.Sealed, u.File)
		if u.Error != "" {
			state = "NOT WRITTEN, NOBODY IS LET IN: " + u.Error + "; " + state
		}
		if u.SyslogLost > 0 {
			state += fmt.Sprintf("; syslog did not take %d", u.SyslogLost)
		}
		row("audit", "%s", state)
	}
	if f := s.Feed; f != nil {
		row("hosts", "%d of %d follow, %s there", f.Following, f.Following+f.Gone+f.Absent, count(f.Sessions, "session"))
	}
	if k := s.Socket; k != nil {
		row("socket", "%s answered, %d denied, %d malformed, %d turned away, %d open", count(int(k.Requests), "request"), k.Denied, k.Malformed, k.Busy, k.Open)
	}
	w.Flush()
	printHosts(&b, s.Feed, now)
	if h := y.Held; h != nil {
		fmt.Fprintf(&b, "\nHELD BACK since %s: %s\n", whenText(h.Since.Format(time.RFC3339)), clean(h.Why))
		fmt.Fprintf(&b, "  %d of %d users would go: %s", h.Users, h.Of, clean(list(h.First)))
		if h.Users > len(h.First) {
			b.WriteString(", …")
		}
		b.WriteString("\n  if that is meant: sekisho sync accept\n")
	}
	if y.SkippedEntries+y.SkippedValues > 0 {
		fmt.Fprintf(&b, "\nnot used: %s, %s\n", entries(y.SkippedEntries), count(y.SkippedValues, "value"))
		for _, k := range y.Skipped {
			fmt.Fprintf(&b, "  %s: %s\n", clean(k.DN), clean(k.Why))
		}
		if n := y.SkippedEntries + y.SkippedValues - len(y.Skipped); n > 0 && len(y.Skipped) > 0 {
			fmt.Fprintf(&b, "  and %d more\n", n)
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// printHosts is what a broker says of single hosts.
func printHosts(b *strings.Builder, f *report.Feed, now time.Time) {
	if f == nil || len(f.Hosts) == 0 {
		return
	}
	bad := f.Behind + f.Gone + f.Absent
	fmt.Fprintf(b, "\nhosts: %d behind, %d gone, %d not seen since sekishod began\n", f.Behind, f.Gone, f.Absent)
	var rows strings.Builder
	w := tabwriter.NewWriter(&rows, 0, 0, 2, ' ', 0)
	for _, h := range f.Hosts {
		if h.Since == nil {
			fmt.Fprintf(w, "  %s\tnot seen\t\t\t\n", clean(h.Host))
			continue
		}
		state, since := h.State, "connected "+agoText(now, *h.Since)
		switch h.State {
		case report.HostBehind:
			state = "BEHIND by " + ageText(h.BehindSeconds)
		case report.HostGone:
			state, since = "GONE", agoText(now, *h.Since)
		}
		generation := "no generation"
		if h.Generation > 0 {
			generation = fmt.Sprintf("generation %d", h.Generation)
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", clean(h.Host), clean(state), since, generation, count(h.Sessions, "session"))
	}
	w.Flush()
	for line := range strings.Lines(rows.String()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	if n := bad - len(f.Hosts); n > 0 {
		fmt.Fprintf(b, "  and %d more: sekisho status --json has all\n", n)
	}
}

func agoText(now, t time.Time) string {
	return ageText(max(0, int64(now.Sub(t)/time.Second))) + " ago"
}

func entries(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}
