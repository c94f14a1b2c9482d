package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/pamhelper"
)

// startPAM starts sekisho-pam, while this process is root, for the stacks of
// the provers pam:SERVICE, and returns what to hand on as fdStacks. It answers
// only connections that come through that, and ends when the last copy of it
// is closed: with sekishod.
func startPAM(user string, services []string) (*os.File, error) {
	path, err := helperProgram("sekisho-pam")
	if err != nil {
		return nil, fmt.Errorf("finding sekisho-pam: %w", err)
	}
	return startPAMAt(path, user, services)
}

func startPAMAt(path, user string, services []string) (*os.File, error) {
	hold, give, err := pamhelper.Pair()
	if err != nil {
		return nil, err
	}
	defer give.Close()
	args := []string{"--fd", "3", "--user", user}
	for _, s := range services {
		args = append(args, "--service", s)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	cmd.Stderr = os.Stderr // its log; it goes into the background with it
	cmd.ExtraFiles = []*os.File{give}
	if err := cmd.Run(); err != nil {
		hold.Close()
		return nil, fmt.Errorf("starting sekisho-pam, which has said why: %w", err)
	}
	return hold, nil
}

// helperProgram is one that was installed with this program: of
// /usr/local/bin/sekishod, /usr/local/lib/sekisho/NAME.
func helperProgram(name string) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	return rootsOwn(filepath.Join(filepath.Dir(filepath.Dir(exe)), "lib/sekisho", name))
}

// rootsOwn resolves the path of a program that is to run as root, and makes
// sure that nobody else can change it.
func rootsOwn(path string) (string, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	for p := path; ; p = filepath.Dir(p) {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return "", fmt.Errorf("%s: %w", p, err)
		}
		if st.Uid != 0 || st.Mode&0o022 != 0 {
			return "", fmt.Errorf("%s can be changed by others than root, as whom it would run: chown root %s; chmod go-w %s", p, p, p)
		}
		if p == "/" {
			return path, nil
		}
	}
}
