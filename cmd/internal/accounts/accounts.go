// Package accounts reads the machine's own /etc/passwd and /etc/group, and
// nothing else. The C library would ask the directory too, through sekishod
// itself: then an LDAP entry could name itself one of our service accounts.
package accounts

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// User is one line of passwd(5).
type User struct {
	Name     string
	UID, GID uint32
	Gecos    string
	Home     string
	Shell    string
}

// Group is one line of group(5).
type Group struct {
	Name    string
	GID     uint32
	Members []string
}

// ErrUnknown says that there is no such account in the file.
var ErrUnknown = errors.New("no such account")

const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"
	maxLine    = 1 << 20
)

// Lookup finds a user in /etc/passwd; ErrUnknown when there is none.
func Lookup(name string) (User, error) {
	users, _, err := Users(passwdFile)
	if err != nil {
		return User{}, err
	}
	for _, u := range users {
		if u.Name == name {
			return u, nil
		}
	}
	return User{}, fmt.Errorf("%s: %w", name, ErrUnknown)
}

// LookupID is Lookup for a uid.
func LookupID(uid uint32) (User, error) {
	users, _, err := Users(passwdFile)
	if err != nil {
		return User{}, err
	}
	for _, u := range users {
		if u.UID == uid {
			return u, nil
		}
	}
	return User{}, fmt.Errorf("uid %d: %w", uid, ErrUnknown)
}

// Users reads a file in the form of passwd(5), "" for /etc/passwd. Lines that
// cannot be read are returned as errors beside the others.
func Users(path string) (users []User, bad []error, err error) {
	if path == "" {
		path = passwdFile
	}
	bad, err = read(path, 7, func(f []string) error {
		uid, err := number(f[2])
		if err != nil {
			return fmt.Errorf("uid: %w", err)
		}
		gid, err := number(f[3])
		if err != nil {
			return fmt.Errorf("gid: %w", err)
		}
		users = append(users, User{Name: f[0], UID: uid, GID: gid, Gecos: f[4], Home: f[5], Shell: f[6]})
		return nil
	})
	return users, bad, err
}

// Groups reads a file in the form of group(5), "" for /etc/group.
func Groups(path string) (groups []Group, bad []error, err error) {
	if path == "" {
		path = groupFile
	}
	bad, err = read(path, 4, func(f []string) error {
		gid, err := number(f[2])
		if err != nil {
			return fmt.Errorf("gid: %w", err)
		}
		g := Group{Name: f[0], GID: gid}
		for m := range strings.SplitSeq(f[3], ",") {
			if m = strings.TrimSpace(m); m != "" {
				g.Members = append(g.Members, m)
			}
		}
		groups = append(groups, g)
		return nil
	})
	return groups, bad, err
}

// read calls add with the fields of each line that is not empty, a comment or
// a marker of NIS ("+", "-").
func read(path string, fields int, add func([]string) error) (bad []error, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading local accounts: %w", err)
	}
	defer f.Close()
	sc := bufio.NewScanner(io.Reader(f))
	sc.Buffer(make([]byte, 0, 4096), maxLine)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimRight(sc.Text(), "\r")
		if line == "" || strings.ContainsRune("#+-", rune(line[0])) {
			continue
		}
		parts := strings.Split(line, ":")
		if len(parts) != fields || parts[0] == "" {
			bad = append(bad, fmt.Errorf("%s:%d: not %d fields with a name in the first", path, n, fields))
			continue
		}
		if err := add(parts); err != nil {
			bad = append(bad, fmt.Errorf("%s:%d: %w", path, n, err))
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return bad, nil
}

func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 { // (uid_t)-1 is nobody's: setresuid(2)
		return 0, errors.New("not a number from 0 to 4294967294")
	}
	return uint32(n), nil
}
