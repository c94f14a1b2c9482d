package enrol

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// maxFile is the longest configuration file that is changed, in bytes.
const maxFile = 4 << 20

// state is a file as it is, or is to be.
type state struct {
	exists   bool
	data     []byte
	mode     fs.FileMode // permission bits
	uid, gid int
	changed  time.Time // when it was last written; zero: now
}

// same tells whether two states differ in nothing but the time.
func (s state) same(o state) bool {
	if !s.exists || !o.exists {
		return s.exists == o.exists
	}
	return bytes.Equal(s.data, o.data) && s.mode == o.mode && s.uid == o.uid && s.gid == o.gid
}

// readState reads a file. A symbolic link is followed by the caller (resolve).
func readState(path string) (state, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	if err != nil {
		return state{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return state{}, err
	}
	if !st.Mode().IsRegular() {
		return state{}, fmt.Errorf("%s is no regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return state{}, err
	}
	if len(data) > maxFile {
		return state{}, fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	sys := st.Sys().(*syscall.Stat_t)
	return state{exists: true, data: data, mode: st.Mode().Perm(), uid: int(sys.Uid), gid: int(sys.Gid), changed: st.ModTime()}, nil
}

// resolve follows links, so that what they lead to is changed and they stay.
func resolve(path string) (string, error) {
	to, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		if st, lerr := os.Lstat(path); lerr == nil && st.Mode()&fs.ModeSymlink != 0 {
			return "", fmt.Errorf("%s is a link that leads nowhere", path)
		}
		return path, nil
	}
	return to, err
}

// beside is the name under which a file is written before it takes its place.
func beside(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".sekisho-enrol")
}

// write makes path what s says, whole or not at all, and on disk.
func write(path string, s state) error {
	if !s.exists {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return syncDir(filepath.Dir(path))
	}
	tmp := beside(path)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeNew(tmp, s); err != nil {
		os.Remove(tmp)
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(path))
}

// writeNew writes a file that is not there yet.
func writeNew(path string, s state) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(s.data); err != nil {
		return err
	}
	if err := f.Chown(s.uid, s.gid); err != nil {
		return err
	}
	if err := f.Chmod(s.mode); err != nil {
		return err
	}
	if !s.changed.IsZero() {
		if err := os.Chtimes(path, time.Time{}, s.changed); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
