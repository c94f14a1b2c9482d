package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/cmd/internal/accounts"
	"github.com/sekisho/sekisho/otp"
	"github.com/sekisho/sekisho/state"
	"github.com/sekisho/sekisho/wire"
)

// smallDisk mounts a disk of the service user's, and fills it; free makes room on it.
func (p *place) smallDisk(dir, size string) (free func()) {
	p.t.Helper()
	u, err := accounts.Lookup("sekisho")
	if err != nil {
		p.t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%s,mode=0700,uid=%d,gid=%d", size, u.UID, u.GID)); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			p.t.Error(err)
		}
	})
	return func() {
		if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *place) fill(dir string) {
	p.t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	for b := make([]byte, 1<<20); err == nil; {
		_, err = f.Write(b)
	}
}

// TestStoreFullDisk: sekishod starts though the disk of its state is full. What needs no
// mark is answered, what needs one could not be found out; and when there is room it
// goes on by itself.
func TestStoreFullDisk(t *testing.T) {
	p := newPlace(t, 4100, "")
	d := p.start(nil)
	p.withAlice()
	dir := t.TempDir()
	secret, password := filepath.Join(dir, "secret"), filepath.Join(dir, "password")
	c := &coder{secret: otp.NewSecret(otp.SHA1)}
	p.write(secret, otp.Text(c.secret), 0o600)
	p.write(password, "correct horse", 0o600)
	if out, err := exec.Command("sh", "-c", `sekisho passwd alice --password-stdin --config "$1" <"$2"`, "sh", p.config, password).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.sekisho("otp", "enrol", "alice", "--yes", "--secret-file", secret)
	p.sekisho("rule", "add", "s", "--subject", "user:alice", "--door", "pam", "--target", "host:"+testHost, "--proof", "password", "--proof", "otp")
	begin := func() {
		t.Helper()
		d = p.start(nil)
		p.until("the KDC serves", func() bool {
			r := p.status().Realm
			return len(r) == 2 && r[0].Ready && r[1].Ready
		})
	}
	stop := func() {
		t.Helper()
		if err := d.Stop(); err != nil {
			t.Fatal(err)
		}
	}

	// The disk of the store alone, and there is no store yet.
	stop()
	store := p.state + "/state"
	free := p.smallDisk(store, "16m")
	p.fill(store)
	begin()
	if code := p.keys("alice"); code != 0 {
		t.Errorf("alice's keys: exit code %d", code)
	}
	p.until("a code cannot be marked", func() bool {
		a, _ := p.auth("alice", "correct horse", c.next(t))
		if a.Outcome == wire.Yes {
			t.Fatal("a code counts that cannot be marked as used")
		}
		return a.Outcome == wire.Unknown
	})
	p.until("the log says why", func() bool { return strings.Contains(d.Log(), state.ErrUnavailable.Error()) })
	if log := d.Log(); !strings.Contains(log, "the disk of the state store is full") || !strings.Contains(log, "make room") {
		t.Errorf("the log does not say what mends it:\n%s", log)
	}
	free()
	p.until("there is room", func() bool { return strings.Contains(d.Log(), "the state store works again") })
	if a, _ := p.auth("alice", "correct horse", c.next(t)); a.Outcome != wire.Yes {
		t.Errorf("a code, when there is room: %+v", a)
	}

	// The disk of everything, the audit record too: nobody is let in unrecorded.
	stop()
	whole := t.TempDir()
	if out, err := exec.Command("cp", "-a", p.state+"/.", whole).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	free = p.smallDisk(p.state, "400m")
	if out, err := exec.Command("sh", "-c", `cp -a "$1"/. "$2" && rm -r "$2/state"`, "sh", whole, p.state).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.fill(p.state)
	begin()
	if out := p.sekisho("why", "alice", "keys", testHost); !strings.HasPrefix(out, "YES: alice") {
		t.Errorf("got %s", out)
	}
	code := 0
	for i := 0; i < 100 && code == 0; i++ { // what is left of the last page
		code = p.keys("alice")
	}
	if code != 75 {
		t.Errorf("nothing can be recorded, but alice's keys have the exit code %d", code)
	}
	free()
	p.until("there is room", func() bool { return p.keys("alice") == 0 && strings.Contains(d.Log(), "the state store works again") })
}
