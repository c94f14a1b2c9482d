package moduletest

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/sekisho/sekisho/wire"
)

// masked is s as the host program takes what must not be in its memory.
func masked(s string) string {
	b := []byte(s)
	for i := range b {
		b[i] = ^b[i]
	}
	return hex.EncodeToString(b)
}

// escaped is s as it is on the wire.
func escaped(t *testing.T, s string) string {
	t.Helper()
	b, err := wire.AppendRequest(nil, wire.Request{Verb: "x", Fields: []wire.Field{{Name: "a", Value: s}}})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(strings.TrimPrefix(string(b), "1 x a="), "\n")
}

// After a call, no memory of the process holds what was secret in it: not the
// reply, not its form on the wire, not the tickets in either form.
func TestSecretsAreWiped(t *testing.T) {
	v := plain(t) // a sanitizer's own memory cannot be searched
	// Longer than what free lists and registers overwrite or hold by chance.
	code := strings.Repeat("gé%heim ", 8)
	cache := append([]byte("\x05\x04"), strings.Repeat("session key of alice's ticket ", 400)...)
	wired := base64.StdEncoding.EncodeToString(cache)
	patterns := map[string]string{
		"the reply":               code[20:60],
		"the reply as sent":       escaped(t, code)[20:60],
		"the tickets":             string(cache[6000:6040]),
		"the tickets as received": wired[8000:8040],
		"the token":               token[3:],
	}
	d := ticketDoor(t, cache)
	dir := v.stack(t, d, every)
	var greps []string
	for _, p := range patterns {
		greps = append(greps, "grep="+masked(p))
	}
	for name, tc := range map[string]struct {
		answers []wire.Answer
		code    int
	}{
		"accepted":      {[]wire.Answer{prompt("secret s", "secret t"), prompt("visible v"), yes("login " + token)}, success},
		"refused":       {[]wire.Answer{prompt("secret s", "secret t"), prompt("visible v"), no("wrong-password", "")}, authErr},
		"not readable":  {[]wire.Answer{prompt("secret s", "secret t"), prompt("visible v"), yes("?")}, unavail},
		"bad prompts":   {[]wire.Answer{prompt("secret s", "secret t"), prompt("?")}, unavail},
		"reply missing": {[]wire.Answer{prompt("secret s", "secret t", "secret u", "visible v")}, convErr},
	} {
		d.plan("auth", tc.answers...)
		args := []string{"coded=" + masked(code), "coded=" + masked(code), "coded=" + masked(code), "auth", "setcred:e", "burn"}
		got := v.start(t, dir, append(append(args, "end"), greps...)...)
		found := 0
		for _, l := range got {
			if strings.HasPrefix(l, "found ") {
				found++
				if l != "found 0" {
					t.Errorf("%s: %s of one of %d", name, l, len(patterns))
				}
			}
		}
		if found != len(patterns) || !strings.Contains(strings.Join(got, "\n"), rc("auth", tc.code)) {
			t.Errorf("%s: %q", name, got)
		}
	}
	// The search finds what is there.
	got := v.raw(t, "coded="+masked(code), "grep="+masked(code[20:60]))
	if len(got) != 1 || got[0] == "found 0" {
		t.Errorf("the search finds nothing: %q", got)
	}
}

// The log never has a secret, with debug neither; and no control character, of
// which a user's name or an option may have some.
func TestLogs(t *testing.T) { each(t, logs) }

func logs(t *testing.T, v variant) {
	d := ticketDoor(t, ccache(1000))
	dir := v.stack(t, d, withOptions("debug"))
	for _, answers := range [][]wire.Answer{
		{prompt("password P: "), prompt("secret C: "), yes("login " + token)},
		{prompt("password P: "), prompt("secret C: "), no("wrong-password", "no")},
		{prompt("password P: "), prompt("secret C: "), unknown("unreachable", "the KDC does not answer")},
		{prompt("password P: "), prompt("secret C: "), yes("login " + token[1:])},
		{prompt("password P: "), prompt("secret C: "), yes("dir " + token)},
	} {
		d.plan("auth", answers...)
		d.plan("passwd", answers...)
		got := v.start(t, dir, "logs", "reply=hunter2", "reply=9876%54", "auth:s", "acct:s", "setcred:e", "open:s", "close:s", "setcred:d",
			"reply=hunter2", "reply=9876%54", "chauthtok:s")
		n := 0
		for _, l := range got {
			if !strings.HasPrefix(l, "log ") {
				continue
			}
			n++
			for _, secret := range []string{"hunter2", "9876", token[1:], "BQQ"} {
				if strings.Contains(l, secret) {
					t.Errorf("it logs %q", l)
				}
			}
		}
		if n == 0 {
			t.Error("nothing is logged with debug: this test sees nothing")
		}
	}
	// What went wrong is said, at a level that is kept.
	d.plan("auth", unknown("unreachable", "the KDC does not answer"))
	got := v.start(t, dir, "logs", "auth:s")
	if len(got) != 3 || !strings.HasPrefix(got[1], "log 3 ") || !strings.HasSuffix(got[1], "sekishod could not find out: the KDC does not answer (unreachable)") {
		t.Errorf("it logs %q", got)
	}
	d.plan("auth", no("locked", ""))
	quiet := v.stack(t, d, every)
	if got := v.start(t, quiet, "logs", "auth:s"); len(got) != 2 || !strings.HasSuffix(got[0], "refused: locked") {
		t.Errorf("it logs %q", got)
	}
	d.plan("auth", yes())
	if got := v.start(t, quiet, "logs", "auth:s"); len(got) != 1 {
		t.Errorf("without debug a good call logs %q", got)
	}
	for _, l := range v.raw(t, "logs", "confdir="+dir, "service=svc", "user=a\x1b[2J\x01", "start", "auth:s") {
		if strings.ContainsAny(l, "\x1b\x01") {
			t.Errorf("it logs %q", l)
		}
	}
}
