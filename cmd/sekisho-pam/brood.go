package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// brood starts the processes of conversations and collects them: all of them,
// and whatever they leave behind. For that this process is a subreaper
// (prctl(2)): what outlives a conversation becomes its child, and is killed.
type brood struct {
	begin chan birth
	sig   chan os.Signal
	done  chan struct{} // both loops have ended
	loops sync.WaitGroup

	mu    sync.Mutex              // guards all below
	known map[int]chan<- struct{} // conversations that live, by pid; closed at the end
}

// birth is an order for a process.
type birth struct {
	files []*os.File
	born  chan<- child
}

// child is a conversation's process.
type child struct {
	pid  int
	gone <-chan struct{} // closed when it has ended and is collected
	err  error           // it could not be started
}

// newBrood makes this process a subreaper and begins to collect.
func newBrood() (*brood, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("becoming a subreaper: %w", err)
	}
	if _, err := children(); err != nil {
		return nil, fmt.Errorf("listing children (is /proc mounted, and CONFIG_PROC_CHILDREN in the kernel?): %w", err)
	}
	b := &brood{begin: make(chan birth), sig: make(chan os.Signal, 1), done: make(chan struct{}), known: map[int]chan<- struct{}{}}
	signal.Notify(b.sig, syscall.SIGCHLD)
	b.loops.Go(b.bear)
	b.loops.Go(b.reap)
	return b, nil
}

// start starts this program anew as a conversation whose descriptors from 3 on
// are files.
func (b *brood) start(files ...*os.File) (child, error) {
	born := make(chan child, 1)
	b.begin <- birth{files, born}
	c := <-born
	return c, c.err
}

// bear has all processes started by one thread that lives as long as we do:
// the kernel kills them when it ends (PR_SET_PDEATHSIG is about the thread).
func (b *brood) bear() {
	runtime.LockOSThread()
	defer func() { <-b.done }() // the thread ends with this function
	for o := range b.begin {
		o.born <- b.fork(o.files)
	}
}

func (b *brood) fork(files []*os.File) child {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return child{err: err}
	}
	defer null.Close()
	gone := make(chan struct{})
	b.mu.Lock() // until known has it: reap must not see it before
	defer b.mu.Unlock()
	p, err := os.StartProcess("/proc/self/exe", []string{"sekisho-pam", conversationArg}, &os.ProcAttr{
		Dir: "/", Env: childEnv, Files: append([]*os.File{null, null, os.Stderr}, files...),
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true},
	})
	if err != nil {
		return child{err: fmt.Errorf("starting a conversation: %w", err)}
	}
	c := child{pid: p.Pid, gone: gone}
	p.Release() // reap collects it
	b.known[c.pid] = gone
	return c
}

// childEnv is all that modules see of our environment.
var childEnv = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "GOTRACEBACK=none"}

// kill ends a conversation and its group at once; gone tells when it has ended.
func (b *brood) kill(c child) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.known[c.pid]; ok { // else the number may be another's by now
		syscall.Kill(-c.pid, syscall.SIGKILL)
	}
}

// reap collects who has ended, and kills whom they left to us.
func (b *brood) reap() {
	for range b.sig {
		b.collect()
	}
}

// collect collects all conversations that have ended, with what they left
// behind, and tells how many children there still are.
func (b *brood) collect() (left int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for pid, gone := range b.known {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err != nil || info.Signo == 0 {
			continue // it lives
		}
		syscall.Kill(-pid, syscall.SIGKILL) // while its number cannot be another's
		wait(pid)
		delete(b.known, pid)
		close(gone)
	}
	pids, err := children()
	if err != nil {
		return 1 // it worked at the start, and will again
	}
	for _, pid := range pids {
		left++
		// A living conversation is a subreaper itself, so who is none belongs to
		// one that has ended.
		if _, ok := b.known[pid]; !ok {
			syscall.Kill(pid, syscall.SIGKILL)
			if wait(pid) {
				left--
			}
		}
	}
	return left
}

// wait collects a child if it has ended.
func wait(pid int) bool {
	for {
		got, err := syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		if err != syscall.EINTR {
			return got == pid
		}
	}
}

// close kills all that is left, waits for it, and ends the loops. Nothing may
// be started any more.
func (b *brood) close() {
	for {
		b.mu.Lock()
		for pid := range b.known {
			syscall.Kill(-pid, syscall.SIGKILL)
		}
		b.mu.Unlock()
		if b.collect() == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	signal.Stop(b.sig)
	close(b.sig)
	close(b.begin)
	close(b.done)
	b.loops.Wait()
}

// children are the pids of this process's children.
func children() ([]int, error) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, t := range tasks {
		text, err := os.ReadFile("/proc/self/task/" + t.Name() + "/children")
		if errors.Is(err, os.ErrNotExist) && len(tasks) > 1 && t.Name() != strconv.Itoa(os.Getpid()) {
			continue // a thread that has ended
		}
		if err != nil {
			return nil, err
		}
		for word := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				return nil, err
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
