package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/go-ldap/ldap/v3"
	"golang.org/x/crypto/ssh"

	"github.com/sekisho/sekisho/testenv"
)

const (
	worldUsers = 10_000 // in the directory of the world
	worldQuick = 1_000
	akcPath    = "/usr/local/lib/sekisho/sekisho-keys"
	tinyPath   = "/usr/local/bin/tiny_akc"
	sssPath    = "/usr/bin/sss_ssh_authorizedkeys"
	sockPath   = "/run/sekisho/sekisho.sock"
)

// world is a directory on one host, and three hosts with sshd where alice logs
// in with the same key: web by our doors, sss by sssd's, plain by her local
// account and ~/.ssh/authorized_keys.
type world struct {
	*testenv.World
	dir, web, sss, plain, client *testenv.Host

	slapd    *testenv.Slapd
	sekishod *sekishod
	users    int
	ca       []byte // slapd's
	alice    *testenv.Key
	aliceKey ssh.PublicKey
}

// theWorld makes the world when it is first asked for.
func (b *bench) theWorld(ctx context.Context) (*world, error) {
	if b.world != nil {
		return b.world, nil
	}
	tw, err := testenv.NewWorld(testenv.WorldConfig{})
	if err != nil {
		return nil, err
	}
	w := &world{World: tw, users: pick(worldUsers, worldQuick)}
	for _, step := range []func(context.Context) error{w.hosts, w.directory, w.startSSS, w.startPlain, w.startWeb, w.warmUp} {
		if err := step(ctx); err != nil {
			w.ShowLogs(func(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) })
			return nil, errors.Join(fmt.Errorf("making the world: %w", err), w.Close())
		}
	}
	b.world = w
	return w, nil
}

func (w *world) hosts(context.Context) error {
	for _, h := range []struct {
		name string
		to   **testenv.Host
	}{{"dir", &w.dir}, {"web", &w.web}, {"sss", &w.sss}, {"plain", &w.plain}, {"client", &w.client}} {
		var err error
		if *h.to, err = w.Host(h.name); err != nil {
			return err
		}
	}
	var err error
	if w.alice, err = testenv.NewKey("alice@client"); err != nil {
		return err
	}
	w.aliceKey, _, _, _, err = ssh.ParseAuthorizedKey(w.alice.Public)
	return err
}

func (w *world) directory(ctx context.Context) error {
	ca, err := testenv.NewCA("bench")
	if err != nil {
		return err
	}
	w.ca = ca.PEM
	for _, h := range []*testenv.Host{w.web, w.sss} {
		if err := h.WriteFile("/etc/sekisho/ca.pem", ca.PEM, 0o644); err != nil {
			return err
		}
	}
	var ldif bytes.Buffer
	if err := writeLDIF(&ldif, w.users); err != nil {
		return err
	}
	w.slapd, err = testenv.StartSlapd(ctx, testenv.SlapdConfig{Host: w.dir, Suffix: suffix, LDIF: ldif.Bytes(),
		CA: ca, NoSync: true, Debug: "0", Indexes: []string{"uidNumber,gidNumber eq"}})
	if err != nil {
		return err
	}
	c, err := writer(w.slapd)
	if err != nil {
		return err
	}
	defer c.Close()
	alice := personOf(w.users)
	alice.name = "alice"
	add := ldap.NewAddRequest(alice.dn(), nil)
	for _, a := range []struct {
		name   string
		values []string
	}{
		{"objectClass", []string{"inetOrgPerson", "posixAccount", "shadowAccount", "ldapPublicKey"}},
		{"uid", []string{alice.name}}, {"cn", []string{alice.common()}}, {"sn", []string{alice.sur}},
		{"uidNumber", []string{fmt.Sprint(alice.uid())}}, {"gidNumber", []string{fmt.Sprint(usersGID)}},
		{"homeDirectory", []string{alice.home()}}, {"loginShell", []string{"/bin/bash"}}, {"gecos", []string{alice.gecos()}},
		{"sshPublicKey", []string{strings.TrimSpace(string(w.alice.Public))}},
	} {
		add.Attribute(a.name, a.values)
	}
	if err := c.Add(add); err != nil {
		return err
	}
	join := ldap.NewModifyRequest("cn=team-0,ou=groups,"+suffix, nil)
	join.Add("member", []string{alice.dn()})
	return c.Modify(join)
}

// startWeb starts our side, as the README says to set it up.
func (w *world) startWeb(ctx context.Context) error {
	const nss = "passwd: files systemd\ngroup: files systemd\nshadow: files systemd\nhosts: files\n"
	if err := w.web.WriteFile("/etc/nsswitch.conf", []byte(nss), 0o644); err != nil {
		return err
	}
	var err error
	w.sekishod, err = startSekishod(ctx, sekishodConfig{host: w.web, name: "sekishod", url: w.slapd.TLSURL,
		caFile: "/etc/sekisho/ca.pem", userdb: true, pam: true, users: w.users + 1, state: "/var/lib/sekisho"})
	if err != nil {
		return err
	}
	if _, err := testenv.Program("sekisho-keys"); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "cc", "-O2", "-static", "-s", "-o", tinyPath, "bench/tiny_akc.c").CombinedOutput(); err != nil {
		return fmt.Errorf("compiling tiny_akc: %w: %s", err, out)
	}
	_, err = w.web.StartSSHD(ctx, testenv.SSHDConfig{Lines: []string{
		"AuthorizedKeysFile none",
		"AuthorizedKeysCommand " + akcPath + " %u %f %t %k",
		"AuthorizedKeysCommandUser sekisho-keys",
	}})
	return err
}

// startSSS starts sssd as its manual pages say (sssd-ldap(5), sss_ssh_authorizedkeys(1)).
func (w *world) startSSS(ctx context.Context) error {
	conf := fmt.Sprintf(`[sssd]
services = nss, pam, ssh
domains = bench

[domain/bench]
id_provider = ldap
auth_provider = none
access_provider = permit
ldap_uri = %s
ldap_tls_cacert = /etc/sekisho/ca.pem
ldap_schema = rfc2307bis
ldap_search_base = %s
ldap_default_bind_dn = %s
ldap_default_authtok = %s
ldap_user_ssh_public_key = sshPublicKey
cache_credentials = true
`, w.slapd.TLSURL, suffix, readerDN, readerPW)
	const nss = "passwd: files sss\ngroup: files sss\nshadow: files sss\nhosts: files\n"
	if err := w.sss.WriteFile("/etc/nsswitch.conf", []byte(nss), 0o644); err != nil {
		return err
	}
	if err := w.sss.WriteFile("/etc/sssd/sssd.conf", []byte(conf), 0o600); err != nil {
		return err
	}
	_, err := w.sss.Start(ctx, testenv.DaemonConfig{
		Name: "sssd", Path: "/usr/sbin/sssd", Args: []string{"-i", "--logger=stderr"}, ReadyTimeout: 5 * time.Minute,
		Ready: func(ctx context.Context) error { return sameKey(w, w.sss.Command(ctx, sssPath, "alice")) },
	})
	if err != nil {
		return err
	}
	_, err = w.sss.StartSSHD(ctx, testenv.SSHDConfig{Lines: []string{
		"AuthorizedKeysFile none",
		"AuthorizedKeysCommand " + sssPath + " %u",
		"AuthorizedKeysCommandUser nobody",
	}})
	return err
}

func (w *world) startPlain(ctx context.Context) error {
	const nss = "passwd: files\ngroup: files\nshadow: files\nhosts: files\n"
	if err := w.plain.WriteFile("/etc/nsswitch.conf", []byte(nss), 0o644); err != nil {
		return err
	}
	if err := w.plain.AddUser(testenv.LocalUser{Name: "alice", UID: firstUID + w.users}); err != nil {
		return err
	}
	if err := w.plain.WriteFile("/home/alice/.ssh/authorized_keys", w.alice.Public, 0o600); err != nil {
		return err
	}
	if err := w.plain.Chown("/home/alice", "alice"); err != nil {
		return err
	}
	_, err := w.plain.StartSSHD(ctx, testenv.SSHDConfig{})
	return err
}

// warmUp proves that every way answers with alice's key, and fills caches.
func (w *world) warmUp(ctx context.Context) error {
	for _, c := range []*testenv.Cmd{
		w.web.Command(ctx, akcPath, w.question()...),
		w.web.Command(ctx, tinyPath, append([]string{sockPath}, w.question()...)...),
		w.sss.Command(ctx, sssPath, "alice"),
	} {
		if err := sameKey(w, c); err != nil {
			return err
		}
	}
	for _, h := range []*testenv.Host{w.web, w.sss, w.plain} {
		for range 2 {
			c := w.login(ctx, h)
			c.Args[len(c.Args)-1] = "id -un"
			out, err := c.CombinedOutput()
			if err != nil || strings.TrimSpace(string(out)) != "alice" {
				return fmt.Errorf("logging in to %s: %w: %s", h.Name, err, out)
			}
		}
	}
	return nil
}

// question is what sshd hands to an AuthorizedKeysCommand: %u %f %t %k.
func (w *world) question() []string {
	_, blob, _ := strings.Cut(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(w.aliceKey))), " ")
	return []string{"alice", ssh.FingerprintSHA256(w.aliceKey), w.aliceKey.Type(), blob}
}

func (w *world) login(ctx context.Context, h *testenv.Host) *testenv.Cmd {
	return w.client.SSH(ctx, testenv.SSHCall{To: h, User: "alice", Key: w.alice, Command: "true"})
}

// sameKey runs an AuthorizedKeysCommand and checks that it prints alice's key.
func sameKey(w *world, c *testenv.Cmd) error {
	out, err := c.Output()
	if err != nil {
		var stderr []byte
		if e := (*exec.ExitError)(nil); errors.As(err, &e) {
			stderr = e.Stderr
		}
		return fmt.Errorf("%s: %w: %s", c.Path, err, stderr)
	}
	k, _, _, _, err := ssh.ParseAuthorizedKey(out)
	if err != nil || !bytes.Equal(k.Marshal(), w.aliceKey.Marshal()) {
		return fmt.Errorf("%s printed %q (%w), not alice's key", c.Path, out, err)
	}
	return nil
}

// account is the credential of a system user of the sandbox.
func account(ctx context.Context, name string) (*syscall.Credential, error) {
	out, err := exec.CommandContext(ctx, "getent", "passwd", name).Output()
	if err != nil {
		return nil, fmt.Errorf("looking up %s: %w", name, err)
	}
	var uid, gid uint32
	f := strings.Split(string(out), ":")
	if len(f) < 4 {
		return nil, fmt.Errorf("looking up %s: %q", name, out)
	}
	if _, err := fmt.Sscan(f[2]+" "+f[3], &uid, &gid); err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uid, Gid: gid}, nil
}
