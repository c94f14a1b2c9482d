// Command sekisho-keys asks sekishod for a user's SSH keys and prints them as
// authorized_keys lines, for sshd's AuthorizedKeysCommand (sshd_config(5)).
//
// sshd starts it for each key that a client offers, inside somebody's login,
// so it is small: it links neither net nor fmt, holds no secret, reads no
// configuration and no environment, and ends within two seconds whatever
// sekishod does. A test holds its list of imports.
//
// It believes a socket only where nobody but root and the folder's owner can
// put one: see guard in path.go.
package main

import (
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/sekisho/sekisho/wire"
)

// version is set by the build: -ldflags "-X main.version=…".
var version = "devel"

const (
	defaultSocket = "/run/sekisho/sekisho.sock"
	budget        = 2 * time.Second // for everything; sshd waits meanwhile
)

// The exit codes. sshd uses what was printed only when the code is 0.
const (
	exitYes     = 0
	exitNo      = 1
	exitUsage   = 2
	exitUnknown = 75 // EX_TEMPFAIL of sysexits.h
)

const help = `sekisho-keys asks sekishod which SSH keys may log in as USER, and prints them
as authorized_keys lines. It is made for sshd:

    # /etc/ssh/sshd_config
    AuthorizedKeysCommand /usr/libexec/sekisho/sekisho-keys %u %f %t %k
    AuthorizedKeysCommandUser sekisho-keys

usage: sekisho-keys [--socket PATH] USER [FINGERPRINT [TYPE [KEY]]]
       sekisho-keys --help | --version

USER         the account to log in as (sshd's %u)
FINGERPRINT  the offered key's SHA256 fingerprint (%f); then only that key is
             printed. Without it, all keys of the user are.
TYPE         the offered key's type (%t)
KEY          the offered key in base64 (%k)
--socket     sekishod's socket, /run/sekisho/sekisho.sock unless given. Its
             folder must be writable by its owner only, and those above it
             must be root's.

exit codes:
  0   yes: the keys were printed
  1   no: there is no key with which this user may log in here
  2   the command line is wrong
  75  could not find out: no sekishod, no answer in 2 seconds, or it does not
      know. Nothing was printed; sshd goes on to AuthorizedKeysFile.

sshd hides what this program says on standard error. To see it, run by hand:

    runuser -u sekisho-keys -- /usr/libexec/sekisho/sekisho-keys alice; echo $?
`

func main() {
	code, out, err := run(os.Args[1:], time.Now().Add(budget))
	if err != nil {
		os.Stderr.WriteString("sekisho-keys: " + oneLine(err.Error()) + "\n")
	}
	if _, werr := os.Stdout.Write(out); werr != nil {
		os.Stderr.WriteString("sekisho-keys: writing the keys: " + werr.Error() + "\n")
		code = exitUnknown
	}
	os.Exit(code)
}

// run does everything but write. out is empty unless code is exitYes.
func run(args []string, until time.Time) (code int, out []byte, err error) {
	c, err := parseArgs(args)
	switch {
	case err != nil:
		return exitUsage, nil, err
	case c.help:
		return exitYes, []byte(help), nil
	case c.version:
		return exitYes, []byte("sekisho-keys " + version + "\n"), nil
	}
	a, err := ask(c, until)
	if err != nil {
		return exitUnknown, nil, err
	}
	switch {
	case a.Outcome == wire.Yes && len(a.Body) > 0:
		for _, line := range a.Body {
			out = append(append(out, line...), '\n')
		}
		return exitYes, out, nil
	case a.Outcome == wire.Yes:
		return exitUnknown, nil, errors.New("sekishod said yes but sent no key: install the same sekisho release on both sides")
	case a.Outcome == wire.No:
		return exitNo, nil, told("no key", a)
	}
	return exitUnknown, nil, told("sekishod could not find out", a)
}

// ask opens the socket and puts the one question.
func ask(c command, until time.Time) (wire.Answer, error) {
	owner, err := guard(c.socket, os.Geteuid())
	if err != nil {
		return wire.Answer{}, err
	}
	conn, err := dial(c.socket, until)
	if err != nil {
		return wire.Answer{}, errors.New("connecting to " + c.socket + ": " + mend(err))
	}
	defer conn.close()
	uid, err := conn.peer()
	if err != nil {
		return wire.Answer{}, errors.New("asking who serves " + c.socket + ": " + err.Error())
	}
	if uid != 0 && uid != owner {
		return wire.Answer{}, errors.New(c.socket + " is served by user " + utoa(uid) +
			", who is neither root nor the owner of its folder: stop that process, then restart sekishod")
	}
	a, err := wire.Ask(conn, c.request)
	if err != nil {
		return wire.Answer{}, errors.New("asking sekishod at " + c.socket + ": " + mend(err))
	}
	return a, nil
}

// told joins what sekishod said into one error.
func told(what string, a wire.Answer) error {
	if a.Text != "" {
		what += ": " + a.Text
	}
	if a.Reason != "" {
		what += " (" + a.Reason + ")"
	}
	return errors.New(what)
}

// mend says what to do about an error of the socket.
func mend(err error) string {
	switch err {
	case errLate:
		return "no answer in 2 seconds: sekishod hangs or is overloaded, see its log"
	case syscall.ENOENT, syscall.ECONNREFUSED:
		return err.Error() + ": start sekishod"
	case syscall.EACCES, syscall.EPERM:
		return err.Error() + ": set AuthorizedKeysCommandUser to sekisho-keys"
	}
	return err.Error()
}

// oneLine makes s safe for a terminal and a log: what is not printable ASCII
// becomes a question mark.
func oneLine(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
