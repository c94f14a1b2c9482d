package testenv

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What the sandbox keeps for itself is in memory at /mnt:
//
//	sandbox.json   which sandbox this is
//	lower, upper   the machine's /etc, /var, … and what the sandbox wrote over them
//	tmp            TMPDIR
//	worlds/W/H     what belongs to host H of world W
//	addr/N         a directory for each address in use
//	failed         programs that could not be built, and why
const (
	mntDir = "/mnt"
	tmpDir = "/mnt/tmp"
)

// The bridge all hosts are on.
const (
	bridge     = "world"
	bridgeAddr = "203.0.113.1"
	bridge6    = "2001:db8::1"
)

// layered are overlays: the machine's below, the sandbox's above.
var layered = []string{"/etc", "/var", "/usr/local", "/opt"}

// sandboxID is /mnt/sandbox.json.
type sandboxID struct {
	MountNS string // as /proc/PID/ns/mnt says
	Root    string // the module's directory
}

// Inside tells whether this process runs in a sandbox (and not in one of its hosts).
func Inside() bool {
	_, err := sandbox()
	return err == nil
}

func sandbox() (*sandboxID, error) {
	var id sandboxID
	if err := readJSON(filepath.Join(mntDir, "sandbox.json"), &id); err != nil {
		return nil, fmt.Errorf("this is not the sandbox: %w", err)
	}
	ns, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	if id.MountNS != ns {
		return nil, errors.New("this is not the sandbox's mount namespace")
	}
	return &id, nil
}

// sandboxMain is pid 1 of a sandbox. It returns only on errors.
func sandboxMain() error {
	var spec sandboxSpec
	f := os.NewFile(3, "spec")
	if err := json.NewDecoder(f).Decode(&spec); err != nil {
		return fmt.Errorf("reading what to run: %w", err)
	}
	f.Close()
	if os.Getpid() != 1 {
		return errors.New("the sandbox's first process is not pid 1; it is started by this package only")
	}
	if err := setUpSandbox(&spec); err != nil {
		if spec.Hold {
			report(err)
		}
		return fmt.Errorf("making the sandbox: %w", err)
	}
	if spec.Hold {
		report(nil)
		return initLoop(-1)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	p, err := os.StartProcess("/proc/self/exe", spec.Args, &os.ProcAttr{
		Dir: spec.Dir, Env: spec.Env,
		Files: []*os.File{null, os.Stdout, os.Stderr},
	})
	if err != nil {
		return fmt.Errorf("starting the tests in the sandbox: %w", err)
	}
	return initLoop(p.Pid)
}

// report tells the process that started this init, on fd 4, how it went.
func report(err error) {
	f := os.NewFile(4, "ready")
	if err != nil {
		fmt.Fprintf(f, "%v", err)
	} else {
		fmt.Fprint(f, "ok")
	}
	f.Close()
}

// initLoop reaps children until main ends, and then exits with its code; the
// kernel kills what is left in the namespace. With main < 0 it never ends.
func initLoop(main int) error {
	sigs := make(chan os.Signal, 32)
	signal.Notify(sigs, syscall.SIGCHLD, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	for {
		for {
			var ws syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
			if err == syscall.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			if pid == main && (ws.Exited() || ws.Signaled()) {
				os.Exit(statusCode(ws))
			}
		}
		s := <-sigs
		if s != syscall.SIGCHLD && main > 0 {
			syscall.Kill(main, s.(syscall.Signal))
		}
	}
}

func setUpSandbox(spec *sandboxSpec) error {
	unix.Umask(0o022)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	keep, err := openKept(spec.Keep)
	if err != nil {
		return err
	}
	if err := mountTmpfs(mntDir, "0755"); err != nil {
		return err
	}
	for _, d := range []string{"lower", "upper", "work", "tmp", "worlds", "addr"} {
		if err := os.Mkdir(filepath.Join(mntDir, d), 0o755); err != nil {
			return err
		}
	}
	for _, dir := range layered {
		if err := layer(dir); err != nil {
			return err
		}
	}
	for _, m := range []struct{ dir, mode string }{
		{"/run", "0755"}, {"/tmp", "1777"}, {"/home", "0755"}, {"/root", "0700"}, {"/dev/shm", "1777"},
	} {
		if err := mountTmpfs(m.dir, m.mode); err != nil {
			return err
		}
	}
	if err := mountOwn(spec.Cgroup); err != nil {
		return err
	}
	if err := keep.bind(); err != nil {
		return err
	}
	// Nothing else on the machine's disk can be written from here on.
	ro := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &ro); err != nil {
		return fmt.Errorf("making / read-only: %w", err)
	}
	if err := unix.Sethostname([]byte("sandbox")); err != nil {
		return err
	}
	if err := setUpEtc(); err != nil {
		return err
	}
	if err := installPrograms(spec); err != nil {
		return err
	}
	if err := setUpBridge(); err != nil {
		return err
	}
	ns, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	b, err := json.Marshal(sandboxID{MountNS: ns, Root: spec.Root})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(mntDir, "sandbox.json"), b, 0o644)
}

func mountTmpfs(dir, mode string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode="+mode); err != nil {
		return fmt.Errorf("mounting a tmpfs on %s: %w", dir, err)
	}
	return nil
}

// mountOwn mounts what belongs to the namespaces: /proc, /sys with their
// network cards and, if they have one, their cgroup, and terminals.
func mountOwn(cgroup bool) error {
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mounting /sys: %w", err)
	}
	if cgroup {
		if err := mountCgroup(); err != nil {
			return err
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	if err := unix.Mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5"); err != nil {
		return fmt.Errorf("mounting /dev/pts: %w", err)
	}
	return nil
}

// layer keeps the machine's dir at /mnt/lower and mounts an overlay on it.
func layer(dir string) error {
	name := strings.ReplaceAll(strings.TrimPrefix(dir, "/"), "/", "-")
	lower, upper, work := mntDir+"/lower/"+name, mntDir+"/upper/"+name, mntDir+"/work/"+name
	for _, d := range []string{lower, upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount(dir, lower, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding %s: %w", dir, err)
	}
	return mountOverlay(dir, []string{lower}, upper, work)
}

func mountOverlay(dir string, lower []string, upper, work string) error {
	opt := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", dir, "overlay", unix.MS_NODEV, opt); err != nil {
		return fmt.Errorf("mounting an overlay on %s: %w (does the kernel have overlayfs?)", dir, err)
	}
	return nil
}

// kept are directories opened before anything is mounted over them.
type kept []struct {
	path string
	fd   int
}

func openKept(paths []string) (kept, error) {
	sort.Strings(paths)
	var k kept
	for _, p := range paths {
		p, err := filepath.EvalSymlinks(p)
		if err != nil {
			return nil, fmt.Errorf("keeping a directory: %w", err)
		}
		if p == "/" {
			return nil, errors.New("keeping /: the module, or a file named by a flag, lies in the root directory; choose another")
		}
		if n := len(k); n > 0 && (p == k[n-1].path || strings.HasPrefix(p, k[n-1].path+"/")) {
			continue
		}
		fd, err := unix.Open(p, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("keeping %s: %w", p, err)
		}
		k = append(k, struct {
			path string
			fd   int
		}{p, fd})
	}
	return k, nil
}

func (k kept) bind() error {
	for _, d := range k {
		if err := os.MkdirAll(d.path, 0o755); err != nil {
			return fmt.Errorf("keeping %s: %w", d.path, err)
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", d.fd), d.path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("keeping %s: %w", d.path, err)
		}
		unix.Close(d.fd)
	}
	return nil
}

const nsswitch = `passwd: files systemd
group: files systemd
shadow: files systemd
gshadow: files systemd
hosts: files
networks: files
protocols: files
services: files
`

// setUpEtc makes the machine's /etc into one that is the same everywhere.
func setUpEtc() error {
	for _, u := range []LocalUser{{Name: "sekisho", System: true}, {Name: "sekisho-keys", System: true}} {
		if err := addUser(u); err != nil {
			return fmt.Errorf("adding the user %s: %w", u.Name, err)
		}
	}
	for path, text := range map[string]string{
		"/etc/nsswitch.conf": nsswitch,
		"/etc/hosts":         hostsFile(nil),
		"/etc/resolv.conf":   "",
		"/etc/hostname":      "sandbox\n",
	} {
		// Removed first: it may be a link into /run.
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return makeRun()
}

// makeRun makes what a booted machine has in /run.
func makeRun() error {
	for _, d := range []string{"/run/lock", "/run/sshd", "/run/systemd/userdb", "/run/user"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func setUpBridge() error {
	lines := []string{
		"link set lo up",
		"link add " + bridge + " type bridge",
		"addr add " + bridgeAddr + "/24 dev " + bridge,
	}
	if hasIPv6() {
		lines = append(lines, "addr add "+bridge6+"/64 dev "+bridge+" nodad")
	}
	return ip(append(lines, "link set "+bridge+" up"))
}

func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// ip runs lines of ip(8) in one process; the first that fails ends it.
func ip(lines []string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
