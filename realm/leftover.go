package realm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func writePID(path string, pid int) error {
	return writeFile(path, []byte(strconv.Itoa(pid)+"\n"), 0o644)
}

// stopLeftover ends a child that an earlier run left behind, as its pid file tells.
// A process is ours only when it runs exe and has the argument mark (a path of this
// realm's): pids are used again.
func stopLeftover(ctx context.Context, pidFile, exe, mark string) error {
	text, err := os.ReadFile(pidFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return os.Remove(pidFile) // cut by a crash
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.Remove(pidFile)
	}
	if err != nil {
		return fmt.Errorf("looking at process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	// The descriptor holds this very process: what is read now is its own, or the
	// signal below reaches nobody.
	ours, err := isOurs(pid, exe, mark)
	if err != nil {
		return fmt.Errorf("looking at process %d: %w", pid, err)
	}
	if !ours {
		return os.Remove(pidFile)
	}
	for n := range stopLimit/stopAgain + 2 {
		sig := unix.SIGTERM
		if n >= stopLimit/stopAgain {
			sig = unix.SIGKILL
		}
		for _, s := range []unix.Signal{sig, unix.SIGCONT} {
			if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("stopping %s of an earlier run (process %d): %w", filepath.Base(exe), pid, err)
			}
		}
		gone, err := pollGone(ctx, fd, stopAgain)
		if err != nil {
			return err
		}
		if gone {
			return os.Remove(pidFile)
		}
	}
	return fmt.Errorf("%s of an earlier run (process %d) does not end", filepath.Base(exe), pid)
}

func isOurs(pid int, exe, mark string) (bool, error) {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	list := bytes.Split(bytes.TrimRight(args, "\x00"), []byte{0})
	if !slices.ContainsFunc(list, func(a []byte) bool { return string(a) == mark }) {
		return false, nil
	}
	got, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // a zombie
	}
	if err != nil {
		return false, err
	}
	want, err := filepath.EvalSymlinks(exe)
	if err != nil {
		return false, err
	}
	return strings.TrimSuffix(got, " (deleted)") == want, nil
}

// pollGone waits until the process of a pidfd has ended.
func pollGone(ctx context.Context, fd int, limit time.Duration) (bool, error) {
	for end := time.Now().Add(limit); ; {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 50)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, err
		}
		if n > 0 {
			return true, nil
		}
		if time.Now().After(end) {
			return false, nil
		}
	}
}
