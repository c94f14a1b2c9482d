package endtoend

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/wire"
)

// shutter is one way to shut somebody out. Its functions get the person and
// his DN; n is his name, which names his group and rule too.
type shutter struct {
	name   string
	shut   func(t *testing.T, p *person, dn string)
	open   func(t *testing.T, p *person, dn string) // nil: he does not come back
	reason string                                   // of the door's answer
	args   []string                                 // of his rule
}

// Every state of an account, group, host or rule that shuts somebody out does
// so at the next login, and what opens it again lets him in again.
func TestShutAtTheNextLogin(t *testing.T) {
	t.Parallel()
	set := func(attr string, values ...string) func(*testing.T, *person, string) {
		return func(t *testing.T, _ *person, dn string) { t.Helper(); need(t, world.realm.modify(dn, attr, values...)) }
	}
	do := func(args ...string) func(*testing.T, *person, string) {
		return func(t *testing.T, p *person, _ string) {
			t.Helper()
			all := slices.Clone(args)
			for i := range all {
				all[i] = strings.ReplaceAll(all[i], "N", p.name)
			}
			sekisho(t, all...)
		}
	}
	rename := func(ou, from, to string) func(*testing.T, *person, string) {
		return func(t *testing.T, p *person, _ string) {
			t.Helper()
			attr := map[string]string{"people": "uid=", "groups": "cn="}[ou]
			r := ldap.NewModifyDNRequest(world.realm.dn(strings.ReplaceAll(from, "N", p.name), ou), attr+strings.ReplaceAll(to, "N", p.name), true, "")
			need(t, world.realm.conn.ModifyDN(r))
		}
	}
	yesterday := time.Now().Add(-25 * time.Hour).UTC()
	byGroup := []string{"--subject", "group:N"}
	for _, c := range []shutter{
		{name: "lock", shut: do("user", "set", "N", "--lock"), open: do("user", "set", "N", "--unlock"), reason: "locked"},
		{name: "kdc-lock", shut: set("krbTicketFlags", "64"), open: set("krbTicketFlags", "0"), reason: "locked"},
		{name: "policy-admin", shut: set("pwdAccountLockedTime", "000001010000Z"), open: set("pwdAccountLockedTime"), reason: "locked"},
		{name: "expires", shut: do("user", "set", "N", "--expires", yesterday.Format("2006-01-02")), open: do("user", "set", "N", "--expires", "never"), reason: "shadow-expired"},
		{name: "shadow", shut: set("shadowExpire", strconv.FormatInt(yesterday.Unix()/86400, 10)), open: set("shadowExpire", "-1"), reason: "shadow-expired"},
		{name: "kerberos", shut: set("krbPrincipalExpiration", yesterday.Format("20060102150405Z")), open: set("krbPrincipalExpiration"), reason: "kerberos-expired"},
		{name: "nologin", shut: do("user", "set", "N", "--shell", "/usr/sbin/nologin"), open: do("user", "set", "N", "--shell", "/bin/bash"), reason: "nologin"},
		{name: "bin-false", shut: set("loginShell", "/bin/false"), open: set("loginShell", "/bin/sh"), reason: "nologin"},
		{name: "wrong-binds", shut: wrongBinds, open: do("user", "set", "N", "--unlock"), reason: "policy-locked"},
		{name: "key", shut: do("key", "rm", "N", "N@client"), open: do("key", "add", "N", "/root/N.pub"), reason: "no-key"},
		{name: "deleted", shut: do("user", "rm", "N", "--yes"), reason: "no-key"},
		{name: "renamed", shut: rename("people", "N", "N-new"), open: rename("people", "N-new", "N"), reason: "no-rule"},
		{name: "left", shut: do("group", "set", "N-in", "--remove", "N"), open: do("group", "set", "N-in", "--add", "N"), reason: "no-rule", args: byGroup},
		{name: "group-gone", shut: do("group", "rm", "N-in"), reason: "no-rule", args: byGroup},
		{name: "nesting-cut", shut: do("group", "set", "N-top", "--remove-group", "N-in"), open: do("group", "set", "N-top", "--add-group", "N-in"), reason: "no-rule", args: byGroup},
		{name: "group-renamed", shut: rename("groups", "N-top", "N-else"), open: rename("groups", "N-else", "N-top"), reason: "no-rule", args: byGroup},
		{name: "rule-gone", shut: do("rule", "rm", "N"), reason: "no-rule"},
		{name: "rule-off", shut: do("rule", "set", "N", "--enabled", "false"), open: do("rule", "set", "N", "--enabled", "true"), reason: "no-rule"},
		{name: "rule-over", shut: do("rule", "set", "N", "--expires", yesterday.Format("2006-01-02")), open: do("rule", "set", "N", "--expires", "never"), reason: "rule-expired"},
		{name: "rule-later", shut: do("rule", "set", "N", "--not-before", "2099-01-01"), open: do("rule", "set", "N", "--not-before", "never"), reason: "rule-not-yet"},
		{name: "rule-hours", shut: do("rule", "set", "N", "--time", never()), open: do("rule", "set", "N", "--time", ""), reason: "time"},
		{name: "rule-proof", shut: do("rule", "set", "N", "--proof", "otp"), open: do("rule", "set", "N", "--proof", "key"), reason: "proof"},
		{name: "rule-broken", shut: brokenRule, open: do("rule", "set", "N", "--from", ""), reason: "no-rule"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := someone(t, "st-"+c.name)
			subject := "user:" + p.name
			if len(c.args) > 0 {
				sekisho(t, "group", "add", p.name+"-in", "--add", p.name)
				sekisho(t, "group", "add", p.name+"-top", "--add-group", p.name+"-in")
				subject = "group:" + p.name + "-top"
			}
			rule(t, p.name, subject)
			caughtUp(t, world.web)
			p.in(t, call{to: world.web})
			c.shut(t, p, world.realm.dn(p.name, "people"))
			shutOut(t, world.web, p, c.reason)
			if c.open == nil {
				return
			}
			c.open(t, p, world.realm.dn(p.name, "people"))
			caughtUp(t, world.web)
			p.in(t, call{to: world.web})
		})
	}
}

// shutOut waits for the door's refusal, logs how long it took, and wants
// sshd's.
func shutOut(t *testing.T, v *site, p *person, reason string) {
	t.Helper()
	written := time.Now()
	soon(t, func() error {
		a, err := v.keyAnswer(p.name, p.key)
		if err == nil && (a.Outcome != wire.No || a.Reason != reason) {
			err = fmt.Errorf("the door says %v %s, not no %s", a.Outcome, a.Reason, reason)
		}
		return err
	})
	t.Logf("refused %s after the directory's answer", time.Since(written).Round(100*time.Microsecond))
	p.out(t, call{to: v})
}

// never is a window of hours that is not open now.
func never() string {
	from := time.Now().UTC().Add(6 * time.Hour)
	return fmt.Sprintf("%02d:00-%02d:30 UTC", from.Hour(), from.Hour())
}

// wrongBinds locks the account by the password policy, over ldaps as anybody could.
func wrongBinds(t *testing.T, p *person, dn string) {
	t.Helper()
	c := world.dialTLS(t)
	for range 50 {
		if err := c.Bind(dn, newSecret()); !ldap.IsErrorWithCode(err, ldap.LDAPResultInvalidCredentials) {
			t.Fatalf("a bind with a wrong password: %v", err)
		}
	}
	if err := c.Bind(dn, p.password); !ldap.IsErrorWithCode(err, ldap.LDAPResultInvalidCredentials) {
		t.Fatalf("the right password after fifty wrong ones: %v", err)
	}
}

// dialTLS connects to the realm as a machine of the network does.
func (s *stage) dialTLS(t *testing.T) *ldap.Conn {
	t.Helper()
	pem, err := s.broker.ReadFile("/var/lib/sekisho/realm/tls/ca.crt")
	need(t, err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("the realm's CA is no certificate")
	}
	c, err := ldap.DialURL("ldaps://"+s.broker.Addr.String(), ldap.DialWithTLSConfig(&tls.Config{RootCAs: pool, ServerName: s.broker.FQDN}))
	need(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// brokenRule writes what the command would refuse: one value that cannot be
// read makes the whole rule count for nothing.
func brokenRule(t *testing.T, p *person, _ string) {
	t.Helper()
	need(t, world.realm.modify(world.realm.dn(p.name, "access"), "sekishoFrom", "203.0.113.0/24", "not-a-network"))
	caughtUp(t, world.web)
	named(t, world.web, "cn="+p.name+",", "not-a-network")
}

// A host that leaves its group, or the directory, is shut with the rules that
// meant it.
func TestHostsThatGo(t *testing.T) {
	t.Parallel()
	v, err := world.join(t.Context(), "web2")
	need(t, err)
	p := someone(t, "hosts-a")
	sekisho(t, "group", "add", "hosts-web", "--add-host", "web2")
	rule(t, "hosts-a", "user:hosts-a", "--target", "hostgroup:hosts-web")
	caughtUp(t, v)
	p.in(t, call{to: v})
	sekisho(t, "group", "set", "hosts-web", "--remove-host", "web2")
	shutOut(t, v, p, "no-rule")
	sekisho(t, "group", "set", "hosts-web", "--add-host", "web2")
	caughtUp(t, v)
	p.in(t, call{to: v})
	sekisho(t, "host", "rm", "web2")
	shutOut(t, v, p, "unknown-host")
	world.alice.out(t, call{to: v}) // even by a rule for every host
	sekisho(t, "host", "add", "web2", "--addr", v.Addr.String())
	sekisho(t, "group", "set", "hosts-web", "--add-host", "web2")
	caughtUp(t, v)
	p.in(t, call{to: v})
}

// A lock-out by the password policy, a time window and an end are judged by
// the clock: `why --at` shows it without waiting.
func TestWhyAt(t *testing.T) {
	t.Parallel()
	someone(t, "at-a")
	rule(t, "at-a", "user:at-a", "--time", "Mon-Fri 08:00-18:00 Europe/Berlin", "--expires", "2031-01-01")
	caughtUp(t, world.web)
	for _, c := range []struct {
		at, reason string
		code       int
	}{
		{"2030-05-06T06:30:00Z", "rule", 0}, // a Monday, 08:30 in Berlin
		{"2030-05-06T05:59:00Z", "time", 1},
		{"2030-05-06T16:00:00Z", "time", 1},
		{"2030-12-02T07:00:00Z", "rule", 0}, // winter time
		{"2030-12-02T06:30:00Z", "time", 1},
		{"2030-05-05T10:00:00Z", "time", 1}, // a Sunday
		{"2031-01-02T10:00:00Z", "rule-expired", 1},
	} {
		out, err := world.web.Command(t.Context(), "/usr/local/bin/sekisho", "why", "at-a", "keys", "web1", "--at", c.at).CombinedOutput()
		if code(err) != c.code || !strings.Contains(string(out), "("+c.reason+")") {
			t.Errorf("at %s: exit code %d, want %d and %s:\n%s", c.at, code(err), c.code, c.reason, out)
		}
	}
}

func code(err error) int {
	var exit interface{ ExitCode() int }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// Resolving names is no login: a locked user still has his name, and a deleted
// one loses it.
func TestNamesFollow(t *testing.T) {
	t.Parallel()
	p := someone(t, "name-a")
	caughtUp(t, world.web)
	getent := func(key string) (string, int) {
		out, err := world.web.Command(context.Background(), "getent", "passwd", key).Output()
		return strings.TrimSpace(string(out)), code(err)
	}
	line, n := getent(p.name)
	f := strings.Split(line, ":")
	if n != 0 || len(f) != 7 || f[0] != p.name || f[5] != "/home/"+p.name {
		t.Fatalf("getent passwd %s: %d %q", p.name, n, line)
	}
	if byID, n := getent(f[2]); n != 0 || byID != line {
		t.Errorf("by number: %d %q", n, byID)
	}
	sekisho(t, "user", "set", p.name, "--lock")
	caughtUp(t, world.web)
	if again, n := getent(p.name); n != 0 || again != line {
		t.Errorf("locked: %d %q", n, again)
	}
	sekisho(t, "user", "rm", p.name, "--yes")
	caughtUp(t, world.web)
	for _, key := range []string{p.name, f[2]} {
		if got, n := getent(key); n != 2 {
			t.Errorf("deleted, by %s: %d %q", key, n, got)
		}
	}
}
