package realm_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sekisho/sekisho/realm"
	"github.com/sekisho/sekisho/testenv"
	"github.com/sirupsen/logrus"
)

// childEnv makes this program a sekishod of the given configuration, for tests that
// kill it.
const childEnv = "SEKISHO_TEST_REALM"

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		os.Exit(beSekishod(text))
	}
	testenv.Main(m)
}

// childConfig is what a Config has that fits into JSON.
type childConfig struct {
	Dir, RunDir, Domain string
	Names               []string
	LDAP, LDAPS, KDC    []string
	Kpasswd             []string
	UID, GID            int
	AdminUIDs           []int
}

func beSekishod(text string) int {
	var cc childConfig
	if err := json.Unmarshal([]byte(text), &cc); err != nil {
		fmt.Println(err)
		return 2
	}
	ctx := context.Background()
	r, err := realm.Open(ctx, realm.Config{Dir: cc.Dir, RunDir: cc.RunDir, Domain: cc.Domain, Names: cc.Names, LDAP: cc.LDAP,
		LDAPS: cc.LDAPS, KDC: cc.KDC, Kpasswd: cc.Kpasswd, UID: cc.UID, GID: cc.GID, AdminUIDs: cc.AdminUIDs, Log: quietLog()})
	if err == nil {
		go func() {
			if r.Ready(ctx) == nil {
				fmt.Println("ready")
			}
		}()
		err = r.Run(ctx)
	}
	fmt.Println(err)
	return 1
}

// sekishod is a process of its own that runs a realm.
func sekishod(t testing.TB, c realm.Config, attrs *syscall.SysProcAttr, program string) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(childConfig{c.Dir, c.RunDir, c.Domain, c.Names, c.LDAP, c.LDAPS, c.KDC, c.Kpasswd, c.UID, c.GID, c.AdminUIDs})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = []string{childEnv + "=" + string(text), "PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = attrs
	return cmd
}

func quietLog() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(os.Stderr)
	l.SetLevel(logrus.WarnLevel)
	return logrus.NewEntry(l)
}

func serviceUser(t testing.TB) (uid, gid int) {
	t.Helper()
	u, err := user.Lookup("sekisho")
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return uid, gid
}

// freePort gives an address whose port nothing else in the sandbox uses: each
// is given once, and all are below those that clients get.
func freePort() string { return fmt.Sprintf("127.0.0.1:%d", 20000+portsGiven.Add(1)) }

var portsGiven atomic.Int32

// testConfig is a configuration in new directories.
func testConfig(t testing.TB) realm.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "r")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	uid, gid := serviceUser(t)
	return realm.Config{
		Dir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		LDAP: []string{freePort()}, LDAPS: []string{freePort()}, KDC: []string{freePort()}, Kpasswd: []string{freePort()},
		Names: []string{"ldap.sekisho.internal", "203.0.113.5"},
		UID:   uid, GID: gid, Log: quietLog(),
	}
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// start opens and runs a realm and waits until it is ready.
func start(t testing.TB, c realm.Config) *realm.Realm {
	t.Helper()
	r, err := realm.Open(within(t, time.Minute), c)
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
	if err := r.Ready(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	return r
}

// dial connects to an ldapi, ldap (with StartTLS) or ldaps URL, trusting the realm's CA.
func dial(t testing.TB, r *realm.Realm, rawURL string) *ldap.Conn {
	t.Helper()
	l, err := tryDial(rawURL, roots(t, r))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func roots(t testing.TB, r *realm.Realm) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(r.Info().CAFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("no CA certificate")
	}
	return pool
}

func tryDial(rawURL string, pool *x509.CertPool) (*ldap.Conn, error) {
	scheme, addr, _ := strings.Cut(rawURL, "://")
	d := net.Dialer{Timeout: time.Minute}
	cfg := &tls.Config{RootCAs: pool, ServerName: "ldap.sekisho.internal"}
	network := "tcp"
	if scheme == "ldapi" {
		network = "unix"
		var err error
		if addr, err = url.QueryUnescape(addr); err != nil {
			return nil, err
		}
	}
	conn, err := d.Dial(network, addr)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(10 * time.Minute)) // of all that is asked over it
	if scheme == "ldaps" {
		tc := tls.Client(conn, cfg)
		if err := tc.Handshake(); err != nil {
			conn.Close()
			return nil, err
		}
		conn = tc
	}
	l := ldap.NewConn(conn, scheme == "ldaps")
	l.Start()
	if scheme == "ldap" {
		if err := l.StartTLS(cfg); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

// admin is a connection as root.
func admin(t testing.TB, r *realm.Realm) *ldap.Conn {
	t.Helper()
	l := dial(t, r, r.Info().LDAPI)
	if err := l.ExternalBind(); err != nil {
		t.Fatal(err)
	}
	return l
}

func issuer(t testing.TB, r *realm.Realm) realm.Issuer {
	t.Helper()
	is, err := realm.LoadIssuer(r.Info())
	if err != nil {
		t.Fatal(err)
	}
	return is
}

const aliceKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHXrLHL1mVW0IlSZOVQOlVXGQdb6NYTGFhyFKCbSAmXg alice@laptop"

// userAdd is the one add that makes a user.
func userAdd(t testing.TB, is realm.Issuer, name, password string, uidNumber int) *ldap.AddRequest {
	t.Helper()
	attrs, err := is.User(name, password)
	if err != nil {
		t.Fatal(err)
	}
	req := ldap.NewAddRequest(is.Layout.UserDN(name), nil)
	req.Attributes = attrs
	req.Attributes[0].Vals = append(req.Attributes[0].Vals, "inetOrgPerson", "posixAccount", "ldapPublicKey", "shadowAccount")
	req.Attribute("uid", []string{name})
	req.Attribute("cn", []string{name})
	req.Attribute("sn", []string{name})
	req.Attribute("uidNumber", []string{strconv.Itoa(uidNumber)})
	req.Attribute("gidNumber", []string{"20000"})
	req.Attribute("homeDirectory", []string{"/home/" + name})
	req.Attribute("sshPublicKey", []string{aliceKey})
	return req
}

func addUser(t testing.TB, r *realm.Realm, name, password string, uidNumber int) {
	t.Helper()
	if err := admin(t, r).Add(userAdd(t, issuer(t, r), name, password, uidNumber)); err != nil {
		t.Fatal(err)
	}
}

// tool runs a program against the realm and gives what it printed.
func tool(t testing.TB, r *realm.Realm, stdin, name string, args ...string) (string, error) {
	t.Helper()
	ctx := within(t, 2*time.Minute)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/bin", "LC_ALL=C", "LDAPTLS_CACERT=" + r.Info().CAFile,
		"KRB5_CONFIG=" + r.Info().KRB5Conf, "KRB5CCNAME=FILE:" + filepath.Join(t.TempDir(), "cc")}
	if strings.HasPrefix(name, "kadmin") {
		cmd.Env = append(cmd.Env, "KRB5_KDC_PROFILE="+filepath.Join(filepath.Dir(r.Info().Stash), "kdc.conf"))
	}
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// kinit gets a ticket with a password into a cache of its own, and says no when the
// password is wrong. Any other failure fails the test.
func kinit(t testing.TB, r *realm.Realm, name, password string) bool {
	t.Helper()
	out, err := tool(t, r, password+"\n", "kinit", name)
	if err != nil && !strings.Contains(out, "Password incorrect") && !strings.Contains(out, "Preauthentication failed") {
		t.Fatalf("kinit %s: %v\n%s", name, err, out)
	}
	return err == nil
}

// ldapBind says whether a simple bind is accepted.
func ldapBind(t testing.TB, r *realm.Realm, user, password string) bool {
	t.Helper()
	err := dial(t, r, r.Info().LDAPS[0]).Bind(r.Info().Layout.UserDN(user), password)
	if err != nil && !ldap.IsErrorWithCode(err, ldap.LDAPResultInvalidCredentials) {
		t.Fatal(err)
	}
	return err == nil
}
