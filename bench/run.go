package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

// command is one program that is started over and over.
type command struct {
	args  []string // args[0] is the path
	env   []string // more of it
	input string   // its standard input, of at most a pipe's size
	cred  *syscall.Credential
	ok    int // the exit code that it must have
}

// starter starts programs on one host from one thread, with as little around
// them as there can be: fork, exec, wait; no output is read.
type starter struct {
	todo chan command
	done chan result
	end  chan error
}

type result struct {
	took, cpu time.Duration // cpu is the program's own
	err       error
}

// startOn makes a starter on a host, nil for the sandbox itself. stop ends it.
func startOn(h *testenv.Host) (s *starter, stop func() error) {
	s = &starter{todo: make(chan command), done: make(chan result), end: make(chan error, 1)}
	loop := func() error {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer null.Close()
		for c := range s.todo {
			s.done <- run1(c, null.Fd())
		}
		return nil
	}
	go func() {
		if h == nil {
			s.end <- loop()
		} else {
			s.end <- h.Inside(loop)
		}
		close(s.end)
	}()
	return s, func() error { close(s.todo); return <-s.end }
}

// run runs a command once.
func (s *starter) run(c command) result {
	select {
	case s.todo <- c:
	case err := <-s.end:
		return result{err: fmt.Errorf("nothing can be started: %w", err)}
	}
	return <-s.done
}

func run1(c command, null uintptr) result {
	attr := &syscall.ProcAttr{
		Dir: "/", Env: append([]string{"PATH=/usr/bin:/bin", "HOME=/root", "LANG=C"}, c.env...),
		Files: []uintptr{null, null, null},
	}
	if c.input != "" {
		stdin, err := pipeOf(c.input)
		if err != nil {
			return result{err: err}
		}
		defer stdin.Close()
		attr.Files[0] = stdin.Fd()
	}
	if c.cred != nil {
		attr.Sys = &syscall.SysProcAttr{Credential: c.cred}
	}
	var ws syscall.WaitStatus
	var used syscall.Rusage
	start := time.Now()
	pid, err := syscall.ForkExec(c.args[0], c.args, attr)
	if err == nil {
		_, err = wait(pid, &ws, &used)
	}
	took := time.Since(start)
	switch {
	case err != nil:
		err = fmt.Errorf("running %s: %w", c.args[0], err)
	case !ws.Exited() || ws.ExitStatus() != c.ok:
		err = fmt.Errorf("running %q: exit code %d, want %d", c.args, ws.ExitStatus(), c.ok)
	}
	return result{took, time.Duration(used.Utime.Nano() + used.Stime.Nano()), err}
}

// pipeOf is a pipe that holds text and then ends.
func pipeOf(text string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = w.WriteString(text)
	if err = errors.Join(err, w.Close()); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func wait(pid int, ws *syscall.WaitStatus, used *syscall.Rusage) (int, error) {
	for {
		n, err := syscall.Wait4(pid, ws, 0, used)
		if err != syscall.EINTR {
			return n, err
		}
	}
}
