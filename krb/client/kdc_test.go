package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/client"
	"github.com/sekisho/sekisho/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const realmName = "EXAMPLE.ORG"

// kdc is a private krb5kdc with a database of files.
type kdc struct {
	dir, realm, addr string
	daemon           *testenv.Daemon
}

var (
	portsGiven atomic.Int32
	etcLock    sync.Mutex
)

func freePort() string { return fmt.Sprintf("127.0.0.1:%d", 20000+portsGiven.Add(1)) }

// kdcOptions say how a KDC differs from the usual one.
type kdcOptions struct {
	realm  string // default EXAMPLE.ORG
	addr   string // default a new port of 127.0.0.1
	noUDP  bool
	lines  string        // more of [realms]
	ahead  time.Duration // its clock
	kdcOf  *kdc          // a second KDC of the same database
	silent bool          // not started
}

func newKDC(t testing.TB, o kdcOptions) *kdc {
	t.Helper()
	k := &kdc{realm: o.realm, addr: o.addr}
	if k.realm == "" {
		k.realm = realmName
	}
	if k.addr == "" {
		k.addr = freePort()
	}
	// Not t.TempDir: a shared KDC outlives its test.
	var err error
	if k.dir, err = os.MkdirTemp("", "kdc"); err != nil {
		t.Fatal(err)
	}
	db := k.dir
	if o.kdcOf != nil {
		db = o.kdcOf.dir
	}
	udp := k.addr
	if o.noUDP {
		udp = `""`
	}
	k.write(t, "krb5.conf", fmt.Sprintf(`[libdefaults]
  default_realm = %s
  dns_lookup_kdc = false
  dns_canonicalize_hostname = false
  rdns = false
  permitted_enctypes = aes256-cts-hmac-sha384-192 aes256-cts-hmac-sha1-96 aes128-cts-hmac-sha256-128 aes128-cts-hmac-sha1-96
[realms]
  %s = {
    kdc = %s
  }
`, k.realm, k.realm, k.addr))
	k.write(t, "kdc.conf", fmt.Sprintf(`[kdcdefaults]
  kdc_listen = %s
  kdc_tcp_listen = %s
[realms]
  %s = {
    database_name = %s/principal
    key_stash_file = %s/stash
    acl_file = /dev/null
    supported_enctypes = aes256-cts-hmac-sha384-192:normal aes256-cts-hmac-sha1-96:normal aes128-cts-hmac-sha256-128:normal aes128-cts-hmac-sha1-96:normal
    max_life = 10h
    max_renewable_life = 7d
%s
  }
[logging]
  kdc = STDERR
`, udp, k.addr, k.realm, db, db, o.lines))
	if o.kdcOf == nil {
		k.tool(t, "kdb5_util", "create", "-s", "-r", k.realm, "-P", "master password")
	}
	if !o.silent {
		k.start(t, o.ahead)
	}
	return k
}

func (k *kdc) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(k.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (k *kdc) env() []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "KRB5_CONFIG=" + filepath.Join(k.dir, "krb5.conf"),
		"KRB5_KDC_PROFILE=" + filepath.Join(k.dir, "kdc.conf")}
}

// tool runs one of MIT's programs on the KDC's files.
func (k *kdc) tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := k.try(t, "", name, args...)
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}

func (k *kdc) try(t testing.TB, stdin, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(k.env(), "KRB5CCNAME=FILE:"+filepath.Join(k.dir, "cc"))
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// kadmin runs one query.
func (k *kdc) kadmin(t testing.TB, query string) string {
	t.Helper()
	out := k.tool(t, "kadmin.local", "-q", query)
	if strings.Contains(out, "kadmin.local:") || strings.Contains(out, ": ") && strings.Contains(out, " while ") {
		t.Fatalf("kadmin.local %q: %s", query, out)
	}
	return out
}

func (k *kdc) start(t testing.TB, ahead time.Duration) {
	t.Helper()
	env := k.env()
	if ahead != 0 {
		lib, err := filepath.Glob("/usr/lib/*/faketime/libfaketime.so.1")
		if err != nil || len(lib) == 0 {
			t.Fatal("libfaketime is not installed: run testenv/packages.sh")
		}
		env = append(env, "LD_PRELOAD="+lib[0], fmt.Sprintf("FAKETIME=%+d", int(ahead/time.Second)))
	}
	d, err := testenv.StartDaemon(context.Background(), testenv.DaemonConfig{
		Path: "/usr/sbin/krb5kdc", Args: []string{"-n", "-r", k.realm, "-P", filepath.Join(k.dir, "pid")}, Env: env,
		Ready: func(ctx context.Context) error {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", k.addr)
			if err == nil {
				conn.Close()
			}
			return err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	k.daemon = d
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the KDC at %s:\n%s", k.addr, d.Log())
		}
	})
}

func (k *kdc) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := k.daemon.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// own ends a KDC with its test.
func own(t testing.TB, o kdcOptions) *kdc {
	t.Helper()
	k := newKDC(t, o)
	t.Cleanup(func() {
		if k.daemon != nil {
			k.daemon.Kill()
		}
		os.RemoveAll(k.dir)
	})
	return k
}

// shared is one KDC for all tests that only ask. It ends with the sandbox.
func shared(t testing.TB) *kdc {
	t.Helper()
	sharedOnce.Do(func() {
		k := newKDC(t, kdcOptions{})
		for _, q := range []string{
			"addprinc -pw right +requires_preauth alice",
			"addprinc -pw right -requires_preauth open",
			"addprinc -pw right -e aes128-cts-hmac-sha1-96:normal +requires_preauth old",
			"addprinc -pw right -e aes256-cts-hmac-sha1-96:special +requires_preauth salted",
			"addprinc -pw right +requires_preauth -allow_tix locked",
			`addprinc -pw right +requires_preauth -pwexpire "2 days ago" stale`,
			`addprinc -pw right +requires_preauth -expire "2 days ago" gone`,
			"addprinc -pw right +requires_preauth +needchange must",
			"addprinc -pw right +requires_preauth +requires_hwauth token",
			"addprinc -randkey sekisho/web1.example.org",
			"addprinc -randkey host/web1.example.org",
			"addprinc -randkey -allow_svr host/none.example.org",
			`addprinc -pw pässwörd-関所 +requires_preauth carol`,
			"ktadd -k " + k.dir + "/keytab sekisho/web1.example.org",
			"ktadd -k " + k.dir + "/host.keytab host/web1.example.org",
		} {
			k.kadmin(t, q)
		}
		sharedKDC = k
	})
	if sharedKDC == nil {
		t.Fatal("the shared KDC could not be started; see the first test that wanted it")
	}
	return sharedKDC
}

var (
	sharedOnce sync.Once
	sharedKDC  *kdc
)

func principal(t testing.TB, name string) krb.Principal {
	t.Helper()
	p, err := krb.NewPrincipal(name, realmName)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newClient makes a client of KDCs that waits for a busy one; change may alter its
// configuration.
func newClient(t testing.TB, change func(*client.Config), kdcs ...string) *client.Client {
	t.Helper()
	cfg := client.Config{Realm: realmName, KDCs: kdcs, Try: 3 * step, Total: time.Minute}
	if change != nil {
		change(&cfg)
	}
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// kind is the Kind of an error that must be an *Error.
func kindOf(t testing.TB, err error) client.Kind {
	t.Helper()
	var e *client.Error
	if !errors.As(err, &e) {
		t.Fatalf("%T %v is not an *Error", err, err)
	}
	return e.Kind
}

func (k *kdc) keytab(t testing.TB, name string) []krb.KeytabEntry {
	t.Helper()
	entries, err := krb.ReadKeytab(filepath.Join(k.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func (k *kdc) read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(k.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
