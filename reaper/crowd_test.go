package reaper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
)

// sessionArg makes this program one that opens a session: it calls the door at
// the path that follows, starts a job, and waits for the end of its input.
const sessionArg = "the-session-of-a-test"

func runSession(path string) error {
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := bufio.NewReader(c).ReadByte(); err != nil {
		return err
	}
	job := exec.Command("setsid", "sleep", "1000")
	if err := job.Start(); err != nil {
		return err
	}
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	bufio.NewReader(os.Stdin).ReadByte()
	return job.Process.Kill()
}

// TestCrowd: many sessions begin, are listed, forgotten, and end in every way at
// the same time, with a Server in this process, for the race detector.
func TestCrowd(t *testing.T) {
	const sessions, at = 120, 12
	log, hook := logtest.NewNullLogger()
	path := filepath.Join(t.TempDir(), "pam.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	hold, give, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Conn: give, Sekishod: int32(os.Getpid()), Socket: path, Log: logrus.NewEntry(log)})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background()) }()
	c, err := Dial(hold)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	told := map[string]int{}
	events := make(chan error, 1)
	go func() {
		events <- c.Events(context.Background(), func(id string) {
			mu.Lock()
			defer mu.Unlock()
			told[id]++
		})
	}()

	var all sync.WaitGroup
	var accepting sync.Mutex
	for worker := range at {
		all.Go(func() {
			for n := range sessions / at {
				if err := crowded(t, c, l, &accepting, fmt.Sprintf("%d-%d", worker, n), n%4); err != nil {
					t.Errorf("%d-%d: %v", worker, n, err)
				}
			}
		})
	}
	all.Wait()
	quiet := func() bool {
		got, err := c.Recover(t.Context())
		return err == nil && len(got) == 0
	}
	eventually(t, "sessions are left", quiet)
	eventually(t, "an end is not told", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(told) >= sessions/4 // those that end by themselves
	})
	time.Sleep(50 * time.Millisecond)
	mu.Lock()
	for worker := range at {
		for n := range sessions / at {
			id, want := fmt.Sprintf("%d-%d", worker, n), 0
			if n%4 == 1 { // it has ended by itself
				want = 1
			}
			if told[id] != want {
				t.Errorf("the end of %s is told %d times, want %d", id, told[id], want)
			}
		}
	}
	mu.Unlock()
	for _, e := range hook.AllEntries() {
		t.Errorf("%s: %v", e.Message, e.Data)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := <-events; !errors.Is(err, ErrEnded) {
		t.Error(err)
	}
	if left, err := filepath.Glob("/sys/fs/cgroup/sekisho/sekisho-*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// crowded is one session, which ends in one of four ways.
func crowded(t *testing.T, c *Client, l net.Listener, accepting *sync.Mutex, id string, way int) error {
	cmd := exec.Command("/proc/self/exe", sessionArg, l.Addr().String())
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	accepting.Lock() // a connection is the last one's that was started
	err = cmd.Start()
	var conn net.Conn
	if err == nil {
		conn, err = l.Accept()
	}
	accepting.Unlock()
	if err != nil {
		return err
	}
	defer conn.Close()
	defer cmd.Wait()
	defer in.Close()
	p, err := readProcess(int32(cmd.Process.Pid))
	if err != nil {
		return err
	}
	how, err := c.Adopt(t.Context(), Opening{ID: id, PID: p.pid, Started: p.started, Fresh: true, Conn: conn.(*net.UnixConn)})
	if err != nil || how != InFolder {
		return fmt.Errorf("adopting: %q, %w", how, err)
	}
	b := []byte{1}
	if _, err := conn.Write(b); err != nil {
		return err
	}
	if _, err := conn.Read(b); err != nil {
		return err
	}
	if alive, err := c.Alive(t.Context(), []string{id, "another"}); err != nil || len(alive) != 1 {
		return fmt.Errorf("alive: %q, %w", alive, err)
	}
	order := Order{ID: id, Text: "x", Grace: 50 * time.Millisecond}
	switch way {
	case 0: // it is ended
		_, err = c.End(t.Context(), order)
		return err
	case 1: // it ends
		return in.Close()
	case 2: // it is ended twice at the same time
		done := make(chan error, 1)
		go func() {
			_, err := c.End(t.Context(), order)
			done <- err
		}()
		_, err1 := c.End(t.Context(), order)
		err2 := <-done
		if (err1 == nil) == (err2 == nil) || !errors.Is(errors.Join(err1, err2), ErrUnknown) {
			return fmt.Errorf("two ends: %v, %v", err1, err2)
		}
		return nil
	}
	// It is let go of, and ends.
	if err := c.Forget(t.Context(), id); err != nil {
		return err
	}
	return in.Close()
}
