package ccache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockTries is how often a lock that somebody else holds is tried for again.
const lockTries = 20 * time.Millisecond

// lockWait bounds the wait for a lock when the context does not: whoever owns the
// file may hold it for ever.
const lockWait = 5 * time.Second

// file is a cache of type FILE, or the one file of a DIR.
type file struct {
	path string
	dir  *dir // the collection it belongs to, or nil
}

func openFile(path string) (*Store, error) {
	f, err := newFile(path)
	if err != nil {
		return nil, err
	}
	return &Store{"FILE:" + path, f}, nil
}

func newFile(path string) (*file, error) {
	switch {
	case path == "":
		return nil, errors.New("the name has no path")
	case bytes.IndexByte([]byte(path), 0) >= 0:
		return nil, errors.New("the path holds a NUL character")
	}
	return &file{path: path}, nil
}

// open opens the file itself. Where everybody may make names, as in /tmp, a
// symbolic link is not followed; nothing but a regular file is opened.
func (f *file) open(flags int) (*os.File, fs.FileInfo, error) {
	if shared(filepath.Dir(f.path)) {
		flags |= unix.O_NOFOLLOW
	}
	h, err := os.OpenFile(f.path, flags|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil, nil, ErrNone
	case errors.Is(err, unix.ELOOP):
		return nil, nil, errors.New("it is a symbolic link where others may make one: remove it, or name the file itself")
	case errors.Is(err, unix.ENXIO):
		return nil, nil, errors.New("it is not a regular file")
	case err != nil:
		return nil, nil, cause(err)
	}
	st, err := h.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		h.Close()
		return nil, nil, cause(err)
	}
	return h, st, nil
}

// shared reports whether everybody may make names in a directory.
func shared(dir string) bool {
	st, err := os.Stat(dir)
	return err != nil || st.Mode().Perm()&0o002 != 0
}

// cause is an error without the path, which the caller names.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// lock takes MIT's lock of a cache file: an open file description lock on all of
// it, which also meets the POSIX locks of older programs.
func lock(ctx context.Context, h *os.File, kind int16) error {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for {
		err := unix.FcntlFlock(h.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Whence: io.SeekStart})
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINTR):
		default:
			return fmt.Errorf("locking it: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("locking it: another program holds the lock: %w", ctx.Err())
		case <-time.After(lockTries):
		}
	}
}

func (f *file) read(ctx context.Context) (Cache, error) {
	h, _, err := f.open(os.O_RDONLY)
	if err != nil {
		return Cache{}, err
	}
	defer h.Close()
	if err := lock(ctx, h, unix.F_RDLCK); err != nil {
		return Cache{}, err
	}
	return load(h)
}

func load(h *os.File) (Cache, error) {
	b, err := io.ReadAll(io.LimitReader(h, maxCache+1))
	if err != nil {
		return Cache{}, cause(err)
	}
	return Parse(b)
}

// write makes a new file beside the old one and takes its name. A symbolic link
// of that name is replaced, not followed.
func (f *file) write(ctx context.Context, c Cache) error {
	b, err := Format(c)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.dir != nil {
		if err := f.dir.ensure(); err != nil {
			return err
		}
	}
	if st, err := os.Lstat(f.path); err == nil && st.IsDir() {
		return errors.New("it is a directory")
	}
	return replace(f.path, b)
}

// replace gives path new content, mode 0600, by a file of another name.
func replace(path string, b []byte) error {
	h, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // O_EXCL, 0600
	if err != nil {
		return cause(err)
	}
	defer os.Remove(h.Name())
	_, err = h.Write(b)
	if cerr := h.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = unix.Rename(h.Name(), path)
	}
	return cause(err)
}

// rewrite is Store.Rewrite. The file's owner may own its directory too and change
// the name at any time: only what was opened counts.
func (f *file) rewrite(ctx context.Context, change func(Cache) (Cache, error)) error {
	h, err := os.OpenFile(f.path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ErrNone
	case errors.Is(err, unix.ELOOP):
		return errors.New("it is a symbolic link")
	case err != nil:
		return cause(err)
	}
	defer h.Close()
	if err := lock(ctx, h, unix.F_WRLCK); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(h.Fd()), &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("it is not a regular file")
	case st.Nlink > 1:
		return errors.New("the file has several names")
	case st.Nlink == 0:
		return ErrNone
	}
	old, err := load(h)
	if err != nil {
		return err
	}
	c, err := change(old)
	if err != nil {
		return err
	}
	b, err := Format(c)
	if err != nil {
		return err
	}
	if _, err := h.WriteAt(b, 0); err != nil {
		return cause(err)
	}
	return cause(h.Truncate(int64(len(b))))
}

// destroy does as kdestroy does, but only to what is a cache: it unlinks the name
// and then overwrites the bytes.
func (f *file) destroy(ctx context.Context) error {
	h, st, err := f.open(os.O_RDWR)
	if err != nil {
		return err
	}
	defer h.Close()
	head := make([]byte, 2)
	n, err := h.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return cause(err)
	}
	// An empty file is what a program leaves that reserves a name.
	if n > 0 && (n < 2 || head[0] != 5 || head[1] < 1 || head[1] > 4) {
		return errors.New("it is not a credential cache, and stays")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := os.Remove(f.path); err != nil {
		return cause(err)
	}
	zeros := make([]byte, 1<<16)
	for at := int64(0); at < st.Size(); {
		n, err := h.WriteAt(zeros[:min(int64(len(zeros)), st.Size()-at)], at)
		if err != nil {
			return fmt.Errorf("it is gone, but its bytes could not be overwritten: %w", cause(err))
		}
		at += int64(n)
	}
	return nil
}

func (f *file) choose() error {
	if f.dir == nil {
		return nil
	}
	return f.dir.choose(filepath.Base(f.path))
}

func (f *file) warnings() []string {
	h, _, err := f.open(os.O_RDONLY)
	if err != nil {
		return nil
	}
	defer h.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(h.Fd()), &st); err != nil {
		return nil
	}
	var out []string
	if me := uint32(os.Geteuid()); st.Uid != me {
		out = append(out, fmt.Sprintf("the file belongs to uid %d, not to you (%d): whoever that is may have put tickets of his own there", st.Uid, me))
	}
	if st.Mode&0o007 != 0 {
		out = append(out, fmt.Sprintf("everybody may use the tickets in it: chmod 600 %s", f.path))
	}
	return out
}
