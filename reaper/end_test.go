package reaper

import (
	"strings"
	"testing"
	"time"
)

const why = "your access was taken away: ask ops"

// jobs are what a user may leave behind. MARK is to be found in the arguments of
// all that they start; "ready" is said when they run.
var jobs = []struct {
	name, script string
	bare         bool // also found without cgroups and audit session ids
}{
	{"a plain job", `sleep MARK & echo ready; wait`, true},
	{"setsid", `setsid sleep MARK & sleep 0.2; echo ready; wait`, true},
	{"setsid, and the parent ends", `(setsid sleep MARK >/dev/null 2>&1 &); sleep 0.2; echo ready; cat`, false},
	{"nohup", `nohup sleep MARK >/dev/null 2>&1 & echo ready; wait`, true},
	{"nohup, and the shell ends first", `(nohup sleep MARK >/dev/null 2>&1 &); echo ready; cat`, true},
	{"a double fork", `(setsid sh -c '(setsid sleep MARK >/dev/null 2>&1 &) ; exec setsid sleep MARK' >/dev/null 2>&1 &); sleep 0.3; echo ready; cat`, false},
	{"no environment", `(env -i setsid sleep MARK >/dev/null 2>&1 &); sleep 0.2; echo ready; cat`, false},
	{"signals ignored", `trap "" HUP TERM INT QUIT; (trap "" HUP TERM; sh -c 'trap "" HUP TERM; while :; do sleep 1; done' MARK) & echo ready; while :; do sleep 1; done; : MARK`, true},
	{"stopped", `sleep MARK & kill -STOP $!; echo ready; cat`, true},
	{"stopped, and signals ignored", `sh -c 'trap "" HUP TERM; kill -STOP $$; while :; do sleep 1; done' MARK & sleep 0.2; echo ready; cat`, true},
	{"born as it ends", `trap 'setsid sh -c "trap \"\" HUP TERM; sleep MARK" >/dev/null 2>&1 & sleep 0.05' HUP TERM; echo ready; while :; do sleep 0.1; done; : MARK`, true},
	{"a fork bomb", `bash -c 'ulimit -u 100; trap "" HUP TERM; bomb() { while :; do bomb & sleep 0.01; done; }; bomb' MARK >/dev/null 2>&1 & sleep 1; echo ready; cat`, true},
	{"a fork bomb that leaves its parents", `printf '#!/bin/sh\ntrap "" HUP TERM\nwhile :; do setsid sh $0 MARK & sleep 0.01; done\n' >~/bomb; ulimit -u 100; (setsid sh ~/bomb MARK >/dev/null 2>&1 &); sleep 1; echo ready; while :; do :; done`, false},
}

func TestEnd(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			s := newSite(t, k)
			other := s.log("alice", "echo ready; cat")
			for _, j := range jobs {
				if k.name == "bare" && !j.bare {
					continue // docs/sessions.md says what can leave a tree
				}
				t.Run(j.name, func(t *testing.T) {
					s := s.on(t)
					m := mark()
					l := s.log("alice", "bash -c '"+strings.ReplaceAll(strings.ReplaceAll(j.script, "MARK", m), "'", `'\''`)+"'")
					eventually(t, "nothing runs", func() bool { return len(s.running(m)) > 0 })
					many := len(s.running(m))
					begin := time.Now()
					e := l.end(why)
					if got := s.running(m); len(got) > 0 {
						t.Errorf("it lives on: %q", got)
					}
					l.ends()
					t.Logf("%d processes: %+v after %v; adopted in %v", many, e, time.Since(begin), l.Opened.Took)
					if e.How != l.Opened.How || e.Took > time.Minute {
						t.Errorf("%+v", e)
					}
				})
			}
			if !other.lives() {
				t.Error("the user's other session has ended")
			}
			if _, err := other.in.WriteString("still here\n"); err != nil {
				t.Error(err)
			}
			other.until("still here")
		})
	}
}

// on is the site for a subtest.
func (s *site) on(t *testing.T) *site {
	c := *s
	c.t = t
	return &c
}

// TestTerminal: somebody at a shell is told before it ends; nobody else is.
func TestTerminal(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			s := newSite(t, k)
			bob := s.log("bob", "echo ready; tty; cat", "RequestTTY=force")
			bob.until("/dev/pts/")
			again := s.log("alice", "echo ready; tty; cat", "RequestTTY=force")
			again.until("/dev/pts/")
			l := s.log("alice", "echo ready; exec bash -i", "RequestTTY=force")
			m := mark()
			if _, err := l.in.WriteString("tty; sleep " + m + " & echo started\n"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "nothing runs", func() bool { return len(s.running(m)) > 0 })
			e := l.endBy(Order{Text: why + "\x1b[2J\x07\r\nlogin: \u202e", Grace: MaxGrace})
			l.ends()
			if e.Terminals != 1 {
				t.Errorf("%+v", e)
			}
			// What is to be seen is one line, without what a terminal obeys; its
			// line discipline has added a carriage return.
			if want := "\r\nsekisho: " + why + "[2J login:\r\r\n"; !strings.Contains(l.out.String(), want) {
				t.Errorf("the terminal shows %q, want %q in it", l.out, want)
			}
			for _, o := range []*login{bob, again} {
				if strings.Contains(o.out.String(), "sekisho:") || !o.lives() {
					t.Errorf("another terminal shows %q", o.out)
				}
			}
			if got := s.running(m); len(got) > 0 {
				t.Errorf("it lives on: %q", got)
			}
		})
	}
}
