package audit

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

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
		conn.SetReadDeadline(time.Now().Add(time.Minute))
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
	write(t, l, 0, 3000) // more than a socket's queue
	write(t, l, 1, 0)    // and nobody reads: to wait for that would be to wait for ever
	for end := time.Now().Add(time.Minute); l.Status().SyslogLost == 0; time.Sleep(10 * time.Millisecond) {
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
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		n, _ := conn.Read(b)
		got <- string(b[:n])
	}()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
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
