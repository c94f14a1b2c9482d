package audit

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/broker"
)

// writeForEver is a process of its own: it writes grants from many goroutines and
// prints the name of each that is on the disk, until it is killed.
func writeForEver(dir string) {
	l, err := Open(Config{Dir: dir, Host: "h", FileSize: 64 << 10, Wait: time.Minute, Log: quiet()})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for k := 0; ; k++ {
				q, d := grant()
				q.User = broker.UserName(fmt.Sprintf("p%d-%d-%d", os.Getpid(), i, k))
				if err := l.Decision(q, d); err != nil {
					fmt.Println(err)
					os.Exit(1)
				}
				os.Stdout.WriteString(string(q.User) + "\n")
				l.Decision(refusal("nobody"))
			}
		})
	}
	all.Wait()
}

// TestKill kills a process that writes, again and again: the chain is whole, and
// no grant that was given is lost.
func TestKill(t *testing.T) {
	dir := folder(t)
	given := map[string]bool{}
	for round := range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "AUDIT_TEST_WRITER="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		n := 0
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if !strings.HasPrefix(lines.Text(), "p") {
				t.Fatal(lines.Text())
			}
			given[lines.Text()] = true
			if n++; n == 200+round*50 {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		if n < 200 {
			t.Fatalf("only %d were written", n)
		}
	}
	l := open(t, dir, nil)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	good(t, dir)
	there := map[string]bool{}
	for _, r := range read(t, dir, Query{Kinds: []Kind{KindDecision}}) {
		there[r.User] = true
	}
	for name := range given {
		if !there[name] {
			t.Errorf("%s was let in, and there is no record of it", name)
		}
	}
	t.Logf("%d grants", len(given))
}

// smallDisk mounts a disk of few bytes.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NODEV, fmt.Sprintf("size=%d,mode=0700", bytes))
	if errors.Is(err, unix.EPERM) && os.Getuid() != 0 {
		t.Fatal("a small disk can be mounted by root alone: run the tests as root")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestFullDisk fills the disk: grants are refused, what is written stays whole, and
// it goes on by itself when there is room.
func TestFullDisk(t *testing.T) {
	disk := smallDisk(t, 256<<10)
	dir := filepath.Join(disk, "audit")
	l := open(t, dir, func(c *Config) { c.FileSize = 32 << 10 })
	write(t, l, 10, 10)
	filler := filepath.Join(disk, "filler")
	fill := func() {
		f, err := os.Create(filler)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for b := make([]byte, 4096); ; {
			if _, err := f.Write(b); err != nil {
				return
			}
		}
	}
	var refused int
	for round := range 3 {
		fill()
		var err error
		given := 0
		for err == nil { // what is left of the last page
			if err = l.Decision(grant()); err == nil {
				given++
			}
			if given > 1000 {
				t.Fatal("a full disk takes everything")
			}
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		refused++
		for range 20 {
			if err := l.Decision(grant()); err == nil {
				t.Fatal("a grant with a full disk")
			}
			refused++
		}
		if err := l.Decision(refusal(fmt.Sprintf("kept%d", round))); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("a refusal hears nothing of it: %v", err)
		}
		if s := l.Status(); !errors.Is(s.Err, syscall.ENOSPC) {
			t.Errorf("status: %+v", s)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); l.Decision(grant()) != nil; time.Sleep(10 * time.Millisecond) {
			refused++
			if time.Now().After(end) {
				t.Fatal("it never recovers")
			}
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	v := good(t, dir)
	if len(v.Gaps) == 0 {
		t.Error("nothing says that records are missing")
	}
	told, kept := 0, 0
	for _, r := range read(t, dir, Query{}) {
		told += int(r.Grants)
		if strings.HasPrefix(r.User, "kept") {
			kept++
		}
	}
	if told != refused || kept != 3 {
		t.Errorf("%d grants were refused and %d told; %d refusals of 3 are there", refused, told, kept)
	}
}

// TestFullFromTheBeginning: a disk that is full at the start keeps grants away,
// and not sekishod.
func TestFullFromTheBeginning(t *testing.T) {
	disk := smallDisk(t, 64<<10)
	dir := filepath.Join(disk, "audit")
	l := open(t, dir, nil)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	all, _ := files(dir)
	os.Truncate(filepath.Join(dir, all[0].name), 100) // so that a new file is begun
	filler, err := os.Create(filepath.Join(disk, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	filler.Close()
	l = open(t, dir, nil)
	if err := l.Decision(grant()); err == nil {
		t.Fatal("a grant with a full disk")
	}
	os.Remove(filler.Name())
	for end := time.Now().Add(time.Minute); l.Decision(grant()) != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never recovers")
		}
	}
}

// TestLimit: a limit on the size of files is like a full disk.
func TestLimit(t *testing.T) {
	dir := folder(t)
	l := open(t, dir, nil)
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 2500, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	var err error
	for i := 0; err == nil && i < 100; i++ {
		err = l.Decision(grant())
	}
	if serr := unix.Setrlimit(unix.RLIMIT_FSIZE, &before); serr != nil {
		t.Fatal(serr)
	}
	if !errors.Is(err, syscall.EFBIG) {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); l.Decision(grant()) != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never recovers")
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if v := good(t, dir); v.Files != 1 || len(v.Mended) != 0 {
		t.Errorf("what was left of the failed write was not cut off: %+v", v)
	}
}

// TestMeddling: a file that somebody else removes or cuts while it is written
// costs a refusal, not a silent loss.
func TestMeddling(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(path string) error
		want string
	}{
		{"removed", os.Remove, "does not say that the files before it were deleted"},
		{"cut", func(p string) error { return os.Truncate(p, 0) }, "puts aside what follows byte"},
		{"grown", func(p string) error {
			f, err := os.OpenFile(p, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteString("x\n")
			return err
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := folder(t)
			l := open(t, dir, nil)
			write(t, l, 3, 0)
			if err := c.do(filepath.Join(dir, l.Status().File)); err != nil {
				t.Fatal(err)
			}
			if err := l.Decision(grant()); err == nil {
				t.Fatal("nothing is noticed")
			}
			for end := time.Now().Add(time.Minute); l.Decision(grant()) != nil; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("it never recovers")
				}
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			v := verify(t, VerifyConfig{Dir: dir})
			if c.want == "" {
				if !v.Good() || len(v.Mended) != 1 {
					t.Errorf("%v, mended %v", v.Problems, v.Mended)
				}
			} else if v.Good() || !strings.Contains(fmt.Sprint(v.Problems), c.want) {
				t.Errorf("%v", v.Problems)
			}
		})
	}
}
