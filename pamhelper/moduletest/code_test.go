package moduletest

import (
	"strings"
	"testing"

	"github.com/sekisho/sekisho/wire"
)

// Each answer to each verb has one code, and what is shown to the user is the
// answer's text.
func TestCodes(t *testing.T) { each(t, codes) }

func codes(t *testing.T, v variant) {
	d := newDoor(t)
	dir := v.stack(t, d, every)
	for _, tc := range []struct {
		call, verb string
		answer     wire.Answer
		code       int
	}{
		{"auth", "auth", yes(), success},
		{"auth", "auth", yes("login "+token, "info Welcome."), success},
		{"auth", "auth", no("unknown-user", ""), userUnknown},
		{"auth", "auth", no("max-tries", "too many"), maxTries},
		{"auth", "auth", no("wrong-password", "no"), authErr},
		{"auth", "auth", no("locked", "no"), authErr},
		{"auth", "auth", no("", ""), authErr},
		{"auth", "auth", no("no-such-reason", ""), authErr},
		{"auth", "auth", unknown("unreachable", "the KDC does not answer"), unavail},
		{"auth", "auth", unknown("clock", "this host's clock is 7 min 12 s behind"), unavail},
		{"auth", "auth", unknown("", ""), unavail},
		{"auth", "auth", yes("login short"), unavail},
		{"auth", "auth", yes("login "+token, "login "+token), unavail},
		{"auth", "auth", yes("session " + sessionID), unavail},
		{"auth", "auth", yes("surprise"), unavail},
		{"auth", "auth", yes(""), unavail},
		{"acct", "account", yes(), success},
		{"acct", "account", yes("info Your password expires in 3 days."), success},
		{"acct", "account", yes("login " + token), unavail},
		{"acct", "account", no("password-expired", "change it"), newAuthtok},
		{"acct", "account", no("kerberos-expired", ""), acctExpired},
		{"acct", "account", no("shadow-expired", ""), acctExpired},
		{"acct", "account", no("unknown-user", ""), userUnknown},
		{"acct", "account", no("no-rule", "you may not"), permDenied},
		{"acct", "account", prompt("password Password: "), permDenied},
		{"acct", "account", unknown("no-snapshot", ""), unavail},
		{"open", "session", yes("session " + sessionID), success},
		{"open", "session", yes(), success},
		{"open", "session", yes("session "), unavail},
		{"open", "session", yes("session a b"), unavail},
		{"open", "session", no("denied", "no"), sessionErr},
		{"open", "session", no("unknown-user", ""), userUnknown},
		{"open", "session", unknown("session", ""), unavail},
		{"close", "session", yes(), success},
		{"close", "session", no("denied", ""), sessionErr},
		{"close", "session", unknown("session", ""), unavail},
		{"chauthtok", "passwd", yes(), success},
		{"chauthtok", "passwd", no("wrong-password", ""), authErr},
		{"chauthtok", "passwd", no("password-refused", "too short"), authtokErr},
		{"chauthtok", "passwd", no("unknown-user", ""), userUnknown},
		{"chauthtok", "passwd", no("busy", ""), lockBusy},
		{"chauthtok", "passwd", no("locked", ""), permDenied},
		{"chauthtok", "passwd", unknown("unreachable", ""), tryAgain}, // the check, which is first
	} {
		d.plan(tc.verb, tc.answer)
		var want []string
		if tc.call != "close" && tc.code != unavail || tc.answer.Outcome == wire.Unknown {
			for _, line := range tc.answer.Body {
				if text, ok := strings.CutPrefix(line, "info "); ok {
					want = append(want, "batch 1", "msg 4 "+text)
				}
			}
			if tc.answer.Text != "" {
				want = append(want, "batch 1", "msg 3 "+tc.answer.Text)
			}
		}
		name := tc.answer.Outcome.String() + " " + tc.answer.Reason + " " + strings.Join(tc.answer.Body, ",")
		got := v.start(t, dir, tc.call)
		if tc.call == "chauthtok" && tc.code == success { // it asks twice
			want = append(want, want...)
		}
		want = append(want, rc(tc.call, tc.code))
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s, %s:\n%s\nwant\n%s", tc.call, name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		// Nothing but the code when the program wants silence.
		if got := v.start(t, dir, tc.call+":s"); len(got) != 1 || got[0] != rc(tc.call, tc.code) {
			t.Errorf("%s, %s, silent: %q", tc.call, name, got)
		}
	}
}

// The fields of each request are what door/pam expects, and all that PAM knows.
func TestRequests(t *testing.T) { each(t, requests) }

func requests(t *testing.T, v variant) {
	d := newDoor(t)
	dir := v.stack(t, d, every)
	d.plan("auth", prompt("password Password: "), yes("login "+token))
	d.plan("account", yes())
	d.plan("credentials", yes())
	d.plan("session", yes("session "+sessionID))
	d.plan("passwd", yes())
	got := v.start(t, dir, "tty=ssh", "rhost=2001:db8::7", "ruser=carol", "putenv=SSH_AUTH_INFO_0=publickey ssh-ed25519 AAAA\npassword\n",
		"reply=geh% eim\xc3\xa9\x01\xff", "auth", "acct", "setcred:e", "open", "env", "close", "setcred:d", "chauthtok")
	wants(t, got, "batch 1", "msg 1 Password: ", rc("auth", 0), rc("acct", 0), rc("setcred", 0), rc("open", 0),
		"env SSH_AUTH_INFO_0=publickey ssh-ed25519 AAAA", "password", "", "env SEKISHO_SESSION="+sessionID,
		rc("close", 0), rc("setcred", 0), rc("chauthtok", 0))
	heard := d.heard()
	for i, line := range heard {
		if at := strings.LastIndex(line, " pid="); at >= 0 {
			heard[i] = line[:at] + " pid"
		}
	}
	from := " tty=ssh rhost=2001:db8::7 ruser=carol"
	info := " authinfo=publickey ssh-ed25519 AAAA\npassword\n"
	wants(t, heard,
		"auth user=alice service=svc"+from+info,
		"answer a1=geh% eim\xc3\xa9\x01\xff",
		"account user=alice service=svc"+from+info+" login="+token,
		"credentials user=alice op=establish login="+token,
		"session user=alice service=svc op=open"+from+info+" login="+token+" pid",
		"session user=alice service=svc op=close"+from+" login="+token+" session="+sessionID+" pid",
		"passwd user=alice service=svc tty=ssh rhost=2001:db8::7 phase=check",
		"passwd user=alice service=svc tty=ssh rhost=2001:db8::7 phase=change")
}

// Items that are empty or absent are no fields; but that sshd has verified nothing
// yet is said.
func TestAbsentItems(t *testing.T) { each(t, absentItems) }

func absentItems(t *testing.T, v variant) {
	d := newDoor(t)
	dir := v.stack(t, d, every)
	d.plan("auth", yes())
	wants(t, v.start(t, dir, "rhost=", "putenv=SSH_AUTH_INFO_0=", "auth"), rc("auth", 0))
	wants(t, d.heard(), "auth user=alice service=svc authinfo=")
}

func TestUsers(t *testing.T) { each(t, users) }

func users(t *testing.T, v variant) {
	d := newDoor(t)
	dir := v.stack(t, d, every)
	d.plan("auth", yes())
	for user, code := range map[string]int{"": userUnknown, strings.Repeat("u", 257): userUnknown, strings.Repeat("u", 256): success,
		"a b\n= %\x01\xff": success, "-": success} {
		got := v.raw(t, "confdir="+dir, "service=svc", "user="+user, "start", "auth")
		if got[len(got)-1] != rc("auth", code) {
			t.Errorf("%.20q: %q", user, got)
		}
		heard := d.heard()
		if code == success && (len(heard) != 1 || heard[0] != "auth user="+user+" service=svc") || code != success && len(heard) != 0 {
			t.Errorf("%.20q: heard %q", user, heard)
		}
	}
	// Without a user, PAM asks for the name.
	got := v.raw(t, "confdir="+dir, "service=svc", "start", "reply=dave", "auth")
	wants(t, got, "batch 1", "msg 2 login:", rc("auth", success))
	wants(t, d.heard(), "auth user=dave service=svc")
	got = v.raw(t, "confdir="+dir, "service=svc", "start", "convfail=30", "auth")
	wants(t, got, "batch 1", "msg 2 login:", rc("auth", incomplete))
}

// A program that puts another user in place of the one who signs in gets no yes.
func TestTheUserChangesMeanwhile(t *testing.T) { each(t, theUserChangesMeanwhile) }

func theUserChangesMeanwhile(t *testing.T, v variant) {
	d := newDoor(t)
	dir := v.stack(t, d, every)
	d.plan("auth", prompt("password Password: "), yes("login "+token))
	wants(t, v.start(t, dir, "rename=root", "reply=x", "auth", "env"), "batch 1", "msg 1 Password: ", rc("auth", authErr))
	wants(t, d.heard(), "auth user=alice service=svc", "answer a1=x")
}

func TestOptions(t *testing.T) { each(t, options) }

func options(t *testing.T, v variant) {
	d := newDoor(t)
	d.plan("auth", yes())
	d.plan("account", yes())
	for options, code := range map[string]int{
		"": success, "debug": success, "use_first_pass try_first_pass debug": success, "timeout=1": success, "timeout=60": success,
		"timeout=0": serviceErr, "timeout=61": serviceErr, "timeout=": serviceErr, "timeout=-1": serviceErr, "timeout=1s": serviceErr,
		"timeout=012": serviceErr, "timeout=4294967297": serviceErr, "use_frist_pass": serviceErr, "Debug": serviceErr, "debug=1": serviceErr,
		"nullok": serviceErr, "socket=": serviceErr, "socket=pam.sock": serviceErr, "socket=/" + strings.Repeat("s", 107): serviceErr,
	} {
		dir := v.stack(t, d, withOptions(options))
		// On the account line too, where a stack may forgive an outage.
		wants(t, v.start(t, dir, "auth", "acct"), rc("auth", code), rc("acct", code))
	}
}
