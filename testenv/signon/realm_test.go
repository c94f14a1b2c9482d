package signon

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

const (
	baseDN    = "dc=sekisho,dc=internal"
	realmName = "SEKISHO.INTERNAL"
)

// realm is a world with an embedded realm on its host broker.
type realm struct {
	w        *testenv.World
	broker   *site
	client   *testenv.Host
	conn     *ldap.Conn // as root, over ldapi
	krb5, ca []byte     // krb5.conf of its hosts, and the CA of its LDAP
	marks    atomic.Int64
}

// newRealm makes the hosts broker and client. The clocks of the broker's
// servers can be moved.
func newRealm(ctx context.Context) (*realm, error) {
	r := &realm{}
	var err error
	if r.w, err = testenv.NewWorld(testenv.WorldConfig{}); err != nil {
		return nil, err
	}
	worlds.mu.Lock()
	worlds.all = append(worlds.all, r.w)
	worlds.mu.Unlock()
	if r.client, err = r.w.Host("client"); err != nil {
		return nil, err
	}
	h, err := r.w.Host("broker")
	if err != nil {
		return nil, err
	}
	r.broker = &site{Host: h, r: r}
	if err := h.MoveClock(0); err != nil {
		return nil, err
	}
	if _, err := h.StartChronyd(ctx, testenv.ChronydConfig{}); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf("[log]\nlevel = \"debug\"\n[realm]\nldaps = [\"%[1]s:636\"]\nkdc = [\"%[1]s:88\"]\nnames = [%[2]q]\n", h.Addr, h.FQDN)
	if err := h.WriteFile("/etc/sekisho/sekishod.toml", []byte(conf), 0o644); err != nil {
		return nil, err
	}
	if err := r.broker.start(ctx); err != nil {
		return nil, err
	}
	for _, port := range []string{"88", "464"} { // a little later than the directory
		err := poll(func() error {
			c, err := net.DialTimeout("tcp", net.JoinHostPort(h.Addr.String(), port), 10*time.Second)
			if err == nil {
				c.Close()
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	st, err := r.broker.status()
	if err != nil {
		return nil, err
	}
	path, err := url.PathUnescape(strings.TrimPrefix(st.LDAPI, "ldapi://"))
	if err != nil {
		return nil, err
	}
	if r.conn, err = ldap.DialURL("ldapi://" + h.Path(path)); err != nil {
		return nil, fmt.Errorf("dialling the realm's %s: %w", path, err)
	}
	if err := r.conn.ExternalBind(); err != nil {
		return nil, err
	}
	if r.ca, err = h.ReadFile("/var/lib/sekisho/realm/tls/ca.crt"); err != nil {
		return nil, err
	}
	r.krb5 = krb5Conf(h.Addr.String())
	if err := errors.Join(r.client.WriteFile("/etc/krb5.conf", r.krb5, 0o644), r.client.WriteFile("/root/ca.crt", r.ca, 0o644)); err != nil {
		return nil, err
	}
	return r, r.watcher()
}

func krb5Conf(kdc string) []byte {
	return fmt.Appendf(nil, "[libdefaults]\n default_realm = %[1]s\n dns_lookup_kdc = false\n dns_canonicalize_hostname = false\n rdns = false\n"+
		"[realms]\n %[1]s = {\n  kdc = %[2]s\n  kpasswd_server = %[2]s\n }\n", realmName, kdc)
}

// policies makes the realm's password policy remember old passwords.
func (r *realm) policies() error {
	m := ldap.NewModifyRequest("cn=default,ou=policies,"+baseDN, nil)
	m.Replace("pwdInHistory", []string{"3"})
	return r.conn.Modify(m)
}

// watcher is a user whom nobody changes: by him a host shows what it has seen.
func (r *realm) watcher() error {
	return errors.Join(r.sekisho("", "user", "add", "watcher", "--no-password"),
		r.sekisho("", "rule", "add", "watcher", "--subject", "user:watcher", "--door", "keys", "--target", "*"))
}

// joining says how a host joins.
type joining struct {
	name   string
	prover string // pam.password
	otp    string // pam.otp
	krb5   []byte // its krb5.conf; nil: the realm's
	conf   string // more sections of its sekishod.toml
	files  []hostFile
}

// join makes a host that follows the realm over ldaps, with Debian's own PAM
// files around docs/pam.d, and an sshd on port 22.
func (r *realm) join(ctx context.Context, j joining) (*site, error) {
	h, err := r.w.Host(j.name)
	if err != nil {
		return nil, err
	}
	v := &site{Host: h, r: r}
	root := "/root/" + j.name
	for _, args := range [][]string{
		{"host", "add", j.name, "--addr", h.Addr.String(), "--alias", h.FQDN},
		{"service", "add", j.name, "--secret-file", root + ".secret"},
		{"host", "keytab", j.name, "--sshd", root + ".sshd", "--sekishod", root + ".own"},
	} {
		if err := r.sekisho("", args...); err != nil {
			return nil, err
		}
	}
	if j.krb5 == nil {
		j.krb5 = r.krb5
	}
	conf := fmt.Sprintf(`host = %q
[log]
level = "debug"
[directory]
url = ["ldaps://%s"]
base = %q
bind_dn = "cn=%s,ou=services,%s"
password_file = "/etc/sekisho/password"
ca_file = "/etc/sekisho/ca.crt"
[pam]
password = %q
otp = %q
[keys]
pam = true
[clock]
servers = ["%s"]
%s`, j.name, r.broker.FQDN, baseDN, j.name, baseDN, j.prover, j.otp, r.broker.Addr, j.conf)
	files := []hostFile{
		{"/etc/sekisho/sekishod.toml", []byte(conf), 0o644},
		{"/etc/sekisho/ca.crt", r.ca, 0o644},
		{"/etc/krb5.conf", j.krb5, 0o644},
		{"/etc/nsswitch.conf", []byte("passwd: files systemd\ngroup: files systemd\nshadow: files systemd\nhosts: files dns\n"), 0o644},
		{"/etc/pam.d/alone", []byte(alone), 0o644},
		{"/etc/pam.d/fallback", []byte(fallback), 0o644},
	}
	for from, to := range map[string]hostFile{
		root + ".secret": {path: "/etc/sekisho/password", mode: 0o600},
		root + ".sshd":   {path: "/etc/krb5.keytab", mode: 0o600},
		root + ".own":    {path: "/etc/sekisho/krb5.keytab", mode: 0o640},
	} {
		if to.data, err = r.broker.ReadFile(from); err != nil {
			return nil, err
		}
		if strings.HasSuffix(from, ".secret") {
			secret(strings.TrimSpace(string(to.data)))
		}
		files = append(files, to)
	}
	common, err := filepath.Glob("../../docs/pam.d/common-*")
	if err != nil || len(common) != 5 {
		return nil, fmt.Errorf("docs/pam.d has %q: %w", common, err)
	}
	for _, f := range common {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		if strings.HasSuffix(f, "common-session") { // so that users of the directory have a home
			b = append([]byte("session required pam_mkhomedir.so umask=0077\n"), b...)
		}
		files = append(files, hostFile{"/etc/pam.d/" + filepath.Base(f), b, 0o644})
	}
	for _, f := range append(files, j.files...) {
		if err := h.WriteFile(f.path, f.data, f.mode); err != nil {
			return nil, err
		}
	}
	if out, err := h.Command(ctx, "chgrp", "sekisho", "/etc/sekisho/krb5.keytab").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("chgrp: %w: %s", err, out)
	}
	if err := v.start(ctx); err != nil {
		return nil, err
	}
	return v, v.startSSHD(ctx, 22, "KbdInteractiveAuthentication yes")
}

type hostFile struct {
	path string
	data []byte
	mode os.FileMode
}

// Stacks for pamtester: us alone, and one that lets a fallback in when we could
// not find out.
const (
	alone = `auth     required /usr/local/lib/sekisho/pam_sekisho.so
account  required /usr/local/lib/sekisho/pam_sekisho.so
password required /usr/local/lib/sekisho/pam_sekisho.so
session  required /usr/local/lib/sekisho/pam_sekisho.so
`
	fallback = `auth     [success=done authinfo_unavail=ignore default=die] /usr/local/lib/sekisho/pam_sekisho.so
auth     required pam_permit.so
`
)

// startSSHD starts Debian's sshd with Debian's service file; lines stand before
// the others.
func (v *site) startSSHD(ctx context.Context, port int, lines ...string) error {
	pam, err := v.ReadFile("/etc/pam.d/sshd")
	if err != nil {
		return err
	}
	_, err = v.StartSSHD(ctx, testenv.SSHDConfig{Port: port, PAM: string(pam), Lines: append(lines,
		"GSSAPIAuthentication yes",
		"AuthorizedKeysFile none",
		"AuthorizedKeysCommand /usr/local/lib/sekisho/sekisho-keys %u %f %t %k",
		"AuthorizedKeysCommandUser sekisho-keys",
		"MaxStartups 400",
	)})
	return err
}

// site is a host with a sekishod.
type site struct {
	*testenv.Host
	r      *realm
	daemon *testenv.Daemon
	uids   sync.Map // of users, by name
}

// start starts the host's sekishod and waits until it answers from a snapshot.
func (v *site) start(ctx context.Context) error {
	d, err := v.Start(ctx, testenv.DaemonConfig{
		Name: "sekishod", Path: "/usr/local/bin/sekishod", ReadyTimeout: patience, StopTimeout: time.Minute,
		Ready: func(ctx context.Context) error {
			st, err := v.status()
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
		Loaded bool `json:"loaded"`
	} `json:"sync"`
	Realm []struct {
		Name string `json:"name"`
		PID  int    `json:"pid"`
	} `json:"realm"`
}

func (v *site) status() (st status, err error) {
	a, err := v.ask(wire.VerbStatus)
	if err != nil {
		return st, err
	}
	if len(a.Body) != 1 {
		return st, fmt.Errorf("status: %+v", a)
	}
	return st, json.Unmarshal([]byte(a.Body[0]), &st)
}

// sekisho runs the command as root on the realm's machine.
func (r *realm) sekisho(stdin string, args ...string) error {
	c := r.broker.Command(context.Background(), "/usr/local/bin/sekisho", args...)
	c.Stdin = strings.NewReader(stdin)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("sekisho %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func dn(user string) string { return "uid=" + ldap.EscapeDN(user) + ",ou=people," + baseDN }

// modify replaces one attribute of a user; no values remove it.
func (r *realm) modify(user, attr string, values ...string) error {
	m := ldap.NewModifyRequest(dn(user), nil)
	m.Replace(attr, values)
	if err := r.conn.Modify(m); err != nil {
		return fmt.Errorf("changing %s of %s: %w", attr, user, err)
	}
	return nil
}

// caughtUp waits until the hosts have seen all that was written before the call.
func (r *realm) caughtUp(vs ...*site) error {
	name := fmt.Sprintf("mark-%d", r.marks.Add(1))
	a := ldap.NewAddRequest("cn="+name+",ou=hosts,"+baseDN, nil)
	a.Attribute("objectClass", []string{"device", "ipHost"})
	a.Attribute("cn", []string{name})
	a.Attribute("ipHostNumber", []string{"198.51.100.1"})
	if err := r.conn.Add(a); err != nil {
		return err
	}
	for _, v := range vs {
		err := poll(func() error {
			a, err := v.ask(wire.VerbWhy, "user", "watcher", "door", "keys", "target", name)
			if err == nil && (a.Outcome == wire.Unknown || a.Reason == "unknown-host") {
				err = fmt.Errorf("%s has not caught up: %v %s", v.Name, a.Outcome, a.Reason)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// patience is for what must come to pass, on a machine however slow.
const patience = 2 * time.Minute

// poll tries f until it says nil.
func poll(f func() error) error {
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not in %s: %w", patience, err)
		}
	}
}

// person is a user with a key and a password of his own.
type person struct {
	r              *realm
	name, password string
	key            *testenv.Key
}

// person adds a user to the realm.
func (r *realm) person(name string, args ...string) (*person, error) {
	key, err := testenv.NewKey(name + "@client")
	if err != nil {
		return nil, err
	}
	p := &person{r: r, name: name, key: key, password: newSecret()}
	file := "/root/" + name + ".pub"
	if err := r.broker.WriteFile(file, key.Public, 0o600); err != nil {
		return nil, err
	}
	return p, r.sekisho(p.password+"\n", append([]string{"user", "add", name, "--key", file, "--password-stdin"}, args...)...)
}

// admitted is a person whom a rule lets in everywhere, by keys and PAM, unless
// args of the rule say otherwise.
func (r *realm) admitted(name string, args ...string) (*person, error) {
	p, err := r.person(name)
	if err == nil {
		err = r.rule(name, args...)
	}
	return p, err
}

func (r *realm) rule(user string, args ...string) error {
	all := append([]string{"rule", "add", user, "--subject", "user:" + user, "--target", "host:*"}, args...)
	if !strings.Contains(strings.Join(args, " "), "--door") {
		all = append(all, "--door", "keys", "--door", "pam")
	}
	return r.sekisho("", all...)
}

// newSecret is a random password that must never be seen.
func newSecret() string {
	b := make([]byte, 12)
	rand.Read(b)
	return secret("Pw-" + hex.EncodeToString(b))
}

func secret(s string) string { return watch.Secret(s) }
