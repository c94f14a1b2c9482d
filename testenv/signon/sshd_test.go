package signon

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sekisho/sekisho/testenv"
)

// Every way in through sshd on one host, by one person whom a rule admits.
func TestWaysIn(t *testing.T) {
	t.Parallel()
	p := calm.someone(t, "wayin", calm.web)
	if err := calm.web.startSSHD(t.Context(), 2201, "PasswordAuthentication yes"); err != nil {
		t.Fatal(err)
	}
	if out, err := p.kinit(t.Context(), p.password); err != nil {
		t.Fatalf("kinit: %v: %s", err, out)
	}
	byOne := call{method: "password", port: 2201}
	for _, c := range []call{byKey, byTicket, byPassword, byOne} {
		p.in(t, c.on(calm.web).with(p))
	}
	p.in(t, byPassword.on(calm.ldap).with(p))
	for _, c := range []call{byPassword, byOne} {
		p.out(t, c.on(calm.web).saying(p.password+"x"))
	}
	p.out(t, byPassword.on(calm.ldap).saying(p.password+"x"))
	logged(t, calm.web.daemon.Log, `"reason":"wrong-password"`)
	// Somebody whom nobody knows is asked like everybody else, and sent away alike.
	said := p.out(t, call{as: "nobody-at-all", to: calm.web, method: "keyboard-interactive", replies: []string{p.password}})
	says(t, said, "Password: ", "Permission denied (publickey")
}

// A rule that wants key and password.
func TestKeyAndPassword(t *testing.T) {
	t.Parallel()
	p := calm.someone(t, "both", calm.web, "--proof", "key", "--proof", "password")
	other := calm.someone(t, "both-other", calm.web)
	if err := calm.web.startSSHD(t.Context(), 2202, "KbdInteractiveAuthentication yes", "AuthenticationMethods publickey,keyboard-interactive"); err != nil {
		t.Fatal(err)
	}
	both := call{method: "publickey,keyboard-interactive", port: 2202, to: calm.web, key: p.key}
	p.in(t, both.saying(p.password))
	logged(t, calm.web.daemon.Log, `"door":"keys","user":"both","target":"web1","outcome":"allow","reason":"deferred"`)
	p.out(t, both.saying(p.password+"x"))
	foreign := both
	foreign.key = other.key
	p.out(t, foreign.saying(p.password))
	// Where sshd does not ask for the second, PAM does not let the first alone in.
	p.out(t, byKey.on(calm.web).with(p))
	p.out(t, byPassword.on(calm.web).with(p))
	if out, err := p.kinit(t.Context(), p.password); err != nil {
		t.Fatalf("kinit: %v: %s", err, out)
	}
	p.out(t, byTicket.on(calm.web).with(p))
}

// A rule that forces a command: sshd can hold a key to it, and nothing else.
func TestForcedCommand(t *testing.T) {
	t.Parallel()
	p := calm.someone(t, "forced", calm.web, "--permit", "command:echo held to this")
	if out, err := p.ssh(t.Context(), byKey.on(calm.web).with(p)); err != nil || !strings.HasSuffix(out, "held to this") {
		t.Errorf("by key: %v: %s", err, out)
	}
	p.out(t, byPassword.on(calm.web).with(p))
	if out, err := p.kinit(t.Context(), p.password); err != nil {
		t.Fatalf("kinit: %v: %s", err, out)
	}
	p.out(t, byTicket.on(calm.web).with(p))
	logged(t, calm.web.daemon.Log, `"reason":"command"`)
}

// The rules of one door do not open another.
func TestDoorsApart(t *testing.T) {
	t.Parallel()
	k := calm.someone(t, "keys-only", calm.web, "--door", "keys")
	p := calm.someone(t, "pam-only", calm.web, "--door", "pam")
	k.in(t, byKey.on(calm.web).with(k))
	k.out(t, byPassword.on(calm.web).with(k))
	p.in(t, byPassword.on(calm.web).with(p))
	p.out(t, byKey.on(calm.web).with(p))
}

// caPort is an sshd that trusts files of its own machine: keys that an
// administrator put there, and a CA. Only PAM stands between them and the house.
const caPort = 2203

// A locked, expired or ruleless account does not get in by what it has: neither by
// a key or certificate that sshd takes by itself, nor by a ticket that the KDC
// gave before, nor by its password.
func TestShutAccounts(t *testing.T) {
	t.Parallel()
	ca, err := testenv.NewKey("CA")
	need(t, err)
	need(t, calm.web.WriteFile("/etc/ssh/user-ca.pub", ca.Public, 0o644))
	need(t, calm.web.startSSHD(t.Context(), caPort, "AuthorizedKeysFile /etc/ssh/keys/%u", "AuthorizedKeysCommand none", "TrustedUserCAKeys /etc/ssh/user-ca.pub"))
	yesterday := time.Now().Add(-25 * time.Hour).UTC()
	set := func(attr, value string) func(p *person) error {
		return func(p *person) error { return calm.modify(p.name, attr, value) }
	}
	do := func(args ...string) func(p *person) error {
		return func(p *person) error {
			all := append([]string{}, args...)
			for i := range all {
				all[i] = strings.ReplaceAll(all[i], "NAME", p.name)
			}
			return calm.sekisho("", all...)
		}
	}
	for _, c := range []struct {
		name, reason string
		shut         func(p *person) error
	}{
		{"locked", "locked", do("user", "set", "NAME", "--lock")},
		{"shadow", "shadow-expired", set("shadowExpire", strconv.FormatInt(yesterday.Unix()/86400, 10))},
		{"krb", "kerberos-expired", set("krbPrincipalExpiration", yesterday.Format("20060102150405Z"))},
		{"nologin", "nologin", do("user", "set", "NAME", "--shell", "/usr/sbin/nologin")},
		{"ruleless", "no-rule", do("rule", "rm", "NAME")},
		{"hours", "rule-expired", do("rule", "set", "NAME", "--expires", yesterday.Format("2006-01-02"))},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := calm.someone(t, "shut-"+c.name, calm.web)
			need(t, calm.web.WriteFile("/etc/ssh/keys/"+p.name, p.key.Public, 0o644))
			if out, err := p.kinit(t.Context(), p.password); err != nil {
				t.Fatalf("kinit: %v: %s", err, out)
			}
			file := byKey.on(calm.web).with(p)
			file.port = caPort
			cert := call{method: "publickey", to: calm.web, port: caPort, key: p.key, as: p.name,
				options: []string{"CertificateFile=" + certificate(t, ca, p)}}
			ways := map[string]call{"file": file, "certificate": cert, "ticket": byTicket.on(calm.web).with(p)}
			// Without the file the certificate alone must do.
			for name, w := range ways {
				if name == "certificate" {
					need(t, calm.web.Inside(func() error { return os.Remove("/etc/ssh/keys/" + p.name) }))
				}
				if name == "file" {
					need(t, calm.web.WriteFile("/etc/ssh/keys/"+p.name, p.key.Public, 0o644))
				}
				p.in(t, w)
			}
			need(t, calm.web.WriteFile("/etc/ssh/keys/"+p.name, p.key.Public, 0o644))
			need(t, c.shut(p))
			need(t, calm.caughtUp(calm.web))
			for name, w := range ways {
				p.out(t, w)
				if p.forwards(t, w) {
					t.Errorf("by %s he was let through to a port of the host", name)
				}
			}
			p.out(t, byKey.on(calm.web).with(p))
			p.out(t, byPassword.on(calm.web).with(p))
			logged(t, calm.web.daemon.Log, `"user":"`+p.name+`","target":"web1","from":"`+calm.client.Addr.String()+`","outcome":"deny","reason":"`+c.reason+`"`)
		})
	}
}

// certificate is p's key signed by ca, in a file.
func certificate(t *testing.T, ca *testenv.Key, p *person) string {
	t.Helper()
	signer, err := ssh.ParsePrivateKey(ca.Private)
	need(t, err)
	key, _, _, _, err := ssh.ParseAuthorizedKey(p.key.Public)
	need(t, err)
	c := &ssh.Certificate{Key: key, CertType: ssh.UserCert, KeyId: p.name, ValidPrincipals: []string{p.name}, ValidBefore: ssh.CertTimeInfinity,
		Permissions: ssh.Permissions{Extensions: map[string]string{"permit-pty": ""}}}
	need(t, c.SignCert(rand.Reader, signer))
	file := filepath.Join(t.TempDir(), "cert.pub")
	need(t, os.WriteFile(file, ssh.MarshalAuthorizedKey(c), 0o644))
	return file
}

// A key that only the host's own authorized_keys has is nobody's key to us.
func TestForeignKey(t *testing.T) {
	t.Parallel()
	p := calm.someone(t, "foreign", calm.web)
	key, err := testenv.NewKey("put there")
	need(t, err)
	need(t, calm.web.WriteFile("/etc/ssh/own/"+p.name, key.Public, 0o644))
	need(t, calm.web.startSSHD(t.Context(), 2204, "AuthorizedKeysFile /etc/ssh/own/%u"))
	c := call{method: "publickey", to: calm.web, port: 2204}
	c.key = key
	p.out(t, c)
	logged(t, calm.web.daemon.Log, "a key that is not in the directory")
	c.key = p.key // from the command, by the same sshd
	p.in(t, c)
	// Nor does it serve without a session, for forwarding alone; a ticket does.
	c.key = key
	if p.forwards(t, c) {
		t.Error("who may not enter was let through to a port of the host")
	}
	if out, err := p.kinit(t.Context(), p.password); err != nil {
		t.Fatalf("kinit: %v: %s", err, out)
	}
	if !p.forwards(t, byTicket.on(calm.web).with(p)) {
		t.Error("the test forwards nothing")
	}
}

// forwards reports whether a login without a session, for forwarding alone, gets
// through to a port of the host.
func (p *person) forwards(t *testing.T, c call) bool {
	t.Helper()
	cmd, done, err := p.sshCommand(t.Context(), c)
	need(t, err)
	defer done()
	// -W connects our standard output to the host's sshd, which says its version.
	n := len(cmd.Args) - 2 // the host's name, and a command that is not run
	args := append(append([]string{}, cmd.Args[1:n]...), "-W", "127.0.0.1:22", cmd.Args[n])
	w := p.r.client.Command(t.Context(), "ssh", args...)
	w.Env = cmd.Env
	out, _ := w.CombinedOutput()
	return strings.Contains(string(out), "SSH-2.0")
}
