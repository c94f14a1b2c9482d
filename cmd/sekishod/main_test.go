package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sekisho/sekisho/cmd/internal/accounts"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/door/userdb"
	"github.com/sekisho/sekisho/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const testHost = "broker.example.org"

// place is a sekishod's own corner of the sandbox.
type place struct {
	t           *testing.T
	config      string
	state, run  string
	d           *testenv.Daemon
	ldapi, base string
}

var places atomic.Int64

// newPlace writes a configuration for a realm on ports of its own. more is
// further TOML, before the first section.
func newPlace(t *testing.T, port int, more string) *place {
	t.Helper()
	name := strconv.FormatInt(places.Add(1), 10)
	p := &place{t: t, config: "/etc/sekisho-" + name + ".toml", state: "/var/lib/sekisho-" + name, run: "/run/sekisho-" + name,
		base: "dc=sekisho,dc=internal"}
	p.ldapi = "ldapi://" + strings.ReplaceAll(p.run, "/", "%2F") + "%2Fldapi"
	text := fmt.Sprintf("host = %q\nstate_dir = %q\nruntime_dir = %q\n%s\n", testHost, p.state, p.run, more)
	if port != 0 {
		text += fmt.Sprintf("[realm]\nldap = [\"127.0.0.1:%d\"]\nldaps = [\"127.0.0.1:%d\"]\nkdc = [\"127.0.0.1:%d\"]\n", port, port+1, port+2)
	}
	p.write(p.config, text, 0o644)
	return p
}

func (p *place) write(path, text string, mode os.FileMode) {
	p.t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		p.t.Fatal(err)
	}
}

// start starts sekishod and waits until its snapshot can be used.
func (p *place) start(cred *syscall.Credential, env ...string) *testenv.Daemon {
	p.t.Helper()
	path, err := testenv.Program("sekishod")
	if err != nil {
		p.t.Fatal(err)
	}
	d, err := testenv.StartDaemon(p.t.Context(), testenv.DaemonConfig{Path: path, Args: []string{"--config", p.config}, User: cred, Env: env,
		Ready: func(ctx context.Context) error {
			_, err := p.try(ctx, "status")
			return err
		}})
	if err != nil {
		p.t.Fatal(err)
	}
	p.d = d
	p.t.Cleanup(func() {
		d.Stop()
		if p.t.Failed() {
			p.t.Log(d.Log())
		}
	})
	return d
}

// try runs sekisho with this place's configuration.
func (p *place) try(ctx context.Context, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, "sekisho", append(args, "--config", p.config)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("sekisho %s: %w: %s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

func (p *place) sekisho(args ...string) string {
	p.t.Helper()
	out, err := p.try(p.t.Context(), args...)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

func (p *place) status() report.Status {
	p.t.Helper()
	out, err := p.try(p.t.Context(), "status", "--json")
	var s report.Status
	if jerr := json.Unmarshal([]byte(out), &s); jerr != nil {
		p.t.Fatalf("status: %v: %v", err, jerr)
	}
	return s
}

// until polls for what must come true.
func (p *place) until(what string, f func() bool) {
	p.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("never came so: %s", what)
		}
	}
}

// proc reads fields of /proc/PID/status.
func proc(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		out[k] = strings.Join(strings.Fields(v), " ")
	}
	return out
}

// TestDrop looks at what is left of root once sekishod runs.
func TestDrop(t *testing.T) {
	p := newPlace(t, 3100, "")
	d := p.start(nil)
	u, err := accounts.Lookup("sekisho")
	if err != nil {
		t.Fatal(err)
	}
	uids := strings.TrimSpace(strings.Repeat(fmt.Sprintf("%d ", u.UID), 4))
	gids := strings.TrimSpace(strings.Repeat(fmt.Sprintf("%d ", u.GID), 4))
	const none = "0000000000000000" // the ports are over 1023
	check := func(what string, pid int) {
		s := proc(t, pid)
		for k, want := range map[string]string{"Uid": uids, "Gid": gids, "Groups": "", "NoNewPrivs": "1",
			"CapBnd": none, "CapInh": none, "CapPrm": none, "CapEff": none, "CapAmb": none} {
			if s[k] != want {
				t.Errorf("%s: %s is %q, want %q", what, k, s[k], want)
			}
		}
	}
	s := proc(t, d.Pid())
	if s["Name"] != "sekishod" {
		t.Errorf("the process is called %q", s["Name"])
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", d.Pid()))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("threads: %v, %v", tasks, err)
	}
	for _, task := range tasks {
		tid, _ := strconv.Atoi(task.Name())
		check("thread "+task.Name(), tid)
	}
	p.until("both children run", func() bool {
		r := p.status().Realm
		return len(r) == 2 && r[0].Ready && r[1].Ready
	})
	for _, c := range p.status().Realm {
		check(c.Name, c.PID)
	}

	// Another process of the same user cannot look into it.
	cmd := exec.Command("setpriv", "--reuid", fmt.Sprint(u.UID), "--regid", fmt.Sprint(u.GID), "--clear-groups",
		"cat", fmt.Sprintf("/proc/%d/environ", d.Pid()))
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("the environment can be read by the children's user: %q", out)
	}

	for path, want := range map[string]string{
		p.state: "drwx------", p.run: "drwxr-xr-x", p.run + "/sekisho.sock": "Srw-rw-rw-", p.run + "/ca.crt": "-rw-r--r--",
		p.state + "/realm/stash": "-rw-------", p.state + "/snapshot": "drwx------", userdb.SocketPath: "Srw-rw-rw-",
	} {
		st, err := os.Lstat(path)
		if err != nil || st.Mode().String() != want {
			t.Errorf("%s: mode %v, %v; want %s", path, st.Mode(), err, want)
		}
	}
	if st, err := os.Stat(filepath.Dir(userdb.SocketPath)); err != nil || st.Sys().(*syscall.Stat_t).Uid != 0 || st.Mode().Perm() != 0o755 {
		t.Errorf("the users door's directory: %v, %v", st.Mode(), err)
	}
	// Nothing of root is left open but the users door's socket and the log.
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", d.Pid(), fd.Name()))
		if strings.HasPrefix(to, "/") && !strings.HasPrefix(to, p.state) && !strings.Contains(to, "/log/") && !strings.HasPrefix(to, "/dev/null") {
			t.Errorf("descriptor %s is %s", fd.Name(), to)
		}
	}
}

// TestLowPorts: the children get the one right that ports under 1024 need.
func TestLowPorts(t *testing.T) {
	p := newPlace(t, 700, "")
	d := p.start(nil)
	p.until("both children run", func() bool {
		r := p.status().Realm
		return len(r) == 2 && r[0].Ready && r[1].Ready
	})
	const bind = "0000000000000400" // CAP_NET_BIND_SERVICE and nothing else
	for _, pid := range []int{d.Pid(), p.status().Realm[0].PID, p.status().Realm[1].PID} {
		s := proc(t, pid)
		if s["CapEff"] != bind || s["CapPrm"] != bind || s["CapBnd"] != bind || strings.HasPrefix(s["Uid"], "0") || s["NoNewPrivs"] != "1" {
			t.Errorf("%s: CapEff %s, CapPrm %s, CapBnd %s, Uid %s", s["Name"], s["CapEff"], s["CapPrm"], s["CapBnd"], s["Uid"])
		}
	}
	for _, port := range []string{"700", "701", "702"} {
		c, err := net.DialTimeout("tcp", "127.0.0.1:"+port, 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

// digest lists the files of a tree with what a second start must not change.
func digest(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", `cd "$1" && find . \( -path ./realm/db -o -path ./snapshot -o -path ./audit -o -path ./state -o -name '*.pid' -o -name '*.self' -o -name '*rcache*' -o -name '*.replay' \) -prune -o -type f -print | sort |
		while read -r f; do stat -c '%n %a %u %Y' "$f"; sha256sum <"$f"; done`, "sh", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// TestKill kills sekishod, and starts it again.
func TestKill(t *testing.T) {
	p := newPlace(t, 3200, "")
	d := p.start(nil)
	p.sekisho("user", "add", "alice", "--no-password")
	p.sekisho("host", "add", testHost, "--addr", "203.0.113.1")
	p.sekisho("rule", "add", "r", "--subject", "user:alice", "--door", "keys", "--target", "host:"+testHost)
	p.until("alice may", func() bool { _, err := p.try(t.Context(), "why", "alice", "keys", testHost); return err == nil })
	ready := func() bool { r := p.status().Realm; return r[0].Ready && r[1].Ready }
	p.until("both children run", ready) // their pid files are written
	before, files := p.status(), digest(t, p.state)
	d.Kill()
	if _, err := p.try(t.Context(), "status"); err == nil {
		t.Fatal("a killed sekishod answers")
	}
	p.start(nil)
	p.sekisho("why", "alice", "keys", testHost)
	after := p.status()
	if after.Sync.Generation < before.Sync.Generation || after.Sync.Users != 1 || !after.HostKnown {
		t.Errorf("before %+v, after %+v", before.Sync, after.Sync)
	}
	p.until("both children run again", ready)
	if again := digest(t, p.state); again != files {
		old := strings.Split(files, "\n")
		for i, line := range strings.Split(again, "\n") {
			if i >= len(old) || old[i] != line {
				t.Errorf("the second start changed %s", line)
			}
		}
	}
	p.until("the directory is followed again", func() bool { return p.status().Sync.State == "live" })
	p.sekisho("user", "add", "bob", "--no-password")
	p.until("bob is there", func() bool { return p.status().Sync.Users == 2 })
	p.sekisho("audit", "verify")
}

// TestStop stops everything, and nothing is left.
func TestStop(t *testing.T) {
	p := newPlace(t, 3300, "")
	d := p.start(nil)
	p.until("both children run", func() bool { r := p.status().Realm; return r[0].Ready && r[1].Ready })
	pids := []int{p.status().Realm[0].PID, p.status().Realm[1].PID}
	if err := d.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	p.until("SIGHUP is spoken of", func() bool { return strings.Contains(d.Log(), "SIGHUP changes nothing") })
	begun := time.Now()
	if err := d.Stop(); err != nil {
		t.Errorf("it did not end well: %v\n%s", err, d.Log())
	}
	if took := time.Since(begun); took > 9*time.Second {
		t.Errorf("stopping took %s", took)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("child %d is still there: %v", pid, err)
		}
	}
	if _, err := os.Stat(p.run + "/sekisho.sock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	if !strings.Contains(d.Log(), `"msg":"stopped"`) {
		t.Error("the log does not end with stopped")
	}
}

// TestRefusals are the starts that must not be.
// TestLogReaderGone: whoever reads the log may go; sekishod answers on.
func TestLogReaderGone(t *testing.T) {
	p := newPlace(t, 0, "")
	path, err := testenv.Program("sekishod")
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "--config", p.config)
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	w.Close()
	p.until("it answers", func() bool { _, err := p.try(t.Context(), "status"); return err == nil })
	r.Close()
	for range 20 { // each is a line for the log
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			t.Fatalf("it ended: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	p.sekisho("status")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(time.Minute):
		cmd.Process.Kill()
		t.Error("it does not stop")
	}
}

func TestRefusals(t *testing.T) {
	path, err := testenv.Program("sekishod")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, more string
		port       int
		before     func(p *place)
		cred       *syscall.Credential
		want       string
	}{
		{name: "no such user", port: 3400, more: "user = \"nobody-here\"", want: "useradd --system --no-create-home --shell /usr/sbin/nologin nobody-here"},
		{name: "a state directory in use by another", port: 3400, want: "chown -R sekisho:", before: func(p *place) {
			os.Mkdir(p.state, 0o755)
			os.Chown(p.state, 65534, 65534)
		}},
		{name: "a state directory of root that is not empty", port: 3400, want: "chown -R sekisho:", before: func(p *place) {
			os.Mkdir(p.state, 0o755)
			p.write(p.state+"/x", "x", 0o600)
		}},
		{name: "a state directory that is a link", port: 3400, want: "not a directory", before: func(p *place) {
			os.Symlink("/etc", p.state)
		}},
		{name: "an unprivileged user without a users door", port: 3400, want: "start sekishod as root, or set userdb.enabled = false",
			cred: &syscall.Credential{Uid: 65534, Gid: 65534}, before: func(p *place) {
				for _, dir := range []string{p.state, p.run} {
					os.Mkdir(dir, 0o755)
					os.Chown(dir, 65534, 65534)
				}
			}},
		{name: "a password for all to read", more: "[directory]\nurl = [\"ldaps://127.0.0.1:1\"]\nbase = \"dc=x\"\nbind_dn = \"cn=x\"\npassword_file = \"/etc/pw\"",
			want: "chmod 0600 /etc/pw", before: func(p *place) { p.write("/etc/pw", "s3kr3t\n", 0o644) }},
		{name: "an unknown key", more: "nonsense = 1", want: ":4: unknown key nonsense"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlace(t, c.port, c.more)
			if c.before != nil {
				c.before(p)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, path, "--config", p.config)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred}
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.want) {
				t.Errorf("got %v, %s; want an error with %q", err, out, c.want)
			}
			if strings.Contains(string(out), "s3kr3t") {
				t.Error("the password is shown")
			}
		})
	}
}

// TestUnprivileged runs a realm as somebody who was never root.
func TestUnprivileged(t *testing.T) {
	p := newPlace(t, 3500, "user = \"sekisho\"")
	b, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	p.write(p.config, string(b)+"[userdb]\nenabled = false\n", 0o644)
	for _, dir := range []string{p.state, p.run} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	d := p.start(&syscall.Credential{Uid: 65534, Gid: 65534})
	if s := proc(t, d.Pid()); s["Uid"] != "65534 65534 65534 65534" {
		t.Errorf("it runs as %s", s["Uid"])
	}
	if s := p.status(); s.UserDB != "off" {
		t.Errorf("the users door is %s", s.UserDB)
	}
}

// TestNotify: the service manager is told when it is ready and when it stops, and
// in between, if it asks for that, that sekishod does not hang.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, st.Mode().Perm()|0o011); err != nil && dir != "/mnt" {
			t.Fatal(err)
		}
	}
	p := newPlace(t, 3600, "")
	d := p.start(nil, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=300000")
	told := make(chan string, 10_000)
	go func() { // until l is closed; the kernel keeps only a few for us
		defer close(told)
		for b := make([]byte, 100); ; {
			n, err := l.Read(b)
			if err != nil {
				return
			}
			told <- string(b[:n])
		}
	}()
	const lives = "WATCHDOG=1"
	read := func(skip string) string {
		for {
			select {
			case got := <-told:
				if got != skip {
					return got
				}
			case <-time.After(time.Minute):
				t.Fatal("told nothing in a minute")
			}
		}
	}
	if got := read(lives); got != "READY=1" {
		t.Errorf("told %q", got)
	}
	for range 3 {
		if got := read(""); got != lives {
			t.Errorf("told %q", got)
		}
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	if got := read(lives); got != "STOPPING=1" {
		t.Errorf("told %q", got)
	}
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
	}{{"", "", 0}, {"x", "", 0}, {"9000000", "", 3 * time.Second}, {"9000000", "1", 0}, {"-1", "", 0}, {"99999999999999", "", 0}} {
		if got := watchdogPeriod(c.usec, c.pid); got != c.want {
			t.Errorf("%q for pid %q: every %s, not %s", c.usec, c.pid, got, c.want)
		}
	}
}

// TestHeldBack: when many users go at once nothing changes until root says so.
func TestHeldBack(t *testing.T) {
	p := newPlace(t, 3700, "")
	p.start(nil)
	for i := range 12 {
		p.sekisho("user", "add", fmt.Sprintf("u%02d", i), "--no-password")
	}
	p.until("all are there", func() bool { return p.status().Sync.Users == 12 })
	if _, err := p.try(t.Context(), "sync", "accept"); err == nil || !strings.Contains(err.Error(), "no change is held back") {
		t.Errorf("accept of nothing: %v", err)
	}
	for i := range 12 {
		p.sekisho("user", "rm", fmt.Sprintf("u%02d", i), "--yes")
	}
	p.until("it is held back", func() bool { return p.status().Sync.Held != nil })
	if n := p.status().Sync.Users; n == 0 {
		t.Error("nobody is left although it is held back")
	}
	out := p.sekisho("status")
	if !strings.Contains(out, "HELD BACK since") || !strings.Contains(out, "if that is meant: sekisho sync accept") {
		t.Errorf("status does not say so:\n%s", out)
	}
	p.sekisho("sync", "accept")
	p.until("they are gone", func() bool { return p.status().Sync.Users == 0 })
	if out := p.sekisho("audit", "grep", "--kind", "note"); !strings.Contains(out, "sync-accept") || !strings.Contains(out, " users go, by uid 0") {
		t.Errorf("the record does not have it:\n%s", out)
	}
}
