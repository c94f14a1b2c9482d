package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var errInner = errors.New("call Start, Run or Output of testenv.Cmd, not of the exec.Cmd in it")

// Cmd is an exec.Cmd whose process starts inside the namespaces of a host or
// sandbox, as a child of the caller: no nsenter is between, so signals and wait
// statuses are the process's own. Set its fields as usual, and call the methods
// of Cmd; the inner Cmd refuses to start. The environment is a minimal one, the
// working directory /, and standard input /dev/null, unless set.
type Cmd struct {
	*exec.Cmd
	in *namespace
}

// minimalEnv is what a process of the world starts with.
func minimalEnv() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh", "LANG=C.UTF-8",
	}
}

func newCmd(ctx context.Context, in *namespace, name string, args []string) *Cmd {
	c := &Cmd{Cmd: exec.CommandContext(ctx, name, args...), in: in}
	c.Dir, c.Env = "/", minimalEnv()
	c.WaitDelay = 30 * time.Second
	if c.Err == nil {
		c.Err = errInner
	}
	return c
}

// Start starts the process in its namespaces.
func (c *Cmd) Start() error {
	if c.Err == errInner {
		c.Err = nil
	}
	if c.in == nil {
		return c.Cmd.Start()
	}
	return c.in.do(c.startThere)
}

// startThere starts the process in the root of its host's cgroups, if it has
// any: entering namespaces does not do that.
func (c *Cmd) startThere() error {
	if isCgroup2(cgroupDir) {
		f, err := os.Open(cgroupDir)
		if err != nil {
			return fmt.Errorf("opening the cgroup of %s: %w", c.in.what, err)
		}
		defer f.Close()
		if c.SysProcAttr == nil {
			c.SysProcAttr = &syscall.SysProcAttr{}
		}
		c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(f.Fd())
	}
	return c.Cmd.Start()
}

// Run starts the process and waits for it.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output is Run with the standard output returned; an *exec.ExitError has the
// standard error in Stderr unless c.Stderr was set.
func (c *Cmd) Output() ([]byte, error) {
	var out, errs bytes.Buffer
	if c.Stdout != nil {
		return nil, errors.New("Output: Stdout is set")
	}
	c.Stdout = &out
	if c.Stderr == nil {
		c.Stderr = &errs
	}
	err := c.Run()
	var e *exec.ExitError
	if errors.As(err, &e) {
		e.Stderr = errs.Bytes()
	}
	return out.Bytes(), err
}

// CombinedOutput is Run with both outputs returned.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	if c.Stdout != nil || c.Stderr != nil {
		return nil, errors.New("CombinedOutput: Stdout or Stderr is set")
	}
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// namespace is what the first process of a host or sandbox holds open.
type namespace struct {
	what  string // for errors
	pidfd int
}

// do runs f on a thread of its own that has entered the namespaces. What f
// forks is born inside; the files it opens are the host's, and so are sockets.
// f must not use other goroutines for that.
func (n *namespace) do(f func() error) error {
	errc := make(chan error, 1)
	go freshThread(func() {
		if err := n.enter(); err != nil {
			errc <- err
			return
		}
		errc <- f()
	})
	return <-errc
}

func (n *namespace) enter() error {
	// A thread can change its mount namespace when it shares no working directory.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("entering %s: unshare: %w", n.what, err)
	}
	if err := unix.Setns(n.pidfd, namespaces|unix.CLONE_NEWCGROUP); err != nil {
		if err == unix.ESRCH {
			return fmt.Errorf("entering %s: it is down", n.what)
		}
		return fmt.Errorf("entering %s: %w", n.what, err)
	}
	return nil
}

// freshThread runs f on a thread that ends with it. It must be a goroutine's
// only work. The process's main thread is never used: it cannot end, and
// /proc/self shows its namespaces.
func freshThread(f func()) {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	defer runtime.UnlockOSThread()
	done := make(chan struct{})
	go func() {
		defer close(done)
		freshThread(f)
	}()
	<-done
}
