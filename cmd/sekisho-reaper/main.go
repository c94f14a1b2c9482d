// Command sekisho-reaper ends login sessions for sekishod, which has no rights
// to. Package reaper says what is spoken, who may, and what a session is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/reaper"
)

const usage = `sekisho-reaper ends login sessions for sekishod.

Usage: sekisho-reaper --fd N --socket PATH

  --fd N         sekishod's end of a pair of sockets; goes into the background,
                 and ends when sekishod does: the sessions live on
  --socket PATH  where sekishod's PAM door listens: only a process that root
                 connected to it can be taken for one that opens a session
  --version      print the version and exit

sekishod starts it by itself, as root, when pam.enabled is set. It keeps uid 0
and the right to send signals, and gives up all else. It logs on standard error.

Exit codes: 0 sekishod has ended, or it is in the background; 1 it could not
start or go on; 2 wrong usage.
`

func main() {
	os.Exit(run(os.Args[1:]))
}

// run is main without the exit.
func run(args []string) int {
	o, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errSaid):
		return 2
	case err != nil:
		return complain(2, err)
	case o.version:
		fmt.Println("sekisho-reaper " + buildVersion())
		return 0
	}
	if err := o.run(); err != nil {
		return complain(1, err)
	}
	return 0
}

func complain(code int, err error) int {
	fmt.Fprintf(os.Stderr, "sekisho-reaper: %v\n", err)
	return code
}

// errSaid is an error that package flag has printed.
var errSaid = errors.New("said already")

// options are the command line.
type options struct {
	fd         int
	socket     string
	version    bool
	background int // where the process in the background says that it is ready
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("sekisho-reaper", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage) }
	flags.IntVar(&o.fd, "fd", 0, "")
	flags.StringVar(&o.socket, "socket", "", "")
	flags.BoolVar(&o.version, "version", false, "")
	flags.IntVar(&o.background, "background", 0, "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return o, err
	case err != nil:
		return o, errSaid
	case o.version:
		return o, nil
	case flags.NArg() > 0:
		return o, fmt.Errorf("no argument is expected, but there is %q: see sekisho-reaper --help", flags.Arg(0))
	case o.fd < 3:
		return o, errors.New("say where sekishod is: --fd N; it starts this program by itself")
	case o.socket == "" || o.socket[0] != '/':
		return o, errors.New("say where the PAM door listens: --socket PATH")
	}
	return o, nil
}

func (o options) run() error {
	if os.Geteuid() != 0 {
		return errors.New("not root: have sekishod start it, as root")
	}
	kind, err := unix.GetsockoptInt(o.fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_SEQPACKET {
		return fmt.Errorf("descriptor %d is no end of a pair of sockets: sekishod starts this program with one", o.fd)
	}
	unix.CloseOnExec(o.fd)
	if o.background == 0 {
		return o.detach()
	}
	return o.serve()
}

// detach starts the process in the background, whose parent is init then and
// not sekishod, which would have to collect it. It waits until that has given up
// its rights.
func (o options) detach() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("going into the background: %w", err)
	}
	defer null.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("going into the background: %w", err)
	}
	defer ready.Close()
	if err := closeOnExec(); err != nil {
		return fmt.Errorf("going into the background: %w", err)
	}
	p, err := os.StartProcess("/proc/self/exe", []string{"sekisho-reaper", "--background", "4", "--fd", "3", "--socket", o.socket}, &os.ProcAttr{
		Dir: "/", Env: []string{}, Sys: &syscall.SysProcAttr{Setsid: true},
		Files: []*os.File{null, null, os.Stderr, os.NewFile(uintptr(o.fd), "sekishod"), theirs},
	})
	theirs.Close()
	if err != nil {
		return fmt.Errorf("going into the background: %w", err)
	}
	if n, _ := ready.Read(make([]byte, 1)); n == 0 {
		p.Wait()
		return errors.New("the process in the background has ended, and has said why")
	}
	return nil
}

func (o options) serve() error {
	syscall.Umask(0o022) // folders of cgroup2 are for everybody to see
	unix.CloseOnExec(o.background)
	cred, err := unix.GetsockoptUcred(o.fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return fmt.Errorf("asking who sekishod is: %w", err)
	}
	log := newLog()
	s, err := reaper.New(reaper.Config{Conn: os.NewFile(uintptr(o.fd), "sekishod"), Sekishod: cred.Pid, Socket: o.socket, Log: log})
	if err != nil {
		return err
	}
	if err := drop(log, s.Files()); err != nil {
		return fmt.Errorf("giving up rights: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// Who reads our log may go; a write to it must not end us.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGHUP)
	ready := os.NewFile(uintptr(o.background), "ready")
	if _, err := ready.Write([]byte{1}); err != nil {
		return fmt.Errorf("saying that it is ready: %w", err)
	}
	ready.Close()
	log.WithField("pid", strconv.Itoa(os.Getpid())).Info("ends sessions when sekishod says so")
	return s.Serve(ctx)
}

// closeOnExec is for descriptors that whoever started sekishod has left open:
// the process in the background gets none of them.
func closeOnExec() error {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, n := range names {
		if fd, err := strconv.Atoi(n.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

func newLog() *logrus.Entry {
	l := logrus.New()
	l.SetFormatter(&logrus.JSONFormatter{})
	l.SetOutput(os.Stderr)
	return l.WithField("part", "sekisho-reaper")
}

// buildVersion is what the go tool wrote into the program.
func buildVersion() string {
	if i, ok := debug.ReadBuildInfo(); ok && i.Main.Version != "" {
		return i.Main.Version
	}
	return "(devel)"
}
