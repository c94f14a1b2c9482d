package testenv

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Holder is a sandbox that lives until StopHolder, whoever started it. Root only.
type Holder struct {
	Pid int // of its init

	ns *namespace
}

// HolderConfig says where a holder is remembered.
type HolderConfig struct {
	Dir string // such as build/demo; state.json and holder.log are written there, and StopHolder removes it whole
	Bin string // where make build put the programs of cmd/, the PAM module being in ../lib; default build/bin of the module
}

// holderState is state.json. A pid alone may by now be somebody else's.
type holderState struct {
	Pid   int
	Start string // field 22 of /proc/PID/stat, clock ticks since boot
	Boot  string // /proc/sys/kernel/random/boot_id
}

const (
	stateFile = "state.json"
	logFile   = "holder.log" // the first file to be made, so dir is known as ours
)

// ErrNoHolder is when no sandbox runs for that directory.
var ErrNoHolder = errors.New("no sandbox is running")

// StartHolder starts a sandbox with nothing in it but its init, and the
// programs of cmd/ installed as make build left them: the go tool is the
// user's, and this is root. The module is found from the working directory.
// Run things in it with Command: a program that has called Reexec can start
// itself there, as /proc/self/exe, and then use NewWorld.
func StartHolder(cfg HolderConfig) (*Holder, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a sandbox needs root: use sudo")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	switch _, err := OpenHolder(dir); {
	case err == nil:
		return nil, fmt.Errorf("a sandbox for %s is running already: stop it first", dir)
	case !errors.Is(err, ErrNoHolder):
		return nil, err
	}
	cwd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	root, err := moduleRoot(cwd)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if ours, err := isHolders(dir); err != nil {
		return nil, err
	} else if !ours {
		return nil, fmt.Errorf("%s has other files in it, and stopping the sandbox would remove them: choose an empty folder", dir)
	}
	if cfg.Bin == "" {
		cfg.Bin = filepath.Join(root, "build", "bin")
	}
	spec := &sandboxSpec{Hold: true, Root: root, Keep: []string{root},
		Programs: map[string]string{}, Failed: map[string]string{}}
	for name := range programPaths {
		file := filepath.Join(cfg.Bin, name)
		if name == pamModule {
			file = filepath.Join(cfg.Bin, "..", "lib", name)
		}
		if _, err := os.Stat(file); err != nil {
			spec.Failed[name] = fmt.Sprintf("%v: run make build first", err)
			continue
		}
		spec.Programs[name] = file
	}
	h, err := startHolder(dir, spec)
	if err != nil {
		return nil, fmt.Errorf("starting a sandbox: %w", err)
	}
	return h, nil
}

func startHolder(dir string, spec *sandboxSpec) (*Holder, error) {
	specR, specW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer specR.Close()
	defer specW.Close()
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer readyR.Close()
	defer readyW.Close()
	log, err := os.Create(filepath.Join(dir, logFile))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe", stageSandbox)
	cmd.Args[0] = os.Args[0]
	cmd.Env = minimalEnv()
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{specR, readyW}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Setsid: true}
	group, err := newCgroup()
	if err != nil {
		return nil, err
	}
	spec.Cgroup = group != ""
	folder, err := bornIn(group, cmd.SysProcAttr)
	if err == nil {
		err = cmd.Start()
		folder.Close()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making namespaces: %w", err), removeCgroup(group))
	}
	specR.Close()
	readyW.Close()
	// Remembered before it is told to begin: if we die first, it reads the end of
	// its pipe and ends.
	pid := cmd.Process.Pid
	err = remember(dir, pid)
	if err == nil {
		err = json.NewEncoder(specW).Encode(spec)
	}
	specW.Close()
	if err == nil {
		var answer []byte
		answer, err = io.ReadAll(readyR)
		if err == nil && string(answer) != "ok" {
			err = fmt.Errorf("its init says: %s", answer)
		}
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return nil, errors.Join(err, forget(dir), removeCgroup(group))
	}
	// It is to outlive us; the machine's init waits for it then.
	if err := cmd.Process.Release(); err != nil {
		return nil, err
	}
	return OpenHolder(dir)
}

// remember writes state.json whole or not at all.
func remember(dir string, pid int) error {
	st := holderState{Pid: pid}
	var err error
	if st.Start, err = startTime(pid); err != nil {
		return err
	}
	if st.Boot, err = bootID(); err != nil {
		return err
	}
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, stateFile+".new")
	if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, stateFile))
}

// OpenHolder finds the sandbox that was started for dir. The error is
// ErrNoHolder when there is none, or no more.
func OpenHolder(dir string) (*Holder, error) {
	var st holderState
	err := readJSON(filepath.Join(dir, stateFile), &st)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w for %s", ErrNoHolder, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("reading which sandbox runs: %w", err)
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	if st.Pid <= 1 || st.Boot != boot {
		return nil, fmt.Errorf("%w for %s: it was before this boot", ErrNoHolder, dir)
	}
	// The pidfd first: what it names cannot change any more.
	fd, err := unix.PidfdOpen(st.Pid, 0)
	if err == unix.ESRCH {
		return nil, fmt.Errorf("%w for %s: it has ended", ErrNoHolder, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("finding the sandbox, pid %d: %w", st.Pid, err)
	}
	if start, err := startTime(st.Pid); err != nil || start != st.Start || !alive(fd) {
		unix.Close(fd)
		return nil, fmt.Errorf("%w for %s: pid %d is another's by now", ErrNoHolder, dir, st.Pid)
	}
	return &Holder{Pid: st.Pid, ns: &namespace{what: "the sandbox", pidfd: fd}}, nil
}

// Command is a command that runs in the sandbox, as root, with TMPDIR set.
func (h *Holder) Command(ctx context.Context, name string, args ...string) *Cmd {
	c := newCmd(ctx, h.ns, name, args)
	c.Env = append(c.Env, "TMPDIR="+tmpDir)
	return c
}

// StopHolder kills the sandbox of dir, and so all in it, waits until it is
// gone, and removes dir with all that is in it. It is for one half made, too;
// when there is none it only removes what is left. A folder that is no holder's
// is not touched.
func StopHolder(dir string) error {
	h, err := OpenHolder(dir)
	if err == nil {
		err = h.kill()
	} else if errors.Is(err, ErrNoHolder) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("stopping the sandbox: %w", err)
	}
	return forget(dir)
}

func (h *Holder) kill() error {
	group := cgroupOf(h.Pid) // the whole of it is killed with its init
	if err := unix.PidfdSendSignal(h.ns.pidfd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return err
	}
	deadline := time.Now().Add(time.Minute)
	for alive(h.ns.pidfd) {
		if time.Now().After(deadline) {
			return fmt.Errorf("pid %d was killed and has not ended in a minute", h.Pid)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := unix.Close(h.ns.pidfd); err != nil || !strings.HasPrefix(filepath.Base(group), cgroupPrefix) {
		return err
	}
	return removeCgroup(group)
}

// forget removes dir when it is a holder's, or empty.
func forget(dir string) error {
	switch ours, err := isHolders(dir); {
	case err != nil:
		return err
	case ours:
		return os.RemoveAll(dir)
	}
	return nil
}

// isHolders tells whether dir is one that StartHolder made, or an empty one.
func isHolders(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if e.Name() == stateFile || e.Name() == logFile {
			return true, nil
		}
	}
	return len(entries) == 0, nil
}

// startTime is when a process began, in clock ticks since boot (proc(5)).
func startTime(pid int) (string, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", err
	}
	// The name, field 2, may hold anything; fields are counted from its ")".
	i := bytes.LastIndexByte(b, ')')
	f := strings.Fields(string(b[i+1:]))
	if i < 0 || len(f) < 20 {
		return "", fmt.Errorf("/proc/%d/stat has another form: %q", pid, b)
	}
	return f[19], nil
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}
