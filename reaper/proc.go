package reaper

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// noAudit is the audit session id of a process that has none.
const noAudit = ^uint32(0)

const kernelThread = 0x00200000 // PF_KTHREAD, in the flags of proc(5)

// process is what proc(5) says of one.
type process struct {
	pid     int32
	name    string
	state   byte
	parent  int32
	sid     int32
	tty     uint64 // as a dev_t; 0: none
	kernel  bool
	started uint64 // clock ticks since boot
	uids    [3]uint32
	audit   uint32 // session id; set by takeCensus
}

// dead: only its entry is left.
func (p process) dead() bool { return p.state == 'Z' || p.state == 'X' || p.state == 'x' }

func procFile(pid int32, name string) string {
	return "/proc/" + strconv.Itoa(int(pid)) + "/" + name
}

// readProcess is ErrProcess, under errors.Is, when there is none.
func readProcess(pid int32) (process, error) {
	b, err := os.ReadFile(procFile(pid, "stat"))
	if gone(err) {
		return process{}, fmt.Errorf("%w: there is no process %d", ErrProcess, pid)
	}
	if err != nil {
		return process{}, err
	}
	return parseStat(b)
}

// gone: there is no such process.
func gone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// parseStat reads /proc/PID/stat but for the uids.
func parseStat(b []byte) (process, error) {
	bad := errors.New("reading /proc/PID/stat: it has another form")
	// The name in parentheses may hold anything.
	open, shut := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 2 || shut < open {
		return process{}, bad
	}
	f := strings.Fields(string(b[shut+1:]))
	if len(f) < 20 || len(f[0]) != 1 {
		return process{}, bad
	}
	p := process{name: printable(string(b[open+1:shut]), 15), state: f[0][0]}
	var flags, tty int64
	for _, n := range []struct {
		text string
		to   any
	}{{string(b[:open-1]), &p.pid}, {f[1], &p.parent}, {f[3], &p.sid}, {f[4], &tty}, {f[6], &flags}, {f[19], &p.started}} {
		if err := readNumber(n.text, n.to); err != nil {
			return process{}, bad
		}
	}
	p.kernel = flags&kernelThread != 0
	// new_encode_dev of the kernel's include/linux/kdev_t.h.
	if d := uint32(tty); d != 0 {
		p.tty = unix.Mkdev(d>>8&0xfff, d&0xff|d>>12&0xfff00)
	}
	return p, nil
}

func readNumber(text string, to any) (err error) {
	var n int64
	switch v := to.(type) {
	case *uint64:
		*v, err = strconv.ParseUint(text, 10, 64)
	case *int32:
		n, err = strconv.ParseInt(text, 10, 32)
		*v = int32(n)
	case *int64:
		*v, err = strconv.ParseInt(text, 10, 64)
	}
	return err
}

// readUIDs reads the real, effective and saved uid.
func (p *process) readUIDs() error {
	b, err := os.ReadFile(procFile(p.pid, "status"))
	if err != nil {
		return err
	}
	_, rest, ok := strings.Cut(string(b), "\nUid:")
	line, _, _ := strings.Cut(rest, "\n")
	f := strings.Fields(line)
	if !ok || len(f) != 4 {
		return errors.New("reading /proc/PID/status: it has another form")
	}
	for i := range p.uids {
		n, err := strconv.ParseUint(f[i], 10, 32)
		if err != nil {
			return err
		}
		p.uids[i] = uint32(n)
	}
	return nil
}

// auditSession is noAudit when there is none, or the kernel has no such thing.
func auditSession(pid int32) uint32 {
	b, err := os.ReadFile(procFile(pid, "sessionid"))
	if err != nil {
		return noAudit
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	if err != nil {
		return noAudit
	}
	return uint32(n)
}

// childrenOf are a process's children (proc(5), CONFIG_PROC_CHILDREN).
func childrenOf(pid int32) []int32 {
	tasks, err := os.ReadDir(procFile(pid, "task"))
	if err != nil {
		return nil
	}
	var out []int32
	for _, t := range tasks {
		b, err := os.ReadFile(procFile(pid, "task/"+t.Name()+"/children"))
		if err != nil {
			continue
		}
		for word := range strings.FieldsSeq(string(b)) {
			if n, err := strconv.ParseInt(word, 10, 32); err == nil {
				out = append(out, int32(n))
			}
		}
	}
	return out
}

// census is all processes but the kernel's and those that are dead. It is not
// changed once it is taken.
type census struct {
	all      map[int32]process
	children map[int32][]int32
	sids     map[int32][]int32 // pids by setsid(2)'s sessions
}

func takeCensus() (*census, error) {
	f, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	c := &census{map[int32]process{}, map[int32][]int32{}, map[int32][]int32{}}
	for _, name := range names {
		pid, err := strconv.ParseInt(name, 10, 32)
		if err != nil {
			continue
		}
		p, err := readProcess(int32(pid))
		if errors.Is(err, ErrProcess) || err == nil && (p.kernel || p.dead()) {
			continue
		}
		if err != nil {
			return nil, err
		}
		p.audit = auditSession(p.pid)
		c.all[p.pid] = p
		c.children[p.parent] = append(c.children[p.parent], p.pid)
		c.sids[p.sid] = append(c.sids[p.sid], p.pid)
	}
	return c, nil
}

// spread adds to in what descends from a process, and what is in the sessions
// that these have made, but what is in stop.
func (c *census) spread(in map[int32]bool, from int32, stop map[int32]bool) {
	for next := []int32{from}; len(next) > 0; next = next[1:] {
		for _, more := range [][]int32{c.children[next[0]], c.sids[next[0]]} {
			for _, pid := range more {
				if !in[pid] && !stop[pid] {
					in[pid] = true
					next = append(next, pid)
				}
			}
		}
	}
}

// signalTo sends signals to p, and only to p: the pidfd is opened before it is
// made sure who has the pid, and a pid is not given again while its process has
// it. member says whether it is still to be signalled.
func signalTo(p process, member func() bool, signals ...unix.Signal) error {
	fd, err := unix.PidfdOpen(int(p.pid), 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening process %d: %w", p.pid, err)
	}
	defer unix.Close(fd)
	now, err := readProcess(p.pid)
	if err != nil || now.started != p.started || member != nil && !member() {
		return nil
	}
	for _, s := range signals {
		if err := unix.PidfdSendSignal(fd, s, nil, 0); err == unix.ESRCH {
			return nil
		} else if err != nil {
			return fmt.Errorf("sending a signal to process %d: %w", p.pid, err)
		}
	}
	return nil
}
