package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/admin"
)

func (a *app) groupCommand() *cobra.Command {
	c := noun("group", "Groups of users, groups and hosts, nested to any depth")
	c.AddCommand(a.groupAdd(), a.groupSet(), a.groupRemove(), a.groupShow(), a.groupList())
	return c
}

// memberFlags are the options that name members.
func (a *app) memberFlags(c *cobra.Command, m *admin.Members, prefix, what string) {
	f := c.Flags()
	f.StringArrayVar(&m.Users, prefix, nil, "user to "+what+"; may be given again")
	f.StringArrayVar(&m.Groups, prefix+"-group", nil, "group to "+what)
	f.StringArrayVar(&m.Hosts, prefix+"-host", nil, "host to "+what)
	a.completeFlag(c, prefix, "user")
	a.completeFlag(c, prefix+"-group", "group")
	a.completeFlag(c, prefix+"-host", "host")
}

func (a *app) groupAdd() *cobra.Command {
	var m admin.Members
	var description string
	var gid uint32
	var plain bool
	c := &cobra.Command{
		Use: "add NAME", Short: "Add a group", Args: takes(1, 1, "a group name"),
		Long: "Add a group. It has a number, and is a group of the hosts' systems, unless\n--no-gid says otherwise: a group of hosts needs none.",
		Example: `  sekisho group add web-team --add alice --add-group interns
  sekisho group add production --no-gid --add-host web1.example.org`,
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("gid") && gid == 0 {
				return usagef("--gid 0 is root's: give another number")
			}
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				n, err := d.AddGroup(ctx, args[0], description, !plain, gid, m)
				if err != nil {
					return err
				}
				if a.json {
					return a.showGroup(ctx, d, args[0])
				}
				if plain {
					a.say("group %s added", args[0])
				} else {
					a.say("group %s added: gid %d", args[0], n)
				}
				return nil
			})
		},
	}
	a.memberFlags(c, &m, "add", "put into it")
	f := c.Flags()
	f.StringVar(&description, "description", "", "what it is for")
	f.Uint32Var(&gid, "gid", 0, "gid number (default: the next free one)")
	f.BoolVar(&plain, "no-gid", false, "no number: for rules only")
	c.MarkFlagsMutuallyExclusive("gid", "no-gid")
	return c
}

func (a *app) groupSet() *cobra.Command {
	var ch admin.GroupChange
	var description string
	var gid uint32
	c := &cobra.Command{
		Use: "set NAME", Short: "Change a group and its members", Args: takes(1, 1, "a group name"),
		Example: `  sekisho group set web-team --add bob --remove alice
  sekisho group set ops --add-group web-team
  sekisho group set production --add-host db1.example.org`,
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("description") {
				ch.Description = &description
			}
			if c.Flags().Changed("gid") {
				if gid == 0 {
					return usagef("--gid 0 is root's: give another number")
				}
				ch.GID = &gid
			}
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				came, went, err := d.SetGroup(ctx, args[0], ch)
				if err != nil {
					return err
				}
				if a.json {
					return a.showGroup(ctx, d, args[0])
				}
				a.say("group %s: %s added, %d removed", args[0], count(came, "member"), went)
				return nil
			})
		},
	}
	a.memberFlags(c, &ch.Add, "add", "put into it")
	a.memberFlags(c, &ch.Remove, "remove", "take out of it")
	f := c.Flags()
	f.StringVar(&description, "description", "", "what it is for; empty for nothing")
	f.Uint32Var(&gid, "gid", 0, "gid number")
	a.complete(c, "group")
	return c
}

func (a *app) groupRemove() *cobra.Command {
	c := &cobra.Command{
		Use: "rm NAME", Short: "Remove a group", Args: takes(1, 1, "a group name"),
		Long:    "Remove a group. Its members stay; rules that name it let nobody in by it. A\ngroup that is a user's primary one is not removed.",
		Example: "  sekisho group rm interns",
		RunE: func(c *cobra.Command, args []string) error {
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				if err := d.RemoveGroup(ctx, args[0]); err != nil {
					return err
				}
				a.say("group %s removed", args[0])
				return nil
			})
		},
	}
	a.complete(c, "group")
	return c
}

func (a *app) groupShow() *cobra.Command {
	c := &cobra.Command{
		Use: "show NAME", Short: "Show a group and its direct members", Args: takes(1, 1, "a group name"),
		Example: "  sekisho group show web-team",
		RunE: func(c *cobra.Command, args []string) error {
			return a.work(c, func(ctx context.Context, d *admin.Directory) error { return a.showGroup(ctx, d, args[0]) })
		},
	}
	a.complete(c, "group")
	return c
}

func (a *app) showGroup(ctx context.Context, d *admin.Directory, name string) error {
	g, err := d.Group(ctx, name)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(g)
	}
	return a.card([][2]string{
		{"group", g.Name}, {"gid", gidText(g.GID)}, {"description", g.Description}, {"users", list(g.Users)},
		{"groups", list(g.Groups)}, {"hosts", list(g.Hosts)}, {"others", list(g.Others)}, {"dn", g.DN},
	})
}

func gidText(gid uint32) string {
	if gid == 0 {
		return "none"
	}
	return fmt.Sprint(gid)
}

func (a *app) groupList() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "ls [PATTERN]", Short: "List groups", Args: takes(0, 1, "at most one pattern"),
		Long:    "List groups; those of one user's own only with --all.",
		Example: "  sekisho group ls\n  sekisho group ls 'web*' --json",
		RunE: func(c *cobra.Command, args []string) error {
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				gs, err := d.Groups(ctx, first(args))
				if err != nil {
					return err
				}
				shown := []admin.Group{}
				for _, g := range gs {
					if all || !g.OwnGroup() {
						shown = append(shown, g)
					}
				}
				if a.json {
					return a.printJSON(shown)
				}
				var rows [][]string
				for _, g := range shown {
					rows = append(rows, []string{g.Name, gidText(g.GID), fmt.Sprint(len(g.Users)), fmt.Sprint(len(g.Groups)),
						fmt.Sprint(len(g.Hosts)), g.Description})
				}
				return a.table([]string{"GROUP", "GID", "USERS", "GROUPS", "HOSTS", "DESCRIPTION"}, rows)
			})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "also the groups of one user's own")
	a.complete(c, "group")
	return c
}
