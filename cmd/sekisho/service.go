package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/admin"
)

func (a *app) serviceCommand() *cobra.Command {
	c := noun("service", "Accounts that other hosts' sekishod read the embedded realm with")
	c.AddCommand(a.serviceAdd(), a.serviceSet(), a.serviceRemove(), a.serviceList())
	return c
}

// secretFile writes a new secret to a file that was not there, for its owner
// alone; - is standard output. done keeps it, or takes it away again.
func (a *app) secretFile(path string) (secret string, done func(bool), err error) {
	secret = admin.NewSecret()
	if path == "-" {
		return secret, func(keep bool) {
			if keep {
				fmt.Fprintln(a.out, secret)
			}
		}, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return "", nil, usagef("%s is there already: name another file, or remove it", path)
	}
	if err != nil {
		return "", nil, usageError{err}
	}
	_, err = f.WriteString(secret + "\n")
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(path)
		return "", nil, fmt.Errorf("writing the secret: %w", err)
	}
	return secret, func(keep bool) {
		if !keep {
			os.Remove(path)
		}
	}, nil
}

// withSecret makes a secret, and keeps it if f could set it.
func (a *app) withSecret(c *cobra.Command, path string, f func(context.Context, *admin.Directory, string) error) error {
	if path == "" {
		return usagef("say where the secret goes: --secret-file FILE, or - for standard output")
	}
	return a.work(c, func(ctx context.Context, d *admin.Directory) error {
		secret, done, err := a.secretFile(path)
		if err != nil {
			return err
		}
		err = f(ctx, d, secret)
		done(err == nil)
		return err
	})
}

func (a *app) serviceAdd() *cobra.Command {
	var path, description string
	c := &cobra.Command{
		Use: "add NAME", Short: "Add a service account", Args: takes(1, 1, "a service name"),
		Long: `Add an account for another host's sekishod. It reads what is not secret, and writes
nothing. Its secret is made here and written to a new file that only its owner can
read: take that to the host as directory.password_file.`,
		Example: "  sekisho service add web1 --secret-file /root/web1.secret",
		RunE: func(c *cobra.Command, args []string) error {
			return a.withSecret(c, path, func(ctx context.Context, d *admin.Directory, secret string) error {
				if err := d.AddService(ctx, args[0], description, secret); err != nil {
					return err
				}
				if path != "-" {
					a.say("service %s added; its secret is in %s", args[0], path)
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&path, "secret-file", "", "file to write the secret to, - for standard output")
	c.Flags().StringVar(&description, "description", "", "what it is for")
	return c
}

func (a *app) serviceSet() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use: "set NAME", Short: "Give a service account a new secret", Args: takes(1, 1, "a service name"),
		Long:    "Give a service account a new secret. The old one is of no use from then on: the\nhost goes on from its snapshot until it has the new one and is restarted.",
		Example: "  sekisho service set web1 --secret-file /root/web1.secret.new",
		RunE: func(c *cobra.Command, args []string) error {
			return a.withSecret(c, path, func(ctx context.Context, d *admin.Directory, secret string) error {
				if err := d.SetService(ctx, args[0], secret); err != nil {
					return err
				}
				if path != "-" {
					a.say("service %s has a new secret, in %s", args[0], path)
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&path, "secret-file", "", "file to write the secret to, - for standard output")
	a.complete(c, "service")
	return c
}

func (a *app) serviceRemove() *cobra.Command {
	c := &cobra.Command{
		Use: "rm NAME", Short: "Remove a service account", Args: takes(1, 1, "a service name"),
		Example: "  sekisho service rm web1",
		RunE: func(c *cobra.Command, args []string) error {
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
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
		Use: "ls", Short: "List service accounts", Args: noArgs,
		Example: "  sekisho service ls\n  sekisho service ls --json",
		RunE: func(c *cobra.Command, _ []string) error {
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				ss, err := d.Services(ctx)
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(ss)
				}
				var rows [][]string
				for _, s := range ss {
					rows = append(rows, []string{s.Name, s.Description})
				}
				return a.table([]string{"SERVICE", "DESCRIPTION"}, rows)
			})
		},
	}
}
