package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/audit"
	"github.com/sekisho/sekisho/cmd/internal/accounts"
	"github.com/sekisho/sekisho/testenv"
)

// withAlice has a user with a key who may enter this host.
func (p *place) withAlice() {
	p.t.Helper()
	key, err := testenv.NewKey("alice@client")
	if err != nil {
		p.t.Fatal(err)
	}
	file := filepath.Join(p.t.TempDir(), "alice.pub")
	p.write(file, string(key.Public)+"\n", 0o644)
	p.sekisho("user", "add", "alice", "--no-password", "--key", file)
	p.sekisho("host", "add", testHost, "--addr", "203.0.113.1")
	p.sekisho("rule", "add", "r", "--subject", "user:alice", "--door", "keys", "--target", "host:"+testHost)
	p.until("alice may", func() bool { _, err := p.try(p.t.Context(), "why", "alice", "keys", testHost); return err == nil })
}

// keys asks as sshd does, and tells sekisho-keys' exit code.
func (p *place) keys(user string) int {
	p.t.Helper()
	path, err := testenv.Program("sekisho-keys")
	if err != nil {
		p.t.Fatal(err)
	}
	err = exec.Command(path, "--socket", p.run+"/sekisho.sock", user).Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	if exit != nil {
		return exit.ExitCode()
	}
	return 0
}

// TestAuditFullDisk: when the record's disk is full nobody is let in, sekishod says
// why, and goes on by itself when there is room.
func TestAuditFullDisk(t *testing.T) {
	p := newPlace(t, 3900, "")
	d := p.start(nil)
	p.withAlice()
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	u, err := accounts.Lookup("sekisho")
	if err != nil {
		t.Fatal(err)
	}
	dir := p.state + "/audit"
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NODEV, fmt.Sprintf("size=128k,mode=0700,uid=%d,gid=%d", u.UID, u.UID)); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	d = p.start(nil)
	if code := p.keys("alice"); code != 0 {
		t.Fatalf("alice may not, with room on the disk: exit code %d\n%s", code, d.Log())
	}
	filler, err := os.Create(dir + "/filler")
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	filler.Close()
	code := 0
	for i := 0; i < 100 && code == 0; i++ { // what is left of the last page
		code = p.keys("alice")
	}
	if code != 75 {
		t.Errorf("with a full disk the exit code is %d: not \"could not find out\"", code)
	}
	if s := p.status().Audit; s == nil || !strings.Contains(s.Error, "no space left") {
		t.Errorf("status: %+v", s)
	}
	if out := p.sekisho("status"); !strings.Contains(out, "NOT WRITTEN, NOBODY IS LET IN: ") {
		t.Errorf("status does not say so:\n%s", out)
	}
	p.until("the log says so", func() bool {
		return strings.Contains(d.Log(), `"reason":"recorder"`) && strings.Contains(d.Log(), "nobody is let in until it can")
	})
	if err := os.Remove(filler.Name()); err != nil {
		t.Fatal(err)
	}
	p.until("alice may again", func() bool { return p.keys("alice") == 0 })
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	if out := p.sekisho("audit", "verify"); !strings.HasPrefix(out, "WHOLE: ") || !strings.Contains(out, "grants were refused") {
		t.Errorf("%s", out)
	}
}

// TestAuditKilled kills sekishod again and again while it answers: no grant that
// was given is missing, and the record is whole.
func TestAuditKilled(t *testing.T) {
	p := newPlace(t, 3910, "")
	d := p.start(nil)
	p.withAlice()
	given := 0
	for range 3 {
		for range 20 {
			if p.keys("alice") == 0 {
				given++
			}
		}
		d.Kill()
		d = p.start(nil)
	}
	if given != 60 {
		t.Errorf("%d of 60 were let in", given)
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	if out := p.sekisho("audit", "verify"); !strings.HasPrefix(out, "WHOLE: ") {
		t.Errorf("%s", out)
	}
	there := 0
	err := audit.Scan(context.Background(), p.state+"/audit", audit.Query{Kinds: []audit.Kind{audit.KindDecision}}, func(r *audit.Record) bool {
		if r.User == "alice" && r.Outcome == "allow" {
			there++
		}
		return true
	})
	if err != nil || there < given {
		t.Errorf("%d were let in, and %d are recorded: %v", given, there, err)
	}
}

// TestAuditJournal: Debian's journald takes the records apart as they are meant.
func TestAuditJournal(t *testing.T) {
	const journald = "/lib/systemd/systemd-journald" // of libnss-systemd's systemd
	if _, err := os.Stat(journald); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/run/log/journal", "/run/systemd/journal"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	journal, err := testenv.StartDaemon(t.Context(), testenv.DaemonConfig{Path: journald, Ready: func(context.Context) error {
		_, err := os.Stat("/run/systemd/journal/dev-log")
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Stop()
	if err := os.Symlink("/run/systemd/journal/dev-log", syslogSocket); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	p := newPlace(t, 0, "")
	b, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	p.write(p.config, string(b)+"[realm]\nldap = [\"127.0.0.1:3920\"]\nldaps = [\"127.0.0.1:3921\"]\nkdc = [\"127.0.0.1:3922\"]\n[audit]\nsyslog = true\n", 0o644)
	d := p.start(nil)
	p.withAlice()
	if code := p.keys("alice"); code != 0 {
		t.Fatalf("alice may not: %d", code)
	}
	var found map[string]any
	p.until("the journal has it", func() bool {
		out, _ := exec.Command("journalctl", "-D", "/run/log/journal", "-t", "sekisho-audit", "-o", "json", "--no-pager").Output()
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, `\"user\":\"alice\"`) {
				return json.Unmarshal([]byte(line), &found) == nil
			}
		}
		return false
	})
	if found["SYSLOG_FACILITY"] != "10" || found["PRIORITY"] != "6" || found["SYSLOG_PID"] != fmt.Sprint(d.Pid()) {
		t.Errorf("%v", found)
	}
	var r audit.Record
	if err := json.Unmarshal([]byte(fmt.Sprint(found["MESSAGE"])), &r); err != nil || r.User != "alice" || r.Outcome != "allow" || r.Prev == "" {
		t.Errorf("%v: %+v", err, r)
	}
	if s := p.status().Audit; s.SyslogLost != 0 {
		t.Errorf("%d were lost", s.SyslogLost)
	}
}

// TestWritesAreRecorded: what sekishod writes for somebody says who he is, without a
// secret; a command that writes past it leaves nothing.
func TestWritesAreRecorded(t *testing.T) {
	p := newPlace(t, 4200, "")
	d := p.start(nil)
	p.withAlice()
	const uid = 24001
	run := func(stdin, script string) error {
		cmd := exec.Command("sh", "-c", script, "sh", p.config, fmt.Sprint(uid))
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	}
	const byBob = `USER=bob setpriv --reuid "$2" --regid "$2" --clear-groups sekisho passwd --password-stdin --config "$1"`
	const first, second, wrong = "first long secret", "second long secret", "wrong long secret"
	if err := run(first+"\n", `sekisho user add bob --uid "$2" --password-stdin --config "$1"`); err != nil {
		t.Fatal(err)
	}
	p.until("bob is known", func() bool { return p.status().Sync.Users == 2 })
	if err := run(wrong+"\n"+second+"\n", byBob); err == nil {
		t.Fatal("a wrong old password was right")
	}
	if err := run(first+"\n"+second+"\n", byBob); err != nil {
		t.Fatal(err)
	}
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	var notes []string
	if err := audit.Scan(t.Context(), p.state+"/audit", audit.Query{Kinds: []audit.Kind{audit.KindNote}}, func(r *audit.Record) bool {
		if r.Event != "start" && r.Event != "stop" {
			notes = append(notes, fmt.Sprintf("%s %s %s: %s", r.Event, r.Actor, r.Subject, r.Text))
		}
		for _, secret := range []string{first, second, wrong} {
			if strings.Contains(fmt.Sprintf("%+v", *r), secret) {
				t.Errorf("a secret is in the record: %+v", *r)
			}
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if len(notes) != 2 || !strings.HasPrefix(notes[0], "passwd bob bob: password not changed: ") || !strings.HasSuffix(notes[0], ", by uid 24001 on the local socket") ||
		notes[1] != "passwd bob bob: password changed, by uid 24001 on the local socket" {
		t.Errorf("the record has %q", notes)
	}
}
