package moduletest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// built is where the programs in C are made, once a sandbox: fuzz workers share it.
const built = "/mnt/tmp/moduletest"

// variant is one build of module and host.
type variant struct {
	name   string
	module string   // path of pam_sekisho.so
	host   string   // path of the host program
	run    []string // what stands before it
	env    []string
}

// plain is the module as it is shipped.
func plain(t testing.TB) variant {
	t.Helper()
	return variant{name: "plain", module: module(t), host: compile(t, "host", "-O1")}
}

// asan is the module under AddressSanitizer and UBSan, leaks included.
func asan(t testing.TB) variant {
	t.Helper()
	dir := filepath.Join(built, "asan")
	once(t, filepath.Join(dir, "pam_sekisho.so"), "make", "-s", "-C", "../module", "VARIANT=asan", "OUT="+dir)
	return variant{name: "asan", module: filepath.Join(dir, "pam_sekisho.so"),
		host: compile(t, "asan-host", "-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"),
		env:  []string{"ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:exitcode=99:detect_stack_use_after_return=1:strict_string_checks=1", "UBSAN_OPTIONS=print_stacktrace=1"}}
}

// valgrind is the module as it is shipped, run by valgrind.
func valgrind(t testing.TB) variant {
	t.Helper()
	v := plain(t)
	v.name = "valgrind"
	v.run = []string{"valgrind", "-q", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite,indirect", "--track-fds=no"}
	return v
}

// each runs a test of the module as it is shipped and under the sanitizers.
func each(t *testing.T, body func(*testing.T, variant)) {
	t.Helper()
	t.Run("plain", func(t *testing.T) { body(t, plain(t)) })
	t.Run("asan", func(t *testing.T) { body(t, asan(t)) })
}

func module(t testing.TB) string {
	t.Helper()
	path, err := testenv.Program("pam_sekisho.so")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// compile makes testdata/host.c.
func compile(t testing.TB, name string, flags ...string) string {
	t.Helper()
	path := filepath.Join(built, name)
	args := append([]string{"gcc", "-Wall", "-Wextra", "-Werror", "-o", path, "testdata/host.c"}, flags...)
	once(t, path, append(args, "-lpam", "-lpam_misc", "-lpthread", "-rdynamic")...)
	return path
}

// once runs a command that makes path, unless it is there. Several processes may
// want it at once.
func once(t testing.TB, path string, args ...string) {
	t.Helper()
	if err := os.MkdirAll(built, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(built, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		return
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// stack writes a service of PAM, named svc, and returns its folder. MODULE stands
// for the module, and SOCKET for its socket option.
func (v variant) stack(t testing.TB, d *door, lines string) string {
	t.Helper()
	dir := t.TempDir()
	text := strings.NewReplacer("MODULE", v.module, "SOCKET", "socket="+d.path).Replace(lines)
	if err := os.WriteFile(filepath.Join(dir, "svc"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// every has the module in all four stacks.
const every = `auth required MODULE SOCKET
account required MODULE SOCKET
password required MODULE SOCKET
session required MODULE SOCKET
`

// withOptions is every with options.
func withOptions(options string) string {
	return strings.ReplaceAll(every, "SOCKET", "SOCKET "+options)
}

// start runs the host program for the user alice in service svc, and returns what it
// printed, line by line. A report of a sanitizer or valgrind fails the test.
func (v variant) start(t testing.TB, dir string, args ...string) []string {
	t.Helper()
	return v.raw(t, append([]string{"confdir=" + dir, "service=svc", "user=alice", "start"}, args...)...)
}

func (v variant) raw(t testing.TB, args ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	all := append(append(append([]string{}, v.run...), v.host), args...)
	cmd := exec.CommandContext(ctx, all[0], all[1:]...)
	cmd.Env = append(os.Environ(), v.env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil || strings.Contains(errs.String(), "ERROR:") {
		t.Fatalf("%s: %v (%v)\n%s\n%s", v.name, err, errors.Unwrap(ctx.Err()), out.Bytes(), errs.Bytes())
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	for i := range lines { // the environment has no order
		n := i
		for n < len(lines) && strings.HasPrefix(lines[n], "env ") {
			n++
		}
		slices.Sort(lines[i:n])
	}
	return lines
}

// wants compares what was printed.
func wants(t testing.TB, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("it printed\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// rc is a line of the host's: a call and its code.
func rc(call string, code int) string { return fmt.Sprintf("rc %s %d", call, code) }

// Codes of PAM (_pam_types.h).
const (
	success       = 0
	serviceErr    = 3
	permDenied    = 6
	authErr       = 7
	unavail       = 9
	userUnknown   = 10
	maxTries      = 11
	newAuthtok    = 12
	acctExpired   = 13
	sessionErr    = 14
	credExpired   = 16
	credErr       = 17
	convErr       = 19
	authtokErr    = 20
	lockBusy      = 22
	tryAgain      = 24
	incomplete    = 31
	convAgain     = 30
	styleSecret   = 1
	styleVisible  = 2
	styleError    = 3
	styleInfo     = 4
	longestReply  = 4096
	longestPrompt = 512
)
