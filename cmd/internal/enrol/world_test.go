package enrol

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

// TestMain: a copy of this test binary called enrol-step enrols or undoes, and
// kills itself before a step: enrol-step enrol|undo STEP BUNDLE.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "enrol-step" {
		os.Exit(stepMain())
	}
	testenv.Main(m)
}

const (
	binDir = "/usr/local/bin"
	libDir = "/usr/local/lib/sekisho"
)

func stepMain() int {
	at, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return 2
	}
	n := 0
	c := Config{Bin: binDir, Lib: libDir, PAM: true, SSH: true, Step: func(what string) {
		if n == at {
			fmt.Println(what)
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		n++
	}}
	ctx := context.Background()
	switch os.Args[1] {
	case "undo":
		_, err = Undo(ctx, c, false)
	default:
		var b Bundle
		var p *Plan
		var e *Enrolment
		if b, err = ReadBundle(os.Args[3]); err == nil {
			p, err = NewPlan(c, b)
		}
		if err == nil {
			e, err = Apply(ctx, c, p)
		}
		if err == nil {
			err = e.Verify(ctx)
		}
		if err == nil {
			_, err = e.Start(ctx)
		}
		if err == nil {
			err = e.Confirm()
		}
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("done")
	return 0
}

// Debian 12's own files, as its packages write them, but for nodelay: a wrong
// password costs two seconds without.
var debian = map[string]string{
	"/etc/nsswitch.conf": "# a comment\npasswd:         files\ngroup:          files\nshadow:         files\ngshadow:        files\n\nhosts:          files dns\n",
	"/etc/pam.d/common-auth": "# here are the per-package modules (the \"Primary\" block)\n" +
		"auth\t[success=1 default=ignore]\tpam_unix.so nullok nodelay\n# here's the fallback if no module succeeds\nauth\trequisite\t\t\tpam_deny.so\n" +
		"auth\trequired\t\t\tpam_permit.so\n# end of pam-auth-update config\n",
	"/etc/pam.d/common-account":                "account\t[success=1 new_authtok_reqd=done default=ignore]\tpam_unix.so \naccount\trequisite\t\t\tpam_deny.so\naccount\trequired\t\t\tpam_permit.so\n",
	"/etc/pam.d/common-session":                "session\t[default=1]\t\t\tpam_permit.so\nsession\trequisite\t\t\tpam_deny.so\nsession\trequired\t\t\tpam_permit.so\nsession\trequired\tpam_unix.so \n",
	"/etc/pam.d/common-session-noninteractive": "session\t[default=1]\t\t\tpam_permit.so\nsession\trequisite\t\t\tpam_deny.so\nsession\trequired\t\t\tpam_permit.so\nsession\trequired\tpam_unix.so \n",
	"/etc/pam.d/common-password":               "password\t[success=1 default=ignore]\tpam_unix.so obscure yescrypt\npassword\trequisite\t\t\tpam_deny.so\npassword\trequired\t\t\tpam_permit.so\n",
	"/etc/pam.d/sshd": "@include common-auth\naccount    required     pam_nologin.so\n@include common-account\n" +
		"session    required     pam_loginuid.so\n@include common-session\n@include common-password\n",
	"/etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\nKbdInteractiveAuthentication no\nUsePAM yes\nKexAlgorithms curve25519-sha256\nHostKey /etc/ssh/ssh_host_ed25519_key\nPidFile /run/sshd.pid\nUseDNS no\n",
}

// site is a realm's machine, a fresh machine, and somebody else's.
type site struct {
	t                   *testing.T
	w                   *testenv.World
	broker, web, client *testenv.Host
	bundle              string // where web has it
	key                 *testenv.Key
}

const password = "correct horse battery"

// newSite starts a realm and makes web a Debian as it comes. more are further
// files, "" to have none.
func newSite(t *testing.T, more map[string]string) *site {
	t.Helper()
	return newSiteOf(t, more, "")
}

// newFeedSite is newSite with a broker that hosts follow instead of the directory.
func newFeedSite(t *testing.T) *site {
	t.Helper()
	return newSiteOf(t, nil, "feed")
}

func newSiteOf(t *testing.T, more map[string]string, kind string) *site {
	t.Helper()
	for _, name := range []string{"sekishod", "sekisho", "sekisho-keys", "sekisho-reaper", "pam_sekisho.so"} {
		if _, err := testenv.Program(name); err != nil {
			t.Fatal(err)
		}
	}
	w := testenv.ForTest(t)
	s := &site{t: t, w: w, broker: w.Need(t, "broker"), web: w.Need(t, "web1"), client: w.Need(t, "client"), bundle: "/root/web1.bundle"}
	a := s.broker.Addr
	conf := fmt.Sprintf("[realm]\nldap = [\"127.0.0.1:389\"]\nldaps = [\"%s:636\"]\nkdc = [\"%s:88\"]\nnames = [%q]\n", a, a, s.broker.FQDN)
	if kind == "feed" {
		conf += fmt.Sprintf("[feed]\nlisten = [\"%s:714\"]\n", a) // a port that only root can open
	}
	s.put(s.broker, "/etc/sekisho/sekishod.toml", conf, 0o644)
	s.startSekishod(s.broker)
	s.makeDebian(more)

	var err error
	if s.key, err = testenv.NewKey("alice@client"); err != nil {
		t.Fatal(err)
	}
	s.put(s.broker, "/root/alice.pub", string(s.key.Public), 0o600)
	s.sekisho(password, "user", "add", "alice", "--key", "/root/alice.pub", "--password-stdin")
	s.sekisho(password, "user", "add", "bob", "--key", "/root/alice.pub", "--password-stdin")
	s.sekisho("", "host", "add", "web1", "--addr", s.web.Addr.String(), "--alias", s.web.FQDN)
	for _, door := range []string{"keys", "pam"} {
		s.sekisho("", "rule", "add", "alice-"+door, "--subject", "user:alice", "--door", door, "--target", "host:web1")
	}
	s.sekisho("", "host", "bundle", "web1", "--out", "/root/web1.bundle")
	b, err := s.broker.ReadFile("/root/web1.bundle")
	if err != nil {
		t.Fatal(err)
	}
	s.put(s.web, s.bundle, string(b), 0o600)
	return s
}

// makeDebian has web be a Debian with a local user, and root, who log in by
// their own keys and passwords.
func (s *site) makeDebian(more map[string]string) {
	s.t.Helper()
	files := maps.Clone(debian)
	for _, gone := range []string{"/etc/krb5.conf", "/etc/krb5.keytab"} {
		files[gone] = ""
	}
	maps.Copy(files, more)
	for path, text := range files {
		if text != "" {
			s.put(s.web, path, text, 0o644)
		} else if err := s.web.Inside(func() error { return os.Remove(path) }); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.t.Fatal(err)
		}
	}
	if _, there := more["/etc/krb5.keytab"]; there {
		if err := s.web.Inside(func() error { return os.Chmod("/etc/krb5.keytab", 0o600) }); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, name := range []string{"sekisho", "sekisho-keys"} {
		s.must(s.web, "userdel", name)
	}
	if err := s.web.AddUser(testenv.LocalUser{Name: "carol"}); err != nil {
		s.t.Fatal(err)
	}
	cmd := s.web.Command(s.t.Context(), "chpasswd", "-c", "SHA256", "-s", "1000")
	cmd.Stdin = strings.NewReader("carol:" + password + "\nroot:" + password + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
}

// authorize gives a local user of web a key of his own.
func (s *site) authorize(home, owner string) *testenv.Key {
	s.t.Helper()
	key, err := testenv.NewKey(owner + "@client")
	if err != nil {
		s.t.Fatal(err)
	}
	s.put(s.web, home+"/.ssh/authorized_keys", string(key.Public), 0o644)
	if err := s.web.Chown(home, owner); err != nil {
		s.t.Fatal(err)
	}
	return key
}

func (s *site) startSekishod(h *testenv.Host) *testenv.Daemon {
	s.t.Helper()
	d, err := h.Start(s.t.Context(), testenv.DaemonConfig{
		Name: "sekishod", Path: binDir + "/sekishod", ReadyTimeout: time.Minute, StopTimeout: time.Minute,
		Ready: func(ctx context.Context) error { return h.Command(ctx, binDir+"/sekisho", "status").Run() },
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

// startSSHD starts Debian's sshd with the machine's own configuration.
func (s *site) startSSHD() *testenv.Daemon {
	s.t.Helper()
	if err := s.web.Inside(func() error { os.Remove("/run/sshd.pid"); return nil }); err != nil {
		s.t.Fatal(err)
	}
	d, err := s.web.Start(s.t.Context(), testenv.DaemonConfig{
		Name: "sshd", Path: "/usr/sbin/sshd", Args: []string{"-D", "-e"},
		Ready: func(context.Context) error {
			return s.web.Inside(func() error { _, err := os.Stat("/run/sshd.pid"); return err })
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *site) put(h *testenv.Host, path, text string, mode os.FileMode) {
	s.t.Helper()
	if err := h.WriteFile(path, []byte(text), mode); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) must(h *testenv.Host, name string, args ...string) string {
	s.t.Helper()
	out, err := h.Command(s.t.Context(), name, args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// sekisho runs the command on the realm's machine.
func (s *site) sekisho(stdin string, args ...string) {
	s.t.Helper()
	c := s.broker.Command(s.t.Context(), binDir+"/sekisho", args...)
	c.Stdin = strings.NewReader(stdin + "\n")
	if out, err := c.CombinedOutput(); err != nil {
		s.t.Fatalf("sekisho %v: %v: %s", args, err, out)
	}
}

// enrol runs sekisho host enrol on web.
func (s *site) enrol(args ...string) (out string, code int) {
	s.t.Helper()
	b, err := s.web.Command(s.t.Context(), binDir+"/sekisho", append([]string{"host", "enrol"}, args...)...).CombinedOutput()
	return string(b), exitCode(s.t, err)
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exit interface{ ExitCode() int }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	t.Fatal(err)
	return -1
}

func (s *site) enrolled(args ...string) string {
	s.t.Helper()
	out, code := s.enrol(args...)
	if code != 0 {
		s.t.Fatalf("enrol %v: %d\n%s", args, code, out)
	}
	return out
}

// login is an ssh from the client by key; nil if it worked.
func (s *site) login(user string, key *testenv.Key, more ...string) error {
	s.t.Helper()
	out, err := s.client.SSH(s.t.Context(), testenv.SSHCall{To: s.web, User: user, Key: key, Command: "id -un", Options: more}).CombinedOutput()
	if err == nil && strings.TrimSpace(string(out)) != user {
		err = errors.New("somebody else")
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", user, err, out)
	}
	return nil
}

// byPassword is one by keyboard-interactive.
func (s *site) byPassword(user, password string) error {
	s.t.Helper()
	s.put(s.client, "/run/askpass", "#!/bin/sh\necho '"+password+"'\n", 0o755)
	c := s.client.SSH(s.t.Context(), testenv.SSHCall{To: s.web, User: user, Command: "id -un", Options: []string{
		"BatchMode=no", "PreferredAuthentications=keyboard-interactive", "NumberOfPasswordPrompts=1"}})
	c.Env = append(c.Env, "SSH_ASKPASS=/run/askpass", "SSH_ASKPASS_REQUIRE=force", "DISPLAY=:0")
	out, err := c.CombinedOutput()
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), user) {
		return fmt.Errorf("%s by password: %v: %s", user, err, out)
	}
	return nil
}

func (s *site) works(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Error(err)
	}
}

func (s *site) fails(err error) {
	s.t.Helper()
	if err == nil {
		s.t.Error("was let in")
	}
}

// tree is all of web's /etc and of what else may change, as text by path.
// useradd's own copies, and its lock, are nobody's.
func (s *site) tree() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	err := s.web.Inside(func() error {
		for _, root := range []string{"/etc", "/var/lib/sekisho-enrol", "/var/lib/sekisho", "/run/sekisho"} {
			err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				if err != nil {
					return err
				}
				name := d.Name()
				if strings.HasSuffix(name, "-") && filepath.Dir(path) == "/etc" || name == ".pwd.lock" || strings.HasPrefix(path, "/etc/ssl") ||
					path == "/var/lib/sekisho-enrol" || path == "/var/lib/sekisho-enrol/lock" {
					return nil
				}
				info, err := d.Info()
				if err != nil {
					return err
				}
				st := info.Sys().(*syscall.Stat_t)
				text := fmt.Sprintf("%v %d:%d ", info.Mode(), st.Uid, st.Gid)
				if info.Mode().IsRegular() {
					b, err := os.ReadFile(path)
					if err != nil {
						return err
					}
					if filepath.Dir(path) != "/etc" || !bytes.Contains(b, []byte(":x:")) && !strings.Contains(name, "shadow") { // accounts are rewritten
						text += info.ModTime().String() + " "
					}
					text += string(b)
				}
				all[path] = text
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// unchanged compares with an earlier tree.
func (s *site) unchanged(before map[string]string, when string) {
	s.t.Helper()
	after := s.tree()
	for path, text := range before {
		if after[path] != text {
			s.t.Errorf("%s: %s was %.300q and is %.300q", when, path, text, after[path])
		}
	}
	for path, text := range after {
		if _, ok := before[path]; !ok {
			s.t.Errorf("%s: %s is new: %.300q", when, path, text)
		}
	}
}
