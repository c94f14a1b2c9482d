package signon

import (
	"strings"
	"testing"

	"github.com/sekisho/sekisho/wire"
)

// Passwords at the ends of what there can be: all peers agree on them.
func TestOddPasswords(t *testing.T) {
	t.Parallel()
	p := calm.someone(t, "odd", calm.web)
	now := p.password
	for what, next := range map[string]string{
		"UTF-8":            secret("пароль-密码-🔑-" + newSecret()),
		"spaces and signs": secret(`  a %0 \ "'` + "`" + `$(x) ; & | ` + newSecret() + " !"),
		"1000 bytes":       secret(strings.Repeat("long.", 195) + newSecret()[:25]),
	} {
		if out, err := p.onClient(t.Context(), now+"\n"+next+"\n"+next+"\n", "kpasswd", p.name); err != nil {
			t.Errorf("%s: kpasswd: %v: %s", what, err, out)
			continue
		}
		old := now
		now = next
		p.mustKnow(t, calm.web, now, true)
		p.mustKnow(t, calm.web, old, false)
	}
	// Refused as new ones, by passwd: nothing, one letter.
	for _, next := range []string{"", "x"} {
		if out, err := p.passwd(t, calm.web, now, next, next); err == nil {
			t.Errorf("a password of %d bytes was taken: %s", len(next), out)
		}
	}
	p.mustKnow(t, calm.web, now, true)
	// The longest that there can be is longer than the prompts of MIT's tools and of
	// ssh take (1023 bytes): the socket and a bind agree on it.
	long := secret(strings.Repeat("0123456789abcde.", 256-2) + newSecret() + "12345")
	if len(long) != 4096 {
		t.Fatalf("it has %d bytes", len(long))
	}
	need(t, calm.sekisho(long+"\n", "passwd", p.name, "--password-stdin"))
	for typed, want := range map[string]wire.Outcome{long: wire.Yes, long[:4095]: wire.No, long[:1023]: wire.No} {
		for _, v := range []*site{calm.web, calm.ldap} {
			if a, err := v.signIn(p.name, typed); err != nil || a.Outcome != want {
				t.Errorf("%d bytes on %s: %v %s %v", len(typed), v.Name, a.Outcome, a.Reason, err)
			}
		}
		if out, err := p.bind(t.Context(), typed); (err == nil) != (want == wire.Yes) {
			t.Errorf("%d bytes by ldapwhoami: %v: %s", len(typed), err, out)
		}
		need(t, calm.sekisho("", "user", "set", p.name, "--unlock"))
	}
	if err := calm.sekisho(long+"x\n", "passwd", p.name, "--password-stdin"); err == nil {
		t.Error("a password of 4097 bytes was set")
	}
	need(t, calm.sekisho(now+"\n", "passwd", p.name, "--password-stdin"))
	p.mustKnow(t, calm.web, now, true)
	// Through the socket anything can come: none of it is a yes, least of all what
	// a C program would cut to the right password.
	for what, typed := range map[string]string{
		"empty": "", "one byte": "x", "4096 bytes": strings.Repeat("x", 4096), "more": strings.Repeat("x", 5000),
		"right, and NUL": now + "\x00", "right, NUL and more": now + "\x00x", "NUL": "\x00", "no UTF-8": "\xff\xfe", "a line more": now + "\n",
	} {
		for _, v := range []*site{calm.web, calm.ldap} {
			q := p
			a, err := v.signIn(q.name, typed)
			if err == nil && a.Outcome == wire.Yes {
				t.Errorf("%s on %s: yes", what, v.Name)
			}
		}
		// Whoever fails too often is locked: let him in, between.
		need(t, calm.sekisho("", "user", "set", p.name, "--unlock"))
	}
}
