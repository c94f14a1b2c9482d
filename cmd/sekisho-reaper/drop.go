package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
	"unsafe"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/cmd/internal/accounts"
	"github.com/sekisho/sekisho/reaper"
)

// What is kept, and why:
//
//	uid 0      the folders of cgroup2 are root's, and are made and written as
//	           their owner does it, without CAP_DAC_OVERRIDE
//	CAP_KILL   signals to the processes of users (kill(2))
//	group tty  one line on terminals, which their group may write (mode 0620)

// keepCaps is the set of capabilities that is kept.
const keepCaps = uint64(1) << unix.CAP_KILL

// drop gives up all else for good. The program is static and without cgo, so
// the runtime can change the credentials of all its threads.
func drop(log *logrus.Entry, files map[string]reaper.Access) error {
	time.Now().Zone() // reads /etc/localtime, for the log
	if err := os.WriteFile("/proc/self/comm", []byte("sekisho-reaper"), 0); err != nil {
		return fmt.Errorf("naming this process: %w", err)
	}
	for what, limit := range map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: 4096} {
		if err := unix.Setrlimit(what, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			return fmt.Errorf("setting a limit: %w", err)
		}
	}
	groups, err := ttyGroup()
	if err != nil {
		return err
	}
	if len(groups) == 0 {
		log.Warn("there is no group tty in /etc/group: nobody is told on his terminal why his session ends")
	}
	if err := syscall.Setgroups(groups); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := everyThread(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if err := confine(log, files); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	for c := uintptr(0); c < 64; c++ {
		if keepCaps&(1<<c) != 0 {
			continue
		}
		// EINVAL is past the kernel's last capability. EPERM is a container that
		// withholds CAP_SETPCAP: no_new_privs shuts the same way, for this program
		// starts no other.
		if err := everyThread(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); err == unix.EINVAL || err == unix.EPERM {
			break
		} else if err != nil {
			return fmt.Errorf("bounding capability %d: %w", c, err)
		}
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var has [2]unix.CapUserData
	if err := unix.Capget(&head, &has[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	if uint64(has[0].Permitted)&keepCaps != keepCaps {
		return errors.New("CAP_KILL, by which it ends sessions, is withheld: have the unit's CapabilityBoundingSet name it (sekisho host enrol writes the unit anew)")
	}
	caps := [2]unix.CapUserData{{Permitted: uint32(keepCaps), Effective: uint32(keepCaps)}, {}}
	if err := everyThread(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&caps[0])), 0); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("closing this process to debuggers: %w", err)
	}
	var got [2]unix.CapUserData
	if err := unix.Capget(&head, &got[0]); err != nil || got != caps {
		return fmt.Errorf("other capabilities are left than were asked for: that must not be (%v)", err)
	}
	return nil
}

//go:uintptrescapes
func everyThread(trap, a, b, c uintptr) error {
	if _, _, e := syscall.AllThreadsSyscall(trap, a, b, c); e != 0 {
		return e
	}
	return nil
}

func ttyGroup() ([]int, error) {
	groups, _, err := accounts.Groups("")
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if g.Name == "tty" {
			return []int{int(g.GID)}, nil
		}
	}
	return nil, nil
}

// confine has the kernel refuse all files but those that are needed
// (landlock(7)). Kernels without it are fine.
func confine(log *logrus.Entry, files map[string]reaper.Access) error {
	abi, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e == unix.ENOSYS || e == unix.EOPNOTSUPP {
		log.Debug("the kernel has no Landlock")
		return nil
	}
	if e != 0 {
		return e
	}
	// All rights that the kernel knows of: each ABI has added some.
	all := uint64(unix.LANDLOCK_ACCESS_FS_MAKE_SYM)<<1 - 1
	for _, more := range []struct {
		abi   uintptr
		right uint64
	}{{2, unix.LANDLOCK_ACCESS_FS_REFER}, {3, unix.LANDLOCK_ACCESS_FS_TRUNCATE}, {5, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV}} {
		if abi >= more.abi {
			all |= more.right
		}
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: all}
	size := unsafe.Sizeof(attr.Handled_access_fs) // the first field alone is in every ABI
	if abi >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		size += unsafe.Sizeof(attr.Handled_access_net)
	}
	set, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if e != 0 {
		return e
	}
	defer unix.Close(int(set))
	for path, right := range files {
		access := uint64(unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR)
		if right.Write {
			access |= unix.LANDLOCK_ACCESS_FS_WRITE_FILE
		}
		if right.Make {
			access |= unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_DIR |
				unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_TRUNCATE
		}
		if err := allow(int(set), path, access&all); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return everyThread(unix.SYS_LANDLOCK_RESTRICT_SELF, set, 0, 0)
}

func allow(set int, path string, access uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // then it is not needed either
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	if _, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(set), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); e != 0 {
		return e
	}
	return nil
}
