package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/admin"
)

func (a *app) ruleCommand() *cobra.Command {
	c := noun("rule", "Rules: who may enter what, through which door")
	c.AddCommand(a.ruleAdd(), a.ruleSet(), a.ruleRemove(), a.ruleShow(), a.ruleList())
	return c
}

// ruleFlags are the options of add and set. apply puts those that were given
// into a rule.
func (a *app) ruleFlags(c *cobra.Command) (apply func(*admin.Rule) error) {
	var r admin.Rule
	f := c.Flags()
	lists := []struct {
		flag, help string
		v          *[]string
		to         func(*admin.Rule) *[]string
	}{
		{"subject", "user:NAME, group:NAME or *", &r.Subject, func(r *admin.Rule) *[]string { return &r.Subject }},
		{"door", "keys, another door's name, a glob or *", &r.Door, func(r *admin.Rule) *[]string { return &r.Door }},
		{"target", "host:NAME (a glob), hostgroup:NAME, net:CIDR or *", &r.Target, func(r *admin.Rule) *[]string { return &r.Target }},
		{"login", "account on the target, a glob, or self (default: self)", &r.Login, func(r *admin.Rule) *[]string { return &r.Login }},
		{"from", "the caller's network (default: anywhere)", &r.From, func(r *admin.Rule) *[]string { return &r.From }},
		{"time", "hours, as \"Mon-Fri 08:00-18:00 Europe/Berlin\" (default: always)", &r.Time, func(r *admin.Rule) *[]string { return &r.Time }},
		{"proof", "a proof that is needed: key, certificate, password, ticket, otp; a|b is either; otp<12h: a code shown from the same address in the last 12 hours will do", &r.Proof, func(r *admin.Rule) *[]string { return &r.Proof }},
		{"permit", "what the session may do (default: pty and user-rc); see docs/rules.md", &r.Permit, func(r *admin.Rule) *[]string { return &r.Permit }},
	}
	for _, l := range lists {
		f.StringArrayVar(l.v, l.flag, nil, l.help)
	}
	var notBefore, expires, maxAge, enabled, description string
	f.StringVar(&notBefore, "not-before", "", "it counts from then on: 2030-12-31 or 2030-12-31T18:00:00Z")
	f.StringVar(&expires, "expires", "", "it counts until then")
	f.StringVar(&maxAge, "max-age", "", "oldest snapshot it may be judged on, as 12h")
	f.StringVar(&enabled, "enabled", "", "true, or false to switch it off")
	f.StringVar(&description, "description", "", "what it is for")
	a.completeRule(c)
	return func(to *admin.Rule) error {
		for _, l := range lists {
			if f.Changed(l.flag) {
				*l.to(to) = without(*l.v, "")
			}
		}
		for _, t := range []struct {
			flag, v string
			to      *string
		}{{"not-before", notBefore, &to.NotBefore}, {"expires", expires, &to.Expires}} {
			if !f.Changed(t.flag) {
				continue
			}
			s, err := parseMoment(t.flag, t.v)
			if err != nil {
				return err
			}
			*t.to = s
		}
		if f.Changed("max-age") {
			to.MaxAge = maxAge
		}
		if f.Changed("enabled") {
			to.Enabled = strings.ToUpper(enabled)
		}
		if f.Changed("description") {
			to.Description = description
		}
		return nil
	}
}

// parseMoment reads a day (its beginning in UTC) or a time, and prints it as
// the directory has it (RFC 4517 §3.3.13). Empty and "never" clear it.
func parseMoment(flag, s string) (string, error) {
	if s == "" || s == "never" {
		return "", nil
	}
	for _, layout := range []string{"2006-01-02", time.RFC3339, "20060102150405Z"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC().Format("20060102150405Z"), nil
		}
	}
	return "", usagef("--%s %q: write a day as 2030-12-31, or a time as 2030-12-31T18:00:00Z", flag, s)
}

func (a *app) ruleAdd() *cobra.Command {
	c := &cobra.Command{
		Use: "add NAME", Short: "Add a rule", Args: takes(1, 1, "a rule name"),
		Long: `Add a rule. It lets any of the subjects through any of the doors to any of the
targets. Rules only allow: nothing that no rule allows is open. A rule that the
broker would not read is not written. Options may be given again for more values.`,
		Example: `  sekisho rule add web-admins --subject group:web-team --door keys --target hostgroup:production
  sekisho rule add deploy --subject user:ci --door keys --target host:web1 --login deploy \
      --from 198.51.100.0/24 --permit "command:/usr/local/bin/deploy"
  sekisho rule add holidays --subject user:alice --door keys --target '*' --expires 2030-01-07`,
	}
	apply := a.ruleFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		r := admin.Rule{Name: args[0]}
		if err := apply(&r); err != nil {
			return err
		}
		for _, need := range []struct {
			flag string
			v    []string
		}{{"subject", r.Subject}, {"door", r.Door}, {"target", r.Target}} {
			if len(need.v) == 0 {
				return usagef("a rule says who, through which door and to what: --%s is missing", need.flag)
			}
		}
		return a.work(c, func(ctx context.Context, d *admin.Directory) error {
			if err := d.AddRule(ctx, r); err != nil {
				return err
			}
			a.noteUnknown(ctx, d, r)
			if a.json {
				return a.showRule(ctx, d, r.Name)
			}
			a.say("rule %s added", r.Name)
			return nil
		})
	}
	return c
}

// noteUnknown tells of names in a rule that nothing has yet.
func (a *app) noteUnknown(ctx context.Context, d *admin.Directory, r admin.Rule) {
	for _, v := range append(append([]string{}, r.Subject...), r.Target...) {
		what, name, ok := strings.Cut(v, ":")
		if !ok || what == "net" || strings.ContainsAny(name, "*?[") {
			continue
		}
		if known, err := d.Known(ctx, what, name); err == nil && !known {
			fmt.Fprintln(a.err, clean(fmt.Sprintf("sekisho: note: there is no %s %s yet", what, name)))
		}
	}
}

func (a *app) ruleSet() *cobra.Command {
	c := &cobra.Command{
		Use: "set NAME", Short: "Change a rule", Args: takes(1, 1, "a rule name"),
		Long: "Change a rule. Each option takes the place of all values that were there; an empty\nvalue clears it.",
		Example: `  sekisho rule set web-admins --subject group:web-team --subject user:carol
  sekisho rule set web-admins --from ""
  sekisho rule set web-admins --enabled false`,
	}
	apply := a.ruleFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := apply(new(admin.Rule)); err != nil {
			return err
		}
		return a.work(c, func(ctx context.Context, d *admin.Directory) error {
			var changed admin.Rule
			if err := d.SetRule(ctx, args[0], func(r *admin.Rule) {
				apply(r) // it went well above
				changed = *r
			}); err != nil {
				return err
			}
			a.noteUnknown(ctx, d, changed)
			return a.showRule(ctx, d, args[0])
		})
	}
	a.complete(c, "rule")
	return c
}

func (a *app) ruleRemove() *cobra.Command {
	c := &cobra.Command{
		Use: "rm NAME", Short: "Remove a rule", Args: takes(1, 1, "a rule name"),
		Example: "  sekisho rule rm holidays",
		RunE: func(c *cobra.Command, args []string) error {
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				if err := d.RemoveRule(ctx, args[0]); err != nil {
					return err
				}
				a.say("rule %s removed", args[0])
				return nil
			})
		},
	}
	a.complete(c, "rule")
	return c
}

func (a *app) ruleShow() *cobra.Command {
	c := &cobra.Command{
		Use: "show NAME", Short: "Show a rule", Args: takes(1, 1, "a rule name"),
		Example: "  sekisho rule show web-admins",
		RunE: func(c *cobra.Command, args []string) error {
			return a.work(c, func(ctx context.Context, d *admin.Directory) error { return a.showRule(ctx, d, args[0]) })
		},
	}
	a.complete(c, "rule")
	return c
}

func (a *app) showRule(ctx context.Context, d *admin.Directory, name string) error {
	r, err := d.Rule(ctx, name)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(r)
	}
	state := "in use"
	switch {
	case r.Fault != "":
		state = "NOT USED: " + r.Fault
	case strings.EqualFold(r.Enabled, "FALSE"):
		state = "switched off"
	}
	return a.card([][2]string{
		{"rule", r.Name}, {"state", state}, {"description", r.Description}, {"subject", list(r.Subject)}, {"door", list(r.Door)},
		{"target", list(r.Target)}, {"login", list(r.Login)}, {"from", list(r.From)}, {"time", strings.Join(r.Time, "; ")},
		{"proof", list(r.Proof)}, {"permit", list(r.Permit)}, {"not before", r.NotBefore}, {"expires", r.Expires},
		{"max age", r.MaxAge}, {"dn", r.DN},
	})
}

func (a *app) ruleList() *cobra.Command {
	c := &cobra.Command{
		Use: "ls [PATTERN]", Short: "List rules", Args: takes(0, 1, "at most one pattern"),
		Example: "  sekisho rule ls\n  sekisho rule ls --json",
		RunE: func(c *cobra.Command, args []string) error {
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				rs, err := d.Rules(ctx, first(args))
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(rs)
				}
				var rows [][]string
				for _, r := range rs {
					state := "on"
					switch {
					case r.Fault != "":
						state = "UNREADABLE"
					case strings.EqualFold(r.Enabled, "FALSE"):
						state = "off"
					}
					login := list(r.Login)
					if login == "" {
						login = "self"
					}
					rows = append(rows, []string{r.Name, state, list(r.Subject), list(r.Door), list(r.Target), login, conditions(r)})
				}
				return a.table([]string{"RULE", "STATE", "SUBJECT", "DOOR", "TARGET", "LOGIN", "CONDITIONS"}, rows)
			})
		},
	}
	a.complete(c, "rule")
	return c
}

// conditions sums up a rule's conditions for the table.
func conditions(r admin.Rule) string {
	var out []string
	if len(r.From) > 0 {
		out = append(out, "from "+list(r.From))
	}
	if len(r.Time) > 0 {
		out = append(out, strings.Join(r.Time, "; "))
	}
	if len(r.Proof) > 0 {
		out = append(out, "needs "+strings.Join(r.Proof, " and "))
	}
	if r.NotBefore != "" {
		out = append(out, "from "+r.NotBefore)
	}
	if r.Expires != "" {
		out = append(out, "until "+r.Expires)
	}
	if r.MaxAge != "" {
		out = append(out, "snapshot under "+r.MaxAge)
	}
	return strings.Join(out, ", ")
}
