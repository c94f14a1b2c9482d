package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// inherited are the descriptors that the first stage handed on, by name.
type inherited map[string]*os.File

// inherit takes them over, and closes them to our children.
func inherit() (inherited, error) {
	in := inherited{}
	text := os.Getenv(inheritedEnv)
	if err := os.Unsetenv(inheritedEnv); err != nil {
		return nil, err
	}
	for _, word := range strings.Fields(text) {
		name, fd, _ := strings.Cut(word, "=")
		n, err := strconv.Atoi(fd)
		if err != nil || n < 3 {
			return nil, fmt.Errorf("%s=%q is not for people to set: take it out of the environment", inheritedEnv, text)
		}
		unix.CloseOnExec(n)
		in[name] = os.NewFile(uintptr(n), name)
	}
	return in, nil
}

// password reads the bind password out of its pipe; false when none was
// handed on.
func (in inherited) password() (string, bool, error) { return in.secret(fdPassword) }

// secret reads what was handed on by that name out of its pipe.
func (in inherited) secret(name string) (string, bool, error) {
	f := in[name]
	if f == nil {
		return "", false, nil
	}
	defer f.Close()
	delete(in, name)
	b, err := io.ReadAll(f)
	if err != nil {
		return "", false, fmt.Errorf("reading the %s that was handed on: %w", name, err)
	}
	return string(b), true, nil
}

// harden takes from other processes of the same user (slapd, the KDC) the
// means to look into this one: it holds a password.
func harden() error {
	if os.Getuid() == 0 || os.Geteuid() == 0 {
		return errors.New("still root after the first stage: that must not be")
	}
	// The first stage executed a descriptor, whose number became our name in ps.
	if err := os.WriteFile("/proc/self/comm", []byte("sekishod"), 0); err != nil {
		return fmt.Errorf("naming this process: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("closing this process to debuggers: %w", err)
	}
	return nil
}
