// Package nss_test holds the users door against its real peer: libnss-systemd
// in getent, id and setpriv, on hosts of the test world.
package nss_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/door/userdb"
	"github.com/sekisho/sekisho/testenv"
)

// serveEnv makes this binary the service, in one of the modes below.
const serveEnv = "SEKISHO_TEST_USERDB"

func TestMain(m *testing.M) {
	if mode := os.Getenv(serveEnv); mode != "" {
		if err := serve(mode); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	testenv.Main(m)
}

// serve is what sekishod does with package userdb, on a directory made here.
// Mode bound stops before Listen; stale has a snapshot that is too old.
func serve(mode string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	f, err := userdb.Bind(userdb.SocketPath)
	if err != nil {
		return err
	}
	fmt.Println("bound")
	if mode == "bound" {
		<-ctx.Done()
		return nil
	}
	v := broker.View{Snapshot: directory(), AsOf: time.Now(), MaxAge: time.Hour}
	if mode == "stale" {
		v.AsOf = v.AsOf.Add(-2 * time.Hour)
	}
	log := logrus.New()
	log.SetOutput(os.Stdout)
	s, err := userdb.New(userdb.Config{View: func() broker.View { return v }, Now: time.Now, Log: logrus.NewEntry(log)})
	if err != nil {
		return err
	}
	l, err := userdb.Listen(f)
	if err != nil {
		return err
	}
	return s.Serve(ctx, l)
}

func directory() *broker.Snapshot {
	e := (*broker.Snapshot)(nil).Edit()
	dn := func(name string) broker.DN { return broker.DN("cn=" + name) }
	for i, u := range []broker.User{
		{Name: "alice", UID: 20001, GID: 30000, Gecos: "Alice Ä. Example", Home: "/home/alice", Shell: "/bin/bash"},
		{Name: "bob", UID: 20002, GID: 39999, Home: "/home/bob"}, // his group is not in the directory
		{Name: "root", UID: 20003, GID: 30000, Home: "/", Shell: "/bin/bash"},
		{Name: "toor", UID: 0, GID: 30000, Home: "/root", Shell: "/bin/bash"},
		{Name: "web", UID: 33, GID: 30000, Home: "/", Shell: "/bin/bash"},
		{Name: "wheel", UID: 20004, GID: 0, Home: "/", Shell: "/bin/bash"},
		{Name: "carol", UID: 20005, GID: 30000, Home: "/home/false-carol", Shell: "/bin/false"},
		{Name: "likecarol", UID: 2001, GID: 30000, Home: "/home/carol", Shell: "/bin/bash"},
		{Name: "evil", UID: 20006, GID: 30000, Home: "/x\nroot2::0:0::/:/bin/sh", Shell: "/bin/sh"},
	} {
		u.ID, u.DN = broker.EntryID{1, byte(i)}, dn(string(u.Name))
		e.PutUser(u)
	}
	for i, g := range []broker.Group{
		{Name: "people", GID: 30000},
		{Name: "ops", GID: 30001, Members: []broker.DN{dn("night")}},
		{Name: "night", GID: 30002, Members: []broker.DN{dn("alice"), dn("ops")}},
		{Name: "access-only", Members: []broker.DN{dn("alice")}},
		{Name: "sudo", GID: 30003, Members: []broker.DN{dn("alice")}},         // /etc/group has the name
		{Name: "lowgroup", GID: 27, Members: []broker.DN{dn("alice")}},        // sudo's number
		{Name: "carols", GID: 30004, MemberUsers: []broker.UserName{"carol"}}, // of a local user
	} {
		g.ID, g.DN = broker.EntryID{2, byte(i)}, dn(string(g.Name))
		e.PutGroup(g)
	}
	return e.Commit()
}

// world is a host with the service on it, and a local user carol.
func world(t *testing.T, mode string) (*testenv.Host, *testenv.Daemon) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	h := testenv.ForTest(t).Need(t, "web1")
	if err := h.AddUser(testenv.LocalUser{Name: "carol", UID: 2001}); err != nil {
		t.Fatal(err)
	}
	if err := h.WriteFile("/etc/nsswitch.conf", []byte("passwd: files systemd\ngroup: files systemd\nshadow: files systemd\nhosts: files\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := h.Start(ctx, testenv.DaemonConfig{Name: "userdb", Path: "/proc/self/exe", Env: []string{serveEnv + "=" + mode},
		Ready: func(context.Context) error {
			if mode == "bound" {
				return h.Inside(func() error { _, err := os.Stat(userdb.SocketPath); return err })
			}
			c, err := net.Dial("unix", h.Path(userdb.SocketPath))
			if err == nil {
				c.Close()
			}
			return err
		}})
	if err != nil {
		t.Fatal(err)
	}
	return h, d
}

// run runs a command on the host: its output, its exit code and its time.
func run(t *testing.T, h *testenv.Host, command string) (out string, code int, took time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	begin := time.Now()
	b, err := h.Command(ctx, "sh", "-c", command).Output()
	took = time.Since(begin)
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit) && ctx.Err() == nil:
		code = exit.ExitCode()
	default:
		t.Fatalf("%s: %v after %s", command, err, took)
	}
	return strings.TrimSpace(string(b)), code, took
}

// atOnce is far more than a lookup takes on a machine that stalls, and far less
// than the 45 seconds that systemd's library waits for a service.
const atOnce = 20 * time.Second

// getent's exit code for "no such entry".
const notFound = 2

func TestNSS(t *testing.T) {
	h, _ := world(t, "serve")
	for _, c := range []struct {
		command, want string
		code          int
	}{
		{"getent passwd alice", "alice:x:20001:30000:Alice Ä. Example:/home/alice:/bin/bash", 0},
		{"getent passwd 20001", "alice:x:20001:30000:Alice Ä. Example:/home/alice:/bin/bash", 0},
		{"getent passwd bob", "bob:x:20002:39999:bob:/home/bob:/bin/sh", 0},
		{"getent group ops", "ops:x:30001:", 0},
		{"getent group 30002", "night:x:30002:", 0},
		{"id alice", "uid=20001(alice) gid=30000(people) groups=30000(people),30001(ops),30002(night)", 0},
		{"id -u alice; id -g 20001", "20001\n30000", 0},
		{"getent initgroups alice | tr -s ' '", "alice 30000 30001 30002", 0},
		{"setpriv --reuid alice --regid people --init-groups id -G", "30000 30001 30002", 0},
		{"setpriv --reuid alice --regid people --init-groups getent passwd bob", "bob:x:20002:39999:bob:/home/bob:/bin/sh", 0},
		// Case, and what is nobody.
		{"getent passwd Alice", "", notFound},
		{"getent passwd nobodyhere", "", notFound},
		{"getent passwd 20009", "", notFound},
		{"getent group nobodyhere", "", notFound},
		{"getent group access-only", "", notFound},
		// System accounts never come out of the directory.
		{"getent passwd root; getent passwd 0", "root:x:0:0:root:/root:/bin/bash\nroot:x:0:0:root:/root:/bin/bash", 0},
		{"getent passwd 33 | cut -d: -f1", "www-data", 0},
		{"getent passwd toor", "", notFound},
		{"getent passwd web", "", notFound},
		{"getent passwd wheel", "", notFound},
		{"getent passwd evil", "", notFound},
		{"getent -s systemd passwd web", "", notFound},
		{"getent -s systemd passwd 33", "", notFound},
		{"getent -s systemd passwd toor", "", notFound},
		{"getent -s systemd passwd 20003", "", notFound},
		{"getent -s systemd group sudo", "", notFound},
		{"getent -s systemd group 30003", "", notFound},
		{"getent -s systemd group 27", "", notFound},
		{"getent group sudo", "sudo:x:27:", 0},
		// A local name or number shadows the directory's, from every side.
		{"getent passwd carol | cut -d: -f3,6", "2001:/home/carol", 0},
		{"getent passwd 2001 | cut -d: -f1", "carol", 0},
		{"getent passwd likecarol", "", notFound},
		{"getent passwd 20005", "", notFound},
		{"id carol", "uid=2001(carol) gid=2001(carol) groups=2001(carol)", 0},
		// Listing everybody lists the machine's own, and is no error.
		{"getent passwd | grep -c -e '^alice:' -e '^root:'", "1", 0},
		{"getent group | grep -c -e '^ops:' -e '^root:'", "1", 0},
	} {
		out, code, took := run(t, h, c.command)
		if out != c.want || code != c.code {
			t.Errorf("%s: exit %d, want %d\n got %q\nwant %q", c.command, code, c.code, out, c.want)
		}
		if took > atOnce {
			t.Errorf("%s took %s", c.command, took)
		}
	}
}

// TestUnavailable: when there is nobody to ask, everybody knows at once.
func TestUnavailable(t *testing.T) {
	for _, mode := range []string{"bound", "stale", "killed"} {
		t.Run(mode, func(t *testing.T) {
			start := mode
			if mode == "killed" {
				start = "serve"
			}
			h, d := world(t, start)
			if mode == "killed" {
				if err := d.Signal(syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				<-d.Done()
			}
			for _, c := range []struct {
				command string
				code    int
			}{{"getent passwd alice", notFound}, {"getent passwd 20001", notFound}, {"id carol", 0}, {"getent passwd root", 0}} {
				_, code, took := run(t, h, c.command)
				t.Logf("%s: %s in %s", mode, c.command, took)
				if code != c.code || took > atOnce {
					t.Errorf("%s: exit %d in %s", c.command, code, took)
				}
			}
		})
	}
}

// TestStopped: a service that hangs (sekishod was stopped, or the machine is
// out of breath) does not matter to lookups that files answer. The one
// exception is the list of groups of a local user other than root, which the
// C library puts together from all services; with a line for initgroups it
// stops at the files where they name him, as they do an administrator.
func TestStopped(t *testing.T) {
	h, d := world(t, "serve")
	if _, code, _ := run(t, h, "echo 'initgroups: files [SUCCESS=return] systemd' >> /etc/nsswitch.conf; sed -i 's/^sudo:.*/&carol/' /etc/group"); code != 0 {
		t.Fatal("writing the host's files")
	}
	if out, _, _ := run(t, h, "id -G alice; id -G carol"); out != "30000 30001 30002\n2001 27" {
		t.Errorf("with a line for initgroups: %q", out)
	}
	if err := d.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer d.Signal(syscall.SIGCONT)
	for _, c := range []string{"getent passwd root", "getent passwd carol", "getent passwd 2001", "getent group sudo", "id root", "id carol"} {
		_, code, took := run(t, h, c)
		t.Logf("%s in %s", c, took)
		if code != 0 || took > atOnce {
			t.Errorf("%s: exit %d in %s", c, code, took)
		}
	}
}

// TestEverybodyAtOnce: many processes look up many names at the same time.
func TestEverybodyAtOnce(t *testing.T) {
	h, _ := world(t, "serve")
	out, code, took := run(t, h, `i=0; while [ $i -lt 200 ]; do id -G alice & i=$((i+1)); done | sort | uniq -c | tr -s ' '; wait`)
	t.Logf("200 times id in %s", took)
	if code != 0 || strings.TrimSpace(out) != "200 30000 30001 30002" {
		t.Errorf("exit %d: %q", code, out)
	}
}
