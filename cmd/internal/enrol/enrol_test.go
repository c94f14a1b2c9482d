package enrol

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestEnrol: a fresh machine becomes a host. The directory's people log in by
// key, password and ticket, the machine's own and root as before; --undo leaves
// nothing behind.
func TestEnrol(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	root, carol := s.authorize("/root", "root"), s.authorize("/home/carol", "carol")
	before := s.tree()

	b, err := s.web.ReadFile(s.bundle)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := parseBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	out := s.enrolled(s.bundle, "--dry-run")
	for _, want := range []string{"account sekisho:", "+passwd:         files systemd", "+++ /etc/ssh/sshd_config.d/10-sekisho.conf",
		"+AuthorizedKeysCommandUser sekisho-keys", "+++ /etc/krb5.keytab", "key of host/web1.example.org@SEKISHO.INTERNAL, version 1", "none -> 0640 0:sekisho"} {
		if !strings.Contains(out, want) {
			t.Errorf("the diff does not have %q:\n%s", want, out)
		}
	}
	noSecret(t, bundle, out)
	s.unchanged(before, "after a dry run")

	out = s.enrolled(s.bundle, "--yes")
	noSecret(t, bundle, out)
	if !strings.Contains(out, "start sekishod") || !strings.Contains(out, "kill -HUP") {
		t.Errorf("it does not say what to do:\n%s", out)
	}
	sekishod := s.startSekishod(s.web)
	s.startSSHD()
	if out := s.must(s.web, binDir+"/sekisho", "check"); !strings.Contains(out, "good") || strings.Contains(out, "warning") {
		t.Errorf("check: %s", out)
	}
	s.works(s.login("alice", s.key))
	s.works(s.byPassword("alice", password))
	s.works(s.byTicket("alice"))
	s.fails(s.login("bob", s.key))
	s.fails(s.byPassword("bob", password))
	s.fails(s.byPassword("alice", "wrong"))
	s.works(s.login("root", root))
	s.works(s.login("carol", carol))
	s.works(s.byPassword("carol", password))
	s.fails(s.byPassword("carol", "wrong"))

	if out := s.enrolled(s.bundle); !strings.Contains(out, "nothing to change") {
		t.Errorf("a second run:\n%s", out)
	}
	// A new bundle for the same host changes what differs, and --undo still leads
	// back to the beginning.
	s.sekisho("", "host", "bundle", "web1", "--again", "--out", "/root/new.bundle")
	b, err = s.broker.ReadFile("/root/new.bundle")
	if err != nil {
		t.Fatal(err)
	}
	s.put(s.web, "/root/new.bundle", string(b), 0o600)
	if out := s.enrolled("/root/new.bundle", "--yes"); strings.Count(out, "\n+++ ")+strings.Count(out, "\n--- ") > 2 || !strings.Contains(out, "/etc/sekisho/password") {
		t.Errorf("a new bundle:\n%s", out)
	}

	// Without sekishod nobody of the directory gets in, and all others do.
	if err := sekishod.Stop(); err != nil {
		t.Fatal(err)
	}
	s.fails(s.byPassword("alice", password))
	s.works(s.login("root", root))
	s.works(s.byPassword("carol", password))

	s.enrolled("--undo")
	s.unchanged(before, "after --undo")
	if out, code := s.enrol("--undo"); code != 1 || !strings.Contains(out, "nothing to undo") {
		t.Errorf("--undo, again: %d %s", code, out)
	}
}

// TestFollowABroker: with a feed, a host holds no account of the directory: it
// follows the broker, is cut off at once when its key is taken out, and answers
// from what it has until it is too old.
func TestFollowABroker(t *testing.T) {
	t.Parallel()
	s := newFeedSite(t)
	before := s.tree()
	out := s.enrolled(s.bundle, "--yes")
	for _, want := range []string{"+[upstream]", "+++ /etc/sekisho/host.key", "+++ /etc/sekisho/host.crt"} {
		if !strings.Contains(out, want) {
			t.Errorf("the diff does not have %q:\n%s", want, out)
		}
	}
	for _, not := range []string{"PRIVATE KEY", "[directory]", "/etc/sekisho/password"} {
		if strings.Contains(out, not) {
			t.Errorf("the diff has %q:\n%s", not, out)
		}
	}
	status := func(args ...string) string {
		t.Helper()
		return strings.Join(strings.Fields(s.must(s.broker, binDir+"/sekisho", append([]string{"status"}, args...)...)), " ")
	}
	if out := status(); !strings.Contains(out, "hosts 0 of 1 follow, 0 sessions there") || !strings.Contains(out, "web1 not seen") {
		t.Errorf("the broker's status before the host came:\n%s", out)
	}
	s.startSekishod(s.web)
	s.startSSHD()
	s.soon("the broker's status", func() error { // what the host has applied, the broker hears a moment later
		if out := status(); !strings.Contains(out, "hosts 1 of 1 follow, 0 sessions there") || !strings.Contains(out, "web1 following connected") {
			return errors.New(out)
		}
		return nil
	})
	if out := status("--json"); !strings.Contains(out, `"host": "web1", "state": "following", "from": "`) {
		t.Errorf("the broker's status:\n%s", out)
	}
	if out := s.must(s.web, binDir+"/sekisho", "check"); !strings.Contains(out, "follows the broker") || strings.Contains(out, "warning") {
		t.Errorf("check: %s", out)
	}
	s.works(s.login("alice", s.key))
	s.works(s.byPassword("alice", password))
	s.works(s.byTicket("alice"))
	s.fails(s.login("bob", s.key))
	s.fails(s.byPassword("bob", password))
	s.fails(s.byPassword("alice", "wrong"))

	// Nobody on the host can learn of bob, who may not enter it.
	if out, err := s.web.Command(t.Context(), "getent", "passwd", "bob").CombinedOutput(); err == nil {
		t.Errorf("the host knows bob: %s", out)
	}
	s.must(s.web, "getent", "passwd", "alice")
	if out, err := s.web.Command(t.Context(), binDir+"/sekisho", "user", "ls").CombinedOutput(); err == nil || !strings.Contains(string(out), "follows the broker") {
		t.Errorf("user ls on a host: %v %s", err, out)
	}
	if out, err := s.web.Command(t.Context(), "grep", "-rc", "bob", "/var/lib/sekisho/feed").CombinedOutput(); err == nil {
		t.Errorf("the host's disk knows bob: %s", out)
	}
	s.sekisho("", "rule", "add", "bob-keys", "--subject", "user:bob", "--door", "keys", "--target", "host:web1")
	s.sekisho("", "rule", "add", "bob-pam", "--subject", "user:bob", "--door", "pam", "--target", "host:web1")
	s.soon("bob, whom a rule lets in now", func() error { return s.login("bob", s.key) })
	s.sekisho("", "rule", "rm", "bob-keys")
	s.sekisho("", "rule", "rm", "bob-pam")
	s.soon("bob, whose rule is gone", func() error {
		if s.login("bob", s.key) == nil {
			return errors.New("was let in")
		}
		return nil
	})
	out = s.must(s.broker, binDir+"/sekisho", "revoke", "alice", "--wait")
	if !strings.Contains(out, s.web.FQDN) && !strings.Contains(out, "web1") {
		t.Errorf("revoke --wait does not name the host:\n%s", out)
	}
	s.fails(s.login("alice", s.key))

	// A second bundle is asked for by name, and ends the first.
	if out, err := s.broker.Command(t.Context(), binDir+"/sekisho", "host", "bundle", "web1", "--out", "/root/more").CombinedOutput(); err == nil || !strings.Contains(string(out), "--again") {
		t.Errorf("a second bundle: %v %s", err, out)
	}
	s.sekisho("", "host", "bundle", "web1", "--again", "--out", "/root/new.bundle")
	s.soon("the old key is cut off", func() error {
		if out := s.must(s.web, binDir+"/sekisho", "status"); !strings.Contains(out, "sekishoHostKey") {
			return errors.New(out)
		}
		return nil
	})
	b, err := s.broker.ReadFile("/root/new.bundle")
	if err != nil {
		t.Fatal(err)
	}
	s.put(s.web, "/root/new.bundle", string(b), 0o600)
	s.enrolled("/root/new.bundle", "--yes")
	s.soon("the new key", func() error {
		if out := s.must(s.web, binDir+"/sekisho", "status"); strings.Contains(out, "sekishoHostKey") {
			return errors.New(out)
		}
		return nil
	})
	if out := s.enrolled("/root/new.bundle"); !strings.Contains(out, "nothing to change") {
		t.Errorf("a second run:\n%s", out)
	}
	s.stopAll()
	s.enrolled("--undo")
	s.unchanged(before, "after --undo")
}

// soon waits for f to be nil.
func (s *site) soon(what string, f func() error) {
	s.t.Helper()
	var err error
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	s.t.Errorf("%s: %v", what, err)
}

// noSecret fails when a text has what only root may see.
func noSecret(t *testing.T, b Bundle, text string) {
	t.Helper()
	for _, secret := range []string{b.Directory.Password, base64.StdEncoding.EncodeToString(b.Kerberos.HostKeytab)[:20]} {
		if strings.Contains(text, secret) {
			t.Errorf("a secret is shown:\n%s", text)
		}
	}
}

// byTicket is a login with Debian's kinit and ssh.
func (s *site) byTicket(user string) error {
	s.t.Helper()
	conf, err := s.web.ReadFile(krb5Conf)
	if err != nil {
		return err
	}
	s.put(s.client, "/etc/krb5.conf", string(conf), 0o644)
	kinit := s.client.Command(s.t.Context(), "kinit", "-c", "/run/cc", user)
	kinit.Stdin = strings.NewReader(password + "\n")
	if out, err := kinit.CombinedOutput(); err != nil {
		return fmt.Errorf("kinit: %w: %s", err, out)
	}
	defer s.client.Inside(func() error { return os.Remove("/run/cc") })
	c := s.client.Command(s.t.Context(), "ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=/etc/ssh/ssh_known_hosts",
		"-o", "PreferredAuthentications=gssapi-with-mic", "-o", "GSSAPIAuthentication=yes", "-o", "KexAlgorithms=curve25519-sha256",
		"-l", user, s.web.FQDN, "id -un")
	c.Env = append(c.Env, "KRB5CCNAME=FILE:/run/cc")
	out, err := c.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != user {
		return fmt.Errorf("%s by ticket: %v: %s", user, err, out)
	}
	return nil
}

// TestOtherPeoplesFiles: what is there already stays, and what of ours is
// needed is added to it.
func TestOtherPeoplesFiles(t *testing.T) {
	t.Parallel()
	const krb5 = "[libdefaults]\n\tdefault_realm = EXAMPLE.NET\nincludedir /etc/krb5.more\n"
	s := newSite(t, map[string]string{
		"/etc/ssh/sshd_config": strings.TrimPrefix(debian["/etc/ssh/sshd_config"], "Include /etc/ssh/sshd_config.d/*.conf\n"),
		"/etc/krb5.conf":       krb5,
	})
	s.must(s.web, "mkdir", "/etc/krb5.more") // or MIT refuses the whole
	// A keytab with somebody else's keys, made by MIT.
	add := s.web.Command(t.Context(), "ktutil")
	add.Stdin = strings.NewReader("addent -password -p nfs/web1.example.org@EXAMPLE.NET -k 3 -e aes256-cts-hmac-sha1-96\nsecret\nwkt /etc/krb5.keytab\nquit\n")
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	before := s.tree()
	out := s.enrolled(s.bundle, "--yes")
	for _, want := range []string{"+Include /etc/ssh/sshd_config.d/10-sekisho.conf", "+++ /etc/krb5.more/sekisho", "note: tickets of SEKISHO.INTERNAL open no login"} {
		if !strings.Contains(out, want) {
			t.Errorf("the diff does not have %q:\n%s", want, out)
		}
	}
	if b, err := s.web.ReadFile("/etc/krb5.conf"); err != nil || string(b) != krb5 {
		t.Errorf("krb5.conf is %q, %v", b, err)
	}
	keys := s.must(s.web, "klist", "-kte")
	for _, want := range []string{"3 ", "nfs/web1.example.org@EXAMPLE.NET", "host/web1.example.org@SEKISHO.INTERNAL"} {
		if !strings.Contains(keys, want) {
			t.Errorf("the keytab has not %q:\n%s", want, keys)
		}
	}
	s.startSekishod(s.web)
	s.startSSHD()
	s.works(s.login("alice", s.key))
	if out := s.enrolled(s.bundle); !strings.Contains(out, "nothing to change") {
		t.Errorf("a second run:\n%s", out)
	}
	s.stopAll()
	s.enrolled("--undo")
	s.unchanged(before, "after --undo")
}

// stopAll ends sekishod on web, as an administrator would before --undo.
func (s *site) stopAll() {
	s.t.Helper()
	s.must(s.web, "sh", "-c", "kill $(ps -eo pid,comm | awk '$2 == \"sekishod\" {print $1}') && while ps -eo comm | grep -qx sekishod; do sleep 0.05; done")
}

// TestRefused: what would not be safe is refused, and nothing has changed.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	before := s.tree()
	put := func(path, text string, mode os.FileMode) func() {
		old, err := s.web.ReadFile(path)
		s.put(s.web, path, text, mode)
		return func() {
			if err != nil {
				s.must(s.web, "rm", path)
				return
			}
			s.put(s.web, path, string(old), 0o644)
		}
	}
	bundle, err := s.web.ReadFile(s.bundle)
	if err != nil {
		t.Fatal(err)
	}
	nothing := func() func() { return func() {} }
	for name, c := range map[string]struct {
		prepare func() func()
		args    []string
		code    int
		says    string
	}{
		"no bundle":      {nothing, nil, 2, "name the bundle"},
		"both":           {nothing, []string{s.bundle, "--undo"}, 2, "name the bundle"},
		"no file":        {nothing, []string{"/root/none"}, 2, "no such file"},
		"nobody to ask":  {nothing, []string{s.bundle}, 2, "say --yes"},
		"never enrolled": {nothing, []string{"--undo", "--yes"}, 1, "nothing to undo"},
		"open bundle":    {func() func() { return put("/root/open", string(bundle), 0o644) }, []string{"/root/open", "--yes"}, 2, "can be read or changed by others"},
		"half a bundle":  {func() func() { return put("/root/half", string(bundle[:len(bundle)/2]), 0o600) }, []string{"/root/half", "--yes"}, 2, "not all of one"},
		"another keys command": {func() func() {
			return put("/etc/ssh/sshd_config.d/20-x.conf", "AuthorizedKeysCommand /usr/bin/sss_ssh_authorizedkeys\nAuthorizedKeysCommandUser nobody\n", 0o644)
		}, []string{s.bundle, "--yes"}, 1, "sss_ssh_authorizedkeys"},
		"sshd is broken already": {func() func() { return put("/etc/ssh/sshd_config.d/20-x.conf", "Nonsense yes\n", 0o644) }, []string{s.bundle, "--yes"}, 1, "Nonsense"},
		"somebody says otherwise earlier": {func() func() { return put("/etc/ssh/sshd_config.d/00-x.conf", "UsePAM no\n", 0o644) },
			[]string{s.bundle, "--yes"}, 1, `sshd goes by usepam "no" and not by`},
		"another stack": {func() func() { return put("/etc/pam.d/common-auth", "auth required pam_unix.so\n", 0o644) },
			[]string{s.bundle, "--yes"}, 1, "common-auth cannot be changed safely"},
		"nsswitch of another kind": {func() func() { return put("/etc/nsswitch.conf", "passwd: files [NOTFOUND=return] nis\n", 0o644) }, []string{s.bundle, "--yes"}, 1, "by hand"},
		"a key of another realm": {func() func() {
			return put("/etc/krb5.keytab", otherKeytab(t, bundle), 0o600)
		}, []string{s.bundle, "--yes"}, 1, "another key of host/web1"},
		"no keytab": {func() func() { return put("/etc/krb5.keytab", "what is this", 0o600) }, []string{s.bundle, "--yes"}, 1, "no keytab"},
	} {
		undo := c.prepare()
		out, code := s.enrol(c.args...)
		if code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("%s: %d\n… %s", name, code, out[max(0, len(out)-500):])
		}
		undo()
		s.same(before, name)
	}
	out, err := s.web.CommandAs(t.Context(), "carol", binDir+"/sekisho", "host", "enrol", "--undo").CombinedOutput()
	if exitCode(t, err) != 1 || !strings.Contains(string(out), "only root") {
		t.Errorf("carol: %v %s", err, out)
	}
}

// same is unchanged, but for when files were written.
func (s *site) same(before map[string]string, when string) {
	s.t.Helper()
	after := s.tree()
	cut := func(tree map[string]string, path string) string {
		text := tree[path]
		if i := strings.Index(text, " UTC "); i > 0 {
			mode, _, _ := strings.Cut(text, " 20")
			return mode + text[i:]
		}
		return text
	}
	for path := range before {
		if cut(before, path) != cut(after, path) {
			s.t.Errorf("%s: %s was %.200q and is %.200q", when, path, cut(before, path), cut(after, path))
		}
	}
	for path := range after {
		if _, ok := before[path]; !ok {
			s.t.Errorf("%s: %s is new", when, path)
		}
	}
}

// otherKeytab has the bundle's principals with other keys.
func otherKeytab(t *testing.T, bundle []byte) string {
	t.Helper()
	b, err := parseBundle(bundle)
	if err != nil {
		t.Fatal(err)
	}
	es, err := readKeytab(b.Kerberos.HostKeytab)
	if err != nil {
		t.Fatal(err)
	}
	for i := range es {
		es[i].Key.Value[0] ^= 1
	}
	text, err := formatKeytab(es)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
