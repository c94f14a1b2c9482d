package kpasswd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/accept"
	"github.com/sekisho/sekisho/krb/client"
	"github.com/sekisho/sekisho/testenv"
)

func TestMain(m *testing.M) { testenv.Main(leakless{m}) }

// leakless fails a run that leaves goroutines behind.
type leakless struct{ m *testing.M }

func (l leakless) Run() int {
	code := l.m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

const testRealm = "EXAMPLE.ORG"

// world is MIT's KDC and kadmind over a database of files.
type world struct {
	t                 testing.TB
	dir, kdc, kadmind string // addresses
	env               []string
}

func startWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), kdc: freeAddr(t, "127.0.0.1"), kadmind: freeAddr(t, "127.0.0.1")}
	w.write("kdc.conf", fmt.Sprintf(`[kdcdefaults]
  kdc_listen = %[1]s
  kdc_tcp_listen = %[1]s
[realms]
  %[2]s = {
    database_name = %[3]s/principal
    key_stash_file = %[3]s/stash
    acl_file = /dev/null
    kadmind_listen = %[4]s
    kpasswd_listen = %[5]s
    max_life = 10h
    default_principal_flags = +preauth
    supported_enctypes = aes256-cts-hmac-sha384-192:normal aes256-cts-hmac-sha1-96:normal aes128-cts-hmac-sha256-128:normal aes128-cts-hmac-sha1-96:normal
  }
[logging]
  kdc = STDERR
  admin_server = STDERR
`, w.kdc, testRealm, w.dir, freeAddr(t, "127.0.0.1"), w.kadmind))
	w.env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "KRB5_KDC_PROFILE=" + w.dir + "/kdc.conf",
		"KRB5_CONFIG=" + w.conf("krb5.conf", w.kadmind)}
	w.run("kdb5_util", "create", "-s", "-r", testRealm, "-P", "master password")
	w.run("kadmin.local", "addpol", "-minlength", "8", "-history", "3", "people")
	w.run("kadmin.local", "addprinc", "-policy", "people", "-pw", "first password", "alice")
	w.daemon("/usr/sbin/krb5kdc", w.kdc, "-n")
	w.daemon("/usr/sbin/kadmind", w.kadmind, "-nofork")
	return w
}

func (w *world) write(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// conf writes a krb5.conf with these password servers.
func (w *world) conf(name string, servers ...string) string {
	text := ""
	for _, s := range servers {
		text += "    kpasswd_server = " + s + "\n"
	}
	return w.write(name, fmt.Sprintf(`[libdefaults]
  default_realm = %[1]s
  dns_lookup_kdc = false
  dns_lookup_realm = false
  dns_canonicalize_hostname = false
  permitted_enctypes = aes256-cts-hmac-sha384-192 aes256-cts-hmac-sha1-96 aes128-cts-hmac-sha256-128 aes128-cts-hmac-sha1-96
[realms]
  %[1]s = {
    kdc = %[2]s
%[3]s  }
`, testRealm, w.kdc, text))
}

func (w *world) daemon(path, addr string, args ...string) {
	w.t.Helper()
	d, err := testenv.StartDaemon(w.t.Context(), testenv.DaemonConfig{Path: path, Args: args, Env: w.env,
		Ready: func(ctx context.Context) error {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			if err == nil {
				c.Close()
			}
			return err
		}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if w.t.Failed() {
			log := d.Log()
			w.t.Logf("%s:\n%s", path, log[max(0, len(log)-1000):])
		}
		if err := d.Stop(); err != nil {
			w.t.Error(err)
		}
	})
}

func (w *world) run(name string, args ...string) string {
	w.t.Helper()
	out, err := w.try("", name, args...)
	if err != nil {
		w.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

// try runs a program of MIT's with a credential cache of its own.
func (w *world) try(stdin, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(w.env, "KRB5CCNAME=FILE:"+filepath.Join(w.t.TempDir(), "cc"))
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// with is the world as seen with another krb5.conf.
func (w *world) with(conf string) *world {
	v := *w
	v.env = append(append([]string(nil), w.env[:3]...), "KRB5_CONFIG="+conf)
	return &v
}

func (w *world) kinit(user, password string) bool {
	w.t.Helper()
	out, err := w.try(password+"\n", "kinit", user)
	if err != nil && !strings.Contains(out, "incorrect") && !strings.Contains(out, "Preauthentication failed") {
		w.t.Fatalf("kinit: %v\n%s", err, out)
	}
	return err == nil
}

// client is one of ours.
func (w *world) client(servers ...string) *Client {
	w.t.Helper()
	k, err := client.New(client.Config{Realm: testRealm, KDCs: []string{w.kdc}, Try: 15 * time.Second, Total: time.Minute})
	if err != nil {
		w.t.Fatal(err)
	}
	return &Client{KDC: k, Servers: servers}
}

var alice = krb.Principal{Components: []string{"alice"}, Realm: testRealm}

// ticket is one for changing alice's password.
func (w *world) ticket(password string) krb.Credential {
	w.t.Helper()
	cred, err := w.client().KDC.Login(w.t.Context(), alice, password, client.LoginOptions{Service: Service(testRealm)})
	if err != nil {
		w.t.Fatal(err)
	}
	return cred
}

// changes is what a server of ours was told to change, and what it shall say.
type changes struct {
	mu   sync.Mutex
	done []string // user password
	say  error
	slow time.Duration
}

func (c *changes) change(ctx context.Context, user krb.Principal, password string) error {
	c.mu.Lock()
	slow := c.slow
	c.mu.Unlock()
	select {
	case <-time.After(slow):
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.say == nil {
		c.done = append(c.done, user.String()+" "+password)
	}
	return c.say
}

func (c *changes) set(say error, slow time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done, c.say, c.slow = nil, say, slow
}

func (c *changes) made() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.done...)
}

// served is a server of ours.
type served struct {
	*Server
	changes
	addr string
	log  *logBuffer
	stop func()
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve starts a server that has the world's key.
func (w *world) serve(change func(*Config)) *served {
	w.t.Helper()
	keytab := filepath.Join(w.t.TempDir(), "keytab")
	w.run("kadmin.local", "ktadd", "-norandkey", "-k", keytab, "kadmin/changepw")
	entries, err := krb.ReadKeytab(keytab)
	if err != nil {
		w.t.Fatal(err)
	}
	return serve(w.t, entries, change)
}

func serve(t testing.TB, entries []krb.KeytabEntry, change func(*Config)) *served {
	t.Helper()
	kt, err := accept.StaticKeytab(entries)
	if err != nil {
		t.Fatal(err)
	}
	replay, err := accept.OpenReplay(accept.ReplayConfig{Path: filepath.Join(t.TempDir(), "replay"), Max: 1000})
	if err != nil {
		t.Fatal(err)
	}
	acceptor, err := accept.New(accept.Config{Keytab: kt, Replay: replay})
	if err != nil {
		t.Fatal(err)
	}
	s := &served{log: &logBuffer{}}
	l := logrus.New()
	l.SetOutput(io.Writer(s.log))
	l.SetLevel(logrus.DebugLevel)
	c := Config{Listen: []string{freeAddr(t, "127.0.0.1")}, Acceptor: acceptor, Realm: testRealm, Change: s.changes.change, Log: logrus.NewEntry(l)}
	if change != nil {
		change(&c)
	}
	if s.Server, err = New(c); err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	s.addr = s.Addrs()[0].String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, replay.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("server:\n%s", s.log)
		}
	})
	return s
}

var given struct {
	sync.Mutex
	port int
}

// freeAddr gives an address whose port nothing else in the sandbox uses.
func freeAddr(t testing.TB, host string) string {
	t.Helper()
	given.Lock()
	defer given.Unlock()
	given.port++
	return netip.AddrPortFrom(netip.MustParseAddr(host), uint16(20000+given.port)).String()
}
