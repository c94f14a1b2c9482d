package outside

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

var binary string // the test binary of package testenv

func TestMain(m *testing.M) {
	testenv.Reexec()
	what, mark, _ := strings.Cut(os.Getenv("SEKISHO_OUTSIDE"), " ")
	if what != "" {
		var err error
		if what == "make" {
			err = inHolder(mark)
		} else {
			err = visitHolder()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "outside")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "testenv.test")
		return m.Run()
	}())
}

var build = sync.OnceValues(func() ([]byte, error) {
	return exec.Command("go", "test", "-c", "-cover", "-o", binary, "..").CombinedOutput()
})

func needBinary(t *testing.T) {
	t.Helper()
	if out, err := build(); err != nil {
		t.Fatalf("building the tests of testenv: %v\n%s", err, out)
	}
}

// run is a run of testenv's own tests, in a process group of its own.
func run(ctx context.Context, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Minute
	return cmd
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestPassesThrough(t *testing.T) {
	needBinary(t)
	profile := filepath.Join(t.TempDir(), "cover.out")
	for _, tc := range []struct {
		name string
		env  []string
		args []string
		code int
		out  string // somewhere in the output
		not  string // nowhere in it
	}{
		{name: "pass", args: []string{"-test.run=^TestNoRouteOut$"}, out: "PASS"},
		{name: "verbose", args: []string{"-test.run=^TestNoRouteOut$", "-test.v"}, out: "--- PASS: TestNoRouteOut", not: "TestSlapd"},
		{name: "exit code", env: []string{"SEKISHO_TESTENV_EXIT=7"}, code: 7},
		{name: "timeout", env: []string{"SEKISHO_TESTENV_SLEEP=20s"}, args: []string{"-test.run=^TestNoRouteOut$", "-test.timeout=200ms"}, code: 2, out: "test timed out after 200ms"},
		{name: "list", args: []string{"-test.list=^TestNoRoute"}, out: "TestNoRouteOut"},
		{name: "unknown flag", args: []string{"-no-such-flag"}, code: 2, out: "not defined"},
		{name: "cover", args: []string{"-test.run=^TestNoRouteOut$", "-test.coverprofile=" + profile}, out: "coverage:"},
		{name: "fuzz", args: []string{"-test.run=^$", "-test.fuzz=^FuzzKeepEnv$", "-test.fuzztime=20x", "-test.fuzzcachedir=" + t.TempDir()}, out: "PASS"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := run(testContext(t), tc.env, tc.args...)
			out, err := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != tc.code {
				t.Errorf("exit code %d (%v), want %d", code, err, tc.code)
			}
			if !strings.Contains(string(out), tc.out) {
				t.Errorf("the output has no %q:\n%s", tc.out, out)
			}
			if tc.not != "" && strings.Contains(string(out), tc.not) {
				t.Errorf("the output has %q:\n%s", tc.not, out)
			}
		})
	}
	if b, err := os.ReadFile(profile); err != nil || !bytes.HasPrefix(b, []byte("mode: ")) {
		t.Errorf("coverage profile: %q %v", b, err)
	}
}

func TestMachineUnchanged(t *testing.T) {
	needBinary(t)
	ctx := testContext(t)
	before := machine(t)
	cmd := run(ctx, nil, "-test.run=^(TestWritesStayInside|TestTwoHosts|TestHostsAreApart|TestCgroups)$")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if left := cgroups(t, cmd.Process.Pid); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	checkMachine(t, before)
}

// cgroups are those that a run has made.
func cgroups(t *testing.T, pid int) (found []string) {
	t.Helper()
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		dirs, err := filepath.Glob(fmt.Sprintf("%s/sekisho-testenv-%d-*", mount, pid))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, dirs...)
	}
	return found
}

// However a run is killed, the kernel takes back all it made, and the next works.
func TestKilled(t *testing.T) {
	needBinary(t)
	for _, tc := range []struct {
		name string
		kill func(pid int) error
		sig  syscall.Signal // what the run dies of; 0: it exits by itself
	}{
		{"kill -9 of the process group", func(pid int) error { return syscall.Kill(-pid, syscall.SIGKILL) }, syscall.SIGKILL},
		{"kill -9 of the process alone", func(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }, syscall.SIGKILL},
		{"interrupt", func(pid int) error { return syscall.Kill(pid, syscall.SIGINT) }, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx := testContext(t)
			before := machine(t)
			mark := strconv.Itoa(100_000 + os.Getpid())
			ready := filepath.Join(filepath.Dir(binary), "ready")
			defer os.Remove(ready)
			var out bytes.Buffer
			cmd := run(ctx, []string{"SEKISHO_TESTENV_HANG=" + ready, "SEKISHO_TESTENV_MARK=" + mark})
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the world to be up", func() bool { _, err := os.Stat(ready); return err == nil })
			if n := len(processes(mark)); n != 2 {
				t.Errorf("%d marked daemons run, want 2: this test would see nothing", n)
			}
			if os.Geteuid() == 0 && len(cgroups(t, cmd.Process.Pid)) != 1 {
				t.Error("no cgroup of the run is seen: this test would see nothing")
			}
			if len(processes(binary)) == 0 {
				t.Error("no process of the test binary is seen: this test would see nothing")
			}
			if err := tc.kill(cmd.Process.Pid); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); tc.sig != 0 && ws.Signal() != tc.sig || tc.sig == 0 && !ws.Exited() {
				t.Errorf("ended with %v:\n%s", cmd.ProcessState, out.Bytes())
			}
			waitFor(t, "the cgroup to be gone", func() bool { return len(cgroups(t, cmd.Process.Pid)) == 0 })
			waitFor(t, "all processes to be gone", func() bool { return len(processes(mark))+len(processes(binary)) == 0 })
			checkMachine(t, before)
			if out, err := run(ctx, nil, "-test.run=^TestTwoHosts$").CombinedOutput(); err != nil {
				t.Errorf("the next run: %v\n%s", err, out)
			}
		})
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited two minutes for %s", what)
		}
	}
}

// processes are those with word as a whole argument.
func processes(word string) []string {
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // gone
		}
		for _, arg := range strings.Split(string(b), "\x00") {
			if arg == word {
				found = append(found, f)
				break
			}
		}
	}
	return found
}

// machine is what a run could leave on it: files, mounts, network cards,
// cgroups and network namespaces, each as one line.
func machine(t *testing.T) map[string]bool {
	t.Helper()
	lines := map[string]bool{}
	note := func(format string, args ...any) { lines[fmt.Sprintf(format, args...)] = true }
	for _, dir := range []string{"/etc", "/usr/local/bin", "/usr/local/lib", "/opt", "/mnt", "/var/lib/sekisho"} {
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if st, err := os.Lstat(path); err == nil {
				if d.IsDir() {
					note("%s %v", path, st.Mode())
				} else {
					note("%s %v %d %d", path, st.Mode(), st.Size(), st.ModTime().UnixNano())
				}
			}
			return nil
		})
	}
	// Where the machine itself is at work, only what our tests wrote is told from the rest.
	const mark = "/sekisho-testenv-was-here"
	for _, pattern := range []string{"/run" + mark, "/tmp" + mark, "/root" + mark, "/home" + mark, "/var/lib" + mark, "/dev/shm" + mark,
		"/run/slapd-*", "/run/sshd-*", "/sys/class/net/*", "/run/netns/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			note("%s", f)
		}
	}
	for _, f := range []string{"/proc/self/mountinfo", "/proc/self/cgroup"} {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range strings.Split(string(b), "\n") {
			if strings.Contains(l, " "+filepath.Join(os.TempDir(), "Test")) {
				continue // what the test of another package, which runs beside us, has mounted in its own folder
			}
			note("%s %s", f, l)
		}
	}
	return lines
}

func checkMachine(t *testing.T, before map[string]bool) {
	t.Helper()
	after := machine(t)
	var diff []string
	for l := range before {
		if !after[l] {
			diff = append(diff, "- "+l)
		}
	}
	for l := range after {
		if !before[l] {
			diff = append(diff, "+ "+l)
		}
	}
	sort.Strings(diff)
	if len(diff) > 0 {
		t.Errorf("the machine has changed:\n%s", strings.Join(diff, "\n"))
	}
}
