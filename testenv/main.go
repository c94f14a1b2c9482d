package testenv

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A process started for one of these stages has the stage as its only argument.
const (
	stageRoot    = "sekisho-testenv-root"    // started by sudo: enters the sandbox, spec on stdin
	stageSandbox = "sekisho-testenv-sandbox" // pid 1 of a sandbox, spec on fd 3
	stageHost    = "sekisho-testenv-host"    // pid 1 of a host, spec on fd 3
	stageCgroup  = "sekisho-testenv-cgroup"  // removes a cgroup at the end of its input
)

// Runner is what Main runs inside: a *testing.M, or a wrapper of it.
type Runner interface{ Run() int }

// Main is called by TestMain. It enters the sandbox, runs m there and exits
// with its code; it does not return. When the sandbox cannot be entered the run
// fails: no test is skipped.
func Main(m Runner) { os.Exit(Sandboxed(m).Run()) }

// Sandboxed is for a TestMain that has another wrapper, such as testscript.Main
// or goleak.VerifyTestMain: what it returns enters the sandbox in Run.
func Sandboxed(m Runner) Runner {
	Reexec()
	return sandboxed{m}
}

type sandboxed struct{ m Runner }

func (s sandboxed) Run() int {
	if Inside() {
		return s.m.Run()
	}
	if !flag.Parsed() {
		flag.Parse()
	}
	if f := flag.Lookup("test.list"); f != nil && f.Value.String() != "" {
		return s.m.Run() // names only
	}
	spec, err := testSpec()
	if err == nil {
		var code int
		if code, err = enter(spec); err == nil {
			return code
		}
	}
	fmt.Fprintf(os.Stderr, "testenv: %v\n", err)
	return 2
}

// Reexec must be the first thing in main of a program that uses this package
// without Main: it takes over, and does not return, when the process was
// started to become the init of a sandbox or host.
func Reexec() {
	if len(os.Args) != 2 {
		return
	}
	var err error
	switch os.Args[1] {
	case stageRoot:
		err = rootMain()
	case stageSandbox:
		err = sandboxMain()
	case stageHost:
		err = hostMain()
	case stageCgroup:
		err = cgroupMain()
	default:
		return
	}
	fmt.Fprintf(os.Stderr, "testenv: %v\n", err)
	os.Exit(2)
}

// sandboxSpec tells pid 1 of a sandbox what to make and run.
type sandboxSpec struct {
	Hold     bool              // no command: wait to be killed
	Args     []string          // of the command, the program of this process
	Env      []string          // its environment
	Dir      string            // its working directory
	Root     string            // the module's directory
	Keep     []string          // directories that stay as they are, writable
	Programs map[string]string // name of a program of cmd/ to the built file
	Failed   map[string]string // name of a program to why it could not be built
	GiveBack []string          // under sudo: what the caller shall own afterwards
	Cgroup   bool              // it was born in a cgroup of its own
}

// testSpec is the spec for the run of this test binary.
func testSpec() (*sandboxSpec, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("finding the working directory: %w", err)
	}
	root, err := moduleRoot(dir)
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding the test binary: %w", err)
	}
	s := &sandboxSpec{
		Args:     os.Args,
		Env:      keepEnv(os.Environ()),
		Dir:      dir,
		Root:     root,
		Keep:     []string{root, filepath.Dir(exe)},
		GiveBack: []string{filepath.Join(dir, "testdata"), filepath.Join(root, "build"), filepath.Join(root, "bench")},
	}
	s.Programs, s.Failed = buildPrograms(root)
	// Where the testing package writes; the go tool's own folder is among them.
	for _, name := range []string{"outputdir", "coverprofile", "cpuprofile", "memprofile", "blockprofile",
		"mutexprofile", "trace", "testlogfile", "gocoverdir", "fuzzcachedir"} {
		f := flag.Lookup("test." + name)
		if f == nil || f.Value.String() == "" {
			continue
		}
		path, err := filepath.Abs(f.Value.String())
		if err != nil {
			return nil, err
		}
		if name == "fuzzcachedir" {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return nil, fmt.Errorf("making the fuzz cache: %w", err)
			}
		}
		s.GiveBack = append(s.GiveBack, path)
		if st, err := os.Stat(path); err != nil || !st.IsDir() {
			path = filepath.Dir(path)
		}
		s.Keep = append(s.Keep, path)
	}
	if d := os.Getenv("GOCOVERDIR"); d != "" {
		s.Keep = append(s.Keep, d)
	}
	return s, nil
}

// keepEnv lets through what is meant for tests; nothing of the user's agents,
// tickets, proxies or certificates is seen by the servers of the world.
func keepEnv(env []string) []string {
	out := []string{"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh", "TMPDIR=" + tmpDir}
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		switch {
		case k == "PATH":
			path = v + ":" + path
		case k == "CI", k == "LANG", k == "TERM", k == "TZ",
			strings.HasPrefix(k, "LC_"), strings.HasPrefix(k, "GO"), strings.HasPrefix(k, "SEKISHO_"):
			out = append(out, kv)
		}
	}
	return append(out, "PATH="+path)
}

// moduleRoot is the directory at or above dir that has our go.mod.
func moduleRoot(dir string) (string, error) {
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return filepath.EvalSymlinks(d)
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("no go.mod at or above %s: run the tests from the module", dir)
		}
	}
}

// enter runs spec's command in a new sandbox, by sudo where it must, and
// returns its exit code.
func enter(spec *sandboxSpec) (int, error) {
	if os.Geteuid() == 0 {
		return runSandbox(spec, nil)
	}
	sudo, err := exec.LookPath("sudo")
	if err != nil {
		return 0, errors.New("root is needed for namespaces and mounts, and there is no sudo: run as root")
	}
	if err := exec.Command(sudo, "-n", "true").Run(); err != nil {
		return 0, errors.New("root is needed for namespaces and mounts, and sudo asks for a password: run as root, or `sudo -v` first")
	}
	exe, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("finding this program: %w", err)
	}
	b, err := json.Marshal(spec)
	if err != nil {
		return 0, err
	}
	// The pipe stays open: when we die, however, the other side sees its end.
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer w.Close()
	cmd := exec.Command(sudo, "-n", "--", exe, stageRoot)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting sudo: %w", err)
	}
	r.Close()
	stop := forward(cmd.Process)
	defer stop()
	if _, err := w.Write(append(b, '\n')); err != nil {
		cmd.Wait()
		return 0, fmt.Errorf("handing over to sudo: %w", err)
	}
	return exitCode(cmd.Wait())
}

// rootMain is the process that sudo starts for enter.
func rootMain() error {
	dec := json.NewDecoder(os.Stdin)
	var spec sandboxSpec
	if err := dec.Decode(&spec); err != nil {
		return fmt.Errorf("reading what to run: %w", err)
	}
	gone := make(chan struct{})
	go func() { // ends with the process
		io.Copy(io.Discard, os.Stdin)
		close(gone)
	}()
	code, err := runSandbox(&spec, gone)
	if err != nil {
		return err
	}
	giveBack(spec.GiveBack)
	os.Exit(code)
	return nil
}

// giveBack makes the user behind sudo the owner of what the run wrote for him.
func giveBack(paths []string) {
	uid, err1 := strconv.Atoi(os.Getenv("SUDO_UID"))
	gid, err2 := strconv.Atoi(os.Getenv("SUDO_GID"))
	if err1 != nil || err2 != nil {
		return
	}
	for _, p := range paths {
		filepath.WalkDir(p, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if st, err := os.Lstat(path); err == nil && st.Sys().(*syscall.Stat_t).Uid == 0 {
				os.Lchown(path, uid, gid)
			}
			return nil
		})
	}
}

// namespaces of a sandbox and of each host.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// runSandbox runs spec's command in a new sandbox as root and returns its exit
// code. The sandbox is killed when gone is closed, and when this process dies.
func runSandbox(spec *sandboxSpec, gone <-chan struct{}) (int, error) {
	runtime.LockOSThread() // the parent-death signal is the thread's
	defer runtime.UnlockOSThread()
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer w.Close()
	cmd := exec.Command("/proc/self/exe", stageSandbox)
	cmd.Args[0] = os.Args[0]
	cmd.Env = keepEnv(spec.Env)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{r}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: namespaces,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // a terminal's ^C comes once, through forward
	}
	group, err := newCgroup()
	if err != nil {
		r.Close()
		return 0, err
	}
	spec.Cgroup = group != ""
	done, err := keepCgroup(group)
	if err != nil {
		r.Close()
		return 0, err
	}
	defer done()
	dir, err := bornIn(group, cmd.SysProcAttr)
	if err == nil {
		err = cmd.Start()
		dir.Close()
	}
	r.Close()
	if err != nil {
		return 0, fmt.Errorf("making namespaces: %w (is this a container without CAP_SYS_ADMIN?)", err)
	}
	stop := forward(cmd.Process)
	defer stop()
	ended := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-gone:
			cmd.Process.Kill()
		case <-ended:
		}
	}()
	err = json.NewEncoder(w).Encode(spec)
	w.Close()
	code, werr := exitCode(cmd.Wait())
	close(ended)
	<-watched
	if err != nil {
		return 0, fmt.Errorf("starting the sandbox: %w", err)
	}
	return code, werr
}

// forward passes on the signals that ask a run to end.
func forward(p *os.Process) (stop func()) {
	c := make(chan os.Signal, 8)
	done := make(chan struct{})
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	go func() {
		defer close(done)
		for s := range c {
			p.Signal(s)
		}
	}()
	return func() {
		signal.Stop(c)
		close(c)
		<-done
	}
}

// exitCode turns what Wait said into a shell's exit code.
func exitCode(err error) (int, error) {
	var e *exec.ExitError
	if err != nil && !errors.As(err, &e) {
		return 0, err
	}
	if e == nil {
		return 0, nil
	}
	return statusCode(e.Sys().(syscall.WaitStatus)), nil
}

func statusCode(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
