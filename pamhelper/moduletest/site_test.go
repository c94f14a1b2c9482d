package moduletest

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

const password = "correct horse"

// site is a host with the scripted sekishod, Debian's own programs and service
// files, and the common files of docs/pam.d.
type site struct {
	t            *testing.T
	d            *door
	host, client *testenv.Host
}

// newSite makes it. alice and bob count as users of the directory, as in
// docs/pam.d; NSS finds them in the host's /etc/passwd, where pam_localuser is
// told not to look. local is a local account with the same password.
func newSite(t *testing.T) *site {
	t.Helper()
	module(t)
	w := testenv.ForTest(t)
	s := &site{t: t, host: w.Need(t, "web1"), client: w.Need(t, "client")}
	for name, uid := range map[string]int{"alice": aliceUID, "bob": 2002, "local": 2003} {
		if err := s.host.AddUser(testenv.LocalUser{Name: name, UID: uid}); err != nil {
			t.Fatal(err)
		}
		home := "/home/" + name // not made for a user whom the sandbox has already
		if err := s.host.Inside(func() error { return os.MkdirAll(home, 0o700) }); err != nil {
			t.Fatal(err)
		}
		if err := s.host.Chown(home, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.host.WriteFile("/etc/passwd.local", []byte("root:x:0:0::/root:/bin/bash\nlocal:x:2003:2003::/home/local:/bin/bash\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.must(s.host.Command(t.Context(), "sh", "-c", "echo 'local:"+password+"\nroot:"+password+"' | chpasswd -c SHA256"))
	files, err := filepath.Glob("../../docs/pam.d/common-*")
	if err != nil || len(files) != 5 {
		t.Fatalf("docs/pam.d has %q: %v", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(b), "pam_localuser.so", "pam_localuser.so file=/etc/passwd.local")
		if err := s.host.WriteFile("/etc/pam.d/"+filepath.Base(f), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.d = &door{dir: "/run/sekisho", path: "/run/sekisho/pam.sock", plans: map[string][]wire.Answer{}}
	var l net.Listener
	err = s.host.Inside(func() error {
		if err := os.MkdirAll("/run/sekisho/tickets", 0o755); err != nil {
			return err
		}
		if err := os.Chmod("/run/sekisho/tickets", 0o711); err != nil {
			return err
		}
		if l, err = net.Listen("unix", s.d.path); err != nil {
			return err
		}
		return os.Chmod(s.d.path, 0o666)
	})
	if err != nil {
		t.Fatal(err)
	}
	s.d.serve(t, l)
	s.d.plan("auth", prompt("password Password: "), yes("login "+token))
	s.d.plan("account", yes())
	s.d.plan("credentials", wire.Answer{Outcome: wire.Yes, Body: ticketBody(folder, ccache(100))})
	s.d.plan("credentials delete", yes())
	s.d.plan("session", yes("session "+sessionID))
	s.d.plan("session close", yes())
	return s
}

func (s *site) must(cmd *testenv.Cmd) string {
	s.t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%q: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

// ended waits until a session's end has been reported, and returns the requests
// since the last call.
func (s *site) ended() []string {
	s.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		s.d.mu.Lock()
		n := len(s.d.asked)
		done := n > 0 && s.d.asked[n-1].Get("op") == "close"
		s.d.mu.Unlock()
		if done {
			return s.d.heard()
		}
	}
	s.t.Errorf("no session's end was reported; there was %q", s.d.heard())
	return nil
}

// bare is requests without what differs from run to run.
func bare(requests []string) []string {
	var out []string
	for _, l := range requests {
		var keep []string
		for _, w := range strings.Fields(l) {
			name, _, _ := strings.Cut(w, "=")
			switch name {
			case "pid", "tty", "rhost", "authinfo":
				continue
			}
			keep = append(keep, strings.ReplaceAll(w, token, "TOKEN"))
		}
		out = append(out, strings.Join(keep, " "))
	}
	return out
}

// noTickets checks that the folder is empty, soon.
func (s *site) noTickets() {
	s.t.Helper()
	var names []os.DirEntry
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		s.host.Inside(func() (err error) { names, err = os.ReadDir("/run/sekisho/tickets"); return err })
		if len(names) == 0 {
			return
		}
	}
	s.t.Errorf("tickets are left: %v", names)
}

// sees is what a user's process must have of us, and no token.
func (s *site) sees(out string, tickets bool) {
	s.t.Helper()
	if strings.Contains(out, "SEKISHO_LOGIN") || strings.Contains(out, token) {
		s.t.Errorf("the token is in the user's environment:\n%s", out)
	}
	if strings.Contains(out, "KRB5CCNAME=FILE:/run/sekisho/tickets/"+folder+"/cc\n") != tickets || strings.Contains(out, "cache is 100") != tickets {
		s.t.Errorf("tickets are to be there: %v; it has:\n%s", tickets, out)
	}
}

// look is a shell command that prints the environment, as it is and as the process
// was born with it, and the size of the ticket cache.
const look = `env; tr '\0' '\n' </proc/$$/environ; [ -z "$KRB5CCNAME" ] || echo "cache is $(wc -c <${KRB5CCNAME#FILE:})"`
