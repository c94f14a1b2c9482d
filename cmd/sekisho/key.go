package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/admin"
)

func (a *app) keyCommand() *cobra.Command {
	c := noun("key", "SSH keys of a user; everybody may change his own")
	c.AddCommand(a.keyAdd(), a.keyRemove(), a.keyList())
	return c
}

func (a *app) keyAdd() *cobra.Command {
	c := &cobra.Command{
		Use: "add USER [FILE]", Short: "Add SSH public keys to a user", Args: takes(1, 2, "a user name and a file"),
		Long: `Add the keys in FILE, or from standard input, to a user. Each line is one of
authorized_keys(5): options are kept, and can only narrow what the rules give. A
key that is not good enough is refused, and then none is added; one that the user
has already stays as it is.`,
		Example: `  sekisho key add alice ~/.ssh/id_ed25519.pub
  ssh-add -L | sekisho key add alice`,
		RunE: func(c *cobra.Command, args []string) error {
			file := "-"
			if len(args) == 2 {
				file = args[1]
			}
			if file == "-" && a.passwordFile == "-" {
				return usagef("standard input cannot be both the password and the keys")
			}
			lines, err := a.readKeyLines(file)
			if err != nil {
				return err
			}
			if err := a.checkKeys(lines); err != nil {
				return err
			}
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				added, err := d.AddKeys(ctx, args[0], lines)
				if err != nil {
					return err
				}
				if a.json {
					if added == nil {
						added = []admin.Key{}
					}
					return a.printJSON(added)
				}
				for _, k := range added {
					a.say("added %s %s %s", k.Type, k.ID, k.Comment)
				}
				if n := len(lines) - len(added); n > 0 {
					a.say("%s there already", count(n, "key"))
				}
				return nil
			})
		},
	}
	a.complete(c, "user")
	return c
}

func (a *app) keyRemove() *cobra.Command {
	c := &cobra.Command{
		Use: "rm USER FINGERPRINT|COMMENT", Short: "Remove an SSH key of a user", Args: takes(2, 2, "a user name, and a fingerprint or comment"),
		Long:    "Remove a key, named by its fingerprint or by its comment when no other key has\nthat comment.",
		Example: "  sekisho key rm alice SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDbv4o1eP5vQyIdGJ0\n  sekisho key rm alice alice@laptop",
		RunE: func(c *cobra.Command, args []string) error {
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				k, err := d.RemoveKey(ctx, args[0], args[1])
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(k)
				}
				a.say("removed %s %s %s", k.Type, k.ID, k.Comment)
				return nil
			})
		},
	}
	a.complete(c, "user", "key")
	return c
}

func (a *app) keyList() *cobra.Command {
	c := &cobra.Command{
		Use: "ls USER", Short: "List a user's SSH keys", Args: takes(1, 1, "a user name"),
		Example: "  sekisho key ls alice\n  sekisho key ls alice --json",
		RunE: func(c *cobra.Command, args []string) error {
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				ks, err := d.Keys(ctx, args[0])
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(ks)
				}
				var rows [][]string
				for _, k := range ks {
					rows = append(rows, []string{k.ID, k.Type, bitsText(k.Bits), k.Comment, keyNote(k)})
				}
				return a.table([]string{"KEY", "TYPE", "BITS", "COMMENT", "OPTIONS"}, rows)
			})
		},
	}
	a.complete(c, "user")
	return c
}

func bitsText(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func keyNote(k admin.Key) string {
	if k.Fault != "" {
		return "NOT USED: " + k.Fault
	}
	return k.Options
}
