package testenv

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// WorldConfig says what a world is like; the zero value serves.
type WorldConfig struct {
	Name   string // by which OpenWorld finds it; default: a number
	Domain string // DNS suffix of the hosts; default example.org
	// NoCgroup: its hosts have no cgroup2, as in a container.
	NoCgroup bool
}

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

func (c *WorldConfig) validate() error {
	if c.Domain == "" {
		c.Domain = "example.org"
	}
	if c.Name != "" && !nameForm.MatchString(c.Name) {
		return fmt.Errorf("%q is no name for a world: lower-case letters, digits and dashes", c.Name)
	}
	return nil
}

// World is a set of hosts that know each other's names and SSH host keys. Two
// worlds of one sandbox share the bridge and its addresses, and no names.
type World struct {
	Name     string
	Domain   string
	NoCgroup bool
	dir      string // immutable

	mu    sync.Mutex
	hosts map[string]*Host // guarded by mu
}

// NewWorld makes an empty world. Only inside the sandbox.
func NewWorld(cfg WorldConfig) (*World, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if !Inside() {
		return nil, errors.New("a world lives in the sandbox: call testenv.Main in TestMain")
	}
	w := &World{Name: cfg.Name, Domain: cfg.Domain, NoCgroup: cfg.NoCgroup, hosts: map[string]*Host{}}
	for n := 1; ; n++ {
		if cfg.Name == "" {
			w.Name = strconv.Itoa(n)
		}
		w.dir = filepath.Join(mntDir, "worlds", w.Name)
		err := os.Mkdir(w.dir, 0o755)
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrExist) || cfg.Name != "" {
			return nil, fmt.Errorf("making the world %s: %w", w.Name, err)
		}
	}
	b, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(w.dir, "world.json"), b, 0o644); err != nil {
		return nil, err
	}
	return w, nil
}

// OpenWorld finds a world, and its hosts, that another process of the same
// sandbox made. Their daemons go on without a parent that waits for them but
// the host's init.
func OpenWorld(name string) (*World, error) {
	if !Inside() {
		return nil, errors.New("a world lives in the sandbox: enter it first")
	}
	w := &World{hosts: map[string]*Host{}, dir: filepath.Join(mntDir, "worlds", name)}
	if err := readJSON(filepath.Join(w.dir, "world.json"), w); err != nil {
		return nil, fmt.Errorf("finding the world %s: %w", name, err)
	}
	files, err := filepath.Glob(filepath.Join(w.dir, "*", "host.json"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		h := &Host{world: w, dir: filepath.Dir(f)}
		if err := readJSON(f, h); err != nil {
			return nil, fmt.Errorf("finding the hosts of %s: %w", name, err)
		}
		if err := h.open(); err != nil {
			return nil, err
		}
		pub, err := h.ReadFile("/etc/ssh/ssh_host_ed25519_key.pub")
		if err != nil {
			return nil, err
		}
		h.hostKey = &Key{Public: pub}
		w.hosts[h.Name] = h
	}
	return w, nil
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// Host is the host of that name, made when there is none. Names are one DNS
// label of lower-case letters, digits and dashes.
func (w *World) Host(name string) (*Host, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h, ok := w.hosts[name]; ok {
		return h, nil
	}
	if !nameForm.MatchString(name) {
		return nil, fmt.Errorf("%q is no host name: lower-case letters, digits and dashes", name)
	}
	h, err := newHost(w, name)
	if err != nil {
		return nil, fmt.Errorf("making the host %s: %w", name, err)
	}
	w.hosts[name] = h
	if err := w.introduce(); err != nil {
		return nil, fmt.Errorf("making the host %s known: %w", name, err)
	}
	return h, nil
}

// Hosts are the hosts of the world by name.
func (w *World) Hosts() []*Host {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sorted()
}

func (w *World) sorted() []*Host {
	var hs []*Host
	for _, h := range w.hosts {
		hs = append(hs, h)
	}
	sort.Slice(hs, func(i, j int) bool { return hs[i].Name < hs[j].Name })
	return hs
}

// introduce writes the names and host keys of all hosts to all hosts.
func (w *World) introduce() error {
	hs := w.sorted()
	hosts := hostsFile(hs)
	var known strings.Builder
	for _, h := range hs {
		names := []string{h.Name, h.FQDN, h.Addr.String()}
		if h.Addr6.IsValid() {
			names = append(names, h.Addr6.String())
		}
		fmt.Fprintf(&known, "%s %s", strings.Join(names, ","), h.hostKey.Public)
	}
	for _, h := range hs {
		if !h.up() {
			continue
		}
		if err := h.WriteFile("/etc/hosts", []byte(hosts), 0o644); err != nil {
			return err
		}
		if err := h.WriteFile("/etc/ssh/ssh_known_hosts", []byte(known.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// HostsFile is the text of /etc/hosts of this world's hosts: for a process on
// the sandbox itself that needs names, which has none of them.
func (w *World) HostsFile() string { return hostsFile(w.Hosts()) }

func hostsFile(hs []*Host) string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost\n" +
		bridgeAddr + " sandbox\n" + bridge6 + " sandbox\n")
	for _, h := range hs {
		fmt.Fprintf(&b, "%s %s %s\n", h.Addr, h.FQDN, h.Name)
		if h.Addr6.IsValid() {
			fmt.Fprintf(&b, "%s %s %s\n", h.Addr6, h.FQDN, h.Name)
		}
	}
	return b.String()
}

// Close powers all hosts off and forgets them. It may be called twice.
func (w *World) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, h := range w.sorted() {
		errs = append(errs, h.Close())
		delete(w.hosts, h.Name)
	}
	errs = append(errs, os.RemoveAll(w.dir))
	return errors.Join(errs...)
}

// takeAddr finds a free last number for an address in the sandbox.
func takeAddr() (int, error) {
	for n := 10; n < 250; n++ {
		err := os.Mkdir(addrDir(n), 0o755)
		if err == nil {
			return n, nil
		}
		if !errors.Is(err, os.ErrExist) {
			return 0, err
		}
	}
	return 0, errors.New("all 240 addresses are in use: close worlds that are done")
}

func freeAddr(n int) error {
	err := os.Remove(addrDir(n))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func addrDir(n int) string { return filepath.Join(mntDir, "addr", strconv.Itoa(n)) }

func addrs(n int) (v4, v6 netip.Addr) {
	v4 = netip.AddrFrom4([4]byte{203, 0, 113, byte(n)})
	if hasIPv6() {
		v6 = netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", n))
	}
	return v4, v6
}

func alive(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 0
}
