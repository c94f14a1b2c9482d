package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/wire"
)

func (a *app) whyCommand() *cobra.Command {
	var from, login, at string
	var proofs []string
	c := &cobra.Command{
		Use: "why USER DOOR TARGET", Short: "Show why somebody is let in or not", Args: takes(3, 3, "a user, a door and a target"),
		Long: `Ask this machine's sekishod for a decision, and show what it rests on: the rules,
the way through nested groups, the age of the snapshot, and for a refusal what
would have to change. Nobody is let in by asking. TARGET is a host's name or an
address. For the door keys, a key is taken as shown unless --proof says otherwise.

Everybody may ask about himself, root about all.

Exit codes: 0 yes; 1 no; 2 wrong usage; 3 could not find out.`,
		Example: `  sekisho why alice keys web1
  sekisho why alice keys web1 --from 198.51.100.7 --login deploy
  sekisho why alice keys web1 --at 2030-12-24T22:00:00Z
  sekisho why alice gateway db1 --proof password,otp --json`,
		RunE: func(c *cobra.Command, args []string) error {
			r := wire.Request{Verb: wire.VerbWhy, Fields: []wire.Field{
				{Name: wire.FieldUser, Value: args[0]}, {Name: report.FieldDoor, Value: args[1]}, {Name: report.FieldTarget, Value: args[2]}}}
			if from != "" {
				if _, err := netip.ParseAddr(from); err != nil {
					return usagef("--from %q: write an IP address", from)
				}
			}
			if at != "" {
				t, err := parseAt(at)
				if err != nil {
					return err
				}
				at = t
			}
			for _, p := range proofs {
				switch p {
				case "key", "certificate", "password", "ticket", "otp":
				default:
					return usagef("--proof %q: write key, certificate, password, ticket or otp", p)
				}
			}
			for _, f := range []wire.Field{{Name: report.FieldFrom, Value: from}, {Name: report.FieldLogin, Value: login},
				{Name: report.FieldAt, Value: at}, {Name: report.FieldProof, Value: strings.Join(proofs, ",")}} {
				if f.Value != "" {
					r.Fields = append(r.Fields, f)
				}
			}
			ans, err := a.ask(c.Context(), r)
			if ans.Reason == wire.ReasonCaller {
				return errors.New(ans.Text) // nobody said no to USER
			}
			if err != nil {
				return err
			}
			var w report.Why
			if err := report.Decode(ans, &w); err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(w)
			} else {
				err = printWhy(a.out, w)
			}
			if err != nil {
				return err
			}
			switch ans.Outcome {
			case wire.Yes:
				return nil
			case wire.No:
				return exit(exitNo)
			}
			return exit(exitUnknown)
		},
	}
	f := c.Flags()
	f.StringVar(&from, "from", "", "the caller's address (default: any; what sshd would be told to check)")
	f.StringVar(&login, "login", "", "the account on the target (default: USER)")
	f.StringVar(&at, "at", "", "another time: 2030-12-24T22:00:00Z, or 2030-12-24 22:00 in this machine's zone")
	f.StringSliceVar(&proofs, "proof", nil, "what the caller has shown: key, certificate, password, ticket, otp; by comma")
	a.complete(c, "user", "door", "host")
	return c
}

// parseAt reads a time and prints it as RFC 3339.
func parseAt(s string) (string, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t.UTC().Format(time.RFC3339), nil
		}
	}
	return "", usagef("--at %q: write a time as 2030-12-24T22:00:00Z", s)
}

// printWhy is the answer for people: the verdict, what it rests on, what would
// change it, what was asked.
func printWhy(out io.Writer, w report.Why) error {
	var b strings.Builder
	b.WriteString(verdict(w) + "\n")
	rules := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for i, r := range w.Rules {
		if i == 0 {
			fmt.Fprintln(&b)
		}
		fmt.Fprintf(rules, "  rule\t%s\t%s\n", clean(r.Name), clean(fateText(w, r)))
	}
	rules.Flush()
	for i, g := range w.Grants {
		if i == 0 {
			fmt.Fprintln(&b)
		}
		from := "anywhere"
		if g.From != "" {
			from = g.From
		}
		line := fmt.Sprintf("  grant  as %s from %s: %s", g.Login, from, strings.Join(g.Permit, ", "))
		if g.Until != "" {
			line += "; until " + whenText(g.Until)
		}
		b.WriteString(clean(line) + "\n")
	}
	if len(w.Change) > 0 {
		b.WriteString("\nwhat would change that:\n")
		for _, c := range w.Change {
			b.WriteString("  - " + clean(c) + "\n")
		}
	}
	b.WriteString("\n")
	tail := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tail, "asked\t%s\n", clean(askedText(w)))
	age := fmt.Sprintf("generation %d, %s old", w.Generation, ageText(w.AgeSeconds))
	if w.Reason == "no-snapshot" {
		age = "none"
	}
	fmt.Fprintf(tail, "snapshot\t%s\n", age)
	if w.Clock != "" {
		fmt.Fprintf(tail, "clock\t%s: no password or ticket is believed\n", clean(w.Clock))
	}
	if w.Until != "" {
		fmt.Fprintf(tail, "until\t%s, when the answer may differ by itself\n", clean(whenText(w.Until)))
	}
	tail.Flush()
	_, err := io.WriteString(out, b.String())
	return err
}

// verdict is the first line.
func verdict(w report.Why) string {
	what := fmt.Sprintf("%s to %s through %s", w.User, w.Target, w.Door)
	if w.Login != w.User {
		what += " as " + w.Login
	}
	word := map[string]string{"allow": "YES", "deny": "NO", "need-proof": "NO, NOT YET"}[w.Outcome]
	if word == "" {
		word = "COULD NOT FIND OUT"
	}
	line := fmt.Sprintf("%s: %s (%s)", word, what, w.Reason)
	for i, need := range w.Need {
		var kinds []string
		for _, n := range need {
			kinds = append(kinds, strings.Join(n, " or "))
		}
		if i == 0 {
			line += "; needed: "
		} else {
			line += "; or: "
		}
		line += strings.Join(kinds, " and ")
	}
	return clean(line)
}

func fateText(w report.Why, r report.Rule) string {
	text := "matches"
	if !r.Matched {
		text = "does not: " + r.Miss
	}
	if len(r.Via) > 0 {
		text += fmt.Sprintf("; %s is in %s", w.User, strings.Join(r.Via, " > "))
	}
	if len(r.HostVia) > 0 {
		text += fmt.Sprintf("; %s is in %s", w.Target, strings.Join(r.HostVia, " > "))
	}
	return text
}

func askedText(w report.Why) string {
	proofs := "no proof"
	if len(w.Proofs) > 0 {
		proofs = "proofs: " + strings.Join(w.Proofs, ", ")
	}
	from := "from anywhere"
	if w.From != "" {
		from = "from " + w.From
	}
	for _, r := range w.Recent {
		proofs += fmt.Sprintf(", and %s %s ago", r.Proof, ageText(r.AgeSeconds))
	}
	return fmt.Sprintf("%s, %s, at %s", from, proofs, whenText(w.At))
}

// whenText shortens RFC 3339 for people.
func whenText(s string) string {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return s
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// ageText is a number of seconds in two units at most.
func ageText(s int64) string {
	switch {
	case s < 120:
		return fmt.Sprintf("%d s", s)
	case s < 2*3600:
		return fmt.Sprintf("%d min", s/60)
	case s < 48*3600:
		return twoUnits(s/3600, "h", s%3600/60, "min")
	}
	return twoUnits(s/86400, "d", s%86400/3600, "h")
}

func twoUnits(n int64, unit string, rest int64, small string) string {
	if rest == 0 {
		return fmt.Sprintf("%d %s", n, unit)
	}
	return fmt.Sprintf("%d %s %d %s", n, unit, rest, small)
}
