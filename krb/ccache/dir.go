package ccache

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Limits of a directory of caches.
const (
	maxPrimary = 64
	maxCaches  = 256
)

// dir is a directory of caches: files whose names begin with tkt, and a file
// "primary" with the name of the one that the directory stands for.
type dir struct{ path string }

func openDir(rest string) (*Store, error) {
	if path, one := strings.CutPrefix(rest, ":"); one {
		return (&dir{filepath.Dir(path)}).member(filepath.Base(path))
	}
	if rest == "" {
		return nil, errors.New("the name has no directory")
	}
	d := &dir{rest}
	name, err := d.primary()
	if err != nil {
		return nil, err
	}
	return d.member(name)
}

// ensure makes the directory, as MIT does: not its parents.
func (d *dir) ensure() error {
	st, err := os.Stat(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(d.path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making the directory: %w", err)
		}
		st, err = os.Stat(d.path)
	}
	switch {
	case err != nil:
		return err
	case !st.IsDir():
		return fmt.Errorf("%s is not a directory", d.path)
	}
	return nil
}

// member is the cache in one file of the directory.
func (d *dir) member(name string) (*Store, error) {
	if err := checkMember(name); err != nil {
		return nil, err
	}
	f, err := newFile(filepath.Join(d.path, name))
	if err != nil {
		return nil, err
	}
	f.dir = d
	return &Store{"DIR::" + f.path, f}, nil
}

func checkMember(name string) error {
	if !strings.HasPrefix(name, "tkt") || strings.ContainsAny(name, "/\\\n\x00") {
		return fmt.Errorf("%.64q is not the name of a cache in a directory: those begin with tkt", name)
	}
	return nil
}

// primary is the name in the file primary; without the file it is tkt.
func (d *dir) primary() (string, error) {
	f, err := newFile(filepath.Join(d.path, "primary"))
	if err != nil {
		return "", err
	}
	h, _, err := f.open(os.O_RDONLY)
	if errors.Is(err, ErrNone) {
		return "tkt", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", f.path, err)
	}
	defer h.Close()
	b, err := io.ReadAll(io.LimitReader(h, maxPrimary))
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", f.path, cause(err))
	}
	name, _, ok := strings.Cut(string(b), "\n")
	if !ok {
		return "", fmt.Errorf("%s does not begin with a line of at most %d characters: remove it", f.path, maxPrimary-2)
	}
	if err := checkMember(name); err != nil {
		return "", fmt.Errorf("%s: %w: remove it", f.path, err)
	}
	return name, nil
}

func (d *dir) choose(name string) error {
	path := filepath.Join(d.path, "primary")
	if err := replace(path, []byte(name+"\n")); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// all are the caches of the directory, the primary one first.
func (d *dir) all() ([]*Store, error) {
	first, err := d.primary()
	if err != nil {
		return nil, err
	}
	list, err := os.ReadDir(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := []string{}
	if _, err := os.Lstat(filepath.Join(d.path, first)); err == nil {
		names = append(names, first)
	}
	for _, e := range list {
		if n := e.Name(); n != first && checkMember(n) == nil {
			names = append(names, n)
		}
	}
	if len(names) > maxCaches {
		return nil, fmt.Errorf("%s holds more than %d caches", d.path, maxCaches)
	}
	var out []*Store
	for _, n := range names {
		s, err := d.member(n)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// fresh is a cache of a new name, which is not made yet.
func (d *dir) fresh() (*Store, error) { return d.member("tkt" + rand.Text()[:10]) }
