// Command sekisho-pam runs a host's own PAM stacks for sekishod, which is not
// root and links no C: the prover pam:SERVICE. Package pamhelper says what is
// spoken and who may.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/cmd/internal/accounts"
	"github.com/sekisho/sekisho/pamhelper"
)

const usage = `sekisho-pam runs this host's own PAM stacks for sekishod.

Usage: sekisho-pam --service NAME... (--fd N | --socket PATH) [--user USER]

  --service NAME  a file of /etc/pam.d that may be run; may be given again
  --socket PATH   listen there, in a folder of root's; only USER and root may
                  connect. SIGTERM ends it
  --fd N          sekishod's end of a pair of sockets; goes into the background,
                  and ends when sekishod does
  --user USER     whom sekishod runs as (default sekisho)
  --version       print the version and exit

It must be root, as most modules must. sekishod starts it by itself when its
configuration has a prover pam:SERVICE. It logs on standard error.

Exit codes: 0 it was stopped, or is in the background; 1 it could not start or
go on; 2 wrong usage.
`

func main() {
	os.Exit(run(os.Args[1:]))
}

// run is main without the exit.
func run(args []string) int {
	if len(args) == 1 && args[0] == conversationArg {
		if err := converse(); err != nil {
			return 1 // the supervisor tells it
		}
		return 0
	}
	o, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errSaid):
		return 2
	case err != nil:
		return complain(2, err)
	case o.version:
		fmt.Println("sekisho-pam " + buildVersion())
		return 0
	}
	if err := o.run(); err != nil {
		return complain(1, err)
	}
	return 0
}

func complain(code int, err error) int {
	fmt.Fprintf(os.Stderr, "sekisho-pam: %v\n", err)
	return code
}

// errSaid is an error that package flag has printed.
var errSaid = errors.New("said already")

// options are the command line.
type options struct {
	services   []string
	socket     string
	fd         int
	user       string
	version    bool
	background bool // this is the process in the background
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("sekisho-pam", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage) }
	flags.Func("service", "", func(s string) error {
		if !pamhelper.ValidService(s) {
			return errors.New("it is no name of a file in /etc/pam.d: a-z, 0-9, _ and -")
		}
		o.services = append(o.services, s)
		return nil
	})
	flags.StringVar(&o.socket, "socket", "", "")
	flags.IntVar(&o.fd, "fd", 0, "")
	flags.StringVar(&o.user, "user", "sekisho", "")
	flags.BoolVar(&o.version, "version", false, "")
	flags.BoolVar(&o.background, "background", false, "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return o, err
	case err != nil:
		return o, errSaid
	case o.version:
		return o, nil
	case flags.NArg() > 0:
		return o, fmt.Errorf("no argument is expected, but there is %q: see sekisho-pam --help", flags.Arg(0))
	case len(o.services) == 0:
		return o, errors.New("say which stacks may be run: --service NAME")
	case (o.socket == "") == (o.fd == 0) || o.fd < 0 || o.fd == 1 || o.fd == 2:
		return o, errors.New("say where sekishod is: --fd N or --socket PATH")
	}
	return o, nil
}

func (o options) run() error {
	if os.Geteuid() != 0 {
		return errors.New("not root: run it as root, or have sekishod start it")
	}
	u, err := accounts.Lookup(o.user)
	if errors.Is(err, accounts.ErrUnknown) {
		return fmt.Errorf("there is no local user %s: name sekishod's with --user", o.user)
	}
	if err != nil {
		return err
	}
	s := &supervisor{services: map[string]bool{}, uid: u.UID, log: newLog()}
	for _, name := range o.services {
		if !stackExists(name) {
			return fmt.Errorf("there is no PAM stack %s: make /etc/pam.d/%s", name, name)
		}
		s.services[name] = true
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := harden(); err != nil {
		return err
	}
	if o.fd != 0 && !o.background {
		return o.detach()
	}
	return o.serve(s, u.UID)
}

// detach starts the process in the background, whose parent is init then and
// not sekishod, which would have to collect it.
func (o options) detach() error {
	l, err := listenHeld(o.fd)
	if err != nil {
		return err
	}
	defer l.Close()
	f, err := l.(held).File()
	if err != nil {
		return fmt.Errorf("going into the background: %w", err)
	}
	defer f.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("going into the background: %w", err)
	}
	defer null.Close()
	args := []string{"sekisho-pam", "--background", "--fd", "3", "--user", o.user}
	for _, s := range o.services {
		args = append(args, "--service", s)
	}
	_, err = os.StartProcess("/proc/self/exe", args, &os.ProcAttr{
		Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"},
		Files: []*os.File{null, null, os.Stderr, f}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("going into the background: %w", err)
	}
	return nil
}

func (o options) serve(s *supervisor, uid uint32) error {
	var l net.Listener
	var err error
	if o.fd != 0 {
		l, err = listenHeld(o.fd)
	} else {
		l, err = listenSocket(o.socket, uid)
	}
	if err != nil {
		return err
	}
	defer l.Close()
	if s.brood, err = newBrood(); err != nil {
		return err
	}
	defer s.brood.close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// Who reads our log may go; a write to it must not end us.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	s.log.Infof("runs the PAM stacks %s", strings.Join(slices.Sorted(slices.Values(o.services)), ", "))
	return s.serve(ctx, l)
}

func newLog() *logrus.Entry {
	l := logrus.New()
	l.SetFormatter(&logrus.JSONFormatter{})
	l.SetOutput(os.Stderr)
	return l.WithField("part", "sekisho-pam")
}

// harden keeps passwords from debuggers, core files and other people's files.
func harden() error {
	syscall.Umask(0o077)
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("closing this process to debuggers: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("doing without core files: %w", err)
	}
	return nil
}

// buildVersion is what the go tool wrote into the program.
func buildVersion() string {
	if i, ok := debug.ReadBuildInfo(); ok && i.Main.Version != "" {
		return i.Main.Version
	}
	return "(devel)"
}
