package moduletest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sekisho/sekisho/wire"
)

// All messages of a round reach the program in one call, in order, and the replies
// go back in order.
func TestRounds(t *testing.T) { each(t, rounds) }

func rounds(t *testing.T, v variant) {
	d := newDoor(t)
	dir := v.stack(t, d, every)
	d.plan("auth",
		prompt("info Hello.", "password Password: ", "error Careful.", "visible Token number: "),
		prompt("secret One-time code: "),
		prompt("info Only this."),
		prompt("new-password New password: ", "new-password Again: ", "info "),
		wire.Answer{Outcome: wire.Yes, Body: []string{"login " + token, "info Changed."}, Text: "Bye."})
	got := v.start(t, dir, "reply=pw", "reply=7", "reply=123456", "reply=new", "reply=neu", "auth", "env")
	wants(t, got, "batch 4", "msg 4 Hello.", "msg 1 Password: ", "msg 3 Careful.", "msg 2 Token number: ",
		"batch 1", "msg 1 One-time code: ", "batch 1", "msg 4 Only this.",
		"batch 3", "msg 1 New password: ", "msg 1 Again: ", "msg 4 ",
		"batch 1", "msg 4 Changed.", "batch 1", "msg 4 Bye.", rc("auth", success), "env SEKISHO_LOGIN="+token)
	wants(t, d.heard(), "auth user=alice service=svc", "answer a1=pw a2=7", "answer a1=123456", "answer", "answer a1=new a2=neu")
	// Silent: the questions stay, the rest goes.
	got = v.start(t, dir, "reply=pw", "reply=7", "reply=123456", "reply=new", "reply=neu", "auth:s")
	wants(t, got, "batch 2", "msg 1 Password: ", "msg 2 Token number: ", "batch 1", "msg 1 One-time code: ",
		"batch 2", "msg 1 New password: ", "msg 1 Again: ", rc("auth", success))
}

func TestLimitsOfRounds(t *testing.T) { each(t, limitsOfRounds) }

func limitsOfRounds(t *testing.T, v variant) {
	d := newDoor(t)
	dir := v.stack(t, d, every)
	lines := func(n int, l string) []string {
		return strings.Split(strings.TrimSuffix(strings.Repeat(l+"\n", n), "\n"), "\n")
	}
	rounds := func(n int) (as []wire.Answer) {
		for range n {
			as = append(as, prompt("info x"))
		}
		return append(as, yes())
	}
	for name, tc := range map[string]struct {
		answers []wire.Answer
		code    int
	}{
		"16 rounds":       {rounds(16), success},
		"17 rounds":       {rounds(17), unavail},
		"8 replies":       {[]wire.Answer{prompt(lines(8, "secret s")...), yes()}, success},
		"9 replies":       {[]wire.Answer{prompt(lines(9, "secret s")...), yes()}, unavail},
		"32 lines":        {[]wire.Answer{prompt(lines(32, "info s")...), yes()}, success},
		"33 lines":        {[]wire.Answer{prompt(lines(33, "info s")...), yes()}, unavail},
		"512 bytes":       {[]wire.Answer{prompt("secret " + strings.Repeat("x", longestPrompt)), yes()}, success},
		"513 bytes":       {[]wire.Answer{prompt("secret " + strings.Repeat("x", longestPrompt+1)), yes()}, unavail},
		"unknown kind":    {[]wire.Answer{prompt("binary x"), yes()}, unavail},
		"part of a kind":  {[]wire.Answer{prompt("pass x"), yes()}, unavail},
		"more than one":   {[]wire.Answer{prompt("passwords x"), yes()}, unavail},
		"no space":        {[]wire.Answer{prompt("secret"), yes()}, unavail},
		"empty line":      {[]wire.Answer{prompt(""), yes()}, unavail},
		"nothing is said": {[]wire.Answer{prompt(), yes()}, success},
	} {
		d.plan("auth", tc.answers...)
		args := lines(9, "reply=r")
		got := v.start(t, dir, append(args, "auth")...)
		if got[len(got)-1] != rc("auth", tc.code) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestReplies(t *testing.T) { each(t, replies) }

func replies(t *testing.T, v variant) {
	d := newDoor(t)
	dir := v.stack(t, d, every)
	d.plan("auth", prompt("password Password: "), yes())
	ask := "batch 1\nmsg 1 Password: \n"
	for _, tc := range []struct {
		args  []string
		code  int
		heard string
	}{
		{[]string{"reply=", "auth"}, success, "answer a1="},
		{[]string{"reply=", "auth:n"}, authErr, ""},
		{[]string{"reply=x", "auth:n"}, success, "answer a1=x"},
		{[]string{"reply=pässwörd☃", "auth"}, success, "answer a1=pässwörd☃"},
		{[]string{"reply=" + strings.Repeat("%", longestReply), "auth"}, success, "answer a1=" + strings.Repeat("%", longestReply)},
		{[]string{"reply=" + strings.Repeat("x", longestReply), "auth"}, success, "answer a1=" + strings.Repeat("x", longestReply)},
		{[]string{"reply=" + strings.Repeat("x", longestReply+1), "auth"}, authErr, ""},
		{[]string{"reply=" + strings.Repeat("x", 100000), "auth"}, authErr, ""},
		{[]string{"noreply", "auth"}, convErr, ""},
		{[]string{"convfail=19", "auth"}, convErr, ""},
		{[]string{"convfail=7", "auth"}, convErr, ""},
		{[]string{"convfail=30", "auth"}, incomplete, ""},
		{[]string{"convfail=5", "auth"}, 5, ""},
	} {
		got := strings.Join(v.start(t, dir, tc.args...), "\n")
		if got != ask+rc("auth", tc.code) {
			t.Errorf("%.40q: %s", tc.args, got)
		}
		heard := d.heard()
		if tc.heard == "" && len(heard) != 1 || tc.heard != "" && (len(heard) != 2 || heard[1] != tc.heard) {
			t.Errorf("%.40q: heard %.100q", tc.args, heard)
		}
	}
	// Two that fit alone and not together: the line is over its limit.
	d.plan("auth", prompt("secret a", "secret b"), yes())
	long := "reply=" + strings.Repeat("\x01", longestReply)
	got := v.start(t, dir, long, long, "auth")
	wants(t, got, "batch 2", "msg 1 a", "msg 1 b", rc("auth", unavail))
}

// before is a stack in which another module has asked for the password.
const before = `auth optional pam_unix.so nodelay
auth required MODULE SOCKET %s
password optional pam_unix.so
password required MODULE SOCKET %[1]s
`

func TestFirstPass(t *testing.T) { each(t, firstPass) }

func firstPass(t *testing.T, v variant) {
	d := newDoor(t)
	for _, tc := range []struct {
		options string
		answers []wire.Answer
		replies string
		batches int
		code    int
		heard   []string
	}{
		{"", []wire.Answer{prompt("password P: "), yes()}, "one two", 2, success, []string{"a1=two"}},
		{"use_first_pass", []wire.Answer{prompt("password P: "), yes()}, "one two", 1, success, []string{"a1=one"}},
		{"try_first_pass", []wire.Answer{prompt("password P: "), yes()}, "one two", 1, success, []string{"a1=one"}},
		// Asked again, the first password was wrong.
		{"use_first_pass", []wire.Answer{prompt("password P: "), prompt("password P: "), yes()}, "one two", 1, authErr, []string{"a1=one"}},
		{"try_first_pass", []wire.Answer{prompt("password P: "), prompt("password P: "), yes()}, "one two", 2, success, []string{"a1=one", "a1=two"}},
		{"use_first_pass", []wire.Answer{prompt("password P: ", "password Q: "), yes()}, "one two", 1, authErr, nil},
		{"try_first_pass", []wire.Answer{prompt("password P: ", "password Q: "), yes()}, "one two", 2, success, []string{"a1=one a2=two"}},
		// A code is always asked for.
		{"use_first_pass", []wire.Answer{prompt("password P: ", "secret C: "), yes()}, "one 123", 2, success, []string{"a1=one a2=123"}},
		{"use_first_pass", []wire.Answer{prompt("secret C: "), yes()}, "one 123", 2, success, []string{"a1=123"}},
	} {
		dir := v.stack(t, d, fmt.Sprintf(before, tc.options))
		d.plan("auth", tc.answers...)
		args := []string{}
		for _, r := range strings.Fields(tc.replies) {
			args = append(args, "reply="+r)
		}
		got := v.start(t, dir, append(args, "auth")...)
		if n := strings.Count(strings.Join(got, "\n"), "batch"); n != tc.batches || got[len(got)-1] != rc("auth", tc.code) {
			t.Errorf("%s: %q, want %d batches and code %d", tc.options, got, tc.batches, tc.code)
		}
		want := []string{"auth user=alice service=svc"}
		for _, h := range tc.heard {
			want = append(want, "answer "+h)
		}
		wants(t, d.heard(), want...)
	}
	// Nothing was asked before: use_first_pass asks nobody.
	dir := v.stack(t, d, withOptions("use_first_pass"))
	d.plan("auth", prompt("password P: "), yes())
	wants(t, v.start(t, dir, "reply=one", "auth"), rc("auth", authErr))
	d.heard()
	// What was typed here is there for the modules that follow.
	dir = v.stack(t, d, strings.ReplaceAll(every, "account", "auth required MODULE SOCKET use_first_pass\naccount"))
	wants(t, v.start(t, dir, "reply=one", "auth"), "batch 1", "msg 1 P: ", rc("auth", success))
	wants(t, d.heard(), "auth user=alice service=svc", "answer a1=one", "auth user=alice service=svc", "answer a1=one")
	// A password that was changed on the way is the new one from then on; one that was not, is not there.
	d.plan("auth", prompt("password P: "), prompt("new-password N: "), no("wrong-password", ""))
	dir = v.stack(t, d, "auth optional MODULE SOCKET\nauth required MODULE SOCKET use_first_pass\n")
	wants(t, v.start(t, dir, "reply=one", "reply=two", "auth"), "batch 1", "msg 1 P: ", "batch 1", "msg 1 N: ", rc("auth", authErr))
	d.heard()
	d.plan("auth", prompt("password P: "), prompt("new-password N: "), yes())
	got := v.start(t, dir, "reply=one", "reply=two", "reply=three", "auth")
	wants(t, got, "batch 1", "msg 1 P: ", "batch 1", "msg 1 N: ", "batch 1", "msg 1 N: ", rc("auth", success))
	wants(t, d.heard(), "auth user=alice service=svc", "answer a1=one", "answer a1=two",
		"auth user=alice service=svc", "answer a1=two", "answer a1=three")
}

func TestChange(t *testing.T) { each(t, change) }

func change(t *testing.T, v variant) {
	d := newDoor(t)
	dir := v.stack(t, d, every)
	passwd := func(phase string) string { return "passwd user=alice service=svc phase=" + phase }
	change := []wire.Answer{prompt("password Current password: "), prompt("new-password New password: ", "new-password Again: "),
		{Outcome: wire.Yes, Text: "Changed."}}
	d.plan("passwd", change...)
	// The script is the same for check and change: what is typed in the check is
	// not asked for again, but used once.
	got := v.start(t, dir, "reply=old", "reply=new", "reply=new", "reply=new2", "reply=new2", "chauthtok")
	wants(t, got, "batch 1", "msg 1 Current password: ", "batch 2", "msg 1 New password: ", "msg 1 Again: ", "batch 1", "msg 4 Changed.",
		"batch 2", "msg 1 New password: ", "msg 1 Again: ", "batch 1", "msg 4 Changed.", rc("chauthtok", success))
	wants(t, d.heard(), passwd("check"), "answer a1=old", "answer a1=new a2=new", passwd("change"), "answer a1=old", "answer a1=new2 a2=new2")

	// Another module has asked for the new password.
	dir = v.stack(t, d, "password required MODULE SOCKET\npassword required MODULE SOCKET use_first_pass\n")
	d.plan("passwd", change...)
	got = v.start(t, dir, "reply=old", "reply=new", "reply=new", "reply=new", "reply=new", "chauthtok:s")
	wants(t, got, "batch 1", "msg 1 Current password: ", "batch 2", "msg 1 New password: ", "msg 1 Again: ",
		"batch 2", "msg 1 New password: ", "msg 1 Again: ", rc("chauthtok", success))
	// Refused, and asked for again: use_first_pass has nothing more to say.
	d.plan("passwd", prompt("new-password N: "), prompt("new-password N: "), yes())
	got = v.start(t, dir, "reply=1", "reply=2", "chauthtok")
	wants(t, got, "batch 1", "msg 1 N: ", "batch 1", "msg 1 N: ", rc("chauthtok", authtokErr))
	// A refusal leaves no new password behind.
	dir = v.stack(t, d, "password optional MODULE SOCKET\npassword required MODULE SOCKET use_first_pass\n")
	d.plan("passwd", prompt("new-password N: "), no("password-refused", "too short"))
	got = v.start(t, dir, "reply=1", "chauthtok:s")
	wants(t, got, "batch 1", "msg 1 N: ", rc("chauthtok", authtokErr))
	d.heard()

	// Too long.
	dir = v.stack(t, d, every)
	got = v.start(t, dir, "reply="+strings.Repeat("n", longestReply+1), "chauthtok:s")
	wants(t, got, "batch 1", "msg 1 N: ", rc("chauthtok", authtokErr))
	d.plan("passwd", prompt("password O: "), yes())
	got = v.start(t, dir, "reply="+strings.Repeat("n", longestReply+1), "chauthtok:s")
	wants(t, got, "batch 1", "msg 1 O: ", rc("chauthtok", authErr))
	d.heard()

	// PAM_CHANGE_EXPIRED_AUTHTOK: only when the account call said so, or was not made.
	d.plan("passwd", yes())
	d.plan("account", yes())
	wants(t, v.start(t, dir, "acct", "chauthtok:x"), rc("acct", success), rc("chauthtok", success))
	wants(t, d.heard(), "account user=alice service=svc")
	wants(t, v.start(t, dir, "chauthtok:x"), rc("chauthtok", success))
	wants(t, d.heard(), passwd("check"), passwd("change"))
	d.plan("account", no("password-expired", ""))
	wants(t, v.start(t, dir, "acct", "chauthtok:x", "chauthtok:x"), rc("acct", newAuthtok), rc("chauthtok", success), rc("chauthtok", success))
	wants(t, d.heard(), "account user=alice service=svc", passwd("check"), passwd("change"))
}
