package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
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
	l, err := Open(Config{Dir: dir, Host: "h", FileSize: 64 << 10, Log: quiet()})
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
		for end := time.Now().Add(10 * time.Second); l.Decision(grant()) != nil; time.Sleep(10 * time.Millisecond) {
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
	for end := time.Now().Add(10 * time.Second); l.Decision(grant()) != nil; time.Sleep(10 * time.Millisecond) {
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
	for end := time.Now().Add(10 * time.Second); l.Decision(grant()) != nil; time.Sleep(10 * time.Millisecond) {
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
			for end := time.Now().Add(10 * time.Second); l.Decision(grant()) != nil; time.Sleep(10 * time.Millisecond) {
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

// slowDisk hangs while it is told to, as a real one does that cannot be had here.
type slowDisk struct {
	mu   sync.Mutex
	held chan struct{} // nil: it does not hang
	err  error         // what it answers once
}

func (s *slowDisk) sync(fd int) error {
	s.mu.Lock()
	held, err := s.held, s.err
	s.err = nil
	s.mu.Unlock()
	if held != nil {
		<-held
	}
	if err != nil {
		return err
	}
	return unix.Fdatasync(fd)
}

func (s *slowDisk) hang() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = make(chan struct{})
}

func (s *slowDisk) goOn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.held)
	s.held = nil
}

func (s *slowDisk) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// TestSyncFails: after an fdatasync that failed the file is given up for good.
func TestSyncFails(t *testing.T) {
	for _, first := range []bool{false, true} {
		dir := folder(t)
		slow := &slowDisk{}
		if first {
			slow.fail(unix.EIO)
		}
		l := open(t, dir, func(c *Config) { c.sync = slow.sync })
		if !first {
			write(t, l, 3, 1)
			before := l.Status().File
			slow.fail(unix.EIO)
			if err := l.Decision(grant()); !errors.Is(err, unix.EIO) {
				t.Fatal(err)
			}
			defer func() {
				if after := l.Status().File; after == before {
					t.Error("it goes on in the same file")
				}
			}()
		}
		for end := time.Now().Add(10 * time.Second); l.Decision(grant()) != nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("it never recovers")
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if v := good(t, dir); !first && (len(v.Mended) != 1 || len(v.Gaps) != 1) {
			t.Errorf("%+v", v)
		}
		if got := read(t, dir, Query{Kinds: []Kind{KindDecision}}); !first && len(got) != 5 || first && len(got) < 1 {
			t.Errorf("%d decisions", len(got))
		}
	}
}

// TestSlowDisk holds the writer up, as a disk that hangs does: callers wait no
// longer than Wait, and what reaches the disk afterwards is called void.
func TestSlowDisk(t *testing.T) {
	dir := folder(t)
	slow := &slowDisk{}
	l := open(t, dir, func(c *Config) { c.Wait, c.sync = 200*time.Millisecond, slow.sync })
	write(t, l, 1, 0)
	slow.hang()
	begun := time.Now()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := l.Decision(grant()); err != ErrSlow {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if d := time.Since(begun); d < 200*time.Millisecond || d > 3*time.Second {
		t.Errorf("it took %s", d)
	}
	if err := l.Decision(grant()); err != ErrSlow { // without waiting any more
		t.Error(err)
	}
	if err := l.Decision(refusal("later")); err != ErrSlow {
		t.Error(err)
	}
	if s := l.Status(); s.Err != ErrSlow {
		t.Errorf("%+v", s)
	}
	slow.goOn()
	for end := time.Now().Add(10 * time.Second); l.Decision(grant()) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never recovers")
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	good(t, dir)
	granted, void := map[uint64]bool{}, 0
	var told uint64
	for _, r := range read(t, dir, Query{}) {
		switch {
		case r.Kind == KindDecision && r.Outcome == "allow":
			granted[r.Seq] = true
		case r.Kind == KindVoid:
			if !granted[r.Of] {
				t.Errorf("record %d takes back %d, which is no grant", r.Seq, r.Of)
			}
			delete(granted, r.Of)
			void++
		case r.Kind == KindGap:
			told += r.Grants
		}
	}
	if len(granted) < 2 || len(granted) > 2 {
		t.Errorf("%d grants stand", len(granted))
	}
	if void+int(told) < 9 {
		t.Errorf("%d are void and %d were left out, of 9 or more", void, told)
	}
}

// TestQueueIsBounded: while the disk hangs memory does not grow without end.
func TestQueueIsBounded(t *testing.T) {
	dir := folder(t)
	slow := &slowDisk{}
	l := open(t, dir, func(c *Config) { c.Wait, c.sync = 50*time.Millisecond, slow.sync })
	write(t, l, 1, 0)
	slow.hang()
	l.Decision(grant())
	time.Sleep(60 * time.Millisecond)
	big := strings.Repeat("x", 64<<10)
	lost := 0
	for range 40000 {
		q, d := refusal(big)
		if err := l.Decision(q, d); errors.Is(err, ErrFull) || err == nil {
			t.Fatal(err)
		}
		lost++
	}
	if n := l.Status().Queued; n > mostBytes {
		t.Errorf("%d bytes are queued", n)
	}
	slow.goOn()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	good(t, dir)
	var told, there uint64
	for _, r := range read(t, dir, Query{}) {
		told += r.Lost
		if r.Outcome == "deny" {
			there++
		}
	}
	if told+there != uint64(lost) || told == 0 {
		t.Errorf("of %d records %d are there and %d are told to be lost", lost, there, told)
	}
}

// TestSyslog: each record goes to a datagram socket as syslog(3) writes it, and
// one that nobody reads holds nobody up.
func TestSyslog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	dir := folder(t)
	l := open(t, dir, func(c *Config) { c.Syslog = path })
	write(t, l, 2, 0)
	b := make([]byte, 64<<10)
	for i := range 3 {
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := conn.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		tag := fmt.Sprintf(" sekisho-audit[%d]: {\"seq\":%d,", os.Getpid(), i+1)
		if s := string(b[:n]); !strings.HasPrefix(s, "<86>") || !strings.HasPrefix(s[4+len(time.Stamp):], tag) || !strings.HasSuffix(s, "\"}") {
			t.Errorf("%s", s)
		}
		if _, err := time.Parse(time.Stamp, string(b[4:4+len(time.Stamp)])); err != nil {
			t.Error(err)
		}
	}
	begun := time.Now()
	write(t, l, 0, 3000) // more than a socket's queue
	write(t, l, 1, 0)
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
	for end := time.Now().Add(5 * time.Second); l.Status().SyslogLost == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("losses are not counted")
		}
		write(t, l, 1, 0)
	}
	// A new syslog is found.
	conn.Close()
	os.Remove(path)
	write(t, l, 1, 0)
	if conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got := make(chan string, 1)
	go func() {
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, _ := conn.Read(b)
		got <- string(b[:n])
	}()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		write(t, l, 1, 0)
		select {
		case s := <-got:
			if !strings.Contains(s, `"kind":"`) {
				t.Errorf("got %q", s)
			}
			return
		default:
		}
		if time.Now().After(end) {
			t.Fatal("it is not found")
		}
	}
}

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
