package audit

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFolder: what Open refuses.
func TestFolder(t *testing.T) {
	dir := folder(t)
	l := open(t, dir, nil)
	c := Config{Dir: dir, Host: "h", FileSize: 1 << 20, Log: quiet()}
	if _, err := Open(c); err == nil || !strings.Contains(err.Error(), "another sekishod") {
		t.Errorf("two writers: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func(){
		"chmod 0700":      func() { os.Chmod(dir, 0o750) },
		"chmod 0600":      func() { os.Chmod(filepath.Join(dir, keyName), 0o640) },
		"is damaged":      func() { os.WriteFile(filepath.Join(dir, keyName), []byte("x"), 0o600) },
		"is no directory": func() { os.RemoveAll(dir); os.WriteFile(dir, nil, 0o600) },
	} {
		func() {
			dir = folder(t)
			c.Dir = dir
			l, err := Open(c)
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
			do()
			if _, err := Open(c); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", name, err)
			}
		}()
	}
	for what, path := range map[string]os.FileMode{keyName: 0o600, publicName: 0o600, headName: 0o600} {
		dir := folder(t)
		open(t, dir, nil)
		if st, err := os.Stat(filepath.Join(dir, what)); err != nil || st.Mode().Perm() != path {
			t.Errorf("%s: %v, %v", what, st, err)
		}
	}
	if _, err := Open(Config{}); err == nil {
		t.Error("an empty Config")
	}
	if err := Scan(context.Background(), t.TempDir()+"/none", Query{}, nil); err == nil {
		t.Error("a folder that is not there")
	}
}

// TestDelete: old files go, the record says so first, and the rest verifies.
func TestDelete(t *testing.T) {
	dir := folder(t)
	var mu sync.Mutex
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	l := open(t, dir, func(c *Config) {
		c.FileSize, c.Keep = 3000, 10*24*time.Hour
		c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	})
	for range 40 {
		mu.Lock()
		now = now.Add(24 * time.Hour)
		mu.Unlock()
		write(t, l, 5, 1)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	v := good(t, dir)
	if v.First.Seq == 1 || v.Deleted == 0 || v.Prev == "" {
		t.Errorf("%+v", v)
	}
	all, _ := files(dir)
	if age := now.Sub(all[0].time); age < 10*24*time.Hour || age > 16*24*time.Hour {
		t.Errorf("the oldest file is %s old", age)
	}
	// More than the record says was deleted.
	os.Remove(filepath.Join(dir, all[0].name))
	if v := verify(t, VerifyConfig{Dir: dir}); v.Good() {
		t.Error("a file that was removed by hand is not missed")
	}
}

// TestClockAhead: an hour with a clock that is years ahead does not delete all.
func TestClockAhead(t *testing.T) {
	dir := folder(t)
	l := open(t, dir, func(c *Config) { c.FileSize = 1000 })
	write(t, l, 60, 0)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	before, _ := files(dir)
	ahead := time.Now().AddDate(10, 0, 0)
	l = open(t, dir, func(c *Config) {
		c.Keep, c.Now = 24*time.Hour, func() time.Time { return ahead }
	})
	write(t, l, 50, 0)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	after, _ := files(dir)
	if len(before) < 10 || len(after) < len(before)-3 {
		t.Errorf("of %d files %d are left", len(before), len(after))
	}
	// And back again: names still sort.
	l = open(t, dir, func(c *Config) { c.FileSize = 1000 })
	write(t, l, 20, 0)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	good(t, dir)
}

// TestExpiryAfterClockAhead: an hour with a clock that is years ahead names all
// files since with its time; they grow too old all the same.
func TestExpiryAfterClockAhead(t *testing.T) {
	dir := folder(t)
	ahead := time.Now().AddDate(10, 0, 0)
	l := open(t, dir, func(c *Config) { c.FileSize, c.Now = 1000, func() time.Time { return ahead } })
	write(t, l, 12, 0)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wrong := len(mustFiles(t, dir))
	for _, f := range mustFiles(t, dir) {
		if err := os.Chtimes(filepath.Join(dir, f.name), ahead, ahead); err != nil {
			t.Fatal(err)
		}
	}
	l = open(t, dir, func(c *Config) { c.FileSize, c.Keep = 1000, 24*time.Hour })
	write(t, l, 12, 0)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	before := mustFiles(t, dir)
	if before[0].seq != 1 {
		t.Fatal("what is a moment old is deleted")
	}
	old := time.Now().Add(-48 * time.Hour)
	for _, f := range before[wrong:] {
		if err := os.Chtimes(filepath.Join(dir, f.name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	l = open(t, dir, func(c *Config) { c.FileSize, c.Keep = 1000, 24*time.Hour })
	write(t, l, 20, 0)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if after := mustFiles(t, dir); after[0].seq <= before[1].seq {
		t.Errorf("nothing is deleted: the first is %s", after[0].name)
	}
	good(t, dir)
}

// TestDeleteUnsealed: a file stays until its delete is sealed.
func TestDeleteUnsealed(t *testing.T) {
	dir, names := made(t)
	var mu sync.Mutex
	failed := 0
	l := open(t, dir, func(c *Config) {
		c.Keep, c.Now = time.Hour, func() time.Time { return time.Now().Add(48 * time.Hour) }
		c.sync = func(fd int) error {
			mu.Lock()
			defer mu.Unlock()
			all := mustFiles(t, dir)
			h, err := parse(lastLine(t, filepath.Join(dir, all[len(all)-1].name)))
			b, _ := os.ReadFile(filepath.Join(dir, all[len(all)-1].name))
			if err == nil && h.kind == KindSeal && bytes.Contains(b, []byte(`"kind":"delete"`)) && failed < 3 {
				if failed++; all[0].name != names[0] {
					t.Error("it is gone, and nothing sealed says why")
				}
				return unix.EIO
			}
			return unix.Fdatasync(fd)
		}
	})
	for end := time.Now().Add(time.Minute); mustFiles(t, dir)[0].name == names[0]; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it is never deleted")
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if mu.Lock(); failed == 0 {
		t.Error("no seal failed")
	}
	mu.Unlock()
	good(t, dir)
}
