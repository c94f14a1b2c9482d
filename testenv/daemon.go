package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
)

// DaemonConfig says what to start, as a child of the caller.
type DaemonConfig struct {
	Name  string              // of its log; default the base of Path
	Path  string              // absolute
	Args  []string            // without argv[0]
	Argv0 string              // default Path
	Dir   string              // default /
	Env   []string            // added to PATH, HOME and the like
	User  *syscall.Credential // default root
	Files []*os.File          // fd 3 and on; the caller closes his

	// Ready is called until it returns nil; nil means started is ready.
	Ready        func(ctx context.Context) error
	ReadyTimeout time.Duration // against hanging only; default a minute
	StopTimeout  time.Duration // from SIGTERM to SIGKILL; default 30 s
}

func (c *DaemonConfig) validate() error {
	if !filepath.IsAbs(c.Path) {
		return fmt.Errorf("the daemon's path %q is not absolute", c.Path)
	}
	if c.Name == "" {
		c.Name = filepath.Base(c.Path)
	}
	if c.Argv0 == "" {
		c.Argv0 = c.Path
	}
	if c.Dir == "" {
		c.Dir = "/"
	}
	if c.ReadyTimeout == 0 {
		c.ReadyTimeout = time.Minute
	}
	if c.StopTimeout == 0 {
		c.StopTimeout = 30 * time.Second
	}
	return nil
}

// Daemon is a running server. Its exit status is collected as soon as it ends.
type Daemon struct {
	Name string

	cmd         *Cmd
	logFile     string
	stopTimeout time.Duration
	done        chan struct{}
	err         error // what Wait said; valid after done
}

// Start starts a daemon on the host and waits until it is ready. Its output
// goes to a log that a failing test shows (see ForTest). When it does not
// become ready it is killed, and the error has the end of its log.
func (h *Host) Start(ctx context.Context, cfg DaemonConfig) (*Daemon, error) {
	h.mu.Lock()
	closed := h.closed
	h.mu.Unlock()
	if closed {
		return nil, fmt.Errorf("starting %s on %s: the host is down", cfg.Name, h.Name)
	}
	d, err := startDaemon(ctx, h.ns, filepath.Join(h.dir, "log"), cfg)
	if err != nil {
		return nil, fmt.Errorf("on %s: %w", h.Name, err)
	}
	h.mu.Lock()
	h.daemons = append(h.daemons, d)
	h.mu.Unlock()
	return d, nil
}

// StartDaemon is Host.Start on the sandbox itself. The caller stops it.
func StartDaemon(ctx context.Context, cfg DaemonConfig) (*Daemon, error) {
	if !Inside() {
		return nil, errors.New("daemons run in the sandbox: call testenv.Main in TestMain")
	}
	return startDaemon(ctx, nil, filepath.Join(mntDir, "log"), cfg)
}

// logNumber keeps the logs of daemons of one name apart.
var logNumber atomic.Int64

func startDaemon(ctx context.Context, ns *namespace, logDir string, cfg DaemonConfig) (*Daemon, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(logDir, 0o755); err != nil {
		return nil, err
	}
	d := &Daemon{
		Name:        cfg.Name,
		logFile:     filepath.Join(logDir, fmt.Sprintf("%s.%d", cfg.Name, logNumber.Add(1))),
		stopTimeout: cfg.StopTimeout,
		done:        make(chan struct{}),
	}
	// A file and not a pipe: it outlives us, and there is nothing to copy.
	log, err := os.OpenFile(d.logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d.cmd = newCmd(context.WithoutCancel(ctx), ns, cfg.Path, cfg.Args)
	d.cmd.Args[0] = cfg.Argv0
	d.cmd.Dir = cfg.Dir
	d.cmd.Env = append(d.cmd.Env, cfg.Env...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.ExtraFiles = cfg.Files
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: cfg.User}
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", cfg.Name, err)
	}
	go func() { // ends with the daemon
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	if err := d.await(ctx, cfg); err != nil {
		d.Kill()
		return nil, fmt.Errorf("starting %s: %w; its log ends:\n%s", cfg.Name, err, tail(d.Log(), 2000))
	}
	return d, nil
}

// await polls cfg.Ready.
func (d *Daemon) await(ctx context.Context, cfg DaemonConfig) error {
	if cfg.Ready == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.ReadyTimeout)
	defer cancel()
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := cfg.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-d.done:
			return fmt.Errorf("it ended before it was ready: %v", d.err)
		case <-ctx.Done():
			return fmt.Errorf("it was not ready in %s: %w", cfg.ReadyTimeout, err)
		case <-time.After(wait):
		}
	}
}

// Pid is the process's number as the caller sees it.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// Done is closed when the daemon has ended.
func (d *Daemon) Done() <-chan struct{} { return d.done }

// Err is how the daemon ended, nil for exit 0. Only after Done.
func (d *Daemon) Err() error {
	select {
	case <-d.done:
		return d.err
	default:
		return errors.New("it is still running")
	}
}

// Signal sends a signal to the daemon alone.
func (d *Daemon) Signal(s os.Signal) error {
	if err := d.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("signalling %s: %w", d.Name, err)
	}
	return nil
}

// Stop ends the daemon by SIGTERM and SIGCONT, waits, and after StopTimeout
// kills it, which is an error. One that has ended already is none.
func (d *Daemon) Stop() error {
	d.cmd.Process.Signal(syscall.SIGTERM)
	d.cmd.Process.Signal(syscall.SIGCONT)
	select {
	case <-d.done:
		return nil
	case <-time.After(d.stopTimeout):
		d.Kill()
		return fmt.Errorf("stopping %s: it did not end in %s and was killed", d.Name, d.stopTimeout)
	}
}

// Kill ends the daemon by SIGKILL and waits.
func (d *Daemon) Kill() {
	d.cmd.Process.Kill()
	<-d.done
}

// Log is what the daemon wrote to its standard output and error so far.
func (d *Daemon) Log() string {
	b, err := os.ReadFile(d.logFile)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func tail(s string, n int) string {
	if len(s) > n {
		return "… " + s[len(s)-n:]
	}
	return s
}
