package ldapsync

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/testenv"
)

// TestRestarts: both sides restart, and only what changed is read.
func TestRestarts(t *testing.T) {
	for name, cfg := range map[string]testenv.SlapdConfig{
		"sessionlog":   {SessionLog: 1000},
		"shortLog":     {SessionLog: 2},
		"presentPhase": {SessionLog: -1},
	} {
		t.Run(name, func(t *testing.T) {
			d := startDirectory(t, cfg)
			for i := range 20 {
				d.user(fmt.Sprintf("u%d", i), 2000+i)
			}
			d.group("g", userDN("u1"), userDN("u2"))
			c := d.config(t)
			r := startSync(t, c)
			r.until("u19 is there", hasUser("u19"))
			r.live()
			r.stop()

			// Nothing changes while we are away.
			r = startSync(t, c)
			if v := r.until("the snapshot is loaded", hasUser("u19")); v.Generation() == 0 {
				t.Error("no generation")
			}
			r.live()
			if !strings.Contains(r.log.String(), "(0 entries changed or new)") {
				t.Errorf("reconnecting read entries")
			}
			r.stop()

			// Much changes while we are away.
			for i := 8; i < 13; i++ { // more than the short sessionlog holds
				d.delete(userDN(fmt.Sprintf("u%d", i)))
			}
			d.delete(userDN("u3"))
			d.modify(userDN("u4"), "replace", "loginShell", "/bin/zsh")
			d.user("new", 2100)
			d.modify(groupDN("g"), "delete", "member", userDN("u2"))
			r = startSync(t, c)
			r.until("new is there", hasUser("new"))
			r.live()
			v := r.View()
			if hasUser("u3")(v) || hasUser("u12")(v) || !hasUser("u5")(v) || inGroup(v, "u2", "g") || !inGroup(v, "u1", "g") {
				t.Error("not all changes came")
			}
			if u, _ := v.User("u4"); u.Shell != "/bin/zsh" {
				t.Errorf("u4 has %s", u.Shell)
			}
			// slapd restarts under us: its sessionlog is lost.
			if err := d.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			d.connect()
			d.delete(userDN("u6"))
			r.until("u6 is gone", hasNoUser("u6"))
			r.live()
			if v := r.View(); !hasUser("u7")(v) || !hasUser("new")(v) {
				t.Error("users were lost in a restart")
			}
		})
	}
}

// TestRestored: the database is restored from an older backup: its change
// numbers go backwards, and what was done since is undone.
func TestRestored(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{})
	for i := range 20 {
		d.user(fmt.Sprintf("u%d", i), 2000+i)
	}
	backup, err := d.Dump(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := startSync(t, d.config(t))
	r.until("u19 is there", hasUser("u19"))
	r.live()
	d.user("late", 2100)
	d.delete(userDN("u0"))
	d.modify(userDN("u1"), "replace", "loginShell", "/bin/zsh")
	r.until("u1 has zsh", func(v broker.View) bool { u, _ := v.User("u1"); return u.Shell == "/bin/zsh" })
	began := time.Now()
	d.rebuild(backup)
	v := r.until("the backup's state is there", hasNoUser("late"))
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("a provider that is behind was believed after %s", took)
	}
	if u, _ := v.User("u1"); !hasUser("u0")(v) || u.Shell != "/bin/bash" {
		t.Error("not the backup's state")
	}
	r.live()
	r.younger()
}

// TestHeldRefresh: a refresh that takes most users away waits for Accept, also
// over a restart, and what is published grows old meanwhile.
func TestHeldRefresh(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{})
	for i := range 40 {
		d.user(fmt.Sprintf("u%02d", i), 2000+i)
	}
	d.group("g", userDN("u00"), userDN("u39"))
	c := d.config(t)
	r := startSync(t, c)
	r.until("u39 is there", hasUser("u39"))
	r.live()
	r.stop()
	for i := range 20 {
		d.delete(userDN(fmt.Sprintf("u%02d", i)))
	}
	for range 2 { // the second time as after a restart of ours
		r = startSync(t, c)
		wait(t, "the refresh is held back", func() bool { return r.Status().Held != nil })
		h := r.Status().Held
		if h.Users != 20 || h.Of != 40 || len(h.First) != 20 || h.First[0] != "u00" || h.Why == "" {
			t.Errorf("held: %+v", h)
		}
		if v := r.View(); !hasUser("u00")(v) || !inGroup(v, "u00", "g") {
			t.Error("the old snapshot is not in force")
		}
		if !r.standsStill() {
			t.Error("AsOf moves while a change is held back")
		}
		if !strings.Contains(r.log.String(), "sekisho sync accept") {
			t.Error("the log does not name the mend")
		}
		r.stop()
	}
	r = startSync(t, c)
	wait(t, "the refresh is held back", func() bool { return r.Status().Held != nil })
	d.user("late", 2100) // comes while held
	wait(t, "the change is taken in, and held", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		u, _ := r.candidate.User("late")
		return u != nil
	})
	if hasUser("late")(r.View()) {
		t.Error("a change got past the hold")
	}
	if err := r.Accept(); err != nil {
		t.Fatal(err)
	}
	if v := r.View(); hasUser("u00")(v) || !hasUser("u39")(v) || !hasUser("late")(v) {
		t.Error("Accept does not publish")
	}
	if err := r.Accept(); err != ErrNothingHeld {
		t.Errorf("second Accept: %v", err)
	}
	r.younger()
	d.user("later", 2101)
	r.until("changes come again", hasUser("later"))
	r.stop()
	if err := d.Stop(); err != nil { // what was accepted is on disk
		t.Fatal(err)
	}
	r = startSync(t, c)
	v := r.until("the snapshot is loaded", hasUser("later"))
	if hasUser("u00")(v) || !hasUser("late")(v) || !inGroup(v, "u39", "g") {
		t.Error("not the accepted state on disk")
	}
}

// TestHeldReturns: the users come back, and nobody has to accept anything.
func TestHeldReturns(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{})
	for i := range 40 {
		d.user(fmt.Sprintf("u%02d", i), 2000+i)
	}
	backup, err := d.Dump(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := d.config(t)
	r := startSync(t, c)
	r.until("u39 is there", hasUser("u39"))
	r.live()
	d.rebuild(nil)
	wait(t, "the empty directory is held back", func() bool { return r.Status().Held != nil })
	if h := r.Status().Held; h.Users != 40 {
		t.Errorf("held: %+v", h)
	}
	d.rebuild(backup)
	wait(t, "the hold ends by itself", func() bool { return r.Status().Held == nil })
	r.live()
	if !hasUser("u00")(r.View()) {
		t.Error("users were lost")
	}
	r.younger()
	d.connect()
	d.user("late", 2100)
	r.until("changes come again", hasUser("late"))
	r.stop()
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	r = startSync(t, c)
	r.until("all is on disk", hasUser("late"))
}

// TestHeldDeletions: ldapdelete -r is stopped on its way.
func TestHeldDeletions(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{})
	for i := range 60 {
		d.user(fmt.Sprintf("u%02d", i), 2000+i)
	}
	c := d.config(t)
	r := startSync(t, c)
	r.until("u59 is there", hasUser("u59"))
	r.live()
	for i := range 60 {
		d.delete(userDN(fmt.Sprintf("u%02d", i)))
	}
	wait(t, "the deletions are held back", func() bool { return r.Status().Held != nil })
	users, _, _, _ := r.View().Size()
	if users < 42 { // more are left when many deletions come at once
		t.Errorf("%d of 60 users are left by the hold, 42 should be at least", users)
	}
	r.stop()
	r = startSync(t, c) // the disk has the state before the hold, and the deletes come again
	wait(t, "held back again", func() bool { return r.Status().Held != nil })
	if n, _, _, _ := r.View().Size(); n != users {
		t.Errorf("%d users after a restart, %d before", n, users)
	}
	if err := r.Accept(); err != nil {
		t.Fatal(err)
	}
	if n, _, _, _ := r.View().Size(); n != 0 {
		t.Errorf("%d users after Accept", n)
	}
	d.user("phoenix", 3000)
	r.until("life goes on", hasUser("phoenix"))
}

// TestEmptyStateDir: other permissions, another process, another base.
func TestStateDir(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{})
	d.user("alice", 2001)
	c := d.config(t)
	r := startSync(t, c)
	r.until("alice is there", hasUser("alice"))
	c2 := c
	c2.Log = r.Sync.c.Log
	if _, err := New(c2); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second Sync on one StateDir: %v", err)
	}
	r.stop()
	entries, err := os.ReadDir(c.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if st, err := e.Info(); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", e.Name(), st.Mode(), err)
		}
	}
	c2.BaseDN = "ou=people," + testBase
	r = startSync(t, c2)
	r.until("alice is there", hasUser("alice"))
	if !strings.Contains(r.log.String(), "it is not used") {
		t.Error("a snapshot of another base was taken")
	}
	r.stop()
	if err := os.Chmod(c.StateDir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := New(c2); err == nil || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("a StateDir that all can write: %v", err)
	}
}

// TestKilledInRefresh: slapd dies in the middle of refreshes; nothing half-read
// is ever seen, and in the end all is there.
func TestKilledInRefresh(t *testing.T) {
	const users = 20_000
	var b bytes.Buffer
	fmt.Fprintf(&b, "dn: %s\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: example\n\ndn: ou=folk,%s\nobjectClass: organizationalUnit\nou: folk\n\n", testBase, testBase)
	for i := range users {
		fmt.Fprintf(&b, "dn: uid=u%d,ou=folk,%s\nobjectClass: account\nobjectClass: posixAccount\nuid: u%d\ncn: x\nuidNumber: %d\ngidNumber: 5000\nhomeDirectory: /h\n\n", i, testBase, i, 2000+i)
	}
	d := startDirectory(t, testenv.SlapdConfig{LDIF: b.Bytes(), NoSync: true, Debug: "0"})
	c := d.config(t)
	c.BackoffMin = 5 * time.Millisecond
	r := startSync(t, c)
	broken := 0
	for i := 0; i < 8 || broken == 0; i++ {
		if i == 50 {
			t.Fatal("no refresh was broken off: the test tests nothing")
		}
		if broken == 0 && r.View().Snapshot != nil { // it was too fast for us: once more from nothing
			r.stop()
			c.StateDir = t.TempDir()
			r = startSync(t, c)
		}
		wait(t, "a refresh is under way", func() bool { s := r.Status().State; return s == Refreshing || s == Live })
		time.Sleep(time.Duration(10*(i%8)) * time.Millisecond)
		if v := r.View(); v.Snapshot == nil {
			broken++
		} else if n, _, _, _ := v.Size(); n != users {
			t.Fatalf("%d of %d users are published", n, users)
		}
		if err := d.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := d.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	v := r.until("all is there", hasUser("u0"))
	if n, _, _, _ := v.Size(); n != users {
		t.Fatalf("%d of %d users are published", n, users)
	}
}

// TestTransports: large refreshes, and single changes after them, over every
// kind of connection.
func TestTransports(t *testing.T) {
	const users = 8000
	var b bytes.Buffer
	fmt.Fprintf(&b, "dn: %s\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: example\n\n", testBase)
	for i := range users {
		fmt.Fprintf(&b, "dn: uid=u%d,%s\nobjectClass: account\nobjectClass: posixAccount\nuid: u%d\ncn: x\nuidNumber: %d\ngidNumber: 5000\nhomeDirectory: /h\n\n", i, testBase, i, 2000+i)
	}
	ca := testCA(t, "ours")
	d := startDirectory(t, testenv.SlapdConfig{LDIF: b.Bytes(), NoSync: true, Debug: "0", CA: ca})
	file := writeFile(t, ca.PEM)
	for i, p := range []Provider{{URLs: []string{d.LDAPI}}, {URLs: []string{d.URL}}, {URLs: []string{d.TLSURL}, CAFile: file},
		{URLs: []string{d.URL}, CAFile: file, StartTLS: true}} {
		c := d.config(t)
		c.Provider = p
		c.Timeout, c.ProbeEvery = 20*time.Second, time.Hour // no answer to a probe brings along what is stuck
		r := startSync(t, c)
		v := r.until("all is there", hasUser("u0"))
		if n, _, _, _ := v.Size(); n != users+i {
			t.Errorf("%+v: %d users", p, n)
		}
		r.live()
		time.Sleep(1200 * time.Millisecond) // but to the first, in a second
		name := fmt.Sprintf("new%d", i)
		d.user(name, 20_000+i)
		r.until(fmt.Sprintf("the new user is there over %+v", p), hasUser(name))
		r.stop()
		c.ProbeEvery = 100 * time.Millisecond
		r = startSync(t, c)
		r.live()
		r.younger()
		r.stop()
	}
}
