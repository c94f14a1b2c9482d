package userdb

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// accounts are the names and numbers that are the machine's own.
type accounts struct {
	users, groups map[string]bool
	uids, gids    map[uint32]bool
}

// localFiles reads passwd and group again when they have changed.
type localFiles struct {
	passwd, group string // immutable

	mu   sync.Mutex // guards all below
	seen [2]stamp
	now  *accounts
}

// stamp tells a file from its next edition: tools replace both files whole.
type stamp struct {
	dev, ino      uint64
	size          int64
	mtime, change syscall.Timespec
}

func newLocalFiles(dir string) *localFiles {
	return &localFiles{passwd: filepath.Join(dir, "passwd"), group: filepath.Join(dir, "group")}
}

const (
	maxFile = 64 << 20
	maxLine = 4 << 20
)

// read returns the accounts as the files have them now; they must not be
// changed.
func (f *localFiles) read() (*accounts, error) {
	var now [2]stamp
	for i, name := range []string{f.passwd, f.group} {
		var st syscall.Stat_t
		if err := syscall.Stat(name, &st); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		now[i] = stamp{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now != nil && f.seen == now {
		return f.now, nil
	}
	a := &accounts{map[string]bool{}, map[string]bool{}, map[uint32]bool{}, map[uint32]bool{}}
	for _, r := range []struct {
		file  string
		names map[string]bool
		ids   map[uint32]bool
	}{{f.passwd, a.users, a.uids}, {f.group, a.groups, a.gids}} {
		if err := readFile(r.file, r.names, r.ids); err != nil {
			return nil, err
		}
	}
	f.seen, f.now = now, a
	return a, nil
}

// readFile takes the first and third field of each line of passwd(5) or
// group(5). A line that it cannot read still keeps its name.
func readFile(name string, names map[string]bool, ids map[uint32]bool) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	limited := &io.LimitedReader{R: file, N: maxFile + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		f := strings.SplitN(lines.Text(), ":", 4)
		names[strings.TrimSpace(f[0])] = true
		if len(f) > 2 {
			if id, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				ids[uint32(id)] = true
			}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if limited.N == 0 {
		return fmt.Errorf("%s: larger than %d bytes", name, maxFile)
	}
	return nil
}
