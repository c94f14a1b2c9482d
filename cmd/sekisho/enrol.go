package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/cmd/internal/enrol"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/wire"
)

// How long somebody has to try a login, and sekishod to answer.
const (
	confirmTime = 5 * time.Minute
	answerTime  = 30 * time.Second
)

// enrolOptions are the flags of sekisho host enrol.
type enrolOptions struct {
	undo, dry, yes, noPAM, noSSH bool
}

func (a *app) hostEnrol() *cobra.Command {
	var o enrolOptions
	c := &cobra.Command{
		Use: "enrol FILE", Short: "Make this machine a host of a realm, or undo that", Args: takes(0, 1, "the file of a bundle"),
		Long: `Make this machine a host of a realm, by a bundle that sekisho host bundle wrote on
the realm's machine: sekishod's configuration, Kerberos keys, users and groups (NSS),
PAM and sshd. It shows first all that will change, and asks.

Root and this machine's own users get in as before: nothing is switched off, and in
PAM they pass by. When all is in place it asks you to log in from a second terminal;
unless you say yes within five minutes, everything is put back. So it is after a
kill or a crash, by the next run or --undo. A second run changes only what differs.

--undo puts everything back as it was, byte for byte. What somebody else has changed
since is shown, and kept in a folder, before it is put back.

Exit codes: 0 done, or nothing to change; 1 refused, or put back; 2 wrong usage;
3 sekishod does not answer.`,
		Example: `  sekisho host enrol web1.bundle --dry-run
  sekisho host enrol web1.bundle
  sekisho host enrol --undo`,
		RunE: func(c *cobra.Command, args []string) error {
			if o.undo == (len(args) == 1) {
				return usagef("name the bundle, or say --undo")
			}
			if os.Geteuid() != 0 {
				return refusedError{errors.New("only root can change this machine: run it as root")}
			}
			// A terminal that goes must not take the way back with it.
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGHUP)
			defer stop()
			ec, err := o.config(a)
			if err != nil {
				return err
			}
			if o.undo {
				return a.undoEnrol(ctx, ec, o)
			}
			return a.enrol(ctx, ec, o, args[0])
		},
	}
	f := c.Flags()
	f.BoolVar(&o.undo, "undo", false, "put everything back as it was")
	f.BoolVar(&o.dry, "dry-run", false, "show what would change, and change nothing")
	f.BoolVar(&o.yes, "yes", false, "ask nothing, not even for a login that works")
	f.BoolVar(&o.noPAM, "no-pam", false, "leave PAM alone: keys and tickets only")
	f.BoolVar(&o.noSSH, "no-ssh", false, "leave sshd alone")
	return c
}

// config finds the programs where this one is: /usr/local/bin/sekisho has its
// parts in /usr/local/lib/sekisho.
func (o enrolOptions) config(a *app) (enrol.Config, error) {
	exe, err := os.Executable()
	if err == nil {
		exe, err = filepath.EvalSymlinks(exe)
	}
	if err != nil {
		return enrol.Config{}, fmt.Errorf("finding this program: %w", err)
	}
	bin := filepath.Dir(exe)
	return enrol.Config{Bin: bin, Lib: filepath.Join(filepath.Dir(bin), "lib/sekisho"), PAM: !o.noPAM, SSH: !o.noSSH,
		Note: func(s string) { fmt.Fprintln(a.err, "sekisho: "+clean(s)) }}, nil
}

func (a *app) enrol(ctx context.Context, ec enrol.Config, o enrolOptions, file string) error {
	b, err := enrol.ReadBundle(file)
	if err != nil {
		return usageError{err}
	}
	if err := a.mendFirst(ctx, ec, o); err != nil {
		return err
	}
	if problems := enrol.Problems(ctx, ec); len(problems) > 0 {
		for _, p := range problems[1:] {
			fmt.Fprintln(a.err, "sekisho: "+clean(p))
		}
		return refusedError{errors.New(problems[0])}
	}
	p, err := enrol.NewPlan(ec, b)
	if err != nil {
		return refusedError{err}
	}
	if p.Empty() {
		a.say("nothing to change: this machine is the host %s", b.Host)
		return nil
	}
	fmt.Fprint(a.out, p.Diff())
	for _, n := range p.Notes {
		fmt.Fprintf(a.out, "\nnote: %s\n", n)
	}
	if o.dry {
		return nil
	}
	if err := a.confirm(o.yes, "\nMake these changes?"); err != nil {
		return err
	}
	e, err := enrol.Apply(ctx, ec, p)
	if err != nil {
		return refusedError{err}
	}
	if err := e.Verify(ctx); err != nil {
		return refusedError{err}
	}
	todo, err := e.Start(ctx)
	if err != nil {
		return refusedError{err}
	}
	return a.settle(ctx, e, o, todo)
}

// settle finds out whether all works, and keeps it or puts it back.
func (a *app) settle(ctx context.Context, e *enrol.Enrolment, o enrolOptions, todo []string) error {
	if len(todo) == 0 { // sekishod was started
		if err := a.answers(ctx, answerTime); err != nil {
			return a.back(ctx, e, err)
		}
	}
	if o.yes {
		if err := e.Confirm(); err != nil {
			return err
		}
		a.tellDone(todo)
		return nil
	}
	for _, t := range todo {
		fmt.Fprintf(a.out, "now: %s\n", t)
	}
	fmt.Fprintf(a.out, `
Keep this terminal. From a second one, log in to this machine as root or one of its
own users, and as somebody of the directory whom a rule lets in.
Did both work? Type yes within %s; anything else puts everything back: `, confirmTime)
	ok, err := a.hearsYes(ctx, confirmTime)
	fmt.Fprintln(a.out)
	if err == nil && ok {
		err = a.answers(ctx, answerTime)
	} else if err == nil {
		err = errors.New("nobody said yes")
	}
	if err != nil {
		return a.back(ctx, e, err)
	}
	if err := e.Confirm(); err != nil {
		return err
	}
	a.tellDone(nil)
	return nil
}

func (a *app) tellDone(todo []string) {
	a.say("done; sekisho host enrol --undo puts it back")
	for _, t := range todo {
		a.say("now: %s", t)
	}
}

// back puts everything back after err.
func (a *app) back(ctx context.Context, e *enrol.Enrolment, err error) error {
	if back := e.RollBack(ctx); back != nil {
		return fmt.Errorf("%w; %w", err, back)
	}
	return refusedError{fmt.Errorf("%w: everything was put back as it was", err)}
}

// mendFirst puts back what a run that was broken off has left.
func (a *app) mendFirst(ctx context.Context, ec enrol.Config, o enrolOptions) error {
	left, err := enrol.Unfinished(ec)
	if err != nil || !left {
		return err
	}
	if o.dry {
		return refusedError{errors.New("a run before was broken off: sekisho host enrol --undo puts back what it changed")}
	}
	a.say("a run before was broken off: what it changed is put back first")
	return a.edited(enrol.Mend(ctx, ec))
}

func (a *app) undoEnrol(ctx context.Context, ec enrol.Config, o enrolOptions) error {
	if o.dry || o.noPAM || o.noSSH {
		return usagef("--undo puts everything back: no other option but --yes goes with it")
	}
	_, err := enrol.Undo(ctx, ec, false)
	var edited *enrol.EditedError
	switch {
	case errors.Is(err, enrol.ErrNothing):
		return refusedError{err}
	case errors.As(err, &edited):
		question := edited.Error() + ".\nPut them back all the same? What they hold now is kept in a folder."
		if err := a.confirm(o.yes, question); err != nil {
			return err
		}
		kept, err := enrol.Undo(ctx, ec, true)
		if err != nil {
			return err
		}
		if kept != "" {
			a.say("what others had changed is in %s", kept)
		}
	case err != nil:
		return err
	}
	a.say("everything is as it was")
	return nil
}

// edited says what to do about files that others have changed.
func (a *app) edited(err error) error {
	var edited *enrol.EditedError
	if errors.As(err, &edited) {
		return refusedError{fmt.Errorf("%w: sekisho host enrol --undo asks about them", err)}
	}
	return err
}

// answers waits until this machine's sekishod answers from a snapshot that knows
// the host.
func (a *app) answers(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	a.cfg = nil // it was just written
	for {
		err := a.answersNow(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("sekishod does not answer as it should: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (a *app) answersNow(ctx context.Context) error {
	ans, err := a.ask(ctx, wire.Request{Verb: wire.VerbStatus})
	if err != nil {
		return err
	}
	var s report.Status
	if err := report.Decode(ans, &s); err != nil {
		return err
	}
	switch {
	case s.Embedded:
		return errors.New("it runs a realm of its own: start it anew")
	case !s.Sync.Loaded:
		return errors.New("it has no snapshot yet: " + strings.TrimSpace(s.Sync.LastError))
	case !s.HostKnown:
		return fmt.Errorf("the directory has no host %s", s.Host)
	}
	return nil
}

// hearsYes waits for a line of standard input.
func (a *app) hearsYes(ctx context.Context, within time.Duration) (bool, error) {
	var line []byte
	for end := time.Now().Add(within); ; {
		fds := []unix.PollFd{{Fd: int32(a.in.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 100)
		switch {
		case ctx.Err() != nil:
			return false, errors.New("this program was told to end")
		case err != nil && err != unix.EINTR:
			return false, err
		case time.Now().After(end):
			return false, nil
		case n <= 0:
			continue
		}
		b := make([]byte, 1)
		if n, err := a.in.Read(b); n == 0 || err != nil || len(line) > 100 {
			return false, nil
		}
		if b[0] == '\n' {
			return strings.EqualFold(strings.TrimSpace(string(line)), "yes"), nil
		}
		line = append(line, b[0])
	}
}
