package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/admin"
)

func (a *app) userCommand() *cobra.Command {
	c := noun("user", "Users: add, set, show, list and remove them")
	c.AddCommand(a.userAdd(), a.userSet(), a.userRemove(), a.userShow(), a.userList())
	return c
}

// noun is a command that only holds others.
func noun(use, short string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
		c.Help()
		return usagef("say what to do: see sekisho %s --help", use)
	}}
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s: there is no %q here: see %s --help", c.CommandPath(), args[0], c.CommandPath())
	}
	return nil
}

// takes checks the number of arguments; names are those of the usage line.
func takes(least, most int, names string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usagef("%s takes %s: see %s --help", c.CommandPath(), names, c.CommandPath())
		}
		return nil
	}
}

// work runs f with a connection to the directory.
func (a *app) work(c *cobra.Command, f func(context.Context, *admin.Directory) error) error {
	d, client, err := a.connect(c.Context())
	if err != nil {
		return err
	}
	defer client.Close()
	return f(c.Context(), d)
}

func (a *app) userAdd() *cobra.Command {
	var u admin.NewUser
	var group string
	var keyFiles []string
	var stdin, none bool
	c := &cobra.Command{
		Use: "add NAME", Short: "Add a user", Args: takes(1, 1, "a user name"),
		Long: `Add a user: the account, SSH keys, the password and the Kerberos keys of that
password are one entry, written at once. Without --gid and --group he gets a
group of his own, of the same name and number.

Without a terminal and without --password-stdin the user has no password.`,
		Example: `  sekisho user add alice --name "Alice Example" --key ~/alice.pub
  sekisho user add backup --no-password --shell /usr/sbin/nologin
  pwgen 16 1 | sekisho user add bob --password-stdin`,
		RunE: func(c *cobra.Command, args []string) error {
			u.Name = args[0]
			if err := admin.CheckUserName(u.Name); err != nil {
				return err
			}
			for _, f := range keyFiles {
				lines, err := a.readKeyLines(f)
				if err != nil {
					return err
				}
				u.Keys = append(u.Keys, lines...)
			}
			if err := a.checkKeys(u.Keys); err != nil {
				return err
			}
			if c.Flags().Changed("uid") && u.UID == 0 || c.Flags().Changed("gid") && u.GID == 0 {
				return usagef("number 0 is root's: give another one")
			}
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				if stdin && !d.CanSetPasswords() {
					return refusedError{errors.New("a password cannot be set here: run as root on the machine of the embedded realm, or set it with the directory's own tools")}
				}
				var err error
				if u.Password, err = a.newPassword(u.Name, stdin, none || !d.CanSetPasswords()); err != nil {
					return err
				}
				if group != "" {
					g, err := d.Group(ctx, group)
					if err != nil {
						return err
					}
					if g.GID == 0 {
						return usagef("group %s has no number: give it one with sekisho group set %s --gid N", group, group)
					}
					u.GID = g.GID
				}
				if _, err := d.AddUser(ctx, u); err != nil {
					return err
				}
				return a.saidAdded(ctx, d, u)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&u.Common, "name", "", "the person's name (default: NAME)")
	f.StringVar(&u.Mail, "mail", "", "mail address")
	f.StringVar(&u.Home, "home", "", "home directory (default: /home/NAME)")
	f.StringVar(&u.Shell, "shell", "", "login shell (default: /bin/bash)")
	f.Uint32Var(&u.UID, "uid", 0, "uid number (default: the next free one)")
	f.Uint32Var(&u.GID, "gid", 0, "number of his primary group (default: a group of his own)")
	f.StringVar(&group, "group", "", "his primary group, by name")
	f.StringArrayVar(&keyFiles, "key", nil, "file with SSH public keys, - for standard input; may be given again")
	f.BoolVar(&stdin, "password-stdin", false, "read his password from the first line of standard input")
	f.BoolVar(&none, "no-password", false, "set no password, and do not ask for one")
	c.MarkFlagsMutuallyExclusive("password-stdin", "no-password")
	c.MarkFlagsMutuallyExclusive("gid", "group")
	a.complete(c, "group", "group")
	return c
}

// newPassword gets the password of a new user; empty for none.
func (a *app) newPassword(who string, stdin, none bool) (string, error) {
	switch {
	case stdin:
		return a.secretFromStdin()
	case none || !a.interactive():
		return "", nil
	}
	fmt.Fprintln(a.err, "Nothing and Enter: no password.")
	return a.askNewSecret(who)
}

func (a *app) saidAdded(ctx context.Context, d *admin.Directory, u admin.NewUser) error {
	made, err := d.User(ctx, u.Name)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(made)
	}
	a.say("user %s added: uid %d, gid %d, %s, %s", made.Name, made.UID, made.GID, count(made.Keys, "key"), map[bool]string{
		true: "no password", false: "a password"}[u.Password == ""])
	switch {
	case !d.CanSetPasswords():
		a.say("no password and no Kerberos principal were made: for that, run it as root on the machine of the embedded realm")
	case u.Password == "":
		a.say("set a password with: sekisho passwd %s", made.Name)
	}
	return nil
}

func (a *app) userSet() *cobra.Command {
	var common, mail, home, shell, expires string
	var uid, gid uint32
	var lock, unlock, mustChange bool
	var kdcOTP string
	c := &cobra.Command{
		Use: "set NAME", Short: "Change a user", Args: takes(1, 1, "a user name"),
		Long: `Change a user.

With --kdc-otp on the KDC of the embedded realm gives him tickets only for his
password with a one-time code right behind it, which takes an armour:
kinit -n -c FILE:armor, then kinit -T FILE:armor NAME. sekisho login and sign-ins by
password give him no ticket then. He needs a token first (sekisho otp enrol).`,
		Example: `  sekisho user set alice --kdc-otp on
  sekisho user set alice --lock
  sekisho user set alice --expires 2030-12-31
  sekisho user set alice --expires never --shell /bin/zsh
  sekisho user set alice --must-change`,
		RunE: func(c *cobra.Command, args []string) error {
			var ch admin.UserChange
			f := c.Flags()
			for _, t := range []struct {
				flag string
				v    *string
				to   **string
			}{{"name", &common, &ch.Common}, {"mail", &mail, &ch.Mail}, {"home", &home, &ch.Home}, {"shell", &shell, &ch.Shell}} {
				if f.Changed(t.flag) {
					*t.to = t.v
				}
			}
			for _, n := range []struct {
				flag string
				v    *uint32
				to   **uint32
			}{{"uid", &uid, &ch.UID}, {"gid", &gid, &ch.GID}} {
				if f.Changed(n.flag) {
					if *n.v == 0 {
						return usagef("--%s 0 is root's: give another number", n.flag)
					}
					*n.to = n.v
				}
			}
			if lock || unlock {
				ch.Lock = &lock
			}
			if f.Changed("must-change") {
				ch.MustChange = &mustChange
			}
			at := f.Changed("kdc-otp")
			if at && kdcOTP != "on" && kdcOTP != "off" {
				return usagef("--kdc-otp %q: write on or off", kdcOTP)
			}
			if f.Changed("expires") {
				t, err := parseDay(expires)
				if err != nil {
					return err
				}
				ch.Expires = &t
			}
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				if at {
					if err := d.SetCodesAtKDC(ctx, args[0], kdcOTP == "on"); err != nil {
						return err
					}
				}
				if !at || ch != (admin.UserChange{}) {
					if err := d.SetUser(ctx, args[0], ch); err != nil {
						return err
					}
				}
				return a.showUser(ctx, d, args[0])
			})
		},
	}
	f := c.Flags()
	f.StringVar(&common, "name", "", "the person's name")
	f.StringVar(&mail, "mail", "", "mail address; empty for none")
	f.StringVar(&home, "home", "", "home directory")
	f.StringVar(&shell, "shell", "", "login shell; /usr/sbin/nologin shuts the account")
	f.Uint32Var(&uid, "uid", 0, "uid number; his files keep the old one")
	f.Uint32Var(&gid, "gid", 0, "number of his primary group")
	f.BoolVar(&lock, "lock", false, "shut the account at every door")
	f.BoolVar(&unlock, "unlock", false, "open it again")
	f.StringVar(&expires, "expires", "", "the account is shut from this day on (2030-12-31, in UTC), or never")
	f.BoolVar(&mustChange, "must-change", false, "the password opens nothing but its own change (kinit, passwd) until then; =false takes it back")
	f.StringVar(&kdcOTP, "kdc-otp", "", "on: the KDC asks for a one-time code behind the password; or off")
	c.MarkFlagsMutuallyExclusive("lock", "unlock")
	a.complete(c, "user")
	return c
}

// parseDay reads the beginning of a day in UTC; the zero time for never.
func parseDay(s string) (time.Time, error) {
	if s == "never" {
		return time.Time{}, nil
	}
	t, err := time.Parse("2006-01-02", s)
	if err != nil || t.Year() < 1971 {
		return t, usagef("--expires %q: write a day as 2030-12-31, or never", s)
	}
	return t, nil
}

func (a *app) userRemove() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "rm NAME", Short: "Remove a user", Args: takes(1, 1, "a user name"),
		Long: "Remove a user, his keys and password, and the group of his own. His files stay\nwhere they are. To shut an account for a while, use user set --lock.",
		Example: `  sekisho user rm alice
  sekisho user rm alice --yes`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm(yes, "Remove the user "+args[0]+"?"); err != nil {
				return err
			}
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				group, err := d.RemoveUser(ctx, args[0])
				if err != nil {
					return err
				}
				if group {
					a.say("user %s and the group of his own removed", args[0])
				} else {
					a.say("user %s removed", args[0])
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	a.complete(c, "user")
	return c
}

func (a *app) userShow() *cobra.Command {
	c := &cobra.Command{
		Use: "show NAME", Short: "Show a user", Args: takes(1, 1, "a user name"),
		Example: "  sekisho user show alice\n  sekisho user show alice --json",
		RunE: func(c *cobra.Command, args []string) error {
			return a.work(c, func(ctx context.Context, d *admin.Directory) error { return a.showUser(ctx, d, args[0]) })
		},
	}
	a.complete(c, "user")
	return c
}

func (a *app) showUser(ctx context.Context, d *admin.Directory, name string) error {
	u, err := d.User(ctx, name)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(u)
	}
	return a.card([][2]string{
		{"user", u.Name}, {"name", u.Common}, {"mail", u.Mail}, {"uid", fmt.Sprint(u.UID)}, {"gid", fmt.Sprint(u.GID)},
		{"home", u.Home}, {"shell", u.Shell}, {"state", userState(u)}, {"groups", list(u.Groups)},
		{"keys", strconv.Itoa(u.Keys)}, {"principal", u.Principal}, {"codes at kdc", u.KDCCodes}, {"dn", u.DN},
	})
}

func userState(u admin.User) string {
	var s []string
	if u.Locked {
		s = append(s, "locked")
	}
	if u.Expires != nil {
		word := "expires "
		if !time.Now().Before(*u.Expires) {
			word = "expired "
		}
		s = append(s, word+u.Expires.UTC().Format("2006-01-02"))
	}
	if u.MustChange {
		s = append(s, "must change the password")
	}
	if len(s) == 0 {
		return "open"
	}
	return strings.Join(s, ", ")
}

func (a *app) userList() *cobra.Command {
	c := &cobra.Command{
		Use: "ls [PATTERN]", Short: "List users", Args: takes(0, 1, "at most one pattern"),
		Example: "  sekisho user ls\n  sekisho user ls 'a*'\n  sekisho user ls --json",
		RunE: func(c *cobra.Command, args []string) error {
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				us, err := d.Users(ctx, first(args))
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(us)
				}
				var rows [][]string
				for _, u := range us {
					rows = append(rows, []string{u.Name, fmt.Sprint(u.UID), u.Common, u.Shell, strconv.Itoa(u.Keys), userState(u)})
				}
				return a.table([]string{"USER", "UID", "NAME", "SHELL", "KEYS", "STATE"}, rows)
			})
		},
	}
	a.complete(c, "user")
	return c
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// maxKeyFile is the longest file of keys that is read, in bytes.
const maxKeyFile = 1 << 20

// readKeyLines reads the lines of a file in the form of authorized_keys.
func (a *app) readKeyLines(path string) ([]string, error) {
	in := io.Reader(a.in)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usageError{err}
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading keys: %w", err)
	}
	if len(b) > maxKeyFile {
		return nil, usagef("%s has more than %d bytes: these are no keys", path, maxKeyFile)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			out = append(out, line)
		}
	}
	if len(out) == 0 {
		return nil, usagef("there is no key in %s", path)
	}
	return out, nil
}

// checkKeys refuses what the broker would not use, before anything is written.
func (a *app) checkKeys(lines []string) error {
	c, err := a.config()
	if err != nil {
		return err
	}
	for i, l := range lines {
		if strings.Contains(l, "PRIVATE KEY") {
			return usagef("this is a private key: give the public one, the file that ends in .pub")
		}
		if k := admin.ReadKey(l, c.Policy()); k.Fault != "" {
			return usagef("key %d: %s", i+1, k.Fault)
		}
	}
	return nil
}
