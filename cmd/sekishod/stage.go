package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/cmd/internal/accounts"
	"github.com/sekisho/sekisho/cmd/internal/config"
	"github.com/sekisho/sekisho/door/userdb"
)

// sekishod has two stages. Started by root, the first one does what only root
// can (make the directories, bind the users door's socket, read the password
// file), gives up everything, and executes the same program again as the
// service user; started by anybody else there is only the second.
//
// A new program image leaves nothing of root behind: no memory, and no thread
// that kept its rights (credentials are per thread on Linux, and a program
// with cgo cannot change those of all its threads but by the C library).

// inheritedEnv names the descriptors that the first stage hands on:
// "NAME=FD …". The variable is of no meaning to anything else.
const inheritedEnv = "SEKISHOD_INHERITED"

const (
	fdUserDB   = "userdb"   // a bound socket that does not listen yet
	fdPassword = "password" // a pipe with the bind password
	fdCodes    = "codes"    // and one with that of otp.bind_dn
	fdReaper   = "reaper"   // an end of the socket pair with sekisho-reaper
)

// becomeService is the first stage. It returns only errors: without one, the
// process is executed anew.
func becomeService(c config.Config) error {
	u, err := accounts.Lookup(c.User)
	if errors.Is(err, accounts.ErrUnknown) {
		return fmt.Errorf("there is no user %s: useradd --system --no-create-home --shell /usr/sbin/nologin %s", c.User, c.User)
	}
	if err != nil {
		return err
	}
	if u.UID == 0 || u.GID == 0 {
		return fmt.Errorf("user %s has uid %d and gid %d: it must be neither root nor of root's group", c.User, u.UID, u.GID)
	}
	if err := ownDir(c.StateDir, 0o700, u); err != nil {
		return err
	}
	if err := ownDir(c.RuntimeDir, 0o755, u); err != nil {
		return err
	}
	var hand []string
	if c.UserDB.Enabled {
		f, err := userdb.Bind(userdb.SocketPath)
		if err != nil {
			return err
		}
		defer f.Close() // keeps it open until execve
		hand = append(hand, fmt.Sprintf("%s=%d", fdUserDB, f.Fd()))
	}
	for _, p := range []struct{ name, file string }{{fdPassword, c.Directory.PasswordFile}, {fdCodes, c.OTP.PasswordFile}} {
		if p.file == "" {
			continue
		}
		secret, err := config.ReadSecret(p.file)
		if err != nil {
			return err
		}
		fd, err := pipeOf(secret)
		if err != nil {
			return err
		}
		hand = append(hand, fmt.Sprintf("%s=%d", p.name, fd))
	}
	if c.PAM.Enabled { // before sekisho-pam: it takes us out of a session's cgroup
		f, err := startReaper(c.PAMSocket())
		if err != nil {
			return err
		}
		defer f.Close()
		hand = append(hand, fmt.Sprintf("%s=%d", fdReaper, f.Fd()))
	}
	if services := c.PAMServices(); len(services) > 0 {
		f, err := startPAM(c.User, services)
		if err != nil {
			return err
		}
		defer f.Close()
		hand = append(hand, fmt.Sprintf("%s=%d", fdStacks, f.Fd()))
	}
	env := append(os.Environ(), inheritedEnv+"="+strings.Join(hand, " "))
	return dropAndExec(u, needsLowPort(c) || feedNeedsLowPort(c), env)
}

// needsLowPort tells whether slapd, the KDC or the server of password changes
// will listen on a port under 1024, which the first two do unless the
// configuration says otherwise. The third goes by the KDC's ports.
func needsLowPort(c config.Config) bool {
	if !c.Embedded() {
		return false
	}
	r := c.Realm
	if len(r.LDAP) == 0 || len(r.LDAPS) == 0 || len(r.KDC) == 0 {
		return true
	}
	for _, v := range slices.Concat(r.LDAP, r.LDAPS, r.KDC, r.Kpasswd) {
		if a, err := netip.ParseAddrPort(v); err != nil || a.Port() < 1024 {
			return true
		}
	}
	return false
}

// ownDir makes a directory of the service user. One that is there already is
// taken only from root, and only while it is empty.
func ownDir(path string, mode os.FileMode, u accounts.User) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if st.Uid != u.UID {
		names, _ := f.Readdirnames(1)
		if st.Uid != 0 || len(names) > 0 {
			return fmt.Errorf("%s belongs to uid %d and is in use: chown -R %s: %s, if it is sekishod's", path, st.Uid, u.Name, path)
		}
		if err := f.Chown(int(u.UID), int(u.GID)); err != nil {
			return err
		}
	}
	return f.Chmod(mode)
}

// pipeOf returns the reading end of a pipe that holds text. It never blocks:
// a pipe takes 4 KiB, and config.ReadSecret returns no more.
func pipeOf(text string) (int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return 0, fmt.Errorf("making a pipe: %w", err)
	}
	defer unix.Close(p[1])
	if _, err := unix.Write(p[1], []byte(text)); err != nil {
		return 0, fmt.Errorf("filling a pipe: %w", err)
	}
	return p[0], nil
}

// dropAndExec gives up every right but, when ports is set, that to listen on
// ports under 1024, which slapd and the KDC inherit, and executes this program
// as u. It changes the credentials of this thread only; execve(2) ends all the
// others. It returns only errors, and the process must end then.
func dropAndExec(u accounts.User, ports bool, env []string) error {
	runtime.LockOSThread()
	exe, err := os.Open("/proc/self/exe") // while root: its folder may be closed to u
	if err != nil {
		return fmt.Errorf("opening this program: %w", err)
	}
	keep := uint64(0)
	if ports {
		keep = 1 << unix.CAP_NET_BIND_SERVICE
	}
	if err := drop(u, keep); err != nil {
		return fmt.Errorf("becoming user %s: %w", u.Name, err)
	}
	for _, word := range strings.Fields(lookup(env, inheritedEnv)) {
		_, fd, _ := strings.Cut(word, "=")
		n, err := strconv.Atoi(fd)
		if err != nil {
			return fmt.Errorf("handing on %s: %w", word, err)
		}
		if _, err := unix.FcntlInt(uintptr(n), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("handing on %s: %w", word, err)
		}
	}
	err = syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", exe.Fd()), os.Args, env)
	return fmt.Errorf("executing this program as user %s: %w", u.Name, err)
}

// drop changes this thread for good to user u without groups, with the
// capabilities in keep and no way to others, and proves it.
func drop(u accounts.User, keep uint64) error {
	for c := uintptr(0); c < 64; c++ {
		if keep&(1<<c) != 0 {
			continue
		}
		// EINVAL is past the kernel's last capability. EPERM is a container that
		// withholds CAP_SETPCAP: no_new_privs below shuts the same way.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err == unix.EINVAL || err == unix.EPERM {
			break
		} else if err != nil {
			return fmt.Errorf("bounding capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keeping capabilities: %w", err)
	}
	for _, call := range []struct {
		name        string
		nr, id, id2 uintptr
	}{
		{"setgroups", unix.SYS_SETGROUPS, 0, 0},
		{"setresgid", unix.SYS_SETRESGID, uintptr(u.GID), uintptr(u.GID)},
		{"setresuid", unix.SYS_SETRESUID, uintptr(u.UID), uintptr(u.UID)},
	} {
		if _, _, e := unix.RawSyscall(call.nr, call.id, call.id2, call.id); e != 0 {
			return fmt.Errorf("%s: %w", call.name, e)
		}
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	caps := [2]unix.CapUserData{
		{Permitted: uint32(keep), Inheritable: uint32(keep)},
		{Permitted: uint32(keep >> 32), Inheritable: uint32(keep >> 32)},
	}
	if err := unix.Capset(&head, &caps[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	for c := uintptr(0); c < 64; c++ {
		if keep&(1<<c) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0); err != nil {
			return fmt.Errorf("handing on capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0); e != unix.EPERM {
		return errors.New("uid 0 can be regained: that must not be")
	}
	return nil
}

func lookup(env []string, name string) string {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}
