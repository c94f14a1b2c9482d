package testenv

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A sandbox has a folder of its own in the machine's cgroup2, and each host one
// in that; each sees its own as the root, at /sys/fs/cgroup, as on a machine.
// The folder is removed with the sandbox, by a process of its own: whoever
// started the sandbox may be killed.

const (
	cgroupDir    = "/sys/fs/cgroup"
	cgroupPrefix = "sekisho-testenv-" // the starter's pid follows
	cgroupStale  = 10 * time.Minute   // an empty folder as old as this is nobody's
)

// cgroup2Mount is where the machine has cgroup2 mounted, "" if nowhere that can
// be written.
func cgroup2Mount() string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		before, after, _ := strings.Cut(sc.Text(), " - ")
		f := strings.Fields(before)
		if len(f) > 4 && strings.HasPrefix(after, "cgroup2 ") && isCgroup2(f[4]) && unix.Access(f[4], unix.W_OK) == nil {
			return f[4]
		}
	}
	return ""
}

func isCgroup2(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// newCgroup makes a sandbox's folder; "" when the machine has no cgroup2.
func newCgroup() (string, error) {
	mount := cgroup2Mount()
	if mount == "" {
		return "", nil
	}
	old, err := filepath.Glob(filepath.Join(mount, cgroupPrefix+"*"))
	if err != nil {
		return "", err
	}
	for _, dir := range old {
		// What is empty in one that runs is somebody's, too.
		if st, err := os.Stat(dir); err == nil && time.Since(st.ModTime()) > cgroupStale && !hasProcesses(dir) {
			removeCgroup(dir)
		}
	}
	dir, err := os.MkdirTemp(mount, fmt.Sprintf("%s%d-", cgroupPrefix, os.Getpid()))
	if err != nil {
		return "", fmt.Errorf("making a cgroup: %w", err)
	}
	return dir, os.Chmod(dir, 0o755)
}

// removeCgroup removes a folder without processes, with those below it. The
// kernel may take a moment to bury the last of them.
func removeCgroup(dir string) error {
	if dir == "" {
		return nil
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var dirs []string
		werr := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		if werr != nil {
			return werr
		}
		var err error
		for i := len(dirs) - 1; i >= 0; i-- {
			if rerr := unix.Rmdir(dirs[i]); rerr != nil && rerr != unix.ENOENT {
				err = fmt.Errorf("removing %s: %w", dirs[i], rerr)
			}
		}
		if !errors.Is(err, unix.EBUSY) || hasProcesses(dir) || time.Now().After(end) {
			return err
		}
	}
}

// keepCgroup starts the process that removes a sandbox's folder when this one
// has called done, or has ended.
func keepCgroup(dir string) (done func(), err error) {
	if dir == "" {
		return func() {}, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", stageCgroup)
	cmd.Env, cmd.Dir, cmd.Stdin, cmd.Stderr = []string{cgroupEnv + "=" + dir}, "/", r, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // away from what kills us
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, errors.Join(fmt.Errorf("starting who removes the cgroup: %w", err), removeCgroup(dir))
	}
	return func() {
		w.Close()
		cmd.Wait() // it has said why on standard error
	}, nil
}

// cgroupEnv names the folder to the process that removes it.
const cgroupEnv = "SEKISHO_TESTENV_CGROUP"

// cgroupMain is that process.
func cgroupMain() error {
	dir := os.Getenv(cgroupEnv)
	if !strings.HasPrefix(filepath.Base(dir), cgroupPrefix) || !isCgroup2(dir) {
		return fmt.Errorf("%q is no cgroup of a sandbox: this process is started by this package only", dir)
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); hasProcesses(dir) && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond) // the kernel kills them
	}
	if err := removeCgroup(dir); err != nil {
		return err
	}
	os.Exit(0)
	return nil
}

func hasProcesses(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	return err == nil && strings.Contains(string(b), "populated 1\n")
}

// bornIn has a process start in a folder, which it sees as the root of all
// cgroups. The file is to be closed after the start; nil without a folder.
func bornIn(dir string, a *syscall.SysProcAttr) (*os.File, error) {
	if dir == "" {
		return nil, nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening a cgroup: %w", err)
	}
	a.UseCgroupFD, a.CgroupFD = true, int(f.Fd())
	a.Unshareflags |= unix.CLONE_NEWCGROUP
	return f, nil
}

// mountCgroup mounts what bornIn gave us.
func mountCgroup() error {
	if err := unix.Mount("cgroup2", cgroupDir, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting %s: %w", cgroupDir, err)
	}
	return nil
}

// cgroupOf is a process's folder below the machine's mount; "" for none.
func cgroupOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	mount := cgroup2Mount()
	if err != nil || mount == "" {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join(mount, path)
		}
	}
	return ""
}
