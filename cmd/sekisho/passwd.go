package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/admin"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/wire"
)

func (a *app) passwdCommand() *cobra.Command {
	var stdin bool
	c := &cobra.Command{
		Use: "passwd [USER]", Short: "Change a password", Args: takes(0, 1, "at most one user name"),
		Long: `Change your own password, or as root anybody's. The directory's password and the
Kerberos keys change together. It works on the machine of an embedded realm; where
the directory is somebody else's, use its own tools (ldappasswd, kpasswd).

With --password-stdin the passwords are lines of standard input: the new one, and
for your own password the old one before it.`,
		Example: `  sekisho passwd
  sekisho passwd alice
  pwgen 16 1 | sekisho passwd alice --password-stdin`,
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			if !cfg.Embedded() {
				return refusedError{errors.New("this directory is not run by sekishod: change passwords with its own tools (ldappasswd, kpasswd)")}
			}
			if os.Geteuid() == 0 {
				if len(args) == 0 {
					return usagef("root has no password in the directory: say whose")
				}
				return a.setPassword(c, args[0], stdin)
			}
			who, err := callerName()
			if err != nil {
				return err
			}
			if len(args) == 1 && args[0] != who {
				return refusedError{errors.New("only root changes the password of another user")}
			}
			return a.changePassword(c.Context(), who, stdin)
		},
	}
	c.Flags().BoolVar(&stdin, "password-stdin", false, "read the passwords from standard input")
	a.complete(c, "user")
	return c
}

func (a *app) secret(stdin bool, ask func() (string, error)) (string, error) {
	if stdin {
		return a.secretFromStdin()
	}
	return ask()
}

// setPassword is root's way: the directory's administrator writes it.
func (a *app) setPassword(c *cobra.Command, user string, stdin bool) error {
	return a.work(c, func(ctx context.Context, d *admin.Directory) error {
		if _, err := d.User(ctx, user); err != nil {
			return err
		}
		pw, err := a.secret(stdin, func() (string, error) { return a.askNewSecret(user) })
		if err != nil {
			return err
		}
		if pw == "" {
			return usagef("a password cannot be empty: to shut the account, use sekisho user set %s --lock", user)
		}
		if err := d.SetPassword(ctx, user, pw); err != nil {
			return err
		}
		a.say("password of %s set", user)
		return nil
	})
}

// changePassword is everybody's way: sekishod does it, since the Kerberos keys
// need the realm's master key.
func (a *app) changePassword(ctx context.Context, user string, stdin bool) error {
	old, err := a.secret(stdin, func() (string, error) { return a.askSecret("Old password of " + user + ": ") })
	if err != nil {
		return err
	}
	pw, err := a.secret(stdin, func() (string, error) { return a.askNewSecret(user) })
	if err != nil {
		return err
	}
	ans, err := a.ask(ctx, wire.Request{Verb: report.VerbPasswd, Fields: []wire.Field{
		{Name: wire.FieldUser, Value: user}, {Name: report.FieldOld, Value: old}, {Name: report.FieldNew, Value: pw}}})
	if err != nil {
		return err
	}
	if ans.Outcome != wire.Yes {
		return refusedError{errors.New(ans.Text)}
	}
	a.say("password of %s changed", user)
	return nil
}
