package reaper

import (
	"fmt"
	"math/rand/v2"
	"net/rpc"
	"slices"
	"strings"
	"testing"

	"github.com/sekisho/sekisho/testenv"
)

// TestRights: what the process keeps.
func TestRights(t *testing.T) {
	s := newSite(t, kinds[0])
	s.log("alice", "echo ready; cat") // it has worked with what it kept
	pid := s.reaper()
	tty := strings.Split(s.sh("getent group tty"), ":")[2]
	for _, task := range strings.Fields(s.sh("ls /proc/" + pid + "/task")) {
		status := s.sh("cat /proc/" + pid + "/task/" + task + "/status")
		for _, want := range []string{"Uid:\t0\t0\t0\t0", "Gid:\t0\t0\t0\t0", "Groups:\t" + tty + " ", "NoNewPrivs:\t1",
			"CapInh:\t0000000000000000", "CapPrm:\t0000000000000020", "CapEff:\t0000000000000020", "CapBnd:\t0000000000000020", "CapAmb:\t0000000000000000"} {
			if !strings.Contains(status, "\n"+want+"\n") {
				t.Errorf("no %q in %s", want, status)
			}
		}
	}
	if got := s.sh("readlink /proc/" + pid + "/cwd; tr '\\0' x </proc/" + pid + "/environ; ps -o ppid= -p " + pid); strings.Join(strings.Fields(got), " ") != "/ 1" {
		t.Errorf("%q", got)
	}
	// Its log, null, the pair, inotify, and what the Go runtime needs (epoll, eventfd).
	var others []string
	for fd := range strings.Lines(s.sh("readlink /proc/" + pid + "/fd/*")) {
		switch fd = strings.TrimSpace(fd); {
		case fd == "/dev/null", strings.HasPrefix(fd, "socket:"), strings.HasPrefix(fd, "anon_inode:"), strings.Contains(fd, "/log/door."):
		default:
			others = append(others, fd)
		}
	}
	if len(others) > 0 {
		t.Errorf("open: %q", others)
	}
	if log := s.door.Log(); strings.Contains(log, "warn") || strings.Contains(log, "error") {
		t.Errorf("%s", log)
	}
}

// TestRefusals: nothing is adopted but what has opened a session.
func TestRefusals(t *testing.T) {
	for _, k := range kinds[:2] {
		t.Run(k.name, func(t *testing.T) {
			s := newSite(t, k)
			alice, bob := s.log("alice", "echo ready; cat"), s.log("bob", "echo ready; cat")
			a, b := alice.Opened, bob.Opened
			cron := s.web.Command(t.Context(), "sleep", "1000")
			if err := cron.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { cron.Process.Kill(); cron.Wait() }()
			var daemon int32
			eventually(t, "it does not start", func() bool {
				out, _ := s.web.Command(t.Context(), "pgrep", "-x", "-f", "sleep 1000").Output()
				n, _ := fmt.Sscan(string(out), &daemon)
				return n == 1
			})
			for name, c := range map[string]struct {
				try  Adoption
				want error
			}{
				"another start time":          {Adoption{From: a.ID, ID: "x", Ticks: 1}, ErrProcess},
				"somebody else's connection":  {Adoption{From: a.ID, ID: "x", PID: b.PID}, ErrRefused},
				"a daemon":                    {Adoption{From: a.ID, ID: "x", PID: daemon}, ErrRefused},
				"init":                        {Adoption{From: a.ID, ID: "x", PID: 1}, ErrRefused},
				"a call to somebody":          {Adoption{From: a.ID, ID: "x", Connection: "client"}, ErrRefused},
				"a pair":                      {Adoption{From: a.ID, ID: "x", Connection: "pair"}, ErrRefused},
				"a file":                      {Adoption{From: a.ID, ID: "x", Connection: "file"}, ErrRefused},
				"the id of another's session": {Adoption{From: b.ID, ID: a.ID}, ErrExists},
				"its own id again":            {Adoption{From: a.ID, ID: a.ID}, nil},
			} {
				got := ask[string](s, "Adopt", c.try)
				if c.want == nil && got != "" || c.want != nil && !strings.Contains(got, c.want.Error()) {
					t.Errorf("%s: %q, want %v", name, got, c.want)
				}
			}
			// A user can open a session of his own, but he is not root.
			n := len(s.all())
			s.web.CommandAs(t.Context(), "alice", "pamtester", "su", "alice", "open_session").Run()
			if all := s.all(); len(all) != n+1 || !strings.Contains(all[n].Err, "only root opens sessions") {
				t.Errorf("%+v", all[n:])
			}
			if got := ask[[]Session](s, "Recover", Nothing{}); len(got) != 2 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestTidiedUp: somebody removes our folder while it is empty.
func TestTidiedUp(t *testing.T) {
	s := newSite(t, kinds[0])
	s.sh("rmdir /sys/fs/cgroup/sekisho")
	l := s.log("alice", "echo ready; cat")
	if l.Opened.How != InFolder {
		t.Errorf("it is a %s", l.Opened.How)
	}
	l.end("")
}

// TestManyOfOneProcess: a program may open several sessions at once, and the end of
// the first is the end of all.
func TestManyOfOneProcess(t *testing.T) {
	s := newSite(t, kinds[0])
	l := s.log("alice", "echo ready; cat")
	calls := make([]*rpc.Call, 12)
	for i := range calls {
		calls[i] = s.rpc.Go("Door.Adopt", Adoption{From: l.Opened.ID, ID: fmt.Sprintf("more%d", i)}, new(string), nil)
	}
	for _, c := range calls {
		if <-c.Done; c.Error != nil || *c.Reply.(*string) != "" {
			t.Fatalf("%+v: %q, %v", c.Args, *c.Reply.(*string), c.Error)
		}
	}
	for _, x := range ask[[]Session](s, "Recover", Nothing{}) {
		if !x.Alive {
			t.Errorf("it has no process: %+v", x)
		}
	}
	l.end("")
	l.ends()
	eventually(t, "the others do not end", func() bool { return len(ask[[]Session](s, "Recover", Nothing{})) == 0 })
}

// TestNonsense: it is refused, and nothing else happens.
func TestNonsense(t *testing.T) {
	s := newSite(t, kinds[0])
	l := s.log("alice", "echo ready; cat")
	id := l.Opened.ID
	r := rand.New(rand.NewPCG(1, 2))
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	packets := [][]byte{random(1), random(100), random(100_000), []byte("7"), []byte("7 "), []byte(" 1 list\n"), []byte("-1 1 list\n"),
		[]byte("07 1 list\n"), []byte("99999999999999999999999 1 list\n")}
	for _, text := range []string{"1 list", "1 list\n1 list\n", "2 list\n", "1 kill session=" + id + "\n", "1 end\n", "1 end session=" + id + "\n",
		"1 end session=../../x grace=1\n", "1 end session=" + id + " grace=-1\n", "1 end session=" + id + " grace=10001\n", "1 end session=" + id + " grace=1 signal=9\n",
		"1 end session=" + id + " grace=1 text=\n", "1 end session=" + id + " grace=1 text=" + strings.Repeat("x", MaxText+1) + "\n",
		"1 adopt session=x pid=0 started=1\n", "1 adopt session=x pid=1 started=1\n", "1 adopt session=x pid=-1 started=1\n", "1 adopt session=x pid=99999999 started=1\n",
		"1 adopt session=" + strings.Repeat("x", 65) + " pid=1 started=1\n", "1 forget session=\n", "1 list after=.\n", "1 list after=x after=y\n"} {
		packets = append(packets, []byte("4000000000 "+text), []byte("0 "+text))
	}
	for _, p := range packets {
		if _, err := try[Nothing](s, "Raw", p); err != nil && !strings.Contains(err.Error(), "message too long") {
			t.Errorf("%.40q: %v", p, err)
		}
		if got := ask[[]Session](s, "Recover", Nothing{}); len(got) != 1 || got[0].ID != id || !got[0].Alive {
			t.Fatalf("after %.40q: %+v", p, got)
		}
	}
	if !l.lives() || s.reaper() == "" {
		t.Error("something has ended")
	}
	l.end("")
}

// TestAgain: sessions live on without sekishod and sekisho-reaper, and are found
// again.
func TestAgain(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			s := newSite(t, k)
			m := mark()
			job := "(setsid sleep " + m + " >/dev/null 2>&1 &); sleep 0.2; echo ready; cat"
			var ls []*login
			for range 4 {
				ls = append(ls, s.log("alice", job))
			}
			// sekisho-reaper is killed: sekishod knows, and says so.
			s.sh("kill -9 " + s.reaper())
			eventually(t, "its end is not seen", func() bool {
				e := ask[[]string](s, "Events", Nothing{})
				return e[len(e)-1] == ErrEnded.Error()
			})
			if _, err := try[Ended](s, "End", Order{ID: ls[0].Opened.ID}); err == nil || !strings.Contains(err.Error(), ErrEnded.Error()) {
				t.Error(err)
			}
			// And sekishod too.
			s.door.Kill()
			s.startDoor()
			s.door.Kill()
			eventually(t, "sekisho-reaper goes on without sekishod", func() bool { return s.reaper() == "" })
			ls[3].in.Close() // one ends while nobody looks, but for its job
			ls[3].ends()
			for _, l := range ls[:3] {
				if !l.lives() {
					t.Fatal("a session has ended with them")
				}
			}
			s.startDoor()
			want := 4
			if k.name == "bare" {
				want = 3 // nothing tells that the job was of it
			}
			got := ask[[]Session](s, "Recover", Nothing{})
			if len(got) != want || !slices.IsSortedFunc(got, func(a, b Session) int { return strings.Compare(a.ID, b.ID) }) {
				t.Errorf("%+v", got)
			}
			for _, x := range got {
				i := slices.IndexFunc(ls, func(l *login) bool { return l.Opened.ID == x.ID })
				if i < 0 || x.PID != ls[i].Opened.PID || x.Started != ls[i].Opened.Started || x.How != ls[i].Opened.How || !x.Alive {
					t.Errorf("%+v", x)
				}
			}
			for _, l := range ls[:want] {
				l.end(why)
				l.ends()
			}
			if got := s.running(m); k.name != "bare" && len(got) > 0 {
				t.Errorf("it lives on: %q", got)
			}
			if out := s.sh("find /sys/fs/cgroup /run/sekisho-reaper -name 'sekisho-*.*'"); strings.TrimSpace(out) != "" {
				t.Errorf("left behind: %s", out)
			}
		})
	}
}

// TestStartedInside: sshd and sekishod may have been started by hand in a
// session; its end is not theirs, nor that of others' sessions.
func TestStartedInside(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			s := newSite(t, k)
			admin := s.log("root", "sed s/22/2200/ /etc/ssh/sshd_config.22 >/etc/ssh/sshd_config.2200; setsid /run/sshd-as/sshd -D -f /etc/ssh/sshd_config.2200 >/dev/null 2>&1 & until ss -Htln sport = :2200 | grep -q .; do sleep 0.1; done; echo ready; cat")
			bob := s.open(testenv.SSHCall{User: "bob", Port: 2200, Command: "echo ready; cat"})
			bob.until("ready")
			exe, err := ownProgram()
			if err != nil {
				t.Fatal(err)
			}
			program, err := testenv.Program("sekisho-reaper")
			if err != nil {
				t.Fatal(err)
			}
			s.sh("pkill -9 -f '^" + exe + "'; rm " + ctlPath)
			again := s.ssh(testenv.SSHCall{To: s.web, User: "root", Key: s.key, Command: "true"}) // refused: nobody answers
			again.ends()
			if _, err := admin.in.WriteString("x\n"); err != nil {
				t.Fatal(err)
			}
			// From inside the session: its processes are in its cgroup, and have its audit session id.
			s.sh(fmt.Sprintf("nsenter --version >/dev/null; [ -d /sys/fs/cgroup/sekisho ] || exit 0; echo $$ >$(find /sys/fs/cgroup/sekisho -name 'sekisho-%s.*')/cgroup.procs; setsid %s %s %s >/dev/null 2>&1 &", admin.Opened.ID, exe, doorArg, program))
			if !k.cgroups {
				s.startDoor()
			} else {
				eventually(t, "the door is not there", func() bool { return s.dial() == nil })
			}
			if got := ask[[]Session](s, "Recover", Nothing{}); len(got) != 2 {
				t.Fatalf("%+v", got)
			}
			e := admin.end(why)
			admin.ends()
			t.Logf("%+v", e)
			if !bob.lives() {
				t.Error("bob's session has ended")
			}
			if got := ask[[]Session](s, "Recover", Nothing{}); len(got) != 1 || got[0].ID != bob.Opened.ID || !got[0].Alive {
				t.Errorf("%+v", got)
			}
			bob.end(why)
			bob.ends()
		})
	}
}

// TestLogind: with logind's scopes, before and after we are asked. There is no
// logind here; what it does is done by a script.
func TestLogind(t *testing.T) {
	const script = `#!/bin/sh
[ "$PAM_TYPE" = open_session ] || exit 0
at=/sys/fs/cgroup/user.slice/user-2001.slice/session-$PPID.scope
[ "$PAM_USER" != bob ] || at=/sys/fs/cgroup/user.slice/user-2002.slice/user@2002.service
mkdir -p $at /run/systemd/sessions
echo LEADER=$PPID >/run/systemd/sessions/$PPID
echo $PPID >$at/cgroup.procs
`
	line := "session required pam_exec.so /root/logind"
	for _, k := range []kind{{name: "before", cgroups: true, before: line}, {name: "after", cgroups: true, after: line}} {
		t.Run(k.name, func(t *testing.T) {
			s := newSite(t, k)
			if err := s.web.WriteFile("/root/logind", []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			m := mark()
			n := len(s.all())
			l := s.log("alice", "(setsid sleep "+m+" >/dev/null 2>&1 &); su -s /bin/sh bob -c '(setsid sleep "+m+" >/dev/null 2>&1 &); sleep 0.2; echo ready; cat'")
			scope := fmt.Sprintf("/user.slice/user-2001.slice/session-%d.scope/sekisho-%s.", l.Opened.PID, l.Opened.ID)
			eventually(t, "it is not in the scope", func() bool {
				return strings.Contains(s.sh(fmt.Sprintf("cat /proc/%d/cgroup", l.Opened.PID)), scope)
			})
			inner := s.sessionAt(n + 1)
			if !strings.Contains(s.sh(fmt.Sprintf("cat /proc/%d/cgroup", inner.PID)), scope) {
				t.Error("a nested session is not in the one around it")
			}
			got := ask[[]Session](s, "Recover", Nothing{})
			if len(got) != 2 || got[0].How != InScope || got[1].How != InScope {
				t.Errorf("%+v", got)
			}
			if s.emptied(l.Opened.ID) {
				t.Error("it is said to have ended when it was moved")
			}
			if e := l.end(why); e.How != InScope {
				t.Errorf("%+v", e)
			}
			if got := s.running(m); len(got) > 0 {
				t.Errorf("it lives on: %q", got)
			}
			eventually(t, "the nested session is not said to have ended", func() bool { return s.emptied(inner.ID) })
			if k.name == "after" {
				return
			}
			// A user's service manager would not survive a move.
			s.ssh(testenv.SSHCall{To: s.web, User: "bob", Key: s.key, Command: "true"}).ends()
			if all := s.all(); !strings.Contains(all[len(all)-1].Err, "service manager") {
				t.Errorf("%+v", all[len(all)-1])
			}
		})
	}
}
