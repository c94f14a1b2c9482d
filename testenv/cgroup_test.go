package testenv

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCgroups: a host has cgroups of its own, as a machine has, may write there,
// and leaves none behind.
func TestCgroups(t *testing.T) {
	if !isCgroup2(cgroupDir) {
		t.Fatal("the sandbox has no cgroup2: is there none on this machine that root may write?")
	}
	w, err := NewWorld(WorldConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	bare, err := NewWorld(WorldConfig{NoCgroup: true})
	if err != nil {
		t.Fatal(err)
	}
	defer bare.Close()
	h := w.Need(t, "web1")
	out, err := h.Command(t.Context(), "sh", "-c", `set -e
cat /proc/self/cgroup | grep ^0::
mkdir -p /sys/fs/cgroup/a/b
sleep 60 >/dev/null & echo $! >/sys/fs/cgroup/a/b/cgroup.procs
cat /proc/$!/cgroup | grep ^0::
cat /sys/fs/cgroup/a/cgroup.events | grep populated
echo 1 >/sys/fs/cgroup/a/cgroup.kill
wait $! 2>/dev/null || echo $?`).Output()
	if want := "0::/\n0::/a/b\npopulated 1\n137\n"; err != nil || string(out) != want {
		t.Errorf("%v: %q, want %q", err, out, want)
	}
	dir := h.cgroup()
	if _, err := os.Stat(filepath.Join(dir, "a/b")); err != nil {
		t.Error(err)
	}
	out, err = bare.Need(t, "db1").Command(t.Context(), "sh", "-c", "ls /sys/fs/cgroup; stat -f -c %T /sys/fs/cgroup").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "sysfs" {
		t.Errorf("%v: %q", err, out)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", dir, err)
	}
}
