package testenv

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/beevik/ntp"
	"golang.org/x/sys/unix"
)

//go:embed shim/clock.c
var clockSource string

// Where the parts of a moved clock are. A host has its own /run and /etc.
const (
	clockLib  = "/usr/local/lib/sekisho-testenv-clock.so"
	clockFile = "/run/sekisho-testenv-clock"
	preload   = "/etc/ld.so.preload"
)

// MoveClock moves the wall clock of the host's C programs so that it is offset
// ahead of the machine's (negative: behind); 0 mends it. It is a library that
// /etc/ld.so.preload has every program load, setuid ones too: programs started
// after the first MoveClock follow this and all later ones at once, while they
// run; those started before never do. Say MoveClock(0) first to have a server
// follow a later move.
//
// It moves what clock_gettime (CLOCK_REALTIME, _COARSE), gettimeofday, time and
// timespec_get say. It does not move: static programs, so our own Go programs
// (their clock is a func in tests); time stamps of files and of the kernel's
// packets; the stamps of syslog(3); and absolute waits by the wall clock
// (pthread_cond_timedwait, sem_timedwait, clock_nanosleep with TIMER_ABSTIME,
// timerfd), which last longer or shorter by the offset. Under faketime(1) only faketime's
// own offset counts. A program built with ASan needs ASAN_OPTIONS=verify_asan_link_order=0 on such a host.
func (h *Host) MoveClock(offset time.Duration) error {
	if err := buildClock(); err != nil {
		return fmt.Errorf("moving the clock of %s: %w", h.Name, err)
	}
	err := h.Inside(func() error {
		if err := storeOffset(offset); err != nil {
			return err
		}
		b, err := os.ReadFile(preload)
		if errors.Is(err, os.ErrNotExist) {
			b, err = nil, nil
		}
		if err != nil || strings.Contains(string(b), clockLib) {
			return err
		}
		return os.WriteFile(preload, append(b, clockLib+"\n"...), 0o644)
	})
	if err != nil {
		return fmt.Errorf("moving the clock of %s: %w", h.Name, err)
	}
	return nil
}

// storeOffset changes the mapped file in one store: running programs read it.
func storeOffset(offset time.Duration) error {
	f, err := os.OpenFile(clockFile, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(8); err != nil { // its size from the first time on
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping %s: %w", clockFile, err)
	}
	atomic.StoreInt64((*int64)(unsafe.Pointer(&m[0])), int64(offset))
	return unix.Munmap(m)
}

// buildClock compiles the library once a sandbox.
func buildClock() error {
	unlock, err := lockFile("/run/sekisho-testenv-clock.lock")
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(clockLib); err == nil {
		return nil
	}
	tmp := clockLib + ".new"
	cmd := exec.Command("gcc", "-std=gnu11", "-O2", "-fPIC", "-shared",
		fmt.Sprintf("-DCLOCK_FILE=%q", clockFile), "-x", "c", "-o", tmp, "-")
	cmd.Stdin = strings.NewReader(clockSource)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling shim/clock.c: %w: %s", err, out)
	}
	return os.Rename(tmp, clockLib)
}

// installOnce copies a program to a place in the sandbox that all hosts see.
func installOnce(from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(to), "new")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Chmod(0o755), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), to) // whole, for two at once
}

// ChronydConfig says how a time server is; the zero value serves.
type ChronydConfig struct {
	Port    int      // default 123
	Stratum int      // what it says of itself; default 3
	Lines   []string // more lines of chrony.conf
}

// StartChronyd starts chrony's chronyd on the host, as a server of the host's
// clock, which it does not touch. It serves what MoveClock makes of it, if that
// was called before; moved by less than a second it may serve times that are
// half one and half the other, for it prefers the kernel's stamp of an arrival.
func (h *Host) StartChronyd(ctx context.Context, cfg ChronydConfig) (*Daemon, error) {
	if cfg.Port == 0 {
		cfg.Port = 123
	}
	if cfg.Stratum == 0 {
		cfg.Stratum = 3
	}
	id, err := sandbox()
	if err != nil {
		return nil, err
	}
	// The module may lie where hosts see nothing, such as in /tmp.
	const program = "/usr/local/lib/sekisho-testenv/chronyd"
	if err := installOnce(filepath.Join(id.Root, "build/unpacked/chrony/usr/sbin/chronyd"), program); err != nil {
		return nil, fmt.Errorf("finding chronyd: %w: run testenv/packages.sh base", err)
	}
	conf := fmt.Sprintf("/etc/chrony-%d.conf", cfg.Port)
	lines := append([]string{
		fmt.Sprintf("port %d", cfg.Port),
		fmt.Sprintf("local stratum %d", cfg.Stratum),
		fmt.Sprintf("pidfile /run/chronyd-%d.pid", cfg.Port),
		"allow all", "cmdport 0", "bindcmdaddress /", "user root",
	}, cfg.Lines...)
	if err := h.WriteFile(conf, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		return nil, fmt.Errorf("configuring chronyd: %w", err)
	}
	addr := net.JoinHostPort(h.Addr.String(), strconv.Itoa(cfg.Port))
	return h.Start(ctx, DaemonConfig{
		Name: "chronyd", Path: program, Args: []string{"-x", "-d", "-f", conf},
		Ready: func(context.Context) error {
			r, err := ntp.QueryWithOptions(addr, ntp.QueryOptions{Timeout: time.Second})
			if err != nil {
				return err
			}
			return r.Validate()
		},
	})
}
