package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/sekisho/sekisho/pamhelper"
	"github.com/sekisho/sekisho/wire"
)

func TestRealStacks(t *testing.T) {
	t.Parallel()
	s := start(t)
	_, shown := s.answers(t, "unix", wire.Yes, "", "correct horse")
	if !slices.Equal(shown, []string{"secret Password: "}) {
		t.Errorf("shown %q", shown)
	}
	s.answers(t, "unix", wire.No, "auth-err", "wrong horse")
	s.answers(t, "unix", wire.No, "auth-err", "")
	s.answers(t, "twice", wire.Yes, "", "correct horse", "yes")
	s.answers(t, "twice", wire.No, "auth-err", "correct horse", "no")
	s.answers(t, "twice", wire.No, "auth-err", "wrong horse", "yes")
	s.answers(t, "permit", wire.Yes, "")
	s.answers(t, "deny", wire.No, "auth-err")
	s.answers(t, "shut", wire.No, "auth-err")
	s.answers(t, "account", wire.No, "acct-expired")
	s.answers(t, "absent", wire.Unknown, "module-unknown")

	r, shown := s.answers(t, "echo", wire.Yes, "", "yes")
	if !slices.Equal(shown, []string{"info welcome to web1.example.org", "info please be careful", "visible Question 1: "}) {
		t.Errorf("shown %q", shown)
	}
	if len(r.Messages) != 1 || r.Messages[0] != (pamhelper.Prompt{Kind: pamhelper.Info, Text: "bye"}) {
		t.Errorf("left over: %q", r.Messages)
	}
	r, _ = s.answers(t, "exec", wire.Yes, "", "sesame")
	if len(r.Messages) != 1 || r.Messages[0].Text != "opened" {
		t.Errorf("left over: %q", r.Messages)
	}
	// pam_exec's program cannot tell a no from a fault, and pam_exec does not.
	s.answers(t, "exec", wire.Unknown, "system-err", "wrong")

	for _, c := range []struct {
		user    string
		outcome wire.Outcome
		reason  string
	}{{"nobody-here", wire.No, "user-unknown"}, {"bob", wire.No, "auth-err"}} {
		got, _, err := s.run(t, pamhelper.Call{Service: "unix", User: c.user}, "correct horse")
		if err != nil || got.Outcome != c.outcome || got.Reason != c.reason {
			t.Errorf("%s: %+v, %v", c.user, got, err)
		}
	}
	s.nothingLeft(t)
}

// TestCodes: a code is a no only if it is one of those by which stacks say no.
func TestCodes(t *testing.T) {
	t.Parallel()
	s := start(t)
	no := map[int]string{6: "perm-denied", 7: "auth-err", 10: "user-unknown", 11: "maxtries", 12: "new-authtok-reqd",
		13: "acct-expired", 16: "cred-expired", 27: "authtok-expired",
		25: "perm-denied"} // PAM_IGNORE, by a stack with nothing else: libpam's own no
	seen := map[string]bool{}
	for code := 1; code <= 31; code++ {
		got, _, err := s.run(t, pamhelper.Call{Service: "code-" + itoa(code)})
		want, isNo := no[code]
		switch {
		case err != nil || got.Reason == "" || got.Outcome == wire.Yes:
			t.Errorf("%d: %+v, %v", code, got, err)
		case isNo != (got.Outcome == wire.No):
			t.Errorf("%d: %+v", code, got)
		case isNo && got.Reason != want:
			t.Errorf("%d: %+v, want %s", code, got, want)
		}
		seen[got.Reason] = true
	}
	if !seen["authinfo-unavail"] || !seen["abort"] || !seen["system-err"] {
		t.Errorf("%v", seen)
	}
}

func TestConversation(t *testing.T) {
	t.Parallel()
	s := start(t)
	_, shown := s.answers(t, "odd-both", wire.Yes, "", "one", "two")
	want := []string{"info a line", "info and another", "secret First: ", "error not yet", "visible Second: "}
	if !slices.Equal(shown, want) {
		t.Errorf("shown %q", shown)
	}
	s.answers(t, "odd-both", wire.No, "auth-err", "two", "one")

	yes := slices.Repeat([]string{"yes"}, 20)
	s.answers(t, "odd-ask16", wire.Yes, "", yes...)
	s.answers(t, "odd-ask17", wire.Unknown, pamhelper.ReasonMany, yes...)
	s.answers(t, "odd-binary", wire.Unknown, "conv-err")

	_, shown = s.answers(t, "odd-flood", wire.Yes, "", "yes")
	if len(shown) != pamhelper.MaxPrompts || shown[len(shown)-1] != "visible Enough? " {
		t.Errorf("shown %d: %q", len(shown), shown)
	}
	_, shown = s.answers(t, "odd-strange", wire.Yes, "", "yes")
	if len(shown) != 1 || !strings.HasPrefix(shown[0], "visible a [2Jb? c xxx") || len(shown[0]) != len("visible ")+pamhelper.MaxText {
		t.Errorf("shown %q", shown)
	}

	for _, reply := range []string{"yes\x00", "\x00", strings.Repeat("y", 512), strings.Repeat("y", 4096)} {
		s.answers(t, "odd-ask1", wire.No, pamhelper.ReasonReply, reply)
	}
	for _, reply := range []string{strings.Repeat("y", 511), "ÿ", "yes ", ""} {
		s.answers(t, "odd-ask1", wire.No, "auth-err", reply)
	}
	s.answers(t, "odd-user", wire.No, pamhelper.ReasonOtherUser)
	s.nothingLeft(t)
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	s := start(t)
	call := pamhelper.Call{Service: "odd-env", TTY: "ssh", RHost: "203.0.113.9", RUser: "eve",
		Env: []string{"SEKISHO_TEST=i n\n=", "SSH_AUTH_INFO_0=publickey ssh-ed25519 AAAA\npassword"}}
	got, _, err := s.run(t, call)
	want := []string{"EMPTY=", "ODD=out\n\x01=", "SEKISHO_TEST=i n\n=", "SSH_AUTH_INFO_0=publickey ssh-ed25519 AAAA\npassword"}
	if err != nil || got.Outcome != wire.Yes || !slices.Equal(got.Env, want) {
		t.Errorf("%+v, %v", got, err)
	}
	call.RHost = "203.0.113.10"
	if got, _, err := s.run(t, call); err != nil || got.Outcome != wire.No || got.Env != nil {
		t.Errorf("%+v, %v", got, err)
	}
	s.answers(t, "odd-manyenv", wire.Unknown, pamhelper.ReasonMany)
	s.answers(t, "odd-bigenv", wire.Unknown, pamhelper.ReasonMany)
	// What could make a program of root's run another's code is not let in.
	for _, env := range []string{"LD_PRELOAD=/tmp/x.so", "PATH=/tmp", "BASH_ENV=/tmp/x", "SEKISHO_=", "SEKISHO_x=1", "SSH_ASKPASS=/tmp/x", "", "=", "SEKISHO_A=\x00"} {
		if got, _, err := s.run(t, pamhelper.Call{Service: "permit", Env: []string{env}}); err == nil {
			t.Errorf("%q: %+v", env, got)
		}
	}
}
