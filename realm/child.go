package realm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Times of supervision.
const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 30 * time.Second
	steadyAfter  = 30 * time.Second // a child that ran so long starts the back-off anew
	startLimit   = 30 * time.Second // for a first start to get ready
	stopLimit    = 10 * time.Second // between the first SIGTERM and SIGKILL
	stopAgain    = time.Second / 2  // between one SIGTERM and the next
	keptLines    = 12               // of a child's output, for errors
)

// child is one supervised program.
type child struct {
	name    string
	command func() *exec.Cmd
	probe   func(ctx context.Context) error // nil when the child answers
	pidFile string
	litter  []string      // files that the program leaves behind
	hint    func() string // what may help when it does not start; "" for nothing
	begins  func()        // before each start; nil for nothing
	ends    func(ok bool) // after each end; ok: by itself or as told, without a fault
	log     *logrus.Entry
	now     func() time.Time

	output tail

	mu      sync.Mutex // guards all below
	status  Status
	process *os.Process // nil while it does not run
	planned bool        // the next death was asked for: no failure, no back-off
}

func (c *child) get() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	s.Name = c.name
	return s
}

func (c *child) set(change func(*Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.status)
}

// run keeps the child running until ctx ends and it has stopped. first gets one
// value: nil when the child has become ready, or why it did not at its first
// start, which ends run.
func (c *child) run(ctx context.Context, first chan<- error) {
	backoff := firstBackoff
	for n := 0; ; n++ {
		began := c.now()
		ready, err := c.once(ctx, n > 0, func() {
			if n == 0 {
				first <- nil
			}
		})
		c.mu.Lock()
		planned := c.planned
		c.planned = false
		c.mu.Unlock()
		if ctx.Err() != nil {
			if n == 0 && !ready {
				first <- ctx.Err()
			}
			return
		}
		if n == 0 && !ready {
			first <- err
			return
		}
		if c.now().Sub(began) > steadyAfter || planned {
			backoff = firstBackoff
		}
		wait := backoff/2 + rand.N(backoff/2+1)
		backoff = min(2*backoff, lastBackoff)
		if planned {
			wait = 0
		} else {
			c.log.WithError(err).WithField("wait", wait.Round(time.Millisecond)).Error("child died: starting it again")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// once starts the child and returns when it is gone. Linux ties the parent-death
// signal to the thread that forked, so this thread stays for the child's life.
func (c *child) once(ctx context.Context, again bool, ready func()) (wasReady bool, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	c.output.reset()
	if c.begins != nil {
		c.begins()
	}
	cmd := c.command()
	cmd.Stdout, cmd.Stderr = &c.output, &c.output
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Start(); err != nil {
		err = c.failure(fmt.Errorf("starting %s: %w", cmd.Path, err))
		c.set(func(s *Status) { s.PID, s.Ready, s.Since, s.LastError = 0, false, c.now(), err.Error() })
		return false, err
	}
	c.set(func(s *Status) {
		c.process = cmd.Process
		s.PID, s.Ready, s.Since = cmd.Process.Pid, false, c.now()
		if again {
			s.Restarts++
		}
	})
	if err := writePID(c.pidFile, cmd.Process.Pid); err != nil {
		c.log.WithError(err).Warn("no pid file: a later start cannot tell a leftover of this one")
	}

	gone := make(chan struct{})
	probing, cancel := context.WithCancel(ctx)
	defer cancel()
	var helpers sync.WaitGroup
	var timedOut error
	helpers.Go(func() { c.stopper(ctx, cmd.Process, gone) })
	helpers.Go(func() {
		switch err := c.wait(probing, !again); {
		case err == nil:
			wasReady = true
			c.set(func(s *Status) { s.Ready = true })
			c.log.WithField("pid", cmd.Process.Pid).Info("ready")
			ready()
		case probing.Err() == nil:
			timedOut = err
			cmd.Process.Kill()
		}
	})
	werr := cmd.Wait()
	close(gone)
	cancel()
	helpers.Wait()
	for _, f := range append(c.litter, c.pidFile) {
		os.Remove(f)
	}
	if c.ends != nil {
		c.ends(werr == nil)
	}

	switch {
	case timedOut != nil:
		err = fmt.Errorf("%s did not answer within %s: %w", c.name, startLimit, timedOut)
	case werr != nil:
		err = fmt.Errorf("%s died: %w", c.name, werr)
	default:
		err = fmt.Errorf("%s ended by itself", c.name)
	}
	err = c.failure(err)
	c.set(func(s *Status) {
		c.process = nil
		s.PID, s.Ready, s.Since = 0, false, c.now()
		if ctx.Err() == nil && !c.planned {
			s.LastError = err.Error()
		}
	})
	return wasReady, err
}

// wait probes until the child answers. Only a first start has a limit: later ones
// are left alone as long as they live.
func (c *child) wait(ctx context.Context, limited bool) error {
	started := time.Now()
	for {
		err := c.probe(ctx)
		if err == nil {
			return nil
		}
		if limited && time.Since(started) > startLimit {
			return err
		}
		pause := 10 * time.Millisecond
		if time.Since(started) > 2*time.Second {
			pause = time.Second / 4
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// stopper ends the child when ctx does: SIGTERM, and SIGKILL when that is not
// enough. SIGTERM is sent again and again, for slapd loses one that comes while it
// starts.
func (c *child) stopper(ctx context.Context, p *os.Process, gone <-chan struct{}) {
	select {
	case <-gone:
		return
	case <-ctx.Done():
	}
	for range stopLimit / stopAgain {
		p.Signal(unix.SIGTERM)
		p.Signal(unix.SIGCONT) // a stopped one would not hear it
		select {
		case <-gone:
			return
		case <-time.After(stopAgain):
		}
	}
	c.log.Warn("did not stop: killing it")
	p.Kill()
}

// restart asks the running child to end and has it started again at once.
func (c *child) restart() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process == nil {
		return // it will be started anyway
	}
	c.planned = true
	c.process.Signal(unix.SIGTERM)
}

func (c *child) failure(err error) error { return explain(err, &c.output, c.hint()) }

// explain adds what a program last said, and what may help.
func explain(err error, output *tail, hint string) error {
	var b strings.Builder
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == unix.SIGBUS {
			b.WriteString(" (a mapped file could not grow: is there no space left on the disk?)")
		}
	}
	if lines := output.lines(); len(lines) > 0 {
		b.WriteString("; it said:\n  " + strings.Join(lines, "\n  "))
	}
	if hint != "" {
		b.WriteString("\n" + hint)
	}
	return fmt.Errorf("%w%s", err, b.String())
}

// tail keeps the last lines that a child printed.
type tail struct {
	each func(line string) // if not nil, is told every line; set before use

	mu   sync.Mutex
	kept []string
	part []byte
}

const maxLine = 1024

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for rest := p; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		rest = after
		if room := maxLine - len(t.part); room > 0 {
			t.part = append(t.part, line[:min(room, len(line))]...)
		}
		if whole {
			t.push()
		}
	}
	return len(p), nil
}

func (t *tail) push() {
	if len(bytes.TrimSpace(t.part)) > 0 {
		line := strings.ToValidUTF8(string(t.part), "?")
		t.kept = append(t.kept, line)
		t.kept = t.kept[max(0, len(t.kept)-keptLines):]
		if t.each != nil {
			t.each(line)
		}
	}
	t.part = t.part[:0]
}

func (t *tail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := append([]string(nil), t.kept...)
	if len(bytes.TrimSpace(t.part)) > 0 {
		out = append(out, strings.ToValidUTF8(string(t.part), "?"))
	}
	return out
}

func (t *tail) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept, t.part = nil, nil
}

// attributes are how a child runs: as the service user, dying with us, and with
// the right to low ports where it needs that and we can pass it on.
func attributes(c Config, lowPorts bool) (*syscall.SysProcAttr, error) {
	a := &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	if os.Geteuid() == 0 {
		a.Credential = &syscall.Credential{Uid: uint32(c.UID), Gid: uint32(c.GID), Groups: []uint32{}}
	}
	if !lowPorts {
		return a, nil
	}
	can, err := holdsCap(unix.CAP_NET_BIND_SERVICE)
	if err != nil {
		return nil, err
	}
	if !can {
		return nil, errors.New("ports below 1024 need CAP_NET_BIND_SERVICE: start as root, or give the service AmbientCapabilities=CAP_NET_BIND_SERVICE, or configure listen addresses with higher ports")
	}
	a.AmbientCaps = []uintptr{unix.CAP_NET_BIND_SERVICE}
	return a, nil
}

func holdsCap(n uint) (bool, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false, fmt.Errorf("reading this process's capabilities: %w", err)
	}
	return data[n/32].Permitted&(1<<(n%32)) != 0, nil
}

// touchTries is how often slapd is asked for a first write before it is reached
// without one: some fifteen seconds.
const touchTries = 200

// slapdBegins marks the database as in use.
func (r *Realm) slapdBegins() {
	path := r.maker.c.files().unclean
	if _, err := os.Lstat(path); err == nil {
		r.unclean = true
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close(), syncDir(filepath.Dir(path)))
	}
	if err != nil {
		r.slapd.log.WithError(err).Warn("it cannot be noted that slapd runs: should the machine lose its power, its last changes may be unknown to those who follow it")
	}
}

// slapdEnds takes the mark away, when slapd has closed its database.
func (r *Realm) slapdEnds(ok bool) {
	if r.unclean = !ok; ok {
		os.Remove(r.maker.c.files().unclean)
	}
}

// probeSlapd makes slapd reachable once it answers: then its socket gets the name
// that all know. After an unclean end it writes something first.
//
// A slapd that was killed, or whose disk was full, may have a change that its
// contextCSN does not have. OpenLDAP 2.5 tells those who follow it nothing of such a
// change, not even when they read everything, until there is a later one; and once
// they have heard of that, not then either. So there is a later one before anybody
// can follow.
func (r *Realm) probeSlapd(ctx context.Context) error {
	f := r.maker.c.files()
	l, err := dialSocket(ctx, f.socketNew)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.ExternalBind(); err != nil {
		return err
	}
	if r.unclean {
		touch := ldap.NewModifyRequest(r.maker.layout.Sekishod(), nil)
		touch.Replace("description", []string{sekishodIs})
		if err := l.Modify(touch); err != nil {
			if r.touched++; r.touched < touchTries {
				return fmt.Errorf("its first write: %w", err)
			}
			r.slapd.log.WithError(err).Error("slapd takes no write: a change of just before its end may be unknown to those who follow it; when it takes them again, restart sekishod")
		}
		r.touched = 0
	}
	return os.Rename(f.socketNew, f.socket)
}
