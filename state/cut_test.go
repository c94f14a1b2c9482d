package state

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var every = flag.Bool("every", false, "cut the state folder at every byte, not only at some")

// TestCut cuts each file of a folder: after that a mark is spent or cannot be told,
// or the folder is not opened; but it is never spent again.
func TestCut(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	base := quickDir(t)
	c := Config{Dir: filepath.Join(base, "whole"), Log: quiet()}
	some := 40
	if *every {
		some = 5
	}
	marks := fill(t, c, some)
	killed := filepath.Join(base, "killed")
	st := open(t, c)
	for i := range 10 {
		key := fmt.Sprint("more", i)
		if err := st.Create(patient(t), BucketCodes, key, nil, time.Hour); err != nil {
			t.Fatal(err)
		}
		marks = append(marks, mark{BucketCodes, key})
	}
	clone(t, c.Dir, killed) // all is on the disk: so would a kill leave it
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	n, refused, barred := 0, 0, 0
	for _, whole := range []string{c.Dir, killed} {
		for path, at := range cuts(t, whole, rnd) {
			for _, size := range at {
				dir := filepath.Join(base, "cut")
				clone(t, whole, dir)
				if err := os.Truncate(filepath.Join(dir, path), int64(size)); err != nil {
					t.Fatal(err)
				}
				what := fmt.Sprintf("%s of %s cut to %d", path, filepath.Base(whole), size)
				n++
				switch spendAgain(t, Config{Dir: dir, Log: quiet()}, marks, what) {
				case "refused":
					refused++
				case "barred":
					barred++
				}
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	t.Logf("%d cuts: %d times not opened, %d times marks that are lost were noticed", n, refused, barred)
	if barred == 0 {
		t.Error("no cut has lost a mark: this tests nothing")
	}
}

// quickDir is in memory if it can be: hundreds of folders are made, and what a disk
// keeps is not what is tried.
func quickDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "sekisho-state-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

type mark struct{ bucket, key string }

// fill makes a folder with marks, and with all else that there can be.
func fill(t *testing.T, c Config, n int) (marks []mark) {
	st := open(t, c)
	for i := range n {
		for _, b := range counted {
			key := fmt.Sprint(b, i)
			if err := st.Create(patient(t), b, key, nil, time.Hour+time.Duration(i)*time.Second); err != nil {
				t.Fatal(err)
			}
			marks = append(marks, mark{b, key})
		}
		if err := st.Create(patient(t), BucketCodes, fmt.Sprint("soon", i), nil, time.Second); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		if err := st.Put(patient(t), BucketSessions, "s", fmt.Append(nil, i), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Delete(patient(t), BucketSessions, "s"); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	return marks
}

// spendAgain opens a folder and tries each mark.
func spendAgain(t *testing.T, c Config, marks []mark, what string) (how string) {
	st, err := Open(t.Context(), c)
	if err != nil {
		if !strings.Contains(err.Error(), "mend it: ") {
			t.Errorf("%s: the error names no mend: %v", what, err)
		}
		return "refused"
	}
	defer st.Close()
	for _, m := range marks {
		switch err := st.Create(patient(t), m.bucket, m.key, nil, time.Hour); {
		case errors.Is(err, ErrExists):
		case errors.Is(err, ErrUnavailable):
			how = "barred"
		default:
			t.Errorf("%s: %s is spent again: %v", what, m.key, err)
			return how
		}
	}
	// All else goes on.
	if err := st.Put(patient(t), BucketProofs, "k", nil, time.Hour); err != nil {
		t.Errorf("%s: nothing can be put: %v", what, err)
	}
	return how
}

// cuts says where to cut which file.
func cuts(t *testing.T, dir string, rnd *rand.Rand) map[string][]int {
	out := map[string][]int{}
	for _, path := range files(t, dir) {
		b, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if len(b) == 0 {
			continue
		}
		at := []int{0, len(b) - 1}
		marked := strings.Contains(path, "KV_codes") || strings.Contains(path, "KV_replay")
		switch {
		case strings.HasSuffix(path, ".db"): // NATS's indexes, which are not used
			at = at[:1]
		case *every && path != "ledger":
			at = at[:0]
			for i := range b {
				at = append(at, i)
			}
		case marked && strings.HasSuffix(path, ".blk"):
			// A message begins with its length (filestore.go, writeMsgRecordLocked).
			for i := 0; i+22 < len(b); i += int(binary.LittleEndian.Uint32(b[i:]) &^ (1 << 31)) {
				if rnd.IntN(12) == 0 {
					at = append(at, i)
				}
			}
			at = append(at, rnd.IntN(len(b)), rnd.IntN(len(b)))
		case marked || path == "ledger":
			at = append(at, len(b)/2, rnd.IntN(len(b)))
		case rnd.IntN(4) > 0:
			continue // that much time there is not
		}
		slices.Sort(at)
		out[path] = slices.Compact(at)
	}
	return out
}

func files(t *testing.T, dir string) (out []string) {
	if err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			out = append(out, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func clone(t *testing.T, from, to string) {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(to, 0o700); err != nil {
		t.Fatal(err)
	}
}

// TestGone: files that are missing altogether, and one bit that is wrong.
func TestGone(t *testing.T) {
	t.Parallel()
	base := quickDir(t)
	c := Config{Dir: filepath.Join(base, "whole"), Log: quiet()}
	marks := fill(t, c, 5)
	for _, path := range append(files(t, c.Dir), "jetstream", "jetstream/$G/streams/KV_codes") {
		if path == "lock" {
			continue
		}
		dir := filepath.Join(base, "gone")
		clone(t, c.Dir, dir)
		if err := os.RemoveAll(filepath.Join(dir, path)); err != nil {
			t.Fatal(err)
		}
		spendAgain(t, Config{Dir: dir, Log: quiet()}, marks, path+" removed")
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(filepath.Join(c.Dir, path)); err != nil || fi.IsDir() || fi.Size() == 0 || !strings.Contains(path, "KV_codes") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(c.Dir, path))
		if err != nil {
			t.Fatal(err)
		}
		flips := 4
		if *every {
			flips = len(b)
		}
		for n := range flips {
			clone(t, c.Dir, dir)
			i := rand.IntN(len(b))
			if *every {
				i = n
			}
			bad := slices.Clone(b)
			bad[i] ^= 1 << rand.IntN(8)
			if err := os.WriteFile(filepath.Join(dir, path), bad, 0o600); err != nil {
				t.Fatal(err)
			}
			spendAgain(t, Config{Dir: dir, Log: quiet()}, marks, fmt.Sprintf("%s with byte %d changed from %#x to %#x", path, i, b[i], bad[i]))
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestHeaderLength: NATS would panic at that.
func TestHeaderLength(t *testing.T) {
	c := Config{Dir: filepath.Join(quickDir(t), "state"), Log: quiet()}
	marks := fill(t, c, 3)
	path := filepath.Join(c.Dir, "jetstream/$G/streams/KV_codes/msgs/1.blk")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []byte{1, 0x80} {
		at := 22 + int(binary.LittleEndian.Uint16(b[20:])) + 2
		old := b[at]
		b[at] ^= bad
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if how := spendAgain(t, c, marks, "the length of a message's headers"); how != "refused" {
			t.Errorf("a length that is wrong by %#x: %s", bad, how)
		}
		b[at] = old
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if how := spendAgain(t, c, marks, "mended"); how != "" {
		t.Error("mended: " + how)
	}
}

// TestGoneForEver: what no time mends is not opened.
func TestGoneForEver(t *testing.T) {
	c := Config{Dir: filepath.Join(quickDir(t), "state"), Log: quiet()}
	st := open(t, c)
	if err := st.Create(patient(t), BucketCodes, "a recovery code", nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, c).Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(c.Dir, "jetstream/$G/streams/KV_codes")); err != nil {
		t.Fatal(err)
	}
	if st, err := Open(t.Context(), c); err == nil {
		st.Close()
		t.Error("a mark that never ends is lost, but the folder was opened")
	} else if !strings.Contains(err.Error(), "1 marks of the bucket codes are lost") || !strings.Contains(err.Error(), "mend it: ") {
		t.Error(err)
	}
	// The mend works.
	if err := os.Rename(c.Dir, c.Dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := open(t, c).Create(patient(t), BucketCodes, "another", nil, 0); err != nil {
		t.Error(err)
	}
}
