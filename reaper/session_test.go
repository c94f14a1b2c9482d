package reaper

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

// TestChannels: all that goes over one connection is one session.
func TestChannels(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			s := newSite(t, k)
			master := s.log("alice", "echo ready; cat", "ControlMaster=yes", "ControlPath=/tmp/cm")
			var more []*login
			m := mark()
			for range 3 {
				l := s.ssh(testenv.SSHCall{To: s.web, User: "alice", Options: []string{"ControlPath=/tmp/cm", "RequestTTY=force"}, Command: "echo ready; tty; sleep " + m})
				l.until("/dev/pts/")
				more = append(more, l)
			}
			if n := len(s.all()); n != 1 {
				t.Errorf("%d sessions", n)
			}
			if e := master.endBy(Order{Text: why, Grace: MaxGrace}); e.Terminals != 3 {
				t.Errorf("%+v", e)
			}
			for _, l := range append(more, master) {
				l.ends()
				if l != master && !strings.Contains(l.out.String(), "sekisho: "+why) {
					t.Errorf("it was not said: %q", l.out)
				}
			}
			if got := s.running(m); len(got) > 0 {
				t.Errorf("it lives on: %q", got)
			}
		})
	}
}

// TestNoShell: sessions that are files or a forwarded port alone.
func TestNoShell(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			s := newSite(t, k)
			sftp := s.open(testenv.SSHCall{User: "alice", Command: "sftp"}, "-s")
			if _, err := sftp.in.WriteString("\x00\x00\x00\x05\x01\x00\x00\x00\x03"); err != nil { // SSH_FXP_INIT
				t.Fatal(err)
			}
			sftp.until("\x02\x00\x00\x00\x03") // SSH_FXP_VERSION
			tunnel := s.open(testenv.SSHCall{User: "alice"}, "-N", "-L", "127.0.0.1:2222:127.0.0.1:22")
			banner := func() error {
				return s.client.Inside(func() error {
					c, err := net.DialTimeout("tcp", "127.0.0.1:2222", 10*time.Second)
					if err != nil {
						return err
					}
					defer c.Close()
					c.SetDeadline(time.Now().Add(30 * time.Second))
					b := make([]byte, 4)
					if _, err := c.Read(b); err != nil || string(b) != "SSH-" {
						return fmt.Errorf("%q, %v", b, err)
					}
					return nil
				})
			}
			eventually(t, "the port is not forwarded", func() bool { return banner() == nil })
			sftp.end(why)
			sftp.ends()
			if err := banner(); err != nil {
				t.Errorf("the other session has ended: %v", err)
			}
			tunnel.end(why)
			tunnel.ends()
			if banner() == nil {
				t.Error("the port is still forwarded")
			}
			if got := s.running("sshd: alice"); len(got) > 0 {
				t.Errorf("it lives on: %q", got)
			}
		})
	}
}

// TestNested: a session within a session ends with it, and alone.
func TestNested(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			s := newSite(t, k)
			s.put("/etc/sudoers.d/alice", "alice ALL=(ALL) NOPASSWD: ALL\n")
			for _, c := range []string{"su -s /bin/sh bob -c", "sudo -u bob sh -c", "sudo sh -c"} {
				t.Run(c, func(t *testing.T) {
					s := s.on(t)
					inner, outer := mark(), mark()
					nested := func() (*login, Opened) {
						n := len(s.all())
						l := s.log("alice", fmt.Sprintf("sleep %s & %s 'trap \"\" HUP; (setsid sleep %s >/dev/null 2>&1 &); sleep 0.2; echo ready; exec sleep %s'; echo back; cat", outer, c, inner, inner), "RequestTTY=force")
						return l, s.sessionAt(n + 1)
					}
					l, in := nested()
					if in.User == l.Opened.User && !strings.HasPrefix(c, "sudo sh") || in.How != l.Opened.How {
						t.Errorf("%+v in %+v", in, l.Opened)
					}
					e := ask[Ended](s, "End", Order{ID: in.ID, Text: why})
					t.Logf("%+v", e)
					want := 2 // the shell's end, and the sleep that has left it
					if k.name != "cgroup" {
						want = 1 // a nested session has no audit session id of its own
					}
					if got := s.sleeping(inner); len(got) > 2-want || len(e.Left) > 0 {
						t.Errorf("it lives on: %q, %+v", got, e)
					}
					l.until("back")
					if len(s.sleeping(outer)) == 0 {
						t.Error("the session around it has lost a process")
					}
					if s.emptied(l.Opened.ID) {
						t.Error("the session around it is said to have ended")
					}
					l.end("")
					l.ends()

					l, in = nested()
					l.end(why)
					l.ends()
					for _, m := range []string{inner, outer} {
						// What left the nested tree before was nobody's.
						if got := s.sleeping(m); k.name != "bare" && len(got) > 0 {
							t.Errorf("it lives on: %q", got)
						}
					}
					eventually(t, "it is not said that the nested session has ended", func() bool { return s.emptied(in.ID) })
				})
			}
		})
	}
}

// TestEmptied: the end of a session is said once its last process has gone, and
// not before.
func TestEmptied(t *testing.T) {
	for _, k := range kinds[:2] {
		t.Run(k.name, func(t *testing.T) {
			s := newSite(t, k)
			m := mark()
			short := s.log("alice", "echo ready")
			short.ends()
			eventually(t, "the end is not said", func() bool { return s.emptied(short.Opened.ID) })
			if _, err := try[Ended](s, "End", Order{ID: short.Opened.ID}); err == nil || !strings.Contains(err.Error(), ErrUnknown.Error()) {
				t.Error(err)
			}
			l := s.log("alice", "(setsid sleep "+m+" </dev/null >/dev/null 2>&1 &); sleep 0.2; echo ready")
			l.ends()
			time.Sleep(sweepEvery + 500*time.Millisecond)
			if s.emptied(l.Opened.ID) {
				t.Error("it has a process still")
			}
			if all := ask[[]Session](s, "Recover", Nothing{}); len(all) != 1 || !all[0].Alive {
				t.Errorf("%+v", all)
			}
			l.end(why)
			if got := s.running(m); len(got) > 0 {
				t.Errorf("it lives on: %q", got)
			}
			forgotten := s.log("alice", "sleep "+m+" </dev/null >/dev/null 2>&1 & echo ready; cat")
			if _, err := try[Nothing](s, "Forget", forgotten.Opened.ID); err != nil {
				t.Error(err)
			}
			if _, err := try[Nothing](s, "Forget", "never-heard-of"); err != nil {
				t.Error(err)
			}
			if all := ask[[]Session](s, "Recover", Nothing{}); len(all) != 0 {
				t.Errorf("%+v", all)
			}
			if len(s.running(m)) == 0 {
				t.Error("a process of a session that was forgotten has ended")
			}
			forgotten.in.Close()
			forgotten.ends()
			events := ask[[]string](s, "Events", Nothing{})
			if slices.Contains(events, forgotten.Opened.ID) || slices.Contains(events, l.Opened.ID) || events[len(events)-1] != "" {
				t.Errorf("%q", events)
			}
		})
	}
}
