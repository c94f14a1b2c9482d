package krb5conf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultPath is where the configuration is when KRB5_CONFIG names no other.
const DefaultPath = "/etc/krb5.conf"

// Limits of what is read together.
const (
	maxNested = 8
	maxFiles  = 512
	maxTotal  = 4 << 20
)

// Parse reads one text, which may include nothing; name is for errors.
func Parse(name string, text []byte) (*Config, error) {
	root := newSection()
	p := parser{name: name, root: root, load: &loader{sealed: true}}
	if err := p.parse(text); err != nil {
		return nil, err
	}
	return &Config{[]*section{root}}, nil
}

// Default reads the files that KRB5_CONFIG names, by colons, or DefaultPath. As
// with MIT a file that does not exist counts as empty, and several are one behind
// another: the first value counts, lists are joined.
func Default() (*Config, error) {
	paths := os.Getenv("KRB5_CONFIG")
	if paths == "" {
		paths = DefaultPath
	}
	return Load(strings.Split(paths, ":")...)
}

// Load is Default with the files given. A directory counts as by includedir. A
// file that may not be read is passed over when another one is there.
func Load(paths ...string) (*Config, error) {
	c := new(Config)
	var denied error
	l := new(loader)
	for _, path := range paths {
		root := newSection()
		err := l.top(root, path)
		var missing *missingError
		switch {
		case errors.As(err, &missing) && errors.Is(err, fs.ErrNotExist):
			continue
		case errors.As(err, &missing):
			denied = err
			continue
		case err != nil:
			return nil, fmt.Errorf("reading the Kerberos configuration: %w", err)
		}
		c.files = append(c.files, root)
	}
	if len(c.files) == 0 && denied != nil {
		return nil, fmt.Errorf("reading the Kerberos configuration: %w", denied)
	}
	return c, nil
}

// missingError is that a file which was named itself, not by an include, is not
// there or may not be read.
type missingError struct{ error }

func (e *missingError) Unwrap() error { return e.error }

// loader counts what is read for one Config.
type loader struct {
	sealed bool // nothing may be included
	files  int
	size   int
	nodes  int
	chain  []fileID // the files that are being read, from the outside in
}

type fileID struct{ dev, ino uint64 }

func (l *loader) count() error {
	if l.nodes++; l.nodes > maxNodes {
		return errTooMuch
	}
	return nil
}

func (l *loader) top(root *section, path string) error {
	if path == "" {
		return &missingError{fs.ErrNotExist}
	}
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return &missingError{err}
	}
	if err == nil && st.IsDir() {
		return l.directory(root, path)
	}
	err = l.file(root, path)
	var p *fs.PathError
	if errors.As(err, &p) && p.Path == path && errors.Is(err, fs.ErrPermission) {
		return &missingError{err}
	}
	return err
}

// include obeys a directive.
func (l *loader) include(root *section, dir bool, path string) error {
	switch {
	case l.sealed:
		return errors.New("nothing may be included here")
	case !filepath.IsAbs(path):
		return fmt.Errorf("%.200q: the path must be absolute", path)
	case dir:
		return l.directory(root, path)
	}
	return l.file(root, path)
}

// directory reads the files of a directory in the order of their names.
func (l *loader) directory(root *section, path string) error {
	list, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range list {
		if !includable(e.Name()) {
			continue
		}
		full := filepath.Join(path, e.Name())
		if st, err := os.Stat(full); err == nil && st.IsDir() {
			continue // MIT reads nothing from it either
		}
		if err := l.file(root, full); err != nil {
			return err
		}
	}
	return nil
}

// includable leaves out what editors and package managers leave behind.
func includable(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	if strings.HasSuffix(name, ".conf") {
		return true
	}
	return strings.IndexFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}) < 0
}

func (l *loader) file(root *section, path string) error {
	if len(l.chain) == maxNested {
		return fmt.Errorf("%s: files are included deeper than %d", path, maxNested)
	}
	if l.files++; l.files > maxFiles {
		return fmt.Errorf("more than %d files are included", maxFiles)
	}
	text, id, err := l.open(path)
	if err != nil {
		return err
	}
	if slices.Contains(l.chain, id) {
		return fmt.Errorf("%s includes itself", path)
	}
	l.chain = append(l.chain, id)
	p := parser{name: path, root: root, load: l}
	err = p.parse(text)
	l.chain = l.chain[:len(l.chain)-1]
	return err
}

// open reads a regular file; of others only /dev/null, which says "nothing".
func (l *loader) open(path string) ([]byte, fileID, error) {
	h, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fileID{}, err
	}
	defer h.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(h.Fd()), &st); err != nil {
		return nil, fileID{}, fmt.Errorf("%s: %w", path, err)
	}
	id := fileID{st.Dev, st.Ino}
	null := st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
	if st.Mode&unix.S_IFMT != unix.S_IFREG && !null {
		return nil, id, fmt.Errorf("%s is not a regular file", path)
	}
	text, err := io.ReadAll(io.LimitReader(h, int64(maxTotal-l.size)+1))
	if err != nil {
		return nil, id, err
	}
	if l.size += len(text); l.size > maxTotal {
		return nil, id, fmt.Errorf("%s: the files together are larger than %d MiB", path, maxTotal>>20)
	}
	return text, id, nil
}
