package testenv

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The machine must not have these afterwards; package outside looks.
var written = []string{"/etc", "/var/lib", "/usr/local/bin", "/opt", "/run", "/tmp", "/home", "/root", "/mnt", "/dev/shm"}

func TestWritesStayInside(t *testing.T) {
	for _, dir := range written {
		if err := os.WriteFile(filepath.Join(dir, "sekisho-testenv-was-here"), nil, 0o644); err != nil {
			t.Errorf("%s should be writable in the sandbox: %v", dir, err)
		}
	}
	for _, dir := range []string{"/", "/usr/bin", "/usr/sbin", "/srv"} {
		err := os.WriteFile(filepath.Join(dir, "sekisho-testenv-was-here"), nil, 0o644)
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("writing to %s: got %v, want a read-only file system", dir, err)
		}
	}
}

func TestNoRouteOut(t *testing.T) {
	if d, err := time.ParseDuration(os.Getenv("SEKISHO_TESTENV_SLEEP")); err == nil {
		time.Sleep(d) // package outside tests -timeout
	}
	_, err := net.DialTimeout("tcp", "198.51.100.1:80", 30*time.Second)
	if !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("got %v, want network unreachable", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:389")
	if err != nil {
		t.Fatalf("loopback: %v", err)
	}
	l.Close()
}

func TestUsersAndPaths(t *testing.T) {
	for _, name := range []string{"sekisho", "sekisho-keys"} {
		u, err := user.Lookup(name)
		if err != nil {
			t.Error(err)
		} else if u.Uid == "0" {
			t.Errorf("%s has uid 0", name)
		}
	}
	for dir := t.TempDir(); ; dir = filepath.Dir(dir) {
		if !strings.HasPrefix(dir, tmpDir) {
			if dir != mntDir {
				t.Errorf("TempDir is not below %s", tmpDir)
			}
			break
		}
		st, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if sys := st.Sys().(*syscall.Stat_t); sys.Uid != 0 || st.Mode().Perm()&0o022 != 0 {
			t.Errorf("%s is %v of uid %d: sshd wants it root's and not writable by others", dir, st.Mode(), sys.Uid)
		}
	}
}

func TestProgramNames(t *testing.T) {
	if _, err := Program("nosuch"); err == nil {
		t.Error("a program that is none has a path")
	}
	for name := range programPaths {
		path, err := Program(name)
		if err != nil {
			// Whether cmd/ builds is for its own tests; here, that it is told.
			if !strings.Contains(err.Error(), "cmd/"+name) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if st, err := os.Stat(path); err != nil || st.Sys().(*syscall.Stat_t).Uid != 0 || st.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v %v", path, st.Mode(), err)
		}
	}
}

// Orphans are reaped by the sandbox's init, and nothing waits for them here.
func TestOrphansAreReaped(t *testing.T) {
	out, err := exec.Command("sh", "-c", "(sleep 0.1 & echo $!)").Output()
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(out))
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(end) {
			b, _ := os.ReadFile("/proc/" + pid + "/stat")
			t.Fatalf("still there: %s", b)
		}
	}
}
