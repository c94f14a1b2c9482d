package state

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

func inside(t testing.TB) Config {
	return Config{Dir: filepath.Join(t.TempDir(), "state"), Log: quiet()}
}

func TestFolder(t *testing.T) {
	c := inside(t)
	st := open(t, c)
	for _, name := range []string{"", "lock", "ledger", "jetstream"} {
		fi, err := os.Stat(filepath.Join(c.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if name != "jetstream" && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("others may use %q: %s", name, fi.Mode())
		}
	}
	if st2, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "another process has it") {
		if err == nil {
			st2.Close()
		}
		t.Errorf("opened twice: %v", err)
	}
	if n := listening(t); n != 0 {
		t.Errorf("it listens on %d sockets", n)
	}
	if err := st.Create(patient(t), BucketCodes, "c", nil, time.Hour); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Create(t.Context(), BucketCodes, "d", nil, time.Minute); !errors.Is(err, ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
	if err := st.Watch(t.Context(), BucketCodes, func(Change) {}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
	if err := os.Chmod(c.Dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if st, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "chmod 0700") {
		if err == nil {
			st.Close()
		}
		t.Errorf("with a folder that others may read: %v", err)
	}
	if err := os.Chmod(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := open(t, c).Create(patient(t), BucketCodes, "c", nil, time.Hour); !errors.Is(err, ErrExists) {
		t.Errorf("spent before the restart: %v", err)
	}
	for _, c := range []Config{{Log: quiet()}, {Dir: "x", Log: quiet()}, {Dir: c.Dir}, {Dir: c.Dir, Log: quiet(), MaxDisk: 1}} {
		if st, err := Open(t.Context(), c); err == nil {
			st.Close()
			t.Errorf("opened with %+v", c)
		}
	}
}

// listening counts the sockets of this process that wait for connections.
func listening(t *testing.T) (n int) {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		var i int
		fmt.Sscan(fd.Name(), &i)
		if on, err := unix.GetsockoptInt(i, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && on != 0 {
			n++
		}
	}
	return n
}

// TestCloseEndsCalls: whoever waits is told, and Close waits for him.
func TestCloseEndsCalls(t *testing.T) {
	st := open(t, inside(t))
	var all sync.WaitGroup
	all.Go(func() {
		if err := st.Watch(context.Background(), BucketSessions, func(Change) {}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("a Watch ended with %v", err)
		}
	})
	// One that takes its time, with more waiting for it than anybody has room for.
	slow := open(t, Config{Dir: filepath.Join(quickDir(t), "state"), Log: quiet()})
	all.Go(func() {
		if err := slow.Watch(context.Background(), BucketProofs, func(Change) { time.Sleep(20 * time.Millisecond) }); !errors.Is(err, ErrUnavailable) {
			t.Errorf("a slow Watch ended with %v", err)
		}
	})
	for i := range 1000 {
		if err := slow.Put(patient(t), BucketProofs, fmt.Sprint(i), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := slow.Close(); err != nil {
		t.Error(err)
	}
	for i := range 8 {
		all.Go(func() {
			for j := 0; ; j++ {
				switch err := st.Create(context.Background(), BucketCodes, fmt.Sprint(i, "-", j), nil, time.Minute); {
				case err == nil:
				case errors.Is(err, ErrUnavailable):
					return
				default:
					t.Error(err)
				}
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	all.Wait()
}

// spender is a broker of its own: it spends marks until it is killed, and says so
// after each.
func spender(dir string) error {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	st, err := Open(context.Background(), Config{Dir: dir, Log: quiet()})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%d-%d-%d", os.Getpid(), w, i)
				ttl := time.Hour
				if i%3 == 0 {
					ttl = time.Second // and has it remove some
				}
				if err := spendCode(st, key, ttl); err != nil {
					fmt.Println("error", err)
					return
				}
				if ttl > time.Second {
					mu.Lock()
					fmt.Println(key)
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	return nil
}

// spendCode has time for a slow disk.
func spendCode(st Store, key string, ttl time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return st.Create(ctx, BucketCodes, key, nil, ttl)
}

// TestKilled: what was spent before a kill -9 is spent after it.
func TestKilled(t *testing.T) {
	t.Parallel()
	c := inside(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var spent []string
	for round := range 6 {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), brokerEnv+"="+c.Dir)
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		die := time.Duration(rand.IntN(500)) * time.Millisecond
		var timer *time.Timer
		n := 0
		for s := bufio.NewScanner(out); s.Scan(); n++ {
			if timer == nil {
				timer = time.AfterFunc(die, func() { cmd.Process.Kill() })
			}
			if strings.HasPrefix(s.Text(), "error") {
				t.Error(s.Text())
			}
			spent = append(spent, s.Text())
		}
		cmd.Wait()
		in.Close()
		if n == 0 {
			t.Fatal("nothing was spent")
		}
		log := &bytes.Buffer{}
		c.Log = noting(log)
		st := open(t, c)
		for _, key := range spent {
			if err := spendCode(st, key, time.Hour); !errors.Is(err, ErrExists) {
				t.Fatalf("round %d, killed after %s: %s is spent, but: %v\n%s", round, die, key, err, log)
			}
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(log.String(), "marks are lost") {
			t.Errorf("nothing was lost, but: %s", log)
		}
	}
	t.Logf("%d marks outlived %d kills", len(spent), 6)
}

// noting is a log that is kept.
func noting(w io.Writer) *logrus.Entry {
	l := logrus.New()
	l.SetOutput(w)
	l.SetLevel(logrus.DebugLevel)
	return logrus.NewEntry(l)
}

// TestDiskFull: on a full disk nothing can be written, and that is said; when there
// is room again it goes on by itself, and what was spent is.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=12m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	log := &syncBuffer{}
	st := open(t, Config{Dir: filepath.Join(dir, "state"), Log: noting(log)})
	m := watched(t, st, BucketSessions)
	var spent []string
	spend := func(n int) error {
		for range n {
			key := fmt.Sprint(len(spent), strings.Repeat("k", 1000))
			if err := st.Create(t.Context(), BucketCodes, key, nil, time.Hour); err != nil {
				return err
			}
			spent = append(spent, key)
		}
		return nil
	}
	for round := range 3 {
		if err := spend(20); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 32<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		began := time.Now()
		if err := spend(100); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("the disk is full, but: %v", err)
		}
		for range 20 {
			if err := st.Create(t.Context(), BucketCodes, spent[0], nil, time.Hour); err == nil {
				t.Fatal("spent again on a full disk")
			}
			if err := st.Put(t.Context(), BucketSessions, "s", bytes.Repeat([]byte("v"), 30000), 0); err == nil {
				t.Fatal("put on a full disk")
			}
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took > callWait*10 {
			t.Errorf("that took %s", took)
		}
		if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		for {
			err := st.Put(t.Context(), BucketSessions, "s", fmt.Append(nil, round), 0)
			if err == nil {
				break
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("there is room again, but: %v\n%s", err, log)
			}
			time.Sleep(20 * time.Millisecond)
		}
		for _, key := range spent {
			if err := st.Create(t.Context(), BucketCodes, key, nil, time.Hour); !errors.Is(err, ErrExists) {
				t.Fatalf("spent before the disk was full: %v\n%s", err, log)
			}
		}
		m.has(t, "s", fmt.Sprint(round))
	}
	if strings.Contains(log.String(), strings.Repeat("k", 20)) {
		t.Error("the log has a key")
	}
	if strings.Contains(log.String(), "marks are lost") {
		t.Error("marks were lost: " + log.String())
	}
}

// TestFullFromTheBeginning: with a full disk the store opens, can tell nothing, and
// works when there is room.
func TestFullFromTheBeginning(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	for _, c := range []struct {
		name   string
		before func(dir string) error // what happened to a folder that was in use
		again  error                  // the answer to a mark of before, when there is room
	}{
		{"a first start", os.RemoveAll, nil},
		{"the count is lost", func(dir string) error { return os.Remove(filepath.Join(dir, "ledger")) }, ErrUnavailable},
		{"nothing", func(string) error { return nil }, ErrExists},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := t.TempDir()
			if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=12m,mode=0700"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(disk, 0); err != nil {
					t.Error(err)
				}
			})
			log := &syncBuffer{}
			conf := Config{Dir: filepath.Join(disk, "state"), Log: noting(log)}
			used := open(t, conf)
			if err := used.Create(t.Context(), BucketCodes, "before", nil, time.Hour); err != nil {
				t.Fatal(err)
			}
			if err := used.Close(); err != nil {
				t.Fatal(err)
			}
			if err := c.before(conf.Dir); err != nil {
				t.Fatal(err)
			}
			filler := filepath.Join(disk, "filler")
			if err := os.WriteFile(filler, make([]byte, 32<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			st := open(t, conf)
			full := !errors.Is(c.again, ErrExists) // else there may be the room of a page's rest
			for i := range 20 {
				err := st.Create(t.Context(), BucketCodes, "before", nil, time.Hour)
				if err == nil || full && !errors.Is(err, ErrUnavailable) {
					t.Fatalf("the disk is full, but: %v", err)
				}
				if err := st.Put(t.Context(), BucketProofs, fmt.Sprint(i), make([]byte, MaxValue), 0); !errors.Is(err, ErrUnavailable) {
					t.Fatalf("the disk is full, but: %v", err)
				}
				time.Sleep(10 * time.Millisecond)
			}
			if full && !strings.Contains(log.String(), "make room") {
				t.Errorf("the log does not say what mends it: %s", log)
			}
			if other, err := Open(t.Context(), conf); err == nil || !strings.Contains(err.Error(), "another process has it") {
				if err == nil {
					other.Close()
				}
				t.Errorf("opened twice: %v", err)
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
				err := st.Put(t.Context(), BucketProofs, "after", nil, 0)
				if err == nil {
					break
				}
				if time.Since(began) > time.Minute {
					t.Fatalf("there is room, but: %v\n%s", err, log)
				}
			}
			if err := st.Create(t.Context(), BucketCodes, "before", nil, time.Hour); !errors.Is(err, c.again) {
				t.Errorf("a mark of before: %v, not %v", err, c.again)
			}
			if c.again != ErrUnavailable {
				if err := st.Create(t.Context(), BucketCodes, "after", nil, time.Hour); err != nil {
					t.Error(err)
				}
			}
			if err := st.Close(); err != nil {
				t.Error(err)
			}
			if left, _ := filepath.Glob(filepath.Join(conf.Dir, "probe*")); left != nil {
				t.Errorf("left behind: %s", left)
			}
		})
	}
}

// syncBuffer is a log of many goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestClockSetBack: what ended while the clock was ahead may be forgotten.
func TestClockSetBack(t *testing.T) {
	var ahead time.Duration
	c := inside(t)
	c.Now = func() time.Time { return time.Now().Add(ahead) }
	r, err := NewReplay(open(t, c))
	if err != nil {
		t.Fatal(err)
	}
	made := time.Now().Add(bornGrace + time.Second)
	until := made.Add(5 * time.Minute)
	if yes, err := r.Spend(patient(t), [32]byte{1}, made, until); !yes || err != nil {
		t.Fatal(yes, err)
	}
	ahead = time.Hour
	if yes, err := r.Spend(patient(t), [32]byte{2}, made.Add(ahead), until.Add(ahead)); !yes || err != nil {
		t.Fatal(yes, err)
	}
	ahead = 0
	if yes, err := r.Spend(patient(t), [32]byte{3}, made, until); yes || !errors.Is(err, ErrReplayLost) {
		t.Errorf("after the clock was set back: %v %v", yes, err)
	}
	ahead = time.Hour
	if yes, err := r.Spend(patient(t), [32]byte{4}, made.Add(ahead), until.Add(ahead)); !yes || err != nil {
		t.Error(yes, err)
	}
}

// TestUnreadableLedger: it is an error that names it.
func TestUnreadableLedger(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o700), os.Mkdir(filepath.Join(dir, "ledger"), 0o700)); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Config{Dir: dir, Log: quiet()})
	if err == nil {
		s.Close()
	}
	if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "ledger")) {
		t.Errorf("%v", err)
	}
}
