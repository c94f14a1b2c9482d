package signon

import (
	"context"
	"strings"
	"testing"
	"time"
)

// look is a shell command that prints the environment, as it is and as each
// process of the session was born with it, and the tickets.
const look = `env; for p in /proc/[0-9]*; do tr '\0' '\n' <$p/environ; done 2>/dev/null; klist 2>&1; echo looked`

// sees is what a user's process must have of us: tickets of whom (empty: none),
// and never the token.
func sees(t *testing.T, out, tickets string) {
	t.Helper()
	if strings.Contains(out, "SEKISHO_LOGIN") {
		t.Errorf("the token is in a process's environment:\n%s", out)
	}
	if !strings.Contains(out, "looked") {
		t.Errorf("it did not get to the end:\n%s", out)
	}
	if tickets != "" {
		says(t, out, "KRB5CCNAME=FILE:/run/sekisho/tickets/", "Default principal: "+tickets+"@"+realmName, "krbtgt/"+realmName)
	} else if strings.Contains(out, "KRB5CCNAME") || strings.Contains(out, "krbtgt/") {
		t.Errorf("it has tickets:\n%s", out)
	}
}

func TestLogin(t *testing.T) {
	t.Parallel()
	p := calm.someone(t, "logger", calm.web)
	d := talk(t, calm.web.onTerminal(t.Context(), "login "+p.name))
	d.say("Password: ", p.password)
	d.say("$ ", look+"; exit")
	out, err := d.end()
	if err != nil {
		t.Errorf("%v", err)
	}
	sees(t, out, p.name)
	soon(t, func() error { return calm.web.noTickets(p.name) })

	d = talk(t, calm.web.onTerminal(t.Context(), "login "+p.name))
	d.say("Password: ", p.password+"x")
	d.say("Login incorrect", "")
	d.cmd.Process.Kill()
	if out, _ := d.end(); strings.Contains(out, "$ ") {
		t.Errorf("let in by a wrong password:\n%s", out)
	}
}

func TestSu(t *testing.T) {
	t.Parallel()
	p, other := calm.someone(t, "su-to", calm.web), calm.someone(t, "su-from", calm.web)
	d := talk(t, calm.web.CommandAs(t.Context(), other.name, "su", "-", p.name, "-c", look))
	d.say("Password: ", p.password)
	out, err := d.end()
	if err != nil {
		t.Errorf("%v", err)
	}
	sees(t, out, p.name)
	soon(t, func() error { return calm.web.noTickets(p.name) })
	d = talk(t, calm.web.CommandAs(t.Context(), other.name, "su", p.name, "-c", "echo was let in"))
	d.say("Password: ", other.password)
	if out, err := d.end(); err == nil || strings.Contains(out, "was let in") {
		t.Errorf("%v: %s", err, out)
	}
	// Root asks nobody for a password, and gets no tickets; a shut account stays shut.
	b, err := calm.web.Command(t.Context(), "su", p.name, "-c", look).CombinedOutput()
	if err != nil {
		t.Errorf("%v", err)
	}
	sees(t, string(b), "")
	need(t, calm.sekisho("", "user", "set", p.name, "--lock"))
	need(t, calm.caughtUp(calm.web))
	if out, err := calm.web.Command(t.Context(), "su", p.name, "-c", "echo was let in").CombinedOutput(); err == nil || strings.Contains(string(out), "was let in") {
		t.Errorf("root became somebody whose account is shut: %v: %s", err, out)
	}
}

func TestSudo(t *testing.T) {
	t.Parallel()
	p, target := calm.someone(t, "sudo-by", calm.db), calm.someone(t, "sudo-to", calm.db)
	need(t, calm.db.WriteFile("/etc/sudoers.d/test", []byte(p.name+" ALL=(ALL) ALL\nDefaults timestamp_timeout=0\nDefaults !lecture\n"), 0o440))
	for _, as := range []string{"root", target.name} {
		d := talk(t, calm.db.CommandAs(t.Context(), p.name, "sudo", "-S", "-u", as, "sh", "-c", "id -un; "+look))
		d.say("password for "+p.name+": ", p.password)
		out, err := d.end()
		if err != nil || !strings.Contains(out, as+"\n") {
			t.Errorf("as %s: %v\n%s", as, err, out)
		}
		sees(t, out, "")
	}
	if err := calm.db.noTickets(p.name, target.name); err != nil {
		t.Error(err)
	}
	d := talk(t, calm.db.CommandAs(t.Context(), p.name, "sudo", "-S", "echo", "was let in"))
	d.say("password for "+p.name+": ", target.password)
	d.in.Close()
	if out, err := d.end(); err == nil || strings.Contains(out, "was let in") {
		t.Errorf("by another's password: %v: %s", err, out)
	}
}

// passwd runs Debian's passwd as the person on a host.
func (p *person) passwd(t *testing.T, on *site, old string, replies ...string) (string, error) {
	t.Helper()
	d := talk(t, on.CommandAs(t.Context(), p.name, "passwd"))
	d.say("Current password: ", old)
	for i, r := range replies {
		d.say([]string{"New password: ", "Retype new password: "}[i%2], r)
	}
	d.in.Close()
	return d.end()
}

// knows says which of the peers takes a password; all must agree.
func (p *person) knows(ctx context.Context, on *site, password string) (yes bool, differ string) {
	k, kerr := p.kinit(ctx, password)
	b, berr := p.bind(ctx, password)
	s, serr := p.ssh(ctx, byPassword.on(on).saying(password))
	if (kerr == nil) != (berr == nil) || (kerr == nil) != (serr == nil) {
		return false, "kinit: " + k + " ldapwhoami: " + b + " ssh: " + s
	}
	return kerr == nil, ""
}

func (p *person) mustKnow(t *testing.T, on *site, password string, want bool) {
	t.Helper()
	if yes, differ := p.knows(t.Context(), on, password); differ != "" || yes != want {
		t.Errorf("kinit, ldapwhoami and ssh should all say %v to the password of %d bytes; they say %v %s", want, len(password), yes, differ)
	}
}

func TestPasswd(t *testing.T) {
	t.Parallel()
	p := calm.someone(t, "passer", calm.web)
	old, fresh := p.password, newSecret()
	for _, c := range []struct {
		what, old, new string
		says           []string
	}{
		{"a wrong old one", old + "x", fresh, []string{"assword unchanged"}},
		{"too short", old, "short77", []string{"Password fails quality checking policy: write at least 8 characters", "assword unchanged"}},
		{"the old one again", old, old, []string{"assword unchanged"}},
	} {
		out, err := p.passwd(t, calm.web, c.old, c.new, c.new)
		if err == nil {
			t.Errorf("%s: it was changed: %s", c.what, out)
		}
		t.Logf("%s: %s", c.what, strings.TrimSpace(out))
		says(t, out, c.says...)
	}
	p.mustKnow(t, calm.web, old, true)
	if out, err := p.passwd(t, calm.web, old, fresh, fresh); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.mustKnow(t, calm.web, fresh, true)
	p.mustKnow(t, calm.web, old, false)
	out, err := p.passwd(t, calm.web, fresh, old, old)
	if err == nil {
		t.Errorf("a password of before was taken: %s", out)
	}
	t.Logf("in history: %s", strings.TrimSpace(out))
	says(t, strings.ToLower(out), "history")
	// MIT's kpasswd, against the same server.
	again := newSecret()
	if out, err := p.onClient(t.Context(), fresh+"\n"+again+"\n"+again+"\n", "kpasswd", p.name); err != nil {
		t.Fatalf("kpasswd: %v: %s", err, out)
	}
	p.mustKnow(t, calm.web, again, true)
	// A host whose passwords are proved by a bind changes none in this realm, whose
	// two stores are written together; it says so, and nothing is changed.
	out, err = p.passwd(t, calm.ldap, again, fresh+"y", fresh+"y")
	if err == nil {
		t.Errorf("changed in one store alone: %s", out)
	}
	t.Logf("on the host that binds: %s", strings.TrimSpace(out))
	p.mustKnow(t, calm.web, again, true)
}

// An expired password is changed on the way in.
func TestExpiredPassword(t *testing.T) {
	t.Parallel()
	p := calm.someone(t, "expired", calm.web)
	need(t, calm.modify(p.name, "krbPasswordExpiration", time.Now().Add(-time.Hour).UTC().Format("20060102150405Z")))
	if out, err := p.kinit(t.Context(), p.password+"x"); err == nil {
		t.Fatalf("kinit: %s", out)
	}
	p.out(t, byPassword.on(calm.web).saying(p.password+"x")) // a wrong one is not asked for a new one
	fresh := newSecret()
	out := p.in(t, byPassword.on(calm.web).saying(p.password, fresh, fresh))
	says(t, out, "New password: ", "Retype new password: ")
	p.mustKnow(t, calm.web, fresh, true)
	p.mustKnow(t, calm.web, p.password, false)
	// A new one that the policy refuses, and another.
	need(t, calm.modify(p.name, "krbPasswordExpiration", time.Now().Add(-time.Hour).UTC().Format("20060102150405Z")))
	d := talk(t, calm.web.onTerminal(t.Context(), "login "+p.name))
	last := newSecret()
	d.say("Password: ", fresh)
	d.say("New password: ", "short77")
	d.say("Retype new password: ", "short77")
	d.say("write at least 8 characters\nNew password: ", last)
	d.say("Retype new password: ", last)
	d.say("$ ", "exit")
	if out, err := d.end(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
