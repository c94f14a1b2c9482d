package ccache

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/testenv"
)

// TestMain: the tests need a realm of MIT's, in the sandbox. Started with
// CCACHE_TEST_HELPER the program is a second process of a test.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Getenv("CCACHE_TEST_HELPER") != "" {
		if err := helper(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "helper:", err)
			if errors.Is(err, ErrNone) {
				os.Exit(4)
			}
			os.Exit(1)
		}
		os.Exit(0)
	}
	testenv.Main(m)
}

// helper is one deed of ours, told by its arguments.
func helper(deed string, args []string) error {
	ctx := context.Background()
	if deed == "session" { // a session keyring of its own
		runtime.LockOSThread()
		if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil {
			return err
		}
		path, err := exec.LookPath(args[0])
		if err != nil {
			return err
		}
		return syscall.Exec(path, args, os.Environ())
	}
	s, err := Open(args[0])
	if err != nil {
		return err
	}
	switch deed {
	case "read":
		c, err := s.Read(ctx)
		if err != nil {
			return err
		}
		off, known := c.Offset()
		fmt.Println(s.Name(), c.Principal, len(c.Tickets()), len(c.Entries)-len(c.Tickets()), off, known)
		return nil
	case "tickets":
		c, err := s.Read(ctx)
		if err != nil {
			return err
		}
		for _, e := range c.Tickets() {
			fmt.Println(e)
		}
		return nil
	case "copy":
		c, err := s.Read(ctx)
		if err != nil {
			return err
		}
		to, err := Open(args[1])
		if err != nil {
			return err
		}
		return to.Write(ctx, c)
	case "join": // as sekisho login does with a collection
		c, err := s.Read(ctx)
		if err != nil {
			return err
		}
		to, err := ForPrincipal(ctx, args[1], c.Principal)
		if err != nil {
			return err
		}
		if err := to.Write(ctx, c); err != nil {
			return err
		}
		fmt.Println(to.Name())
		return to.Choose()
	case "list":
		all, err := Collection(ctx, args[0])
		for _, s := range all {
			c, err := s.Read(ctx)
			if err != nil {
				return err
			}
			fmt.Println(s.Name(), c.Principal)
		}
		return err
	case "destroy":
		return s.Destroy(ctx)
	case "add": // one entry more, in place
		return s.Rewrite(ctx, func(c Cache) (Cache, error) {
			c.Entries = append(c.Entries, NewConfig(c.Principal, "added", "", nil))
			return c, nil
		})
	}
	return errors.New("no such deed")
}

const realmName = "EXAMPLE.ORG"

// mit is a realm of MIT's programs, in a folder of its own.
type mit struct {
	t   *testing.T
	dir string
	env []string
}

// kdcs is how many were started.
var kdcs atomic.Int32

func startMIT(t *testing.T) *mit {
	t.Helper()
	m := &mit{t: t, dir: t.TempDir()}
	port := 20000 + kdcs.Add(1) // below those that the kernel gives out by itself: it stays free
	put := func(name, text string) string {
		t.Helper()
		path := filepath.Join(m.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// Everybody runs kinit in these tests.
	for d := m.dir; d != "/" && d != os.Getenv("TMPDIR"); d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	conf := put("krb5.conf", fmt.Sprintf("[libdefaults]\n default_realm = %s\n dns_lookup_kdc = false\n rdns = false\n dns_canonicalize_hostname = false\n[realms]\n %[1]s = {\n kdc = 127.0.0.1:%d\n }\n", realmName, port))
	kdc := put("kdc.conf", fmt.Sprintf("[realms]\n %s = {\n database_name = %s/principal\n key_stash_file = %[2]s/stash\n acl_file = %[2]s/acl\n kdc_listen = 127.0.0.1:%d\n kdc_tcp_listen = 127.0.0.1:%[3]d\n max_life = 1d\n max_renewable_life = 7d\n }\n", realmName, m.dir, port))
	m.env = []string{"KRB5_CONFIG=" + conf, "KRB5_KDC_PROFILE=" + kdc, "CCACHE_TEST_HELPER=1", "ME=/proc/self/exe", "DIR=" + m.dir}
	m.run("/usr/sbin/kdb5_util", "create", "-s", "-r", realmName, "-P", "master")
	for _, p := range []string{"alice", "bob", "host/web1.example.org", "host/web2.example.org"} {
		m.run("/usr/sbin/kadmin.local", "addprinc", "-pw", "secret-of-it", p)
	}
	d, err := testenv.StartDaemon(t.Context(), testenv.DaemonConfig{Path: "/usr/sbin/krb5kdc", Args: []string{"-n"}, Env: m.env,
		Ready: func(context.Context) error {
			c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 10*time.Second)
			if err == nil {
				c.Close()
			}
			return err
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("krb5kdc:\n%s", d.Log())
		}
		d.Stop()
	})
	return m
}

// try runs a command with the password on standard input.
func (m *mit) try(args ...string) (string, error) {
	cmd := exec.CommandContext(m.t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), m.env...)
	cmd.Stdin = strings.NewReader(strings.Repeat("secret-of-it\n", 8))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (m *mit) run(args ...string) string {
	m.t.Helper()
	out, err := m.try(args...)
	if err != nil {
		m.t.Fatalf("%q: %v: %s", args, err, out)
	}
	return out
}

// sh runs a script that stops at the first failure; $ME is this program.
func (m *mit) sh(script string) string {
	m.t.Helper()
	self, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	m.env = append(m.env, "ME="+self)
	return m.run("sh", "-euc", script)
}
