package testenv

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestHostsAreApart(t *testing.T) {
	ctx := testContext(t)
	w := ForTest(t)
	a, b := w.Need(t, "a"), w.Need(t, "b")
	for _, path := range []string{"/etc/x", "/var/lib/x", "/run/x", "/tmp/x", "/home/x", "/root/x", "/dev/shm/x"} {
		if err := a.WriteFile(path, []byte("a"), 0o600); err != nil {
			t.Error(err)
		}
		if _, err := b.ReadFile(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("b sees a's %s: %v", path, err)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the sandbox sees a's %s: %v", path, err)
		}
		if got, err := a.ReadFile(path); err != nil || string(got) != "a" {
			t.Errorf("a reads %q %v from %s", got, err, path)
		}
		if _, err := os.Stat(a.Path(path)); err != nil {
			t.Errorf("Path: %v", err)
		}
	}
	out, err := a.Command(ctx, "sh", "-c", "hostname; cat /etc/hostname; ls /proc | grep -c '^[0-9]'; echo $PPID").Output()
	if err != nil {
		t.Fatal(err, stderr(err))
	}
	f := strings.Fields(string(out))
	if len(f) != 4 || f[0] != a.FQDN || f[1] != a.FQDN || f[3] != "0" {
		t.Errorf("a says %q", f)
	}
	if n := len(f[2]); n != 1 {
		t.Errorf("a sees %s processes, want a few of its own", f[2])
	}
	// The working directory and the test's files can be handed to a host.
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("shared"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := b.ReadFile(file); err != nil || string(got) != "shared" {
		t.Errorf("b reads %q %v from TMPDIR", got, err)
	}
}

func TestCommandAs(t *testing.T) {
	ctx := testContext(t)
	h := ForTest(t).Need(t, "a")
	if err := h.AddUser(LocalUser{Name: "alice", UID: 2001}); err != nil {
		t.Fatal(err)
	}
	out, err := h.CommandAs(ctx, "alice", "sh", "-c", "id -u; id -gn; echo $HOME").Output()
	if err != nil {
		t.Fatal(err, stderr(err))
	}
	if got, want := string(out), "2001\nalice\n/home/alice\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := h.CommandAs(ctx, "nobody-such", "true").Output(); err == nil {
		t.Error("ran as a user who does not exist")
	}
}

// A process on a host is the caller's own child: signals and statuses are its.
func TestCommandIsOurChild(t *testing.T) {
	ctx := testContext(t)
	h := ForTest(t).Need(t, "a")
	cmd := h.Command(ctx, "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	var e *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &e) || e.Sys().(syscall.WaitStatus).Signal() != syscall.SIGUSR1 {
		t.Errorf("got %v, want death by SIGUSR1", err)
	}
	if err := h.Command(ctx, "sleep", "0").Cmd.Start(); err == nil {
		t.Error("the inner exec.Cmd started outside the host")
	}
	if _, err := h.Command(ctx, "no-such-program").Output(); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("got %v, want not found", err)
	}
}

func TestDaemon(t *testing.T) {
	ctx := testContext(t)
	w := ForTest(t)
	h := w.Need(t, "a")
	d, err := h.Start(ctx, DaemonConfig{Path: "/bin/sh", Args: []string{"-c", "echo hello; exec sleep 60"}, Name: "greeter"})
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); d.Log() != "hello\n" && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if got := d.Log(); got != "hello\n" {
		t.Errorf("log: %q", got)
	}
	// A stopped daemon can be stopped for good.
	if err := d.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	if err := d.Stop(); err != nil {
		t.Errorf("stopped twice: %v", err)
	}
	// One that ignores SIGTERM is killed, and it is said.
	d, err = h.Start(ctx, DaemonConfig{Path: "/bin/sh", Args: []string{"-c", "trap '' TERM; echo ready; while :; do sleep 1; done"},
		StopTimeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for d.Log() == "" {
		time.Sleep(time.Millisecond)
	}
	if err := d.Stop(); err == nil {
		t.Error("no error for a daemon that had to be killed")
	}
	// One that never gets ready is an error with its log.
	_, err = h.Start(ctx, DaemonConfig{Path: "/bin/sh", Args: []string{"-c", "echo the reason; exit 3"},
		Ready: func(context.Context) error { return errors.New("not yet") }})
	if err == nil || !strings.Contains(err.Error(), "the reason") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v, want the log and the status", err)
	}
	// The host's end is the daemon's.
	d, err = h.Start(ctx, DaemonConfig{Path: "/usr/bin/sleep", Args: []string{"60"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-d.Done():
	default:
		t.Error("the daemon outlived its host")
	}
	if err := h.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if _, err := h.Start(ctx, DaemonConfig{Path: "/bin/true"}); err == nil {
		t.Error("started on a host that is down")
	}
}

func TestPartition(t *testing.T) {
	ctx := testContext(t)
	w := ForTest(t)
	a, b := w.Need(t, "a"), w.Need(t, "b")
	ping := func() error { return b.Command(ctx, "ping", "-c1", "-W1", a.Addr.String()).Run() }
	if err := ping(); err != nil {
		t.Fatalf("before: %v", err)
	}
	if err := a.Partition(); err != nil {
		t.Fatal(err)
	}
	if err := ping(); err == nil {
		t.Error("reached over a partition")
	}
	if err := a.Heal(); err != nil {
		t.Fatal(err)
	}
	if err := ping(); err != nil {
		t.Errorf("after: %v", err)
	}
}

func TestInsideListens(t *testing.T) {
	h := ForTest(t).Need(t, "a")
	var l net.Listener
	if err := h.Inside(func() (err error) { l, err = net.Listen("tcp", "0.0.0.0:7"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.DialTimeout("tcp", net.JoinHostPort(h.Addr.String(), "7"), 30*time.Second)
	if err != nil {
		t.Fatalf("the sandbox does not reach the host: %v", err)
	}
	c.Close()
	if c, err := net.Dial("tcp", "127.0.0.1:7"); err == nil {
		c.Close()
		t.Error("the host's listener is on the sandbox's loopback")
	}
}

// Another process of the sandbox finds a named world again.
func TestOpenWorld(t *testing.T) {
	ctx := testContext(t)
	w, err := NewWorld(WorldConfig{Name: "found", Domain: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := NewWorld(WorldConfig{Name: "found"}); err == nil {
		t.Error("two worlds of one name")
	}
	a := w.Need(t, "a")
	again, err := OpenWorld("found")
	if err != nil {
		t.Fatal(err)
	}
	h := again.Need(t, "a")
	if h.Addr != a.Addr || h.FQDN != "a.example.com" || h.Pid != a.Pid {
		t.Errorf("found %+v, want %+v", h, a)
	}
	if out, err := h.Command(ctx, "hostname").Output(); err != nil || string(out) != "a.example.com\n" {
		t.Errorf("%q %v", out, err)
	}
	if _, err := again.Host("b"); err != nil {
		t.Errorf("adding to a world found again: %v", err)
	}
	if b, err := a.ReadFile("/etc/hosts"); err != nil || !strings.Contains(string(b), "b.example.com") {
		t.Errorf("a does not know b: %s %v", b, err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if err := a.Command(ctx, "true").Run(); err == nil || !strings.Contains(err.Error(), "down") {
		t.Errorf("a command on a host that is down: %v", err)
	}
	if _, err := OpenWorld("found"); err == nil {
		t.Error("found a world that was closed")
	}
}

func TestBadNames(t *testing.T) {
	w := ForTest(t)
	for _, name := range []string{"", "A", "a b", "../x", "a.b", "-a", strings.Repeat("x", 40)} {
		if h, err := w.Host(name); err == nil {
			t.Errorf("made a host called %q: %v", name, h)
		}
	}
}
