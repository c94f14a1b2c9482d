package endtoend

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/leaks"
	"github.com/sekisho/sekisho/wire"
)

// stage is the world that all tests share. Immutable after setUp.
type stage struct {
	w      *testenv.World
	broker *site // runs the embedded realm
	web    *site // follows it
	client *testenv.Host
	realm  *directory
	alice  *person // may log in everywhere, and nobody changes her
}

var world stage

// Further addresses of the client, for rules with a source.
const (
	addrNarrow = "203.0.113.201"
	addrWide   = "203.0.113.202"
	addrFar    = "203.0.113.210"
	addrSix    = "2001:db8::201"
	addrSixFar = "2001:db8::f210"
)

const socketPath = "/run/sekisho/sekisho.sock"

func TestMain(m *testing.M) { testenv.Main(runner(func() int { return run(m) })) }

type runner func() int

func (r runner) Run() int { return r() }

// run sets the world up, runs the tests, and looks for secrets in what is left.
func run(m *testing.M) int {
	watch = leaks.Start()
	if err := world.setUp(); err != nil {
		fmt.Fprintln(os.Stderr, "setting up the world:", err)
		if world.w != nil {
			world.w.ShowLogs(func(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) })
		}
		return 1
	}
	code := m.Run()
	if err := watch.Search(world.w); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: secrets:", err)
		code = max(code, 1)
	}
	if code != 0 {
		world.w.ShowLogs(func(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) })
	}
	if err := world.w.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "closing the world:", err)
		code = max(code, 1)
	}
	return code
}

func (s *stage) setUp() error {
	ctx := context.Background()
	for _, p := range []string{"sekisho", "sekishod", "sekisho-keys"} {
		if _, err := testenv.Program(p); err != nil {
			return err
		}
	}
	var err error
	if s.w, err = testenv.NewWorld(testenv.WorldConfig{}); err != nil {
		return err
	}
	if s.client, err = s.w.Host("client"); err != nil {
		return err
	}
	for _, a := range []string{addrNarrow, addrWide, addrFar} {
		if out, err := s.client.Command(ctx, "ip", "addr", "add", a+"/24", "dev", "eth0").CombinedOutput(); err != nil {
			return fmt.Errorf("giving the client %s: %w: %s", a, err, out)
		}
	}
	for _, a := range []string{addrSix, addrSixFar} {
		if out, err := s.client.Command(ctx, "ip", "addr", "add", a+"/64", "dev", "eth0", "nodad").CombinedOutput(); err != nil {
			return fmt.Errorf("giving the client %s: %w: %s", a, err, out)
		}
	}
	if err := s.startRealm(ctx); err != nil {
		return err
	}
	if s.alice, err = s.newPerson("alice"); err != nil {
		return err
	}
	if err := s.realm.sekisho("", "rule", "add", "alice", "--subject", "user:alice", "--door", "keys", "--target", "*"); err != nil {
		return err
	}
	s.web, err = s.join(ctx, "web1")
	return err
}

// startRealm starts sekishod with an embedded realm on the host broker.
func (s *stage) startRealm(ctx context.Context) error {
	h, err := s.w.Host("broker")
	if err != nil {
		return err
	}
	conf := fmt.Sprintf("[log]\nlevel = \"debug\"\n[realm]\nldaps = [\"%s:636\"]\nnames = [%q]\n", h.Addr, h.FQDN)
	if err := h.WriteFile("/etc/sekisho/sekishod.toml", []byte(conf), 0o644); err != nil {
		return err
	}
	s.broker = &site{Host: h}
	if err := s.broker.start(ctx); err != nil {
		return err
	}
	st, err := s.broker.status(ctx)
	if err != nil {
		return err
	}
	path, err := url.PathUnescape(strings.TrimPrefix(st.LDAPI, "ldapi://"))
	if err != nil {
		return err
	}
	s.realm = &directory{base: "dc=sekisho,dc=internal", on: h}
	s.realm.conn, err = ldap.DialURL("ldapi://" + h.Path(path))
	if err != nil {
		return fmt.Errorf("dialling the realm's %s: %w", path, err)
	}
	return s.realm.conn.ExternalBind()
}

// join makes a host that follows the realm over ldaps by a service account of
// its own, with an sshd that knows no keys but sekisho-keys'. lines stand
// before the other lines of its sshd_config.
func (s *stage) join(ctx context.Context, name string, lines ...string) (*site, error) {
	h, err := s.w.Host(name)
	if err != nil {
		return nil, err
	}
	secretFile := "/root/" + name + ".secret"
	if err := s.realm.sekisho("", "host", "add", name, "--addr", h.Addr.String(), "--alias", h.FQDN); err != nil {
		return nil, err
	}
	if err := s.realm.sekisho("", "service", "add", name, "--secret-file", secretFile); err != nil {
		return nil, err
	}
	password, err := s.broker.ReadFile(secretFile)
	if err != nil {
		return nil, err
	}
	ca, err := s.broker.ReadFile("/var/lib/sekisho/realm/tls/ca.crt")
	if err != nil {
		return nil, err
	}
	v := &site{Host: h, realm: s.realm}
	return v, v.follow(ctx, following{
		url: "ldaps://" + s.broker.FQDN, base: s.realm.base, bindDN: "cn=" + name + ",ou=services," + s.realm.base,
		password: secret(strings.TrimSpace(string(password))), ca: ca, sshd: lines,
	})
}

// site is a host with a sekishod.
type site struct {
	*testenv.Host
	daemon, sshd *testenv.Daemon
	realm        *directory // that it follows
}

// following says what a host follows.
type following struct {
	url, base, bindDN, password string
	ca                          []byte
	more                        string   // sections of its configuration
	sshd                        []string // lines of sshd_config
	noWait                      bool     // do not wait for a first snapshot
}

// follow configures and starts sekishod and sshd.
func (v *site) follow(ctx context.Context, f following) error {
	conf := fmt.Sprintf(`host = %q
[log]
level = "debug"
[directory]
url = [%q]
base = %q
bind_dn = %q
password_file = "/etc/sekisho/password"
ca_file = "/etc/sekisho/ca.crt"
%s`, v.Name, f.url, f.base, f.bindDN, f.more)
	for _, file := range []struct {
		path, data string
		mode       os.FileMode
	}{
		{"/etc/sekisho/sekishod.toml", conf, 0o644},
		{"/etc/sekisho/ca.crt", string(f.ca), 0o644},
		{"/etc/sekisho/password", f.password + "\n", 0o600},
		{"/etc/nsswitch.conf", "passwd: files systemd\ngroup: files systemd\nshadow: files systemd\nhosts: files dns\n", 0o644},
	} {
		if err := v.WriteFile(file.path, []byte(file.data), file.mode); err != nil {
			return err
		}
	}
	if err := v.start(ctx); err != nil {
		return err
	}
	var err error
	v.sshd, err = v.StartSSHD(ctx, testenv.SSHDConfig{Lines: append(f.sshd,
		"AuthorizedKeysFile none",
		"AuthorizedKeysCommand /usr/local/lib/sekisho/sekisho-keys %u %f %t %k",
		"AuthorizedKeysCommandUser sekisho-keys",
		"PermitUserEnvironment yes",
		"X11Forwarding yes",
		"XAuthLocation /bin/true",
		"MaxStartups 300",
		"MaxSessions 20",
	)})
	return err
}

// start starts the host's sekishod and waits until it answers.
func (v *site) start(ctx context.Context) error {
	d, err := v.Start(ctx, testenv.DaemonConfig{
		Name: "sekishod", Path: "/usr/local/bin/sekishod", ReadyTimeout: patience, StopTimeout: time.Minute,
		Ready: func(ctx context.Context) error {
			st, err := v.status(ctx)
			if err == nil && !st.Sync.Loaded {
				err = errors.New("there is no snapshot yet")
			}
			return err
		},
	})
	if err == nil {
		v.daemon = d
	}
	return err
}

// status is what the tests read of `sekisho status --json`.
type status struct {
	LDAPI string `json:"ldapi"`
	Sync  struct {
		State          string    `json:"state"`
		Loaded         bool      `json:"loaded"`
		Users          int       `json:"users"`
		Groups         int       `json:"groups"`
		LastError      string    `json:"last_error"`
		DiskError      string    `json:"disk_error"`
		SkippedEntries int       `json:"skipped_entries"`
		SkippedValues  int       `json:"skipped_values"`
		Skipped        []skipped `json:"skipped"`
		Held           *struct {
			Users, Of int
			Why       string
			First     []string
		} `json:"held"`
	} `json:"sync"`
	Socket struct {
		Open int
		Busy int
	} `json:"socket"`
}

type skipped struct {
	DN, Why string
	Whole   bool
}

// status asks the socket itself, as root.
func (v *site) status(context.Context) (st status, err error) {
	a, err := v.ask(wire.VerbStatus)
	if err != nil {
		return st, err
	}
	if len(a.Body) != 1 {
		return st, fmt.Errorf("status: %+v", a)
	}
	return st, json.Unmarshal([]byte(a.Body[0]), &st)
}

// directory is a directory that tests write to, as its administrator.
type directory struct {
	conn *ldap.Conn
	base string
	on   *testenv.Host // the host of an embedded realm; nil: an external one
	seq  atomic.Int64
}

func (d *directory) dn(name, ou string) string {
	attr := "cn"
	if ou == "people" {
		attr = "uid"
	}
	return attr + "=" + ldap.EscapeDN(name) + ",ou=" + ou + "," + d.base
}

// sekisho runs the command as root on the machine of the embedded realm.
func (d *directory) sekisho(stdin string, args ...string) error {
	c := d.on.Command(context.Background(), "/usr/local/bin/sekisho", args...)
	c.Stdin = strings.NewReader(stdin)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("sekisho %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// modify replaces one attribute; no values remove it.
func (d *directory) modify(dn, attr string, values ...string) error {
	r := ldap.NewModifyRequest(dn, nil)
	r.Replace(attr, values)
	if err := d.conn.Modify(r); err != nil {
		return fmt.Errorf("changing %s of %s: %w", attr, dn, err)
	}
	return nil
}

// mark writes an entry, a host that nobody uses, after all that was written
// before, and names it.
func (d *directory) mark() (string, error) {
	name := fmt.Sprintf("mark-%d", d.seq.Add(1))
	r := ldap.NewAddRequest(d.dn(name, "hosts"), nil)
	r.Attribute("objectClass", []string{"device", "ipHost"})
	r.Attribute("cn", []string{name})
	r.Attribute("ipHostNumber", []string{"198.51.100.1"})
	return name, d.conn.Add(r)
}

// person is a user with a key of his own.
type person struct {
	name, password string
	key            *testenv.Key
}

// newPerson adds a user to the realm.
func (s *stage) newPerson(name string, args ...string) (*person, error) {
	key, err := testenv.NewKey(name + "@client")
	if err != nil {
		return nil, err
	}
	p := &person{name: name, key: key, password: newSecret()}
	file := "/root/" + name + ".pub"
	if err := s.broker.WriteFile(file, key.Public, 0o600); err != nil {
		return nil, err
	}
	args = append([]string{"user", "add", name, "--key", file, "--password-stdin"}, args...)
	return p, s.realm.sekisho(p.password+"\n", args...)
}

// newSecret is a random password that must never be seen.
func newSecret() string {
	b := make([]byte, 12)
	rand.Read(b)
	return secret("Pw-" + hex.EncodeToString(b))
}
