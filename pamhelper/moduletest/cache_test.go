package moduletest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/wire"
)

const aliceUID = 2001

// addAlice adds users to the sandbox; its hosts have them too, then.
var addAlice = sync.OnceValue(func() error {
	f, err := os.OpenFile("/etc/passwd", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprintf(f, "alice:x:%d:%d::/home/alice:/bin/bash\nbob:x:2002:2002::/home/bob:/bin/bash\n", aliceUID, aliceUID)
	return err
})

// ticketDoor is a door with tickets to give to alice; the folder belongs to the
// broker's user and group.
func ticketDoor(t *testing.T, cache []byte) *door {
	t.Helper()
	if err := addAlice(); err != nil {
		t.Fatal(err)
	}
	d := newDoor(t)
	if err := os.Chown(filepath.Join(d.dir, "tickets"), 0, 800); err != nil {
		t.Fatal(err)
	}
	d.plan("auth", yes("login "+token))
	d.plan("account", yes())
	d.plan("credentials", wire.Answer{Outcome: wire.Yes, Body: ticketBody(folder, cache)})
	d.plan("session", yes("session "+sessionID))
	return d
}

// ticketBody is what door/pam says: base64 of the whole, cut into lines.
func ticketBody(name string, cache []byte) []string {
	body := []string{"session " + sessionID, "dir " + name}
	text := base64.StdEncoding.EncodeToString(cache)
	for len(text) > 0 {
		n := min(len(text), 48<<10)
		body = append(body, "cache "+text[:n])
		text = text[n:]
	}
	return body
}

func ccache(n int) []byte {
	b := bytes.Repeat([]byte{0x00, 0xff, 0x3e, 0x3f, 'x'}, n/5+1)[:n]
	copy(b, "\x05\x04")
	return b
}

func (d *door) cc(name string) string { return filepath.Join(d.dir, "tickets", name, "cc") }

// ticketNames are the entries of the folder of tickets.
func (d *door) ticketNames(t *testing.T) []string {
	t.Helper()
	es, err := os.ReadDir(filepath.Join(d.dir, "tickets"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range es {
		names = append(names, e.Name())
	}
	return names
}

// isAlices checks a file's or folder's owner, group and mode.
func isAlices(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Error(err)
		return
	}
	if sys := st.Sys().(*syscall.Stat_t); sys.Uid != aliceUID || sys.Gid != 800 || st.Mode() != mode {
		t.Errorf("%s is %v of %d:%d, want %v of %d:800", path, st.Mode(), sys.Uid, sys.Gid, mode, aliceUID)
	}
}

// A sign-in's tickets are written for the user and the broker, named in the
// environment, and gone when the session is; the token does not stay there.
func TestTickets(t *testing.T) { each(t, tickets) }

func tickets(t *testing.T, v variant) {
	for _, size := range []int{2, 3, 4, 1000, 48 << 10, 80000, 256 << 10} {
		for _, umask := range []string{"0000", "0777"} {
			cache := ccache(size)
			d := ticketDoor(t, cache)
			dir := v.stack(t, d, every)
			start := []string{"umask=" + umask, "auth", "acct", "setcred:e", "env"}
			want := []string{rc("auth", 0), rc("acct", 0), rc("setcred", 0),
				"env KRB5CCNAME=FILE:" + d.cc(folder), "env SEKISHO_SESSION=" + sessionID}
			wants(t, v.start(t, dir, start...), want...) // a program that ends without a word
			isAlices(t, filepath.Dir(d.cc(folder)), os.ModeDir|0o770)
			isAlices(t, d.cc(folder), 0o660)
			if b, err := os.ReadFile(d.cc(folder)); err != nil || !bytes.Equal(b, cache) {
				t.Errorf("%d bytes: the cache has %d: %v", size, len(b), err)
			}
			os.RemoveAll(filepath.Dir(d.cc(folder)))
			// The whole life; calls that come twice do nothing more.
			got := v.start(t, dir, append(start, "open", "setcred:e", "env", "close", "setcred:d")...)
			want = append(want, rc("open", 0), rc("setcred", 0),
				"env KRB5CCNAME=FILE:"+d.cc(folder), "env SEKISHO_SESSION="+sessionID, rc("close", 0), rc("setcred", 0))
			wants(t, got, want...)
			if n := d.ticketNames(t); len(n) != 0 {
				t.Errorf("left: %q", n)
			}
		}
	}
}

// sshd skips setcred when another module above succeeds: then opening the session
// gets the tickets.
func TestTicketsWithTheSession(t *testing.T) { each(t, ticketsWithTheSession) }

func ticketsWithTheSession(t *testing.T, v variant) {
	d := ticketDoor(t, ccache(100))
	dir := v.stack(t, d, every)
	// As sshd's monitor: the token comes in the environment.
	got := v.start(t, dir, "putenv=SEKISHO_LOGIN="+token, "acct", "open", "env", "setcred:e", "close", "setcred:d")
	wants(t, got, rc("acct", 0), rc("open", 0), "env KRB5CCNAME=FILE:"+d.cc(folder), "env SEKISHO_SESSION="+sessionID,
		rc("setcred", 0), rc("close", 0), rc("setcred", 0))
	var verbs []string
	for _, l := range d.heard() {
		l, _, _ = strings.Cut(l, " pid=")
		verbs = append(verbs, strings.ReplaceAll(l, token, "TOKEN"))
	}
	wants(t, verbs, "account user=alice service=svc login=TOKEN",
		"session user=alice service=svc op=open login=TOKEN",
		"credentials user=alice op=establish login=TOKEN session="+sessionID,
		"session user=alice service=svc op=close login=TOKEN session="+sessionID)
	if n := d.ticketNames(t); len(n) != 0 {
		t.Errorf("left: %q", n)
	}
	// When they cannot be had, the session opens, and says so.
	d.plan("credentials", unknown("session", "no"))
	got = v.start(t, dir, "putenv=SEKISHO_LOGIN="+token, "open", "env")
	wants(t, got, "batch 1", "msg 3 there is no Kerberos ticket in this session: the log of this host says why", rc("open", 0), "env SEKISHO_SESSION="+sessionID)
}

// Deleting alone removes them too, and tells sekishod.
func TestDeletingCredentials(t *testing.T) { each(t, deleting) }

func deleting(t *testing.T, v variant) {
	d := ticketDoor(t, ccache(100))
	dir := v.stack(t, d, every)
	d.plan("credentials delete", yes())
	got := v.start(t, dir, "auth", "setcred:e", "setcred:d", "setcred:d", "env")
	wants(t, got, rc("auth", 0), rc("setcred", 0), rc("setcred", 0), rc("setcred", 0), "env SEKISHO_SESSION="+sessionID)
	if n := d.ticketNames(t); len(n) != 0 {
		t.Errorf("left: %q", n)
	}
	wants(t, d.heard(), "auth user=alice service=svc", "credentials user=alice op=establish login="+token,
		"credentials user=alice op=delete login="+token+" session="+sessionID)
	// They go, and that is all that can be done, when sekishod does not answer.
	d.plan("credentials delete", unknown("", ""))
	wants(t, v.start(t, dir, "auth", "setcred:e", "setcred:d"), rc("auth", 0), rc("setcred", 0), rc("setcred", unavail))
	// A server that gives tickets when they are deleted has not understood.
	d.plan("credentials delete", wire.Answer{Outcome: wire.Yes, Body: ticketBody(folder, ccache(9))})
	wants(t, v.start(t, dir, "auth", "setcred:e", "setcred:d"), rc("auth", 0), rc("setcred", 0), rc("setcred", unavail))
	if n := d.ticketNames(t); len(n) != 0 {
		t.Errorf("left: %q", n)
	}
}

// Reinitializing brings new tickets in a new folder, and removes the old; nothing
// new leaves the old.
func TestReinitialize(t *testing.T) { each(t, reinitialize) }

func reinitialize(t *testing.T, v variant) {
	d := ticketDoor(t, ccache(100))
	dir := v.stack(t, d, every)
	second := strings.Repeat("z", 22)
	d.plan("credentials reinitialize", wire.Answer{Outcome: wire.Yes, Body: ticketBody(second, ccache(7))})
	d.plan("credentials refresh", yes())
	got := v.start(t, dir, "auth", "setcred:e", "setcred:r", "env", "setcred:i", "env")
	wants(t, got, rc("auth", 0), rc("setcred", 0), rc("setcred", 0), "env KRB5CCNAME=FILE:"+d.cc(folder), "env SEKISHO_SESSION="+sessionID,
		rc("setcred", 0), "env KRB5CCNAME=FILE:"+d.cc(second), "env SEKISHO_SESSION="+sessionID)
	wants(t, d.ticketNames(t), second)
	wants(t, d.heard(), "auth user=alice service=svc", "credentials user=alice op=establish login="+token,
		"credentials user=alice op=refresh login="+token+" session="+sessionID+" ccname=FILE:"+d.cc(folder),
		"credentials user=alice op=reinitialize login="+token+" session="+sessionID+" ccname=FILE:"+d.cc(folder))
	os.RemoveAll(filepath.Dir(d.cc(second)))
	// The first time, as sudo and others do, it is establishing.
	wants(t, v.start(t, dir, "auth", "setcred:i", "close"), rc("auth", 0), rc("setcred", 0), rc("close", 0))
	if got := d.heard()[1]; got != "credentials user=alice op=establish login="+token {
		t.Errorf("heard %s", got)
	}
}

// sudo authenticates one user and opens a session for another: no tickets, and the
// token does not reach the other's processes, nor sekishod in his name.
func TestTicketsAreForWhoSignedIn(t *testing.T) { each(t, whoSignedIn) }

func whoSignedIn(t *testing.T, v variant) {
	d := ticketDoor(t, ccache(100))
	dir := v.stack(t, d, every)
	d.plan("session", yes())
	got := v.start(t, dir, "auth", "pamuser=bob", "setcred:i", "setcred:e", "open", "env", "close", "setcred:d")
	wants(t, got, rc("auth", 0), rc("setcred", 0), rc("setcred", 0), rc("open", 0), rc("close", 0), rc("setcred", 0))
	heard := d.heard()
	if len(heard) != 3 || strings.Contains(heard[1], "login") || !strings.HasPrefix(heard[1], "session user=bob service=svc op=open pid=") {
		t.Errorf("heard %q", heard)
	}
	if n := d.ticketNames(t); len(n) != 0 {
		t.Errorf("left: %q", n)
	}
}

// A screen locker, which is the user's own, has the cache renewed that it runs with.
func TestRefreshByTheUser(t *testing.T) { each(t, refreshByTheUser) }

func refreshByTheUser(t *testing.T, v variant) {
	d := ticketDoor(t, ccache(100))
	dir := v.stack(t, d, every)
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	for ccname, op := range map[string]string{
		"FILE:" + d.cc(folder):                "op=refresh login=" + token + " ccname=FILE:" + d.cc(folder),
		"FILE:" + d.cc("../"+folder[:19]):     "",
		"FILE:/tmp/krb5cc_2001":               "",
		"":                                    "",
		"FILE:" + d.cc(folder) + "x":          "",
		"FILE:/etc" + d.cc(folder):            "",
		"FILE:" + strings.Repeat("x", 100000): "",
	} {
		v := v
		v.env = append([]string{"KRB5CCNAME=" + ccname}, v.env...)
		got := v.raw(t, "uid=2001", "confdir="+dir, "service=svc", "user=alice", "start", "auth", "setcred:r", "env")
		want := []string{rc("auth", 0), rc("setcred", 0)}
		if op != "" {
			want = append(want, "env SEKISHO_SESSION="+sessionID)
		}
		wants(t, got, want...)
		heard := d.heard()
		if op == "" && len(heard) != 1 || op != "" && (len(heard) != 2 || heard[1] != "credentials user=alice "+op) {
			t.Errorf("%.50s: heard %q", ccname, heard)
		}
	}
	if n := d.ticketNames(t); len(n) != 0 {
		t.Errorf("left: %q", n)
	}
}

// What cannot be written, or read, leaves nothing behind and no name in the environment.
func TestTicketsThatCannotBe(t *testing.T) { each(t, ticketsThatCannotBe) }

func ticketsThatCannotBe(t *testing.T, v variant) {
	good := ticketBody(folder, ccache(1000))
	for _, tc := range []struct {
		name   string
		body   []string
		change func(d *door) error
		code   int
	}{
		{name: "no dir", body: append([]string{good[0]}, good[2:]...), code: unavail},
		{name: "no cache", body: good[:2], code: unavail},
		{name: "two dirs", body: append([]string{"dir " + folder}, good...), code: unavail},
		{name: "a short dir", body: []string{"dir " + folder[1:], good[2]}, code: unavail},
		{name: "a long dir", body: []string{"dir " + folder + "x", good[2]}, code: unavail},
		{name: "a dir elsewhere", body: []string{"dir ../../../../../../etcx", good[2]}, code: unavail},
		{name: "an empty cache line", body: []string{"dir " + folder, "cache "}, code: unavail},
		{name: "no base64", body: []string{"dir " + folder, "cache BQQ"}, code: unavail},
		{name: "base64 of URLs", body: []string{"dir " + folder, "cache BQQ_"}, code: unavail},
		{name: "loose bits", body: []string{"dir " + folder, "cache BQR="}, code: unavail},
		{name: "too much padding", body: []string{"dir " + folder, "cache B==="}, code: unavail},
		{name: "padding within", body: []string{"dir " + folder, "cache BQ==BQQ="}, code: unavail},
		{name: "another version", body: []string{"dir " + folder, "cache BQMA"}, code: unavail},
		{name: "another file", body: []string{"dir " + folder, "cache " + base64.StdEncoding.EncodeToString([]byte("root::0:0:"))}, code: unavail},
		{name: "a word more", body: append([]string{"mode 0777"}, good...), code: unavail},
		{name: "the name is taken", body: good, code: credErr, change: func(d *door) error {
			return os.Symlink("/etc", filepath.Dir(d.cc(folder)))
		}},
		{name: "no folder", body: good, code: credErr, change: func(d *door) error { return os.Remove(filepath.Join(d.dir, "tickets")) }},
		{name: "a link", body: good, code: credErr, change: func(d *door) error {
			if err := os.Rename(filepath.Join(d.dir, "tickets"), filepath.Join(d.dir, "real")); err != nil {
				return err
			}
			return os.Symlink("real", filepath.Join(d.dir, "tickets"))
		}},
		{name: "everybody's folder", body: good, code: credErr, change: func(d *door) error { return os.Chmod(filepath.Join(d.dir, "tickets"), os.ModeSticky|0o777) }},
		{name: "somebody's folder", body: good, code: credErr, change: func(d *door) error { return os.Chown(filepath.Join(d.dir, "tickets"), 2002, 800) }},
		{name: "a full disk", body: ticketBody(folder, ccache(100000)), code: credErr, change: func(d *door) error {
			return unix.Mount("tmpfs", filepath.Join(d.dir, "tickets"), "tmpfs", 0, "size=16k,mode=0711")
		}},
		{name: "no inode for the file", body: good, code: credErr, change: func(d *door) error {
			return unix.Mount("tmpfs", filepath.Join(d.dir, "tickets"), "tmpfs", 0, "nr_inodes=2,mode=0711")
		}},
		{name: "a disk that cannot be written", body: good, code: credErr, change: func(d *door) error {
			return unix.Mount("tmpfs", filepath.Join(d.dir, "tickets"), "tmpfs", unix.MS_RDONLY, "mode=0711")
		}},
	} {
		d := ticketDoor(t, nil)
		d.plan("credentials", wire.Answer{Outcome: wire.Yes, Body: tc.body})
		dir := v.stack(t, d, every)
		if tc.change != nil {
			if err := tc.change(d); err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
			t.Cleanup(func() { unix.Unmount(filepath.Join(d.dir, "tickets"), unix.MNT_DETACH) })
		}
		var before []string
		if tc.name != "no folder" {
			before = d.ticketNames(t)
		}
		got := v.start(t, dir, "fds", "auth", "setcred:e", "fds", "env")
		var fds []string
		for _, l := range got {
			if strings.HasPrefix(l, "fd ") {
				fds = append(fds, l)
			} else if strings.HasPrefix(l, "env KRB5") || strings.HasPrefix(l, "env SEKISHO_L") {
				t.Errorf("%s: %s", tc.name, l)
			}
		}
		if n := len(fds); n%2 != 0 || strings.Join(fds[:n/2], ",") != strings.Join(fds[n/2:], ",") {
			t.Errorf("%s: %q", tc.name, fds)
		}
		if !strings.Contains(strings.Join(got, "\n"), rc("setcred", tc.code)) {
			t.Errorf("%s: %q, want code %d", tc.name, got, tc.code)
		}
		if tc.name != "no folder" && strings.Join(d.ticketNames(t), ",") != strings.Join(before, ",") {
			t.Errorf("%s: left %q", tc.name, d.ticketNames(t))
		}
		if _, err := os.Stat("/etc/cc"); err == nil {
			t.Fatalf("%s: written through a link", tc.name)
		}
	}
	// The user is nobody on this host.
	d := ticketDoor(t, ccache(9))
	dir := v.stack(t, d, every)
	got := v.raw(t, "confdir="+dir, "service=svc", "user=stranger", "start", "auth", "setcred:e")
	wants(t, got, rc("auth", 0), rc("setcred", userUnknown))
}

// At the end only what this handle made is removed, whatever the user has put in its
// place, beside it, or into PAM's environment.
func TestRemovingTickets(t *testing.T) { each(t, removing) }

func removing(t *testing.T, v variant) {
	precious := filepath.Join(short(t), "precious")
	for _, tc := range []struct {
		name   string
		change func(d *door) error // between setcred and close
		left   string              // in the folder of tickets
		code   int
	}{
		{"as it was", func(*door) error { return nil }, "", success},
		{"a file beside it", func(d *door) error { return os.WriteFile(filepath.Join(filepath.Dir(d.cc(folder)), "x"), nil, 0o600) }, folder, success},
		{"gone already", func(d *door) error { return os.RemoveAll(filepath.Dir(d.cc(folder))) }, "", success},
		{"a link in its place", func(d *door) error {
			os.Remove(d.cc(folder))
			return os.Symlink(precious, d.cc(folder))
		}, "", success},
		{"a folder in its place", func(d *door) error {
			os.Remove(d.cc(folder))
			return os.Mkdir(d.cc(folder), 0o700)
		}, folder, sessionErr},
		{"another's folder in its place", func(d *door) error { return os.Chown(filepath.Dir(d.cc(folder)), 2002, 2002) }, folder, sessionErr},
		{"a link in the folder's place", func(d *door) error {
			os.RemoveAll(filepath.Dir(d.cc(folder)))
			return os.Symlink(filepath.Dir(precious), filepath.Dir(d.cc(folder)))
		}, folder, sessionErr},
	} {
		if err := os.WriteFile(precious, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(precious), "cc"), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		d := ticketDoor(t, ccache(100))
		dir := v.stack(t, d, every)
		d.whenAsked(func(r wire.Request) {
			if r.Get("op") == "open" {
				if err := tc.change(d); err != nil {
					t.Error(err)
				}
			}
		})
		got := v.start(t, dir, "auth", "setcred:e", "open", "close")
		wants(t, got, rc("auth", 0), rc("setcred", 0), rc("open", 0), rc("close", tc.code))
		if left := strings.Join(d.ticketNames(t), ","); left != tc.left {
			t.Errorf("%s: left %q", tc.name, left)
		}
		if _, err := os.Lstat(d.cc(folder)); tc.code == success && err == nil {
			t.Errorf("%s: the tickets are left", tc.name)
		}
		for _, f := range []string{precious, filepath.Join(filepath.Dir(precious), "cc")} {
			if _, err := os.Stat(f); err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
		}
	}
	// A name that somebody put into the environment is another's business.
	d := ticketDoor(t, nil)
	d.plan("credentials", yes())
	others := d.cc(strings.Repeat("o", 22))
	if err := os.MkdirAll(filepath.Dir(others), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(others, ccache(9), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := v.stack(t, d, every)
	wants(t, v.start(t, dir, "auth", "open", "putenv=KRB5CCNAME=FILE:"+others, "close", "setcred:d"), rc("auth", 0), rc("open", 0), rc("close", 0), rc("setcred", 0))
	if _, err := os.Stat(others); err != nil {
		t.Error(err)
	}
}

// setuid programs: root by effect, not by birth.
func TestSetuidCaller(t *testing.T) { each(t, setuidCaller) }

func setuidCaller(t *testing.T, v variant) {
	d := ticketDoor(t, ccache(100))
	dir := v.stack(t, d, every)
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	v.env = append([]string{"KRB5CCNAME=FILE:" + d.cc(strings.Repeat("o", 22))}, v.env...)
	got := v.raw(t, "ruid=2001", "confdir="+dir, "service=svc", "user=alice", "start", "auth", "setcred:r", "env", "close")
	wants(t, got, rc("auth", 0), rc("setcred", 0), "env KRB5CCNAME=FILE:"+d.cc(folder), "env SEKISHO_SESSION="+sessionID, rc("close", 0))
	if heard := d.heard(); len(heard) < 2 || heard[1] != "credentials user=alice op=establish login="+token {
		t.Errorf("heard %q", heard)
	}
}
