package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/admin"
	"github.com/sekisho/sekisho/cmd/internal/config"
	"github.com/sekisho/sekisho/otp"
)

func (a *app) otpCommand() *cobra.Command {
	c := noun("otp", "One-time codes: enrol users, list and remove tokens, recovery codes")
	c.AddCommand(a.otpEnrol(), a.otpList(), a.otpRemove(), a.otpRecovery())
	return c
}

// enrolled is what programs are told of a new token.
type enrolled struct {
	User     string   `json:"user"`
	URI      string   `json:"uri,omitempty"`
	Recovery []string `json:"recovery_codes"`
}

func (a *app) otpEnrol() *cobra.Command {
	p := otp.Default()
	var algorithm, secretFile string
	var period int
	var uri, yes bool
	c := &cobra.Command{
		Use: "enrol NAME", Short: "Give a user a token for one-time codes", Args: takes(1, 1, "a user name"),
		Long: `Give a user a token: a secret that his authenticator app and the directory share.
The terminal shows it as a QR code, the app reads it, and a first code that the
app shows must be typed before the token counts. Then ten recovery codes are
printed, each good for one sign-in without the app. Neither is shown again.

In the embedded realm an LDAP bind needs the code behind the password then; kinit
does after sekisho user set NAME --kdc-otp on. A new token takes the place of an
old one. Only an administrator can do this, for another or for himself.

Without a terminal, --yes leaves the first code out, and --uri prints the token's
URI, which holds the secret, or --secret-file reads a secret that the user's
device has already.`,
		Example: `  sekisho otp enrol alice
  sekisho otp enrol alice --algorithm SHA256 --digits 8
  sekisho otp enrol bob --yes --secret-file /root/bobs-token
  sekisho otp enrol ci --yes --uri --json >ci.json`,
		RunE: func(c *cobra.Command, args []string) error {
			p.Algorithm, p.Period = otp.Algorithm(algorithm), time.Duration(period)*time.Second
			if err := p.Check(); err != nil {
				return usageError{err}
			}
			if err := admin.CheckUserName(args[0]); err != nil {
				return err
			}
			if !yes && !a.interactive() {
				return usagef("there is no terminal to ask for a first code: say --yes to go without, and --uri or --secret-file")
			}
			if yes && !uri && secretFile == "" && !a.interactive() {
				return usagef("nobody would ever know the secret: say --uri or --secret-file")
			}
			cfg, err := a.config()
			if err != nil {
				return err
			}
			t := otp.Token{Issuer: cfg.Issuer(), Account: args[0], Params: p}
			if t.Secret, err = tokenSecret(secretFile, p.Algorithm); err != nil {
				return err
			}
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				return a.enrolToken(ctx, d, t, enrolHow{drift: cfg.OTP.Drift, yes: yes, uri: uri, draw: secretFile == ""})
			})
		},
	}
	f := c.Flags()
	f.StringVar(&algorithm, "algorithm", string(p.Algorithm), "SHA1, SHA256 or SHA512; many apps know SHA1 only")
	f.IntVar(&p.Digits, "digits", p.Digits, "digits of a code, 6 to 8; many apps know 6 only")
	f.IntVar(&period, "period", int(p.Period/time.Second), "seconds that a code is shown, 10 to 600; many apps know 30 only")
	f.StringVar(&secretFile, "secret-file", "", "file with the secret in base32, which only its owner may read")
	f.BoolVar(&uri, "uri", false, "print the otpauth:// URI too: it holds the secret")
	f.BoolVar(&yes, "yes", false, "do not ask: neither for a first code nor before an old token is replaced")
	a.complete(c, "user")
	return c
}

// tokenSecret is a new secret, or that of a file.
func tokenSecret(file string, a otp.Algorithm) ([]byte, error) {
	if file == "" {
		return otp.NewSecret(a), nil
	}
	text, err := config.ReadSecret(file)
	if err != nil {
		return nil, usageError{err}
	}
	secret, err := otp.ParseText(text)
	if err != nil {
		return nil, usagef("%s: %w", file, err)
	}
	return secret, nil
}

// enrolHow is how somebody is enrolled.
type enrolHow struct {
	drift          int
	yes, uri, draw bool
}

// firstCodes is how often the first code may be wrong.
const firstCodes = 5

func (a *app) enrolToken(ctx context.Context, d *admin.Directory, t otp.Token, how enrolHow) error {
	has, err := d.Enrolled(ctx, t.Account)
	if err != nil {
		return err
	}
	if has {
		if err := a.confirm(how.yes, "User "+t.Account+" has a token. Replace it, and its recovery codes?"); err != nil {
			return err
		}
	}
	uri, err := t.URI()
	if err != nil {
		return usageError{err}
	}
	if how.draw && a.interactive() {
		picture, err := drawQR(uri)
		if err != nil {
			return err
		}
		fmt.Fprintln(a.err, "Scan this with an authenticator app:")
		fmt.Fprint(a.err, picture)
	}
	if how.uri && !a.json {
		fmt.Fprintln(a.out, uri)
	}
	used := int64(-1)
	if !how.yes {
		if used, err = a.firstCode(t, how.drift); err != nil {
			return err
		}
	}
	codes, values := newRecovery()
	if err := d.Enrol(ctx, t.Account, admin.NewToken{Secret: t.Secret, Params: t.Params, Drift: how.drift, Used: used, Recovery: values}); err != nil {
		return err
	}
	if a.json {
		e := enrolled{User: t.Account, Recovery: codes}
		if how.uri {
			e.URI = uri
		}
		return a.printJSON(e)
	}
	a.say("user %s has a token for one-time codes: %s, %d digits, %d s", t.Account, t.Params.Algorithm, t.Params.Digits, t.Params.Period/time.Second)
	a.printRecovery(codes)
	return nil
}

// firstCode has somebody prove that the app has the secret, and returns the step of
// the code that did: it is used then.
func (a *app) firstCode(t otp.Token, drift int) (int64, error) {
	for range firstCodes {
		typed, err := a.askSecret("First code: ")
		if err != nil {
			return 0, err
		}
		step, ok, err := t.Params.Verify(t.Secret, typed, otp.Window{Now: time.Now(), Drift: drift})
		if err != nil {
			return 0, err
		}
		if ok {
			return int64(step), nil
		}
		fmt.Fprintln(a.err, "That is not it. Is the clock of the device right?")
	}
	return 0, refusedError{errors.New("no token was made: the app shows other codes")}
}

// newRecovery are recovery codes, and what the directory keeps of them.
func newRecovery() (codes, values []string) {
	codes = otp.NewRecoveryCodes(otp.RecoveryCodes)
	for _, c := range codes {
		v, _ := otp.HashRecovery(c) // it is one
		values = append(values, v)
	}
	return codes, values
}

func (a *app) printRecovery(codes []string) {
	fmt.Fprintln(a.out, "\nRecovery codes, each good once, in the place of a one-time code. They are not shown again:")
	for i := 0; i < len(codes); i += 2 {
		fmt.Fprintf(a.out, "  %s   %s\n", codes[i], codes[i+1])
	}
}

func (a *app) otpRecovery() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "recovery NAME", Short: "Make new recovery codes", Args: takes(1, 1, "a user name"),
		Long:    "Make ten new recovery codes for a user's token. The old ones are worthless then.",
		Example: "  sekisho otp recovery alice",
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm(yes, "Make all recovery codes of "+args[0]+" worthless, and new ones?"); err != nil {
				return err
			}
			codes, values := newRecovery()
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				if err := d.SetRecovery(ctx, args[0], values); err != nil {
					return err
				}
				if a.json {
					return a.printJSON(enrolled{User: args[0], Recovery: codes})
				}
				a.printRecovery(codes)
				return nil
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	a.complete(c, "user")
	return c
}

func (a *app) otpRemove() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "rm NAME", Short: "Take a user's token away", Args: takes(1, 1, "a user name"),
		Long: `Take a user's token away, and his recovery codes. Rules that ask for a one-time
code let him in no more; all others ask for none of him.`,
		Example: "  sekisho otp rm alice\n  sekisho otp rm alice --yes",
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm(yes, "Take the token of "+args[0]+" away?"); err != nil {
				return err
			}
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				if err := d.RemoveToken(ctx, args[0]); err != nil {
					return err
				}
				a.say("user %s has no token any more", args[0])
				return nil
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	a.complete(c, "user")
	return c
}

func (a *app) otpList() *cobra.Command {
	c := &cobra.Command{
		Use: "ls [PATTERN]", Short: "List tokens", Args: takes(0, 1, "at most one pattern"),
		Long:    "List who has a token. Secrets are never shown. LAST CODE is the latest code that\nwas used, by the time at which it was first shown.",
		Example: "  sekisho otp ls\n  sekisho otp ls 'a*' --json",
		RunE: func(c *cobra.Command, args []string) error {
			return a.work(c, func(ctx context.Context, d *admin.Directory) error {
				ts, err := d.Tokens(ctx, first(args))
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(ts)
				}
				var rows [][]string
				for _, t := range ts {
					state, used := "good", "never"
					if t.Fault != "" {
						state = t.Fault
					}
					if t.Used != nil {
						used = t.Used.Format("2006-01-02 15:04:05 UTC")
					}
					rows = append(rows, []string{t.User, t.Algorithm, strconv.Itoa(t.Digits), strconv.Itoa(t.Period), used, strconv.Itoa(t.Recovery), state})
				}
				return a.table([]string{"USER", "ALGORITHM", "DIGITS", "SECONDS", "LAST CODE", "RECOVERY", "STATE"}, rows)
			})
		},
	}
	a.complete(c, "user")
	return c
}
