package testenv

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// LocalUser is an account in /etc/passwd, with a group of the same name and
// number. It has no password ("*"), so that sshd does not think it locked.
type LocalUser struct {
	Name   string
	UID    int    // also the GID; 0: the next free one
	Shell  string // default /bin/bash
	Home   string // default /home/NAME, made with mode 0700
	System bool   // a daemon's: free number under 900, no shell, no home made
}

// AddUser adds a local account. An account that is there already is left as it is.
func (h *Host) AddUser(u LocalUser) error {
	if err := h.Inside(func() error { return addUser(u) }); err != nil {
		return fmt.Errorf("adding the user %s to %s: %w", u.Name, h.Name, err)
	}
	return nil
}

// addUser adds u to the /etc that the calling thread sees.
func addUser(u LocalUser) error {
	if u.Name == "" || strings.ContainsAny(u.Name, ":\n/") {
		return fmt.Errorf("%q is not a user name", u.Name)
	}
	taken, err := ids("/etc/passwd", "/etc/group")
	if err != nil {
		return err
	}
	if _, ok := taken.names[u.Name]; ok {
		return nil
	}
	if u.UID == 0 {
		step := 1
		u.UID = 2000
		if u.System {
			u.UID, step = 899, -1
		}
		for taken.numbers[u.UID] {
			u.UID += step
		}
	}
	if u.Shell == "" {
		u.Shell = "/bin/bash"
		if u.System {
			u.Shell = "/usr/sbin/nologin"
		}
	}
	if u.Home == "" {
		u.Home = "/home/" + u.Name
		if u.System {
			u.Home = "/nonexistent"
		}
	}
	lines := []struct{ file, line string }{
		{"/etc/passwd", fmt.Sprintf("%s:x:%d:%d::%s:%s\n", u.Name, u.UID, u.UID, u.Home, u.Shell)},
		{"/etc/shadow", u.Name + ":*:19000:0:99999:7:::\n"},
	}
	if !taken.groups[u.Name] {
		lines = append(lines, struct{ file, line string }{"/etc/group", fmt.Sprintf("%s:x:%d:\n", u.Name, u.UID)})
	}
	for _, l := range lines {
		if err := appendLine(l.file, l.line); err != nil {
			return err
		}
	}
	if u.System {
		return nil
	}
	if err := os.MkdirAll(u.Home, 0o700); err != nil {
		return err
	}
	return os.Chown(u.Home, u.UID, u.UID)
}

type taken struct {
	names   map[string]bool // of users
	groups  map[string]bool
	numbers map[int]bool // of either
}

func ids(passwd, group string) (taken, error) {
	t := taken{map[string]bool{}, map[string]bool{}, map[int]bool{}}
	for file, names := range map[string]map[string]bool{passwd: t.names, group: t.groups} {
		b, err := os.ReadFile(file)
		if err != nil {
			return t, err
		}
		for _, line := range strings.Split(string(b), "\n") {
			f := strings.Split(line, ":")
			if len(f) < 3 {
				continue
			}
			names[f[0]] = true
			if n, err := strconv.Atoi(f[2]); err == nil {
				t.numbers[n] = true
			}
		}
	}
	return t, nil
}

func appendLine(file, line string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(line); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
