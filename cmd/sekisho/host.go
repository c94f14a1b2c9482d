package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/admin"
)

func (a *app) hostCommand() *cobra.Command {
	c := noun("host", "Hosts: the machines that people enter")
	c.AddCommand(a.hostAdd(), a.hostSet(), a.hostRemove(), a.hostShow(), a.hostList(), a.hostKeytab(),
		a.hostBundle(), a.hostEnrol())
	return c
}

func (a *app) hostAdd() *cobra.Command {
	var h admin.Host
	c := &cobra.Command{
		Use: "add NAME", Short: "Add a host", Args: takes(1, 1, "a host name"),
		Long: "Add a host. Rules reach it as host:NAME by any of its names, which must hold what\nits own sekishod calls itself (host in its configuration).",
		Example: `  sekisho host add web1.example.org --alias web1 --addr 203.0.113.10
  sekisho host add db1.example.org --addr 203.0.113.11 --addr 2001:db8::11`,
		RunE: func(c *cobra.Command, args []string) error {
			h.Name = strings.ToLower(args[0])
			if len(h.Addresses) == 0 {
				return usagef("a host has an address: give it with --addr")
			}
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				if err := d.AddHost(ctx, h); err != nil {
					return err
				}
				if a.json {
					return a.showHost(ctx, d, h.Name)
				}
				a.say("host %s added", h.Name)
				return nil
			})
		},
	}
	f := c.Flags()
	f.StringArrayVar(&h.Aliases, "alias", nil, "another name of it; may be given again")
	f.StringArrayVar(&h.Addresses, "addr", nil, "IP address; may be given again")
	f.StringVar(&h.Description, "description", "", "what it is for")
	return c
}

func (a *app) hostSet() *cobra.Command {
	var aliases, addrs []string
	var description string
	c := &cobra.Command{
		Use: "set NAME", Short: "Change a host", Args: takes(1, 1, "a host name"),
		Long: "Change a host. --alias and --addr take the place of all that were there.",
		Example: `  sekisho host set web1.example.org --addr 203.0.113.20
  sekisho host set web1.example.org --alias web1 --alias www`,
		RunE: func(c *cobra.Command, args []string) error {
			var ch admin.HostChange
			if c.Flags().Changed("alias") {
				ch.Aliases = new([]string)
				*ch.Aliases = without(aliases, "")
			}
			if c.Flags().Changed("addr") {
				ch.Addresses = new([]string)
				*ch.Addresses = without(addrs, "")
			}
			if c.Flags().Changed("description") {
				ch.Description = &description
			}
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				name, err := d.SetHost(ctx, strings.ToLower(args[0]), ch)
				if err != nil {
					return err
				}
				return a.showHost(ctx, d, name)
			})
		},
	}
	f := c.Flags()
	f.StringArrayVar(&aliases, "alias", nil, "other names of it, empty for none")
	f.StringArrayVar(&addrs, "addr", nil, "IP addresses")
	f.StringVar(&description, "description", "", "what it is for; empty for nothing")
	a.complete(c, "host")
	return c
}

// without drops a value, so that --flag "" clears a list.
func without(list []string, what string) []string {
	out := []string{}
	for _, s := range list {
		if s != what {
			out = append(out, s)
		}
	}
	return out
}

func (a *app) hostRemove() *cobra.Command {
	c := &cobra.Command{
		Use: "rm NAME", Short: "Remove a host", Args: takes(1, 1, "a host name"),
		Example: "  sekisho host rm web1.example.org",
		RunE: func(c *cobra.Command, args []string) error {
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				if err := d.RemoveHost(ctx, strings.ToLower(args[0])); err != nil {
					return err
				}
				a.say("host %s removed", args[0])
				return nil
			})
		},
	}
	a.complete(c, "host")
	return c
}

func (a *app) hostShow() *cobra.Command {
	c := &cobra.Command{
		Use: "show NAME", Short: "Show a host", Args: takes(1, 1, "a host name"),
		Example: "  sekisho host show web1",
		RunE: func(c *cobra.Command, args []string) error {
			return a.work(c, func(ctx context.Context, d *admin.Directory) error { return a.showHost(ctx, d, args[0]) })
		},
	}
	a.complete(c, "host")
	return c
}

func (a *app) showHost(ctx context.Context, d *admin.Directory, name string) error {
	h, err := d.Host(ctx, name)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(h)
	}
	return a.card([][2]string{{"host", h.Name}, {"aliases", list(h.Aliases)}, {"addresses", list(h.Addresses)},
		{"description", h.Description}, {"groups", list(h.Groups)}, {"dn", h.DN}})
}

func (a *app) hostList() *cobra.Command {
	c := &cobra.Command{
		Use: "ls [PATTERN]", Short: "List hosts", Args: takes(0, 1, "at most one pattern"),
		Example: "  sekisho host ls\n  sekisho host ls 'web*'",
		RunE: func(c *cobra.Command, args []string) error {
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				hs, err := d.Hosts(ctx, first(args))
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(hs)
				}
				var rows [][]string
				for _, h := range hs {
					rows = append(rows, []string{h.Name, list(h.Addresses), list(h.Aliases), h.Description})
				}
				return a.table([]string{"HOST", "ADDRESSES", "ALIASES", "DESCRIPTION"}, rows)
			})
		},
	}
	a.complete(c, "host")
	return c
}
