package moduletest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

// ssh logs in to the site, answering prompts with replies, one after the other.
func (s *site) ssh(port int, user string, key *testenv.Key, method, command string, replies ...string) (out string, asked string, err error) {
	dir := s.t.TempDir()
	for i, r := range replies {
		os.WriteFile(filepath.Join(dir, fmt.Sprintf("reply%d", i+1)), []byte(r+"\n"), 0o600)
	}
	ask := filepath.Join(dir, "ask")
	os.WriteFile(ask, []byte(`#!/bin/sh
n=$(($(cat "$0.n" 2>/dev/null || echo 0) + 1))
echo $n >"$0.n"
printf '%s\n' "$1" >>"$0.log"
cat "${0%ask}reply$n"
`), 0o755)
	options := []string{"BatchMode=no", "NumberOfPasswordPrompts=1"}
	if method != "" {
		options = append(options, "PreferredAuthentications="+method)
	}
	cmd := s.client.SSH(s.t.Context(), testenv.SSHCall{To: s.host, Port: port, User: user, Key: key, Command: command, Options: options})
	cmd.Env = append(cmd.Env, "SSH_ASKPASS="+ask, "SSH_ASKPASS_REQUIRE=force", "DISPLAY=:0")
	b, err := cmd.CombinedOutput()
	log, _ := os.ReadFile(ask + ".log")
	return string(b), string(log), err
}

func (s *site) sshd(port int, lines ...string) {
	s.t.Helper()
	pam, err := os.ReadFile("/etc/pam.d/sshd") // Debian's
	if err != nil {
		s.t.Fatal(err)
	}
	// pam_selinux, pam_loginuid and the like are Debian's as well.
	_, err = s.host.StartSSHD(s.t.Context(), testenv.SSHDConfig{Port: port, PAM: string(pam), Lines: lines})
	if err != nil {
		s.t.Fatal(err)
	}
}

// What sshd asks of a sign-in, in its processes' order: it authenticates in a child
// of its own (keyboard-interactive) or in its monitor (password), and passes over
// setcred, since pam_localuser above has just said yes to that.
var (
	signIn = []string{"auth user=alice service=sshd", "answer a1=" + password}
	after  = []string{"account user=alice service=sshd login=TOKEN",
		"session user=alice service=sshd op=open login=TOKEN",
		"credentials user=alice op=establish login=TOKEN session=" + sessionID,
		"session user=alice service=sshd op=close login=TOKEN session=" + sessionID}
)

func TestSSHDKeyboardInteractive(t *testing.T) {
	s := newSite(t)
	s.sshd(22, "KbdInteractiveAuthentication yes")
	s.d.plan("auth", prompt("password Password: "), prompt("secret One-time code: ", "visible Where are you? "), yes("login "+token, "info Welcome."))
	out, asked, err := s.ssh(22, "alice", nil, "keyboard-interactive", look, password, "123456", "here")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.sees(out, true)
	if !strings.Contains(out, "Welcome.") || strings.Count(asked, "\n") != 3 || !strings.Contains(asked, "One-time code: ") {
		t.Errorf("it asked %q and said\n%s", asked, out)
	}
	wants(t, bare(s.ended()), append(append(signIn[:2:2], "answer a1=123456 a2=here"), after...)...)
	s.noTickets()

	// Refused, and not found out: no login, and no more requests.
	for name, a := range map[string]wire.Answer{"no": no("wrong-password", ""), "unknown": unknown("clock", "this host's clock is 7 min 12 s behind")} {
		s.d.plan("auth", prompt("password Password: "), a)
		out, asked, err := s.ssh(22, "alice", nil, "keyboard-interactive", look, password)
		if err == nil || strings.Contains(out, "USER=") {
			t.Errorf("%s: in:\n%s", name, out)
		}
		if name == "unknown" && !strings.Contains(out+asked, "7 min 12 s behind") {
			t.Errorf("the user is not told why:\n%s%s", out, asked)
		}
		if got := bare(s.d.heard()); strings.Join(got, "\n") != strings.Join(signIn, "\n") {
			t.Errorf("%s: %q", name, got)
		}
	}
	// Signed in, and no right to be here.
	s.d.plan("auth", prompt("password Password: "), yes("login "+token))
	s.d.plan("account", no("no-rule", "no rule lets you in"))
	if out, _, err := s.ssh(22, "alice", nil, "keyboard-interactive", look, password); err == nil || strings.Contains(out, "USER=") {
		t.Errorf("in:\n%s", out)
	}
	wants(t, bare(s.d.heard()), append(signIn[:2:2], after[0])...)
	// Expired: sshd has it changed on the spot.
	s.d.plan("account", no("password-expired", "your password has expired"))
	s.d.plan("passwd", prompt("password Current password: "), prompt("new-password New password: ", "new-password Again: "), yes())
	out, asked, err = s.ssh(22, "alice", nil, "keyboard-interactive", look, password, password, "new secret", "new secret", "new secret", "new secret")
	if err != nil || !strings.Contains(out, "USER=alice") {
		t.Errorf("%v:\n%s%s", err, asked, out)
	}
	wants(t, bare(s.ended()), append(append(signIn[:2:2], after[0], "passwd user=alice service=sshd phase=check", "answer a1="+password,
		"answer a1=new secret a2=new secret", "passwd user=alice service=sshd phase=change", "answer a1="+password, "answer a1=new secret a2=new secret"), after[1:]...)...)
}

func TestSSHDPassword(t *testing.T) {
	s := newSite(t)
	s.sshd(22, "PasswordAuthentication yes")
	out, _, err := s.ssh(22, "alice", nil, "password", look, password)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.sees(out, true)
	// The monitor authenticates, so that its setcred goes the same way.
	wants(t, bare(s.ended()), append(signIn[:2:2], after[0], "credentials user=alice op=establish login=TOKEN",
		"session user=alice service=sshd op=open login=TOKEN session="+sessionID, after[3])...)
	s.noTickets()
	s.d.plan("auth", prompt("password Password: "), no("wrong-password", ""))
	if out, _, err := s.ssh(22, "alice", nil, "password", look, password); err == nil {
		t.Errorf("in:\n%s", out)
	}
	wants(t, bare(s.d.heard()), signIn...)
}

func TestSSHDKeys(t *testing.T) {
	s := newSite(t)
	key, err := testenv.NewKey("alice@client")
	if err != nil {
		t.Fatal(err)
	}
	blob := strings.Fields(string(key.Public))[1]
	for _, home := range []string{"/home/alice", "/home/bob", "/home/local", "/root"} {
		if err := s.host.WriteFile(home+"/.ssh/authorized_keys", key.Public, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.sshd(22, "PasswordAuthentication yes")
	s.sshd(2222, "PasswordAuthentication yes", "AuthenticationMethods publickey,password")
	s.sshd(2223, "KbdInteractiveAuthentication yes", "AuthenticationMethods publickey,keyboard-interactive")
	// A key alone: no sign-in, so no tickets; but the account is judged, and by the key.
	out, _, err := s.ssh(22, "alice", key, "publickey", look)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.sees(out, false)
	heard := s.ended()
	if len(heard) != 3 || !strings.HasPrefix(heard[0], "account user=alice service=sshd tty=ssh rhost=203.0.113.") ||
		!strings.Contains(heard[1], "op=open") || !strings.Contains(heard[2], "op=close") {
		t.Errorf("heard %q", heard)
	}
	// sshd 9.2 calls pam_acct_mgmt before it notes by what the user came in: of the
	// last method, and so of a key alone, SSH_AUTH_INFO_0 says nothing there. It does
	// when the session opens.
	if !strings.HasSuffix(heard[0], " authinfo=") || !strings.Contains(heard[1], " authinfo=publickey ssh-ed25519 "+blob+"\n") {
		t.Errorf("of a key sshd says %q", heard)
	}
	// A session that is refused runs nothing: no command, shell, sftp or forwarding.
	s.d.plan("session", no("no-rule", "no rule lets you in"), no("no-rule", ""), no("no-rule", ""), no("no-rule", ""))
	for _, how := range []struct{ options, command []string }{
		{nil, []string{look}}, {[]string{"-tt"}, []string{look}}, {[]string{"-s"}, []string{"sftp"}}, {[]string{"-W", "127.0.0.1:22"}, nil}} {
		c := s.client.SSH(t.Context(), testenv.SSHCall{To: s.host, User: "alice", Key: key})
		host := c.Args[len(c.Args)-1]
		c.Args = slices.Concat(c.Args[:len(c.Args)-1], how.options, []string{host}, how.command)
		if out, err := c.CombinedOutput(); err == nil || strings.Contains(string(out), "USER=") || strings.Contains(string(out), "SSH-2.0") {
			t.Errorf("%q in a session that was refused: %v\n%s", how, err, out)
		}
	}
	s.d.heard()
	s.d.plan("session", yes("session "+sessionID))
	// A locked account does not get in by its key, nor when it cannot be found out.
	for _, a := range []wire.Answer{no("locked", "your account is locked"), unknown("no-snapshot", ""), no("unknown-user", ""), no("shadow-expired", "")} {
		s.d.plan("account", a)
		if out, _, err := s.ssh(22, "alice", key, "publickey", look); err == nil || strings.Contains(out, "USER=") {
			t.Errorf("%s: in:\n%s", a.Reason, out)
		}
		wants(t, bare(s.d.heard()), "account user=alice service=sshd")
	}
	// A key first: of what was verified before, keyboard-interactive is told at once,
	// and password only with the account.
	s.d.plan("account", yes())
	verified := " authinfo=publickey ssh-ed25519 " + blob + "\n"
	for _, tc := range []struct {
		port            int
		method          string
		inAuth          bool
		firstWithTicket string
	}{{2222, "publickey,password", false, "credentials"}, {2223, "publickey,keyboard-interactive", true, "session"}} {
		out, _, err = s.ssh(tc.port, "alice", key, tc.method, look, password)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		s.sees(out, true)
		heard = s.ended()
		if len(heard) != 6 || strings.HasSuffix(heard[0], verified) != tc.inAuth || !strings.HasSuffix(heard[2], verified+" login="+token) ||
			!strings.HasPrefix(heard[3], tc.firstWithTicket+" ") {
			t.Errorf("%s: heard %q", tc.method, heard)
		}
	}
	// Local accounts come in without sekishod; root too, when it is gone.
	for _, user := range []string{"local", "root"} {
		if out, _, err := s.ssh(22, user, key, "publickey", "id -un"); err != nil || !strings.Contains(out, user) {
			t.Errorf("%v\n%s", err, out)
		}
	}
	if out, _, err := s.ssh(22, "local", nil, "password", "id -un", password); err != nil || !strings.Contains(out, "local") {
		t.Errorf("%v\n%s", err, out)
	}
	if heard := s.d.heard(); len(heard) != 0 {
		t.Errorf("sekishod was asked about local accounts: %q", heard)
	}
}
