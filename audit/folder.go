package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The files besides those of records.
const (
	keyName    = "key"      // the private key, PEM, mode 0600
	publicName = "key.pub"  // the public key, as ParseKey reads it
	headName   = "lastseal" // a copy of the last seal: its line
	lockName   = "lock"
)

// file is one file of records.
type file struct {
	name string
	seq  uint64    // of the record that it begins with
	time time.Time // when it was begun, at least that of all records before it
}

// order compares files by their place in the chain.
func (f file) order(g file) int {
	return cmp.Or(cmp.Compare(f.seq, g.seq), f.time.Compare(g.time))
}

const nameTime = "20060102T150405.000000000Z"

var nameForm = regexp.MustCompile(`^audit-(\d{16,20})-(\d{8}T\d{6}\.\d{9}Z)\.jsonl$`)

// nameOf is such that names sort in the order of the chain.
func nameOf(seq uint64, t time.Time) string {
	return fmt.Sprintf("audit-%016d-%s.jsonl", seq, t.UTC().Format(nameTime))
}

// files lists a folder's files of records in their order.
func files(dir string) ([]file, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the audit folder: %w", err)
	}
	var out []file
	for _, e := range entries {
		m := nameForm.FindStringSubmatch(e.Name())
		if m == nil || !e.Type().IsRegular() {
			continue
		}
		seq, err := strconv.ParseUint(m[1], 10, 64)
		if err != nil {
			continue
		}
		t, err := time.Parse(nameTime, m[2])
		if err != nil {
			continue
		}
		out = append(out, file{e.Name(), seq, t})
	}
	slices.SortFunc(out, file.order)
	return out, nil
}

// makeFolder makes the folder, and refuses one that others may write to.
func makeFolder(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("making the audit folder: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making the audit folder: %w", err)
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("making the audit folder: %w", err)
	}
	if !st.IsDir() {
		return fmt.Errorf("the audit folder %s is no directory", dir)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("the audit folder %s is open to others: chmod 0700 %s", dir, dir)
	}
	return nil
}

// lock keeps a second writer out until the file is closed.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the audit folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking the audit folder %s: %w: is another sekishod running?", dir, err)
	}
	return f, nil
}

// openKey reads the signing key, or makes one; made tells which.
func openKey(dir string) (key ed25519.PrivateKey, made bool, err error) {
	path := filepath.Join(dir, keyName)
	f, err := openFile(dir, keyName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, key, err = ed25519.GenerateKey(rand.Reader); err != nil {
			return nil, false, fmt.Errorf("making the audit key: %w", err)
		}
		made = true
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, false, fmt.Errorf("making the audit key: %w", err)
		}
		block := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		if err := replace(dir, keyName, block, 0o600); err != nil {
			return nil, false, fmt.Errorf("making the audit key: %w", err)
		}
	case err != nil:
		return nil, false, fmt.Errorf("reading the audit key: %w", err)
	default:
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return nil, false, fmt.Errorf("reading the audit key: %w", err)
		}
		if st.Mode().Perm()&0o077 != 0 {
			return nil, false, fmt.Errorf("the audit key %s is open to others: chmod 0600 %s", path, path)
		}
		b, err := io.ReadAll(io.LimitReader(f, 4096))
		if err != nil {
			return nil, false, fmt.Errorf("reading the audit key: %w", err)
		}
		if block, _ := pem.Decode(b); block != nil {
			if any, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				key, _ = any.(ed25519.PrivateKey)
			}
		}
		if key == nil { // never with the parser's error: it may show bytes of the key
			return nil, false, fmt.Errorf("the audit key %s is damaged: put it back from a copy, or move it away and a new one is made, which the record will show", path)
		}
	}
	public := publicOf(key)
	if old, err := os.ReadFile(filepath.Join(dir, publicName)); err != nil || string(old) != public+"\n" {
		if err := replace(dir, publicName, []byte(public+"\n"), 0o600); err != nil {
			return nil, false, fmt.Errorf("writing the audit key: %w", err)
		}
	}
	return key, made, nil
}

func publicOf(key ed25519.PrivateKey) string {
	return b64.EncodeToString(key.Public().(ed25519.PublicKey))
}

// replace writes a small file whole, and durably.
func replace(dir, name string, b []byte, mode os.FileMode) error {
	fresh := filepath.Join(dir, name+".new")
	f, err := os.OpenFile(fresh, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(fresh, filepath.Join(dir, name))
	}
	if err == nil {
		err = syncDir(dir)
	}
	return err
}

// openFile opens a file of the folder for reading. Root reads folders of the
// service user: nothing there may lead him elsewhere, or hang him.
func openFile(dir, name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", f.Name())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// lines reads whole lines of at most maxLine bytes; a longer one comes in pieces
// without an end, which no parser takes.
type lines struct {
	r   *bufio.Reader
	off int64 // of the next line
	n   int   // lines so far
}

func newLines(r io.Reader) *lines { return &lines{r: bufio.NewReaderSize(r, maxLine)} }

// newHeadLines is newLines for somebody who reads only what a file begins with.
func newHeadLines(r io.Reader) *lines { return &lines{r: bufio.NewReaderSize(r, 16<<10)} }

// next returns a line with its newline, good until the next call; io.EOF when
// there is nothing more. The last one may be without a newline.
func (l *lines) next() ([]byte, error) {
	b, err := l.r.ReadSlice('\n')
	if len(b) == 0 && err != nil {
		return nil, err
	}
	if err != nil && err != io.EOF && err != bufio.ErrBufferFull {
		return nil, err
	}
	l.off += int64(len(b))
	l.n++
	return b, nil
}

// aside is the end of a file that is not in the chain.
type aside struct {
	name  string
	at    int64
	bytes int64  // -1: not known
	sum   string // of the bytes, when they are known
	text  string // why
}

// mends are the records that files begin with and that speak of the ends of older
// files, by the name of those.
func mends(dir string, all []file) (map[string]Record, error) {
	out := map[string]Record{}
	for _, f := range all {
		r, err := openFile(dir, f.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has grown too old meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("reading the audit record: %w", err)
		}
		for l := newHeadLines(r); ; {
			line, err := l.next()
			if err != nil || !bytes.Contains(line, []byte(`","kind":"mend","`)) {
				break
			}
			var m Record
			if json.Unmarshal(line, &m) != nil {
				break
			}
			out[m.File] = m
		}
		r.Close()
	}
	return out, nil
}
