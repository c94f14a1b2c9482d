package pam

import (
	"testing"
	"time"
)

// remembered says whether a token still shows that root signed alice in.
func remembered(l *logins, token string) bool {
	_, ok := l.get(token, 0, "alice")
	return ok
}

func TestLoginsForgetTheOldest(t *testing.T) {
	l := newLogins(time.Now)
	var tokens []string
	for range maxLogins + 100 {
		tokens = append(tokens, l.add(login{user: "alice"}))
	}
	for i, token := range tokens {
		if token == "" || remembered(l, token) != (i >= 100) {
			t.Fatalf("number %d got %q, remembered: %v", i, token, remembered(l, token))
		}
	}
	if len(l.all) != maxLogins || len(l.queue) != maxLogins {
		t.Errorf("%d and %d are kept", len(l.all), len(l.queue))
	}
}

func TestLoginsOfTheUnprivileged(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := newLogins(func() time.Time { return now })
	roots := l.add(login{user: "alice"})
	fill := func(uid uint32) {
		t.Helper()
		for i := range maxLoginsPerUID + 1 {
			if token := l.add(login{uid: uid, user: "alice"}); (token == "") != (i == maxLoginsPerUID) {
				t.Fatalf("number %d got %q", i, token)
			}
		}
	}
	fill(1000)
	fill(1001)
	if l.add(login{user: "alice"}) == "" || !remembered(l, roots) {
		t.Error("an unprivileged caller keeps root out")
	}
	now = now.Add(loginTTL)
	fill(1000)
	if len(l.of) != 1 || len(l.all) != maxLoginsPerUID {
		t.Errorf("%d callers and %d sign-ins are kept", len(l.of), len(l.all))
	}
}

func TestLoginsAndAClockThatIsSetBack(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := newLogins(func() time.Time { return now })
	before := l.add(login{user: "alice"})
	now = now.Add(-time.Hour)
	if remembered(l, before) {
		t.Error("it would count for more than an hour")
	}
	after := l.add(login{user: "alice"})
	if !remembered(l, after) || len(l.all) != 1 {
		t.Errorf("%d are kept", len(l.all))
	}
	now = now.Add(time.Hour)
	if remembered(l, before) || remembered(l, after) {
		t.Error("it has no end")
	}
}

// A sign-in costs the same however many there are.
func BenchmarkLogins(b *testing.B) {
	l := newLogins(time.Now)
	for range maxLogins {
		l.add(login{user: "alice"})
	}
	for b.Loop() {
		l.add(login{user: "alice"})
	}
}
