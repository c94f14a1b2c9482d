package endtoend

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

// sshd enforces a rule's networks, and whoever is in two of them gets what
// both rules give.
func TestSourceNetworks(t *testing.T) {
	t.Parallel()
	p := someone(t, "net-a")
	rule(t, "net-wide", "user:net-a", "--from", "203.0.113.200/29", "--permit", "environment:WIDE=1")
	rule(t, "net-narrow", "user:net-a", "--from", addrNarrow+"/32", "--permit", "environment:NARROW=1", "--permit", "pty")
	rule(t, "net-six", "user:net-a", "--from", "2001:db8::200/120", "--permit", "environment:SIX=1")
	q := someone(t, "net-none")
	rule(t, "net-none", "user:net-none", "--from", "198.51.100.0/24")
	caughtUp(t, world.web)
	for _, c := range []struct{ from, want string }{
		{addrNarrow, "NARROW=1 WIDE=1"}, {addrWide, "WIDE=1"}, {addrSix, "SIX=1"},
	} {
		got := p.in(t, call{to: world.web, from: c.from, command: "env | grep -E '^(NARROW|WIDE|SIX)=' | sort | tr '\\n' ' '"})
		if got = strings.TrimSpace(got); got != c.want {
			t.Errorf("from %s: the session has %q, want %q", c.from, got, c.want)
		}
	}
	p.out(t, call{to: world.web, from: addrFar})
	p.out(t, call{to: world.web, from: addrSixFar})
	q.out(t, call{to: world.web, from: addrNarrow})
	q.out(t, call{to: world.web, from: addrSix})

	// A terminal from the narrow network only.
	tty := []string{"RequestTTY=force"}
	if out := p.in(t, call{to: world.web, from: addrNarrow, command: "tty", options: tty}); !strings.Contains(out, "/dev/pts/") {
		t.Errorf("no terminal from the narrow network: %s", out)
	}
	if out, _ := p.ssh(t.Context(), call{to: world.web, from: addrWide, command: "tty", options: tty}); strings.Contains(out, "/dev/pts/") {
		t.Errorf("a terminal from the wide network: %s", out)
	}
}

func TestForcedCommand(t *testing.T) {
	t.Parallel()
	p := someone(t, "cmd-a")
	const odd = `echo "forced: $SSH_ORIGINAL_COMMAND" 'and \ "quoted"', done`
	rule(t, "cmd-a", "user:cmd-a", "--permit", "command:"+odd)
	q := someone(t, "cmd-b")
	rule(t, "cmd-b1", "user:cmd-b", "--permit", "command:echo one")
	rule(t, "cmd-b2", "user:cmd-b", "--permit", "command:echo two")
	r := someone(t, "cmd-c")
	rule(t, "cmd-c1", "user:cmd-c", "--permit", "command:echo one")
	rule(t, "cmd-c2", "user:cmd-c")
	caughtUp(t, world.web)
	if got, want := p.in(t, call{to: world.web, command: "cat /etc/hostname"}), `forced: cat /etc/hostname and \ "quoted", done`; got != want {
		t.Errorf("the forced command printed %q, want %q", got, want)
	}
	// sftp and a shell are commands too.
	if got := p.in(t, call{to: world.web, command: "sftp", options: []string{"SessionType=subsystem"}}); !strings.HasPrefix(got, "forced:") {
		t.Errorf("a subsystem was not forced: %q", got)
	}
	q.out(t, call{to: world.web}) // two forced commands have no union
	if got := r.in(t, call{to: world.web, command: "echo free"}); got != "free" {
		t.Errorf("a rule that forces nothing was not joined: %q", got)
	}
}

// The expiry that the door prints is one that sshd itself keeps: an sshd that
// has the line from before still refuses the key after the rule's end.
func TestExpiryTime(t *testing.T) {
	t.Parallel()
	p := someone(t, "exp-a")
	end := time.Now().Add(40 * time.Second).Truncate(time.Second).UTC()
	rule(t, "exp-a", "user:exp-a", "--expires", end.Format(time.RFC3339))
	caughtUp(t, world.web)
	a, err := world.web.keyAnswer(p.name, p.key)
	need(t, err)
	if a.Outcome != wire.Yes || len(a.Body) != 1 || !strings.Contains(a.Body[0], `expiry-time="`+end.Format("20060102150405Z")+`"`) {
		t.Fatalf("the line has no expiry-time: %+v", a)
	}
	need(t, world.web.WriteFile("/etc/ssh/frozen/exp-a", []byte(a.Body[0]+"\n"), 0o644))
	_, err = world.web.StartSSHD(t.Context(), testenv.SSHDConfig{Port: 2201, Lines: []string{"AuthorizedKeysFile /etc/ssh/frozen/%u"}})
	need(t, err)
	p.in(t, call{to: world.web})
	p.in(t, call{to: world.web, port: 2201})
	time.Sleep(time.Until(end) + 1100*time.Millisecond) // sshd counts whole seconds, and lets the last one in
	p.out(t, call{to: world.web, port: 2201})
	p.out(t, call{to: world.web})
}

// Options on a key in the directory narrow what the rule gives.
func TestKeysOwnOptions(t *testing.T) {
	t.Parallel()
	p := someone(t, "own-a")
	rule(t, "own-a", "user:own-a", "--permit", "pty", "--permit", "port-forwarding")
	from, command, noPTY := newKey(t, "from"), newKey(t, "command"), newKey(t, "no-pty")
	env, wider, expired := newKey(t, "env"), newKey(t, "wider"), newKey(t, "expired")
	addKey(t, p.name, `from="`+addrNarrow+`"`, from)
	addKey(t, p.name, `command="echo own"`, command)
	addKey(t, p.name, `no-pty`, noPTY)
	addKey(t, p.name, `environment="OWN=1"`, env)
	addKey(t, p.name, `agent-forwarding,X11-forwarding,user-rc,tunnel="1"`, wider)
	addKey(t, p.name, `expiry-time="20200101"`, expired)
	caughtUp(t, world.web)

	p.in(t, call{to: world.web, with: from, from: addrNarrow})
	p.out(t, call{to: world.web, with: from, from: addrWide})
	if got := p.in(t, call{to: world.web, with: command, command: "id"}); got != "own" {
		t.Errorf("the key's own command was not forced: %q", got)
	}
	tty := []string{"RequestTTY=force"}
	if out := p.in(t, call{to: world.web, command: "tty", options: tty}); !strings.Contains(out, "/dev/pts/") {
		t.Errorf("no terminal with the plain key: %s", out)
	}
	if out, _ := p.ssh(t.Context(), call{to: world.web, with: noPTY, command: "tty", options: tty}); strings.Contains(out, "/dev/pts/") {
		t.Errorf("a terminal with the key that says no-pty: %s", out)
	}
	if got := p.in(t, call{to: world.web, with: env, command: "echo _$OWN"}); got != "_" {
		t.Errorf("a key's own environment= reached the session: %q", got)
	}
	p.out(t, call{to: world.web, with: expired})
	a, err := world.web.keyAnswer(p.name, wider)
	need(t, err)
	if len(a.Body) != 1 || strings.Contains(a.Body[0], "agent-forwarding") || strings.Contains(a.Body[0], "X11") ||
		strings.Contains(a.Body[0], "user-rc") || strings.Contains(a.Body[0], `tunnel="1"`) || !strings.HasPrefix(a.Body[0], "restrict,") {
		t.Errorf("a key's options widened the grant: %q", a.Body)
	}
}

// A key that cannot be used does not spoil the others, and status names it.
func TestUnusableKeys(t *testing.T) {
	t.Parallel()
	p := someone(t, "bad-key")
	rule(t, "bad-key", "user:bad-key")
	bad := map[string]*testenv.Key{}
	values := []string{strings.TrimSpace(string(p.key.Public))}
	for _, o := range []string{"frobnicate", `frobnicate="yes"`, "cert-authority", `principals="root"`, `command="x`, `from="!*"`, `no-such-pty`} {
		bad[o] = newKey(t, "bad")
		values = append(values, o+" "+strings.TrimSpace(string(bad[o].Public)))
	}
	need(t, world.realm.modify(world.realm.dn(p.name, "people"), "sshPublicKey", values...))
	caughtUp(t, world.web)
	p.in(t, call{to: world.web})
	for _, k := range bad {
		p.out(t, call{to: world.web, with: k})
	}
	named(t, world.web, "uid=bad-key,", "sshPublicKey")
}

// named wants an entry named in status, with a word of what is wrong with it.
func named(t testing.TB, v *site, dn, why string) {
	t.Helper()
	soon(t, func() error {
		st, err := v.status(context.Background())
		if err != nil {
			return err
		}
		for _, s := range st.Sync.Skipped {
			if strings.HasPrefix(s.DN, dn) && strings.Contains(s.Why, why) {
				return nil
			}
		}
		return fmt.Errorf("status does not name %s for %s: %+v", dn, why, st.Sync.Skipped)
	})
}

// A login that is nobody's own: the right people, by their own keys.
func TestSharedLogins(t *testing.T) {
	t.Parallel()
	need(t, world.web.AddUser(testenv.LocalUser{Name: "deploy"}))
	need(t, world.web.AddUser(testenv.LocalUser{Name: "other"}))
	a, b, c, op := someone(t, "dep-a"), someone(t, "dep-b"), someone(t, "dep-c"), someone(t, "dep-root")
	sekisho(t, "group", "add", "deployers", "--add", "dep-a", "--add", "dep-b")
	rule(t, "dep-group", "group:deployers", "--login", "deploy")
	rule(t, "dep-own", "user:dep-c", "--login", "self")
	rule(t, "dep-root", "user:dep-root", "--login", "root")
	rule(t, "dep-star", "user:dep-b", "--login", "*")
	both := newKey(t, "both")
	addKey(t, "dep-a", "", both)
	addKey(t, "dep-c", "", both)
	caughtUp(t, world.web)

	a.in(t, call{to: world.web, as: "deploy"})
	b.in(t, call{to: world.web, as: "deploy"})
	b.in(t, call{to: world.web, as: "other"})
	c.out(t, call{to: world.web, as: "deploy"})
	a.out(t, call{to: world.web}) // a's rule is not for his own account
	c.in(t, call{to: world.web})
	a.out(t, call{to: world.web, as: "other"})

	op.in(t, call{to: world.web, as: "root"})
	for _, p := range []*person{a, b, c, world.alice} {
		p.out(t, call{to: world.web, as: "root"})
	}
	// A key that two list opens what one of them may enter, as himself only.
	a.in(t, call{to: world.web, as: "deploy", with: both})
	c.in(t, call{to: world.web, with: both})
	a.out(t, call{to: world.web, with: both})
	c.out(t, call{to: world.web, as: "root", with: both})
	sekisho(t, "user", "set", "dep-a", "--lock")
	caughtUp(t, world.web)
	c.out(t, call{to: world.web, as: "deploy", with: both})
	c.in(t, call{to: world.web, with: both})

	// Without a rule for them, accounts of the host are nobody's.
	for _, login := range []string{"daemon", "nobody", "sekisho", "sekisho-keys", "sshd"} {
		world.alice.out(t, call{to: world.web, as: login})
	}
}
