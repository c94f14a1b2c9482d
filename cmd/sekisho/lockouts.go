package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/wire"
)

func (a *app) lockoutsCommand() *cobra.Command {
	c := noun("lockouts", "Users and networks that must wait after wrong passwords")
	c.AddCommand(a.lockoutsLsCommand(), a.lockoutsClearCommand())
	return c
}

func (a *app) lockoutsLsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "Show who must wait after wrong passwords or codes", Args: noArgs,
		Long: `Show the users and networks whose free wrong passwords and codes are used up, as this
machine's sekishod counts them: with those of other brokers that share its state, and,
on a broker, with those of all hosts that follow it. Only root may.

  user    wrong ones for the user from networks that are not known for him; where he has
          signed in lately he need not wait for them
  pair    wrong ones for the user from a network where he has signed in lately
  source  wrong ones from the network, for users who have not signed in from there
  spray   wrong ones from all networks that are not known, together

Each wrong one makes the wait longer, up to guessing.longest_wait.`,
		Example: "  sekisho lockouts ls\n  sekisho lockouts ls --json",
		RunE: func(c *cobra.Command, _ []string) error {
			ans, err := a.ask(c.Context(), wire.Request{Verb: report.VerbLockouts})
			if err != nil {
				return err
			}
			var all report.Lockouts
			if err := report.Decode(ans, &all); err != nil {
				return err
			}
			switch {
			case a.json:
				return a.printJSON(all)
			case len(all.Lockouts) == 0:
				a.say("nobody must wait")
				return nil
			}
			var rows [][]string
			for _, l := range all.Lockouts {
				rows = append(rows, []string{l.Kind, l.User, l.Source, fmt.Sprintf("%.0f", l.Wrong), whenText(l.Last), waitText(l.Until, time.Now())})
			}
			if err := a.table([]string{"KIND", "USER", "SOURCE", "WRONG", "LAST", "NEXT TRY"}, rows); err != nil {
				return err
			}
			if all.More {
				a.say("… and more: those with the longest waits are shown")
			}
			return nil
		},
	}
}

// waitText says how long it is until then.
func waitText(until string, now time.Time) string {
	t, err := time.Parse(time.RFC3339, until)
	if err != nil {
		return until
	}
	if left := t.Sub(now).Round(time.Second); left > 0 {
		return "in " + left.String()
	}
	return "now"
}

func (a *app) lockoutsClearCommand() *cobra.Command {
	var source string
	var everything bool
	c := &cobra.Command{
		Use: "clear [USER]", Short: "Forget wrong passwords", Args: takes(0, 1, "a user, or nothing"),
		Long: `Forget the wrong passwords and codes of a user, of a network, or all, so that nobody
waits for them any longer; on all brokers that share their state. A host that follows a
broker counts for itself besides: clear it there too when that is where it was counted.
Only root may. It does not touch what the directory itself counts (its password policy).

Exit codes: 0 cleared; 1 nothing was counted there.`,
		Example: "  sekisho lockouts clear alice\n  sekisho lockouts clear --source 203.0.113.0/24\n  sekisho lockouts clear --source 203.0.113.7\n  sekisho lockouts clear --all",
		RunE: func(c *cobra.Command, args []string) error {
			r := wire.Request{Verb: report.VerbUnlock}
			for _, f := range []wire.Field{{Name: wire.FieldUser, Value: strings.Join(args, "")}, {Name: report.FieldSource, Value: source}} {
				if f.Value != "" {
					r.Fields = append(r.Fields, f)
				}
			}
			if everything {
				r.Fields = append(r.Fields, wire.Field{Name: report.FieldAll, Value: "yes"})
			}
			if len(r.Fields) != 1 {
				return usagef("say what to clear: one of a user, --source and --all")
			}
			ans, err := a.ask(c.Context(), r)
			if err != nil {
				return err
			}
			var done report.Unlocked
			if err := report.Decode(ans, &done); err != nil {
				return err
			}
			if a.json {
				if err := a.printJSON(done); err != nil {
					return err
				}
			}
			if done.Cleared == 0 {
				return refusedError{errors.New("nothing was counted there")}
			}
			a.say("cleared: %s", count(done.Cleared, "counter"))
			return nil
		},
	}
	c.Flags().StringVar(&source, "source", "", "a network, or an address in it, or \"on HOST\"")
	c.Flags().BoolVar(&everything, "all", false, "everything")
	a.complete(c, "user")
	return c
}
