package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// maxSecret is the longest password that is read, in bytes.
const maxSecret = 4096

// ReadSecret reads the first line of a file that only its owner may read. The
// error names the file and never what is in it.
func ReadSecret(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hang us
	if err != nil {
		return "", fmt.Errorf("reading a password: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("reading a password: %w", err)
	}
	if !st.Mode().IsRegular() {
		return "", fmt.Errorf("password file %s is no regular file", path)
	}
	if st.Mode().Perm()&0o177 != 0 {
		return "", fmt.Errorf("password file %s has mode %04o, so others than its owner may get at it: chmod 0600 %s", path, st.Mode().Perm(), path)
	}
	return readSecret(f, path)
}

// readSecret reads one line; what stands after it must be empty.
func readSecret(r io.Reader, name string) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSecret+2))
	if err != nil {
		return "", fmt.Errorf("reading a password: %w", err)
	}
	line, rest, _ := bytes.Cut(b, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	switch {
	case len(line) == 0:
		return "", fmt.Errorf("%s holds no password: its first line is empty", name)
	case len(line) > maxSecret || len(bytes.TrimSpace(rest)) > 0:
		return "", fmt.Errorf("%s must hold one line with the password, and nothing else", name)
	case bytes.IndexByte(line, 0) >= 0:
		return "", errors.New(name + " holds a NUL byte: that is no password")
	}
	return string(line), nil
}
