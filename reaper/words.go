package reaper

import (
	"errors"
	"syscall"
	"time"
)

// Opening is a session that begins.
type Opening struct {
	// ID names it: 1 to 64 of A-Z a-z 0-9 - _.
	ID string
	// PID is the process that opens it and lives as long (sshd's monitor, login,
	// su), and Started its start time in clock ticks since boot (proc(5)).
	PID     int32
	Started uint64
	// Fresh: it comes from outside (sshd), and is part of no other session.
	Fresh bool
	// Conn is the connection by which that process has told of it.
	Conn syscall.Conn
}

// How is the way in which a session's processes are known.
type How string

const (
	// InScope is a folder in the scope that logind made for it.
	InScope How = "scope"
	// InFolder is a folder of cgroup2.
	InFolder How = "cgroup"
	// InTree is the tree of processes, which some can leave.
	InTree How = "tree"
)

// Session is one that is adopted.
type Session struct {
	ID      string
	PID     int32
	Started uint64
	How     How
	// Alive: it has processes.
	Alive bool
}

// Order is that a session shall end.
type Order struct {
	ID string
	// Text is written to its terminals, as "sekisho: TEXT", before anything ends.
	// What is not printable is left out. Empty: nothing is written.
	Text string
	// Grace is how long its processes may take to end by themselves; at most
	// MaxGrace, 0 is DefaultGrace.
	Grace time.Duration
}

// Ended is what became of an Order.
type Ended struct {
	How       How
	Terminals int           // how many the text was written to
	Took      time.Duration // from the order to the last process's end
	Killed    bool          // not all ended by themselves
	// Left are processes that could not be ended, waiting in the kernel mostly;
	// at most MaxLeft. The session stays adopted then.
	Left []Process
}

// Process is one that is left.
type Process struct {
	PID   int32
	Name  string // proc(5), comm: printable, at most 15 bytes
	State byte   // proc(5): D is waiting for a device
}

// Limits.
const (
	MaxSessions  = 1 << 16
	MaxText      = 512 // bytes of Order.Text that are written
	MaxLeft      = 16
	DefaultGrace = 200 * time.Millisecond
	MaxGrace     = 10 * time.Second
	killWait     = 3 * time.Second // how long a killed process may take
)

// Errors that callers tell apart.
var (
	// ErrAbsent: no sekisho-reaper was started, for sekishod was not root.
	ErrAbsent = errors.New("there is no sekisho-reaper, which only root can start: start sekishod as root to have sessions ended")
	// ErrEnded: there was one.
	ErrEnded = errors.New("sekisho-reaper has ended: restart sekishod to have it again")
	// ErrUnknown: no such session is adopted, or it has no process any more.
	ErrUnknown = errors.New("no such session is adopted")
	// ErrExists: another process has a session of this id.
	ErrExists = errors.New("a session of this id is adopted already")
	// ErrProcess: the process has ended, or is another than was meant.
	ErrProcess = errors.New("the process that opened the session has ended")
	// ErrRefused: it may not be adopted.
	ErrRefused = errors.New("sekisho-reaper does not take this process for one that opens a session")
	// ErrLimit: too many sessions are adopted.
	ErrLimit = errors.New("too many sessions are adopted")
)
