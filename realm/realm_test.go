package realm

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// nobody is the user that the servers of a root's tests run as.
const nobody = 65534

// freePort gives a port that is free for TCP and UDP on 127.0.0.1.
func freePort(t testing.TB) string {
	t.Helper()
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		u, err := net.ListenPacket("udp", addr)
		l.Close()
		if err == nil {
			u.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// testConfig is a configuration in new directories that slapd's user can reach.
func testConfig(t testing.TB) Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "realm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(testWriter{t})
	log.SetLevel(logrus.DebugLevel)
	c := Config{
		Dir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		LDAP: []string{freePort(t)}, LDAPS: []string{freePort(t)}, KDC: []string{freePort(t)},
		Names: []string{"ldap.sekisho.internal", "203.0.113.5"},
		Log:   logrus.NewEntry(log),
	}
	if os.Geteuid() == 0 {
		c.UID, c.GID = nobody, nobody
	}
	return c
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	fmt.Fprint(os.Stderr, "    ", string(p))
	return len(p), nil
}

// start opens and runs a realm and waits until it is ready.
func start(t testing.TB, c Config) *Realm {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err := Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() { failed <- r.Run(context.Background()) }()
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := <-failed; err != nil {
			t.Error(err)
		}
	})
	if err := r.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFirstStart(t *testing.T) {
	began := time.Now()
	r := start(t, testConfig(t))
	t.Logf("ready after %v", time.Since(began).Round(time.Millisecond))
	for _, s := range r.Status() {
		t.Logf("%+v", s)
	}
}
