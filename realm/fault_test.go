package realm_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sekisho/sekisho/realm"
	"golang.org/x/sys/unix"
)

// TestPasswordRace: of many changes at once, the LDAP password and the Kerberos keys
// that remain are of the same one.
func TestPasswordRace(t *testing.T) {
	r := start(t, testConfig(t))
	addUser(t, r, "alice", "first password", 20001)
	const n = 8
	name := func(i int) string { return fmt.Sprint("new password ", i) }
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = r.ChangePassword(within(t, time.Minute), "alice", "first password", name(i)) })
	}
	wg.Wait()
	won, holds := 0, 0
	for i, err := range errs {
		if err == nil {
			won++
		}
		// Wrong tries have locked the account by now.
		unlock := ldap.NewModifyRequest(r.Info().Layout.UserDN("alice"), nil)
		unlock.Replace("pwdAccountLockedTime", nil)
		if err := admin(t, r).Modify(unlock); err != nil {
			t.Fatal(err)
		}
		l, k := ldapBind(t, r, "alice", name(i)), kinit(t, r, "alice", name(i))
		if l != k {
			t.Errorf("password %d opens LDAP %v, Kerberos %v (its change: %v)", i, l, k, err)
		}
		if l {
			holds++
		}
		if l && err != nil {
			t.Errorf("password %d holds, and its change failed: %v", i, err)
		}
	}
	if won == 0 || holds != 1 {
		t.Errorf("%d changes succeeded, %d passwords hold: %v", won, holds, errs)
	}
	if kinit(t, r, "alice", "first password") {
		t.Error("the old password opens Kerberos")
	}
}

// TestHungDirectory: a slapd that hangs is not a wrong password, and holds nobody up
// beyond his time.
func TestHungDirectory(t *testing.T) {
	r := start(t, testConfig(t))
	addUser(t, r, "alice", "first password", 20001)
	pid := r.Status()[0].PID
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT)
	began := time.Now()
	err := r.ChangePassword(within(t, time.Second), "alice", "first password", "second password")
	if took := time.Since(began); err == nil || errors.Is(err, realm.ErrWrongPassword) || took > 8*time.Second { // its own limit is 10 s
		t.Errorf("%v after %v", err, took)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := r.ChangePassword(within(t, time.Minute), "alice", "first password", "second password"); err != nil {
		t.Errorf("once it goes on: %v", err)
	}
}

// TestFullDisk: a first start on a full disk says so, and goes through once there is
// room.
func TestFullDisk(t *testing.T) {
	c := testConfig(t)
	if err := os.Mkdir(c.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mount := func(flags uintptr, size string) {
		t.Helper()
		if err := unix.Mount("tmpfs", c.Dir, "tmpfs", flags, "mode=755,size="+size); err != nil {
			t.Fatal(err)
		}
	}
	mount(0, "64k")
	t.Cleanup(func() { unix.Unmount(c.Dir, unix.MNT_DETACH) })
	if err := os.Chown(c.Dir, c.UID, c.GID); err != nil {
		t.Fatal(err)
	}
	for _, size := range []string{"64k", "120k", "160k", "200k", "240k"} {
		mount(unix.MS_REMOUNT, size)
		r, err := realm.Open(within(t, time.Minute), c)
		if err == nil {
			r.Close()
			t.Fatalf("a realm in %s", size)
		}
		if !strings.Contains(strings.ToLower(err.Error()), "no space left") {
			t.Errorf("%s: %v", size, err)
		}
	}
	mount(unix.MS_REMOUNT, "64m")
	run(t, c, func(r *realm.Realm) {
		addUser(t, r, "alice", "correct horse", 20001)
		if !kinit(t, r, "alice", "correct horse") {
			t.Error("no ticket")
		}
	})
}
