package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/admin"
)

func (a *app) serviceCommand() *cobra.Command {
	c := noun("service", "Accounts that other machines' sekishod reads the embedded realm with")
	c.AddCommand(a.serviceAdd(), a.serviceRemove(), a.serviceList())
	return c
}

// serviceWork is work, on an embedded realm only: elsewhere the site's own
// access rules say what such an account may read.
func (a *app) serviceWork(c *cobra.Command, f func(context.Context, *admin.Directory) error) error {
	return a.work(c, func(ctx context.Context, d *admin.Directory) error {
		if !a.cfg.Embedded() {
			return refusedError{fmt.Errorf("service accounts of a directory of your own are made with its own tools: see docs/directory.md")}
		}
		return f(ctx, d)
	})
}

func (a *app) serviceAdd() *cobra.Command {
	var s admin.Service
	var file string
	c := &cobra.Command{
		Use: "add NAME --secret-file FILE", Short: "Add an account for another machine's sekishod", Args: takes(1, 1, "a name"),
		Long: `Add an account under ou=services, which reads what is not secret and writes
nothing. Its random password is written to a new file that only you can read;
carry it to the other machine as directory.password_file, and delete it here.`,
		Example: "  sekisho service add web1 --secret-file /root/web1.secret",
		RunE: func(c *cobra.Command, args []string) error {
			if file == "" {
				return usagef("say where the password is to be written: --secret-file FILE")
			}
			s.Name = args[0]
			return a.serviceWork(c, func(ctx context.Context, d *admin.Directory) (err error) {
				wrote := false
				defer func() {
					if err != nil && wrote {
						os.Remove(file)
					}
				}()
				err = d.AddService(ctx, s, func(password string) error {
					f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
					if err != nil {
						return fmt.Errorf("writing the password: %w", err)
					}
					wrote = true
					if _, err := f.WriteString(password + "\n"); err != nil {
						f.Close()
						return fmt.Errorf("writing the password: %w", err)
					}
					return f.Close()
				})
				if err != nil {
					return err
				}
				a.say("service %s added; its password is in %s", s.Name, file)
				return nil
			})
		},
	}
	c.Flags().StringVar(&file, "secret-file", "", "new file for the password, mode 0600")
	c.Flags().StringVar(&s.Description, "description", "", "what it is for")
	return c
}

func (a *app) serviceRemove() *cobra.Command {
	c := &cobra.Command{
		Use: "rm NAME", Short: "Remove such an account", Args: takes(1, 1, "a name"),
		Long:    "Remove an account. A sekishod that is signed in with it stays so until its\nconnection ends, and cannot sign in again.",
		Example: "  sekisho service rm web1",
		RunE: func(c *cobra.Command, args []string) error {
			return a.serviceWork(c, func(ctx context.Context, d *admin.Directory) error {
				if err := d.RemoveService(ctx, args[0]); err != nil {
					return err
				}
				a.say("service %s removed", args[0])
				return nil
			})
		},
	}
	a.complete(c, "service")
	return c
}

func (a *app) serviceList() *cobra.Command {
	return &cobra.Command{
		Use: "ls [PATTERN]", Short: "List such accounts", Args: takes(0, 1, "at most one pattern"),
		Example: "  sekisho service ls",
		RunE: func(c *cobra.Command, args []string) error {
			return a.serviceWork(c, func(ctx context.Context, d *admin.Directory) error {
				list, err := d.Services(ctx, first(args))
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(list)
				}
				var rows [][]string
				for _, s := range list {
					rows = append(rows, []string{s.Name, s.DN, s.Description})
				}
				return a.table([]string{"SERVICE", "DN", "DESCRIPTION"}, rows)
			})
		},
	}
}
