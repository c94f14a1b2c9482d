package testenv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Host is one machine of the world: own mount, pid, net, ipc, uts and cgroup
// namespaces; own /etc and /var over the sandbox's; empty /run, /tmp, /home and
// /root; one network card, eth0, on the bridge.
type Host struct {
	Name  string     // "web1"
	FQDN  string     // "web1.example.org", also its hostname
	Addr  netip.Addr // in 203.0.113.0/24
	Addr6 netip.Addr // in 2001:db8::/64; the zero Addr where the kernel has no IPv6
	Pid   int        // of its init, as the sandbox sees it

	world   *World
	dir     string
	num     int // last number of the address
	hostKey *Key
	ns      *namespace
	first   *exec.Cmd // its init; nil when another process started it

	mu      sync.Mutex
	daemons []*Daemon // guarded by mu
	closed  bool      // guarded by mu
}

// hostSpec tells pid 1 of a host what to make.
type hostSpec struct {
	Name, FQDN, Dir string
	Addr, Addr6     string // with prefix length; Addr6 may be empty
	Cgroup          bool   // it was born in a cgroup of its own
}

func newHost(w *World, name string) (_ *Host, err error) {
	h := &Host{Name: name, FQDN: name + "." + w.Domain, world: w, dir: filepath.Join(w.dir, name)}
	if h.num, err = takeAddr(); err != nil {
		return nil, err
	}
	h.Addr, h.Addr6 = addrs(h.num)
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	for _, d := range []string{"", "etc", "etc-work", "var", "var-work", "log"} {
		if err := os.Mkdir(filepath.Join(h.dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if h.hostKey, err = NewKey("root@" + name); err != nil {
		return nil, err
	}
	if err := h.boot(); err != nil {
		return nil, err
	}
	for file, data := range map[string][]byte{"/etc/ssh/ssh_host_ed25519_key": h.hostKey.Private, "/etc/ssh/ssh_host_ed25519_key.pub": h.hostKey.Public} {
		perm := os.FileMode(0o600)
		if filepath.Ext(file) == ".pub" {
			perm = 0o644
		}
		if err := h.WriteFile(file, data, perm); err != nil {
			return nil, err
		}
	}
	b, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	return h, os.WriteFile(filepath.Join(h.dir, "host.json"), b, 0o644)
}

// boot starts the host's init, gives it its network card and waits until it is up.
func (h *Host) boot() error {
	specR, specW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer specR.Close()
	defer specW.Close()
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer readyR.Close()
	defer readyW.Close()
	log, err := os.OpenFile(filepath.Join(h.dir, "log", "init"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	h.first = exec.Command("/proc/self/exe", stageHost)
	h.first.Env = minimalEnv()
	h.first.Dir = "/"
	h.first.Stdout, h.first.Stderr = log, log
	h.first.ExtraFiles = []*os.File{specR, readyW}
	h.first.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Setsid: true}
	folder, err := h.makeCgroup()
	if err == nil {
		err = h.first.Start()
		folder.Close()
	}
	if err != nil {
		h.first = nil
		return fmt.Errorf("making namespaces: %w", err)
	}
	h.Pid = h.first.Process.Pid
	specR.Close()
	readyW.Close()
	if err := h.open(); err != nil {
		return err
	}
	link := h.link()
	// Whoever has an address has its MAC, so that no neighbour looks for the host
	// that had it before.
	mac := append(net.HardwareAddr{2, 0}, h.Addr.AsSlice()...)
	if err := ip([]string{
		fmt.Sprintf("link add %s type veth peer name eth0 address %s netns %d", link, mac, h.Pid),
		"link set " + link + " master " + bridge + " up",
	}); err != nil {
		return err
	}
	spec := hostSpec{Name: h.Name, FQDN: h.FQDN, Dir: h.dir, Addr: h.Addr.String() + "/24", Cgroup: h.cgroup() != ""}
	if h.Addr6.IsValid() {
		spec.Addr6 = h.Addr6.String() + "/64"
	}
	if err := json.NewEncoder(specW).Encode(spec); err != nil {
		return err
	}
	specW.Close()
	answer, err := io.ReadAll(readyR)
	if err != nil {
		return err
	}
	if string(answer) != "ok" {
		return fmt.Errorf("its init says: %s", answer)
	}
	return h.forwarding()
}

// cgroup is the host's folder as the sandbox sees it, "" when it has none.
func (h *Host) cgroup() string {
	if h.world.NoCgroup || !isCgroup2(cgroupDir) {
		return ""
	}
	return filepath.Join(cgroupDir, h.world.Name+"."+h.Name)
}

// makeCgroup makes it, for the host's init to be born in.
func (h *Host) makeCgroup() (*os.File, error) {
	dir := h.cgroup()
	if dir == "" {
		return nil, nil
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making a cgroup: %w", err)
	}
	return bornIn(dir, h.first.SysProcAttr)
}

// forwarding waits until the bridge passes the host's packets: the kernel
// notices a card that came up a little later, and drops what comes before.
func (h *Host) forwarding() error {
	const forwarding = "3" // BR_STATE_FORWARDING
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile("/sys/class/net/" + h.link() + "/brport/state")
		if err != nil {
			return fmt.Errorf("looking at the bridge: %w", err)
		}
		if strings.TrimSpace(string(b)) == forwarding {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the bridge has not taken up %s in a minute", h.link())
		}
	}
}

// open takes hold of the namespaces of the host's init.
func (h *Host) open() error {
	if h.num == 0 {
		b := h.Addr.As4()
		h.num = int(b[3])
	}
	fd, err := unix.PidfdOpen(h.Pid, 0)
	if err != nil {
		return fmt.Errorf("finding %s's init, pid %d: %w", h.Name, h.Pid, err)
	}
	h.ns = &namespace{what: h.Name, pidfd: fd}
	return nil
}

// link is the name of the bridge's end of the host's network card.
func (h *Host) link() string { return "host" + strconv.Itoa(h.num) }

// hostMain is pid 1 of a host. It returns only on errors.
func hostMain() error {
	var spec hostSpec
	f := os.NewFile(3, "spec")
	if err := json.NewDecoder(f).Decode(&spec); err != nil {
		return fmt.Errorf("reading what to make: %w", err)
	}
	f.Close()
	if os.Getpid() != 1 {
		return errors.New("a host's first process is not pid 1; it is started by this package only")
	}
	if err := setUpHost(spec); err != nil {
		report(err)
		return err
	}
	report(nil)
	return initLoop(-1)
}

func setUpHost(spec hostSpec) error {
	unix.Umask(0o022)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	for _, d := range []string{"etc", "var"} {
		// Not over the sandbox's overlay: overlays nest only so deep.
		lower := []string{mntDir + "/upper/" + d, mntDir + "/lower/" + d}
		if err := mountOverlay("/"+d, lower, filepath.Join(spec.Dir, d), filepath.Join(spec.Dir, d+"-work")); err != nil {
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
	if err := unix.Sethostname([]byte(spec.FQDN)); err != nil {
		return err
	}
	if err := os.WriteFile("/etc/hostname", []byte(spec.FQDN+"\n"), 0o644); err != nil {
		return err
	}
	if err := makeRun(); err != nil {
		return err
	}
	lines := []string{"link set lo up", "addr add " + spec.Addr + " dev eth0"}
	if spec.Addr6 != "" {
		lines = append(lines, "addr add "+spec.Addr6+" dev eth0 nodad")
	}
	return ip(append(lines, "link set eth0 up"))
}

// Command is a command that runs on the host as root. Its name is looked up in
// the sandbox, whose /usr is the host's.
func (h *Host) Command(ctx context.Context, name string, args ...string) *Cmd {
	return newCmd(ctx, h.ns, name, args)
}

// CommandAs is a command that runs as a user of the host, local or of the
// directory, with all his groups, found by the host's own NSS. The working
// directory is / and HOME his own.
func (h *Host) CommandAs(ctx context.Context, login, name string, args ...string) *Cmd {
	script := `gid=$(id -g -- "$0") || exit 125
exec setpriv --reuid "$0" --regid "$gid" --init-groups --reset-env -- "$@"`
	return h.Command(ctx, "sh", append([]string{"-c", script, login, name}, args...)...)
}

// Inside runs f on a thread that sees the host's files, network and names, and
// whose children are born on the host. f must not start goroutines that rely on
// that; os functions and net.Listen or net.Dial of an address (not a name) do not.
func (h *Host) Inside(f func() error) error { return h.ns.do(f) }

// WriteFile writes a file of the host; missing parents are made, root's, 0755.
func (h *Host) WriteFile(path string, data []byte, perm os.FileMode) error {
	return h.Inside(func() error {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, perm); err != nil {
			return err
		}
		return os.Chmod(path, perm)
	})
}

// ReadFile reads a file of the host.
func (h *Host) ReadFile(path string) (data []byte, err error) {
	err = h.Inside(func() error {
		data, err = os.ReadFile(path)
		return err
	})
	return data, err
}

// Chown makes a local user of the host the owner of path and all below it.
func (h *Host) Chown(path, login string) error {
	return h.Inside(func() error {
		uid, gid, err := lookupIDs(login)
		if err != nil {
			return err
		}
		return filepath.WalkDir(path, func(p string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(p, uid, gid)
		})
	})
}

func lookupIDs(login string) (uid, gid int, err error) {
	u, err := user.Lookup(login)
	if err != nil {
		return 0, 0, err
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}

// Path is a file of the host as the sandbox sees it, as long as the host is up:
// for dialling the host's unix sockets. Do not follow it through absolute links.
func (h *Host) Path(path string) string {
	return filepath.Join("/proc", strconv.Itoa(h.Pid), "root", path)
}

// Partition takes the host off the network: packets vanish, as if the cable
// were out on the other side. Its own link stays up.
func (h *Host) Partition() error { return ip([]string{"link set " + h.link() + " nomaster"}) }

// Heal puts it back.
func (h *Host) Heal() error {
	if err := ip([]string{"link set " + h.link() + " master " + bridge}); err != nil {
		return err
	}
	return h.forwarding()
}

func (h *Host) up() bool { return h.ns != nil && alive(h.ns.pidfd) }

// Close powers the host off: everything on it is killed at once, its files are
// gone. It may be called twice.
//
// A data race in a daemon is an error.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	var errs []error
	if h.ns != nil && h.first == nil {
		// Not our child: we see its end, we cannot wait for it.
		if err := unix.PidfdSendSignal(h.ns.pidfd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
			errs = append(errs, err)
		}
		fds := []unix.PollFd{{Fd: int32(h.ns.pidfd), Events: unix.POLLIN}}
		for {
			if _, err := unix.Poll(fds, 60_000); err != unix.EINTR {
				break
			}
		}
	}
	if h.first != nil {
		h.first.Process.Kill()
		h.first.Wait() // killed is what it says
	}
	for _, d := range h.daemons {
		<-d.done // the kernel has killed them all
		if log := d.Log(); strings.Contains(log, dataRace) {
			errs = append(errs, fmt.Errorf("%s on %s: %s", d.Name, h.Name, tail(log[strings.Index(log, dataRace):], 8000)))
		}
	}
	if h.ns != nil {
		// The card goes with the namespace, but later; its name may be needed now.
		if err := ip([]string{"link del " + h.link()}); err != nil {
			if _, there := net.InterfaceByName(h.link()); there == nil {
				errs = append(errs, err)
			}
		}
		errs = append(errs, unix.Close(h.ns.pidfd))
		h.ns.pidfd = -1
	}
	if dir := h.cgroup(); dir != "" {
		errs = append(errs, removeCgroup(dir))
	}
	errs = append(errs, os.RemoveAll(h.dir), freeAddr(h.num))
	return errors.Join(errs...)
}

// dataRace is what the race detector says (see Program).
const dataRace = "WARNING: DATA RACE"
