// Command sekisho manages users, groups, hosts, rules and keys in the
// directory, and asks this machine's sekishod why it decides as it does. It
// has no right of its own: the directory knows who runs it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/go-ldap/ldap/v3"
	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/admin"
	"github.com/sekisho/sekisho/cmd/internal/config"
	"github.com/sekisho/sekisho/ldapsync"
)

// The exit codes, for scripts.
const (
	exitNo      = 1 // refused, or there is no such thing
	exitUsage   = 2 // wrong usage or configuration
	exitUnknown = 3 // could not find out
)

const about = `sekisho manages users, groups, hosts, rules and SSH keys in the directory, and
asks this machine's sekishod why it lets somebody in or not.

It acts with your own rights: root on the machine of an embedded realm is the
directory's administrator; everybody else signs in as his own entry, and may
change his own keys and password.

Exit codes: 0 yes, done; 1 no, refused, or no such thing; 2 wrong usage or
configuration; 3 could not find out (no connection, no answer).`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	code := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// app is one run of the command.
type app struct {
	in       *os.File
	out, err io.Writer

	// flags of all commands
	configPath   string
	urls         []string
	auth         string
	as           string
	passwordFile string
	json         bool

	begun  bool // the command line was good
	silent bool // a completion: nobody is asked for a password
	cfg    *config.Config
}

// run is main without the exit.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.command()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if !errors.Is(err, errSaid) {
		fmt.Fprintf(a.err, "sekisho: %s\n", clean(err.Error()))
		if mend := mendOf(err); mend != "" {
			fmt.Fprintf(a.err, "sekisho: %s\n", mend)
		}
	}
	if !a.begun {
		return exitUsage
	}
	return codeOf(err)
}

// command is the tree of all commands.
func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use: "sekisho", Short: "Manage a Sekisho directory, and ask why it decides as it does", Long: about,
		Version: version(), SilenceErrors: true, SilenceUsage: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(a.out)
	root.SetErr(a.err)
	f := root.PersistentFlags()
	f.StringVar(&a.configPath, "config", config.DefaultPath, "sekishod's configuration file")
	f.StringArrayVar(&a.urls, "url", nil, "directory server instead of the configured ones (ldaps://…, ldapi://…)")
	f.StringVar(&a.auth, "auth", "", "sign in by external, password or kerberos (default: external for root on ldapi, else password)")
	f.StringVar(&a.as, "as", "", "sign in with a password as this user, or this DN (default: your own user)")
	f.StringVar(&a.passwordFile, "password-file", "", "file with the password to sign in with, - for standard input (default: ask)")
	f.BoolVar(&a.json, "json", false, "print JSON, for programs")
	root.AddCommand(a.userCommand(), a.groupCommand(), a.hostCommand(), a.serviceCommand(), a.ruleCommand(), a.keyCommand(), a.otpCommand(),
		a.passwdCommand(), a.sessionsCommand(), a.killCommand(), a.revokeCommand(), a.loginCommand(), a.logoutCommand(), a.ticketsCommand(), a.whyCommand(), a.rehearseCommand(), a.statusCommand(), a.lockoutsCommand(), a.syncCommand(), a.doctorCommand(), a.importCommand(), a.checkCommand(),
		a.auditCommand(),
		completionCommand())
	a.mark(root)
	return root
}

// mark has each command note that its line was good: errors before that are
// wrong usage.
func (a *app) mark(c *cobra.Command) {
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			a.begun = true
			return run(c, args)
		}
	}
	for _, sub := range c.Commands() {
		a.mark(sub)
	}
}

// errSaid is an error that was printed already; exit holds its code.
var errSaid = errors.New("said already")

// exit ends the command with a code, without a message.
type exit int

func (exit) Error() string   { return errSaid.Error() }
func (exit) Is(e error) bool { return e == errSaid }

// usageError is a wrong argument that cobra cannot see.
type usageError struct{ error }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// refusedError is a certain no from elsewhere than the directory.
type refusedError struct{ error }

// codeOf is the exit code of an error.
func codeOf(err error) int {
	var (
		code    exit
		usage   usageError
		refused refusedError
		none    *admin.NoneError
		wrong   *admin.RefusedError
		answer  *ldap.Error
	)
	switch {
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &refused), errors.As(err, &none), errors.As(err, &wrong):
		return exitNo
	case errors.As(err, &answer):
		switch answer.ResultCode {
		case ldap.LDAPResultBusy, ldap.LDAPResultUnavailable, ldap.LDAPResultTimeLimitExceeded,
			ldap.LDAPResultAdminLimitExceeded, ldap.LDAPResultOther, ldap.LDAPResultOperationsError:
			return exitUnknown
		}
		if answer.ResultCode < ldap.ErrorNetwork {
			return exitNo
		}
	}
	return exitUnknown
}

// mendOf says what to do about what the directory answered.
func mendOf(err error) string {
	switch {
	case ldapsync.IsCode(err, ldap.LDAPResultInsufficientAccessRights):
		return "the directory does not allow you that: run it as root on the machine of the embedded realm, or as an administrator with --as"
	case ldapsync.IsCode(err, ldap.LDAPResultInvalidCredentials):
		return "the name or the password is wrong, or the account is locked: try again, or name another user with --as"
	case ldapsync.IsCode(err, ldap.LDAPResultStrongAuthRequired, ldap.LDAPResultConfidentialityRequired):
		return "the directory wants TLS: use an ldaps:// URL, or start_tls in the configuration"
	case ldapsync.IsCode(err, ldap.LDAPResultInappropriateAuthentication):
		return "the account has no password: sign in otherwise (--auth), or have one set"
	}
	return ""
}

func version() string {
	if i, ok := debug.ReadBuildInfo(); ok && i.Main.Version != "" {
		return i.Main.Version
	}
	return "(devel)"
}
