package ccache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func open(t *testing.T, name string) *Store {
	t.Helper()
	s, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func write(t *testing.T, path string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestFile: MIT's programs and ours use the same files.
func TestFile(t *testing.T) {
	m := startMIT(t)
	ctx := t.Context()
	theirs, ours := filepath.Join(m.dir, "theirs"), filepath.Join(m.dir, "ours")
	m.run("kinit", "-r", "2d", "-f", "-c", "FILE:"+theirs, "alice")
	m.run("kvno", "-q", "-c", theirs, "host/web1.example.org")
	raw, err := os.ReadFile(theirs)
	if err != nil {
		t.Fatal(err)
	}
	c, err := open(t, "FILE:"+theirs).Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := Format(c); err != nil || !bytes.Equal(b, raw) {
		t.Errorf("%v, or other bytes than MIT's", err)
	}
	tgt, err := c.TGT()
	if err != nil {
		t.Fatal(err)
	}
	// A cache with nothing but a ticket, as a sign-in makes it.
	s := open(t, ours)
	if err := s.Write(ctx, New(tgt)); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(ours); err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if s.Name() != "FILE:"+ours {
		t.Errorf("name %s", s.Name())
	}
	out := m.run("klist", "-f", "-e", "-c", ours)
	for _, want := range []string{"Default principal: alice@EXAMPLE.ORG", "krbtgt/EXAMPLE.ORG@EXAMPLE.ORG", "Flags: FRI", "renew until", "aes256-cts-hmac-sha1-96"} {
		if !strings.Contains(out, want) {
			t.Errorf("klist does not say %q:\n%s", want, out)
		}
	}
	m.run("klist", "-s", "-c", ours)
	m.run("kvno", "-c", ours, "host/web1.example.org", "host/web2.example.org")
	if c, err := s.Read(ctx); err != nil || len(c.Tickets()) != 3 {
		t.Errorf("after kvno: %d tickets, %v", len(c.Tickets()), err)
	}
	m.run("kinit", "-R", "-c", ours)
	c, err = s.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := c.TGT()
	if err != nil || !renewed.RenewTill.Equal(tgt.RenewTill) {
		t.Errorf("renewed: %v, %v", renewed, err)
	}
	m.run("kdestroy", "-q", "-c", ours)
	if _, err := s.Read(ctx); !errors.Is(err, ErrNone) {
		t.Errorf("after kdestroy: %v", err)
	}
	// Ours destroys theirs: the name is gone, and so are the bytes.
	if err := os.Link(theirs, theirs+"2"); err != nil {
		t.Fatal(err)
	}
	if err := open(t, theirs).Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	if out, err := m.try("klist", "-c", theirs); err == nil || !strings.Contains(out, "No credentials cache found") {
		t.Errorf("klist after our destroy: %v, %s", err, out)
	}
	if b, err := os.ReadFile(theirs + "2"); err != nil || len(b) != len(raw) || len(bytes.Trim(b, "\x00")) > 0 {
		t.Errorf("its bytes are still there: %v", err)
	}
	if err := open(t, theirs).Destroy(ctx); !errors.Is(err, ErrNone) {
		t.Errorf("destroying none: %v", err)
	}
}

// TestOlderVersions are told from garbage.
func TestOlderVersions(t *testing.T) {
	m := startMIT(t)
	for v := 1; v <= 4; v++ {
		conf, err := os.ReadFile(m.dir + "/krb5.conf")
		if err != nil {
			t.Fatal(err)
		}
		old := write(t, fmt.Sprintf("%s/krb5-%d.conf", m.dir, v), bytes.Replace(conf, []byte("[libdefaults]"), fmt.Appendf(nil, "[libdefaults]\n ccache_type = %d", v), 1))
		cc := fmt.Sprintf("%s/cc%d", m.dir, v)
		m.run("env", "KRB5_CONFIG="+old, "kinit", "-c", cc, "alice")
		_, err = open(t, cc).Read(t.Context())
		if v == 4 && err != nil || v != 4 && (err == nil || !strings.Contains(err.Error(), fmt.Sprintf("a credential cache of version %d, which is not read: write it anew", v))) {
			t.Errorf("version %d: %v", v, err)
		}
		if err := open(t, cc).Destroy(t.Context()); err != nil {
			t.Errorf("destroying one of version %d: %v", v, err)
		}
	}
}

// TestOffset: a kinit with a wrong clock notes how wrong it was.
func TestOffset(t *testing.T) {
	m := startMIT(t)
	cc := filepath.Join(m.dir, "cc")
	m.run("faketime", "-f", "+200s", "kinit", "-c", cc, "alice")
	c, err := open(t, cc).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if off, ok := c.Offset(); !ok || off > -170*time.Second || off < -230*time.Second {
		t.Errorf("offset %v, %v", off, ok)
	}
	// And MIT works with ours, in spite of its clock.
	c.Entries = c.Tickets()
	if err := open(t, cc).Write(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	m.run("faketime", "-f", "+200s", "kvno", "-c", cc, "host/web1.example.org")
}

// TestDir: several caches in a directory, made by both sides.
func TestDir(t *testing.T) {
	m := startMIT(t)
	ctx := t.Context()
	dir := filepath.Join(m.dir, "caches")
	name := "DIR:" + dir
	m.run("kinit", "-c", m.dir+"/alice", "alice")
	alice, err := open(t, m.dir+"/alice").Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := Collection(ctx, name); err != nil || len(all) > 0 {
		t.Errorf("%v, %v", all, err)
	}
	if _, err := open(t, name).Read(ctx); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("looking made the directory: %v", err)
	}
	s, err := ForPrincipal(ctx, name, alice.Principal)
	if err != nil || s.Name() != "DIR::"+dir+"/tkt" {
		t.Fatalf("%v, %v", s, err)
	}
	if err := errors.Join(s.Write(ctx, alice), s.Choose()); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	env := func(args ...string) string {
		t.Helper()
		return m.run(append([]string{"env", "KRB5CCNAME=" + name}, args...)...)
	}
	if out := env("klist"); !strings.Contains(out, "DIR::"+dir+"/tkt\n") || !strings.Contains(out, "alice@") {
		t.Errorf("klist:\n%s", out)
	}
	env("kinit", "bob")
	if c, err := open(t, name).Read(ctx); err != nil || c.Principal.String() != "bob@EXAMPLE.ORG" {
		t.Errorf("primary: %v, %v", c.Principal, err)
	}
	all, err := Collection(ctx, name)
	if err != nil || len(all) != 2 || all[1].Name() != s.Name() {
		t.Fatalf("%v, %v", all, err)
	}
	// alice again: her cache, not a third one.
	again, err := ForPrincipal(ctx, name, alice.Principal)
	if err != nil || again.Name() != s.Name() {
		t.Errorf("%v, %v", again, err)
	}
	if err := again.Choose(); err != nil {
		t.Fatal(err)
	}
	if out := env("klist"); !strings.Contains(out, "Default principal: alice@") {
		t.Errorf("klist:\n%s", out)
	}
	// A third principal gets a name of its own, which MIT lists.
	carol := alice
	carol.Principal = Name{1, realmName, []string{"carol"}}
	third, err := ForPrincipal(ctx, name, carol.Principal)
	if err != nil || third.Name() == s.Name() || third.Name() == all[0].Name() {
		t.Fatalf("%v, %v", third, err)
	}
	if err := third.Write(ctx, carol); err != nil {
		t.Fatal(err)
	}
	if out := env("klist", "-l"); strings.Count(out, "DIR::") != 3 || !strings.Contains(out, strings.TrimPrefix(third.Name(), "DIR::")) {
		t.Errorf("klist -l:\n%s", out)
	}
	// A name of one file is that file, whoever's it is.
	if one, err := ForPrincipal(ctx, third.Name(), alice.Principal); err != nil || one.Name() != third.Name() {
		t.Errorf("%v, %v", one, err)
	}
	if list, err := Collection(ctx, third.Name()); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if err := third.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	env("kdestroy", "-A")
	if all, err := Collection(ctx, name); err != nil || len(all) > 0 {
		t.Errorf("%v, %v", all, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "primary" {
		t.Errorf("left behind: %v, %v", left, err)
	}
	for _, bad := range []string{"", "tkt", "other\n", "../tkt\n", "tkt/../x\n", strings.Repeat("tkt", 30) + "\n"} {
		write(t, filepath.Join(dir, "primary"), []byte(bad))
		if s, err := Open(name); err == nil || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("primary %q: %v, %v", bad, s, err)
		}
	}
}

// TestLinks: where everybody may make names, no link of somebody else is followed.
func TestLinks(t *testing.T) {
	ctx := t.Context()
	dir, shared := t.TempDir(), filepath.Join(t.TempDir(), "shared")
	if err := os.Mkdir(shared, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(shared, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	target := write(t, filepath.Join(dir, "target"), mitCache)
	for _, link := range []string{filepath.Join(dir, "link"), filepath.Join(shared, "link")} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := open(t, filepath.Join(dir, "link")).Read(ctx); err != nil {
		t.Errorf("a link of one's own: %v", err)
	}
	s := open(t, filepath.Join(shared, "link"))
	for what, err := range map[string]error{"read": second(s.Read(ctx)), "destroy": s.Destroy(ctx), "rewrite": s.Rewrite(ctx, same)} {
		if err == nil || !strings.Contains(err.Error(), "symbolic link") {
			t.Errorf("%s through a link: %v", what, err)
		}
	}
	if w := s.Warnings(); w != nil {
		t.Errorf("looked through the link: %v", w)
	}
	// Writing puts a file in the link's place, and leaves what it led to.
	if err := s.Write(ctx, sampleCache()); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(filepath.Join(shared, "link")); err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if b, err := os.ReadFile(target); err != nil || !bytes.Equal(b, mitCache) {
		t.Errorf("the target was written: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(shared, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func second[T any](_ T, err error) error { return err }

func same(c Cache) (Cache, error) { return c, nil }

func TestNotACache(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	thesis := write(t, filepath.Join(dir, "thesis"), []byte("years of work"))
	for path, want := range map[string]string{fifo: "not a regular file", dir: "", "/dev/null": "not a regular file", thesis: "not a credential cache"} {
		s := open(t, path)
		for what, err := range map[string]error{"read": second(s.Read(ctx)), "destroy": s.Destroy(ctx), "rewrite": s.Rewrite(ctx, same)} {
			if err == nil || errors.Is(err, ErrNone) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s %s: %v", what, path, err)
			}
		}
	}
	if b, err := os.ReadFile(thesis); err != nil || string(b) != "years of work" {
		t.Errorf("%q, %v", b, err)
	}
	if err := open(t, dir).Write(ctx, sampleCache()); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"below a file":   second(open(t, thesis+"/cc").Read(ctx)),
		"below nothing":  second(open(t, dir+"/none/cc").Read(ctx)),
		"rewriting none": open(t, dir+"/none").Rewrite(ctx, same),
	} {
		if !errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", what, err)
		}
	}
	empty := write(t, filepath.Join(dir, "empty"), nil)
	if _, err := open(t, empty).Read(ctx); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Error(err)
	}
	if err := open(t, empty).Destroy(ctx); err != nil {
		t.Error(err)
	}
}

// TestRewrite keeps the file, its owner and its mode, and refuses what its owner
// could put there to have another file written.
func TestRewrite(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	path := filepath.Join(dir, "cc")
	s := open(t, path)
	if err := s.Write(ctx, sampleCache()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chown(path, 24901, 24902), os.Chmod(path, 0o660)); err != nil {
		t.Fatal(err)
	}
	inode := func() (st unix.Stat_t) {
		t.Helper()
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	before := inode()
	for _, n := range []int{1, 400, 3} { // longer, then shorter
		err := s.Rewrite(ctx, func(c Cache) (Cache, error) {
			c.Entries = c.Entries[:1]
			for range n {
				c.Entries = append(c.Entries, NewConfig(c.Principal, "k", "", []byte("value")))
			}
			return c, nil
		})
		if c, rerr := s.Read(ctx); err != nil || rerr != nil || len(c.Entries) != n+1 {
			t.Fatalf("%d entries, %v, %v", len(c.Entries), err, rerr)
		}
	}
	after := inode()
	if before.Ino != after.Ino || after.Uid != 24901 || after.Gid != 24902 || after.Mode&0o777 != 0o660 {
		t.Errorf("another file, owner or mode: %+v", after)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	no := errors.New("no")
	for want, change := range map[string]func(Cache) (Cache, error){
		"no":         func(c Cache) (Cache, error) { return Cache{}, no },
		"components": func(c Cache) (Cache, error) { return Cache{}, nil },
	} {
		if err := s.Rewrite(ctx, change); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, raw) {
		t.Errorf("a change that failed was written: %v", err)
	}
	if err := os.Symlink(path, path+"-link"); err != nil {
		t.Fatal(err)
	}
	if err := open(t, path+"-link").Rewrite(ctx, same); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Error(err)
	}
	if err := os.Link(path, path+"-second"); err != nil {
		t.Fatal(err)
	}
	if err := s.Rewrite(ctx, same); err == nil || !strings.Contains(err.Error(), "several names") {
		t.Error(err)
	}
	if err := open(t, "DIR::"+dir+"/tkt").Rewrite(ctx, same); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

// TestRewriteOfAnother: who is only in the file's group changes it in place, as
// sekishod renews the caches of sessions, and makes no other file there.
func TestRewriteOfAnother(t *testing.T) {
	m := startMIT(t)
	dir := filepath.Join(m.dir, "session")
	cc := filepath.Join(dir, "cc")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	write(t, cc, mitCache)
	if err := errors.Join(os.Chown(dir, 24901, 24902), os.Chown(cc, 24901, 24902), os.Chmod(cc, 0o660)); err != nil {
		t.Fatal(err)
	}
	out := m.sh(`
		as() { setpriv --reuid $1 --regid $2 --clear-groups "$ME" "$3" "$4"; }
		as 24903 24902 add $DIR/session/cc
		as 24901 24901 read $DIR/session/cc
		if as 24903 24903 add $DIR/session/cc 2>&1; then echo others may; fi
		if as 24903 24902 destroy $DIR/session/cc 2>&1; then echo gone; fi
		stat -c "%u %g %a" $DIR/session/cc
		klist -C -c $DIR/session/cc
	`)
	for _, want := range []string{" alice@EXAMPLE.ORG 3 2 ", "24901 24902 660\n", "config: added = "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Count(out, "permission denied") != 2 || strings.Contains(out, "others may") {
		t.Errorf("somebody else's rights:\n%s", out)
	}
}

// TestLocks: nobody reads while it is written, and a lock that is never given up
// ends in an error, not in a wait without end.
func TestLocks(t *testing.T) {
	ctx := t.Context()
	path := write(t, filepath.Join(t.TempDir(), "cc"), mitCache)
	s := open(t, path)
	hold := func(kind int16) *os.File {
		t.Helper()
		h, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := lock(ctx, h, kind); err != nil {
			t.Fatal(err)
		}
		return h
	}
	h := hold(unix.F_WRLCK)
	soon, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	for what, err := range map[string]error{"read": second(s.Read(soon)), "rewrite": s.Rewrite(soon, same)} {
		if err == nil || !strings.Contains(err.Error(), "another program holds the lock") || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", what, err)
		}
	}
	held := h
	time.AfterFunc(100*time.Millisecond, func() { held.Close() })
	if _, err := s.Read(ctx); err != nil {
		t.Errorf("after the lock: %v", err)
	}
	h = hold(unix.F_RDLCK)
	defer h.Close()
	if _, err := s.Read(ctx); err != nil {
		t.Errorf("two readers: %v", err)
	}
	soon, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := s.Rewrite(soon, same); err == nil {
		t.Error("written while it is read")
	}
}

// TestConcurrent: readers see whole caches while others write and change them.
func TestConcurrent(t *testing.T) {
	ctx := t.Context()
	s := open(t, filepath.Join(t.TempDir(), "cc"))
	c := sampleCache()
	if err := s.Write(ctx, c); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			for n := range 40 {
				err := s.Rewrite(ctx, func(c Cache) (Cache, error) {
					c.Entries = c.Entries[:1:1]
					for range (n * (i + 3)) % 17 {
						c.Entries = append(c.Entries, NewConfig(c.Principal, "k", "", bytes.Repeat([]byte("x"), n)))
					}
					return c, nil
				})
				if err != nil && !errors.Is(err, ErrNone) { // replaced meanwhile
					t.Error(err)
				}
			}
		})
	}
	all.Go(func() {
		for range 20 {
			if err := s.Write(ctx, c); err != nil {
				t.Error(err)
			}
		}
	})
	for range 3 {
		all.Go(func() {
			for range 60 {
				if c, err := s.Read(ctx); err != nil || len(c.Entries) == 0 {
					t.Errorf("%d entries, %v", len(c.Entries), err)
				}
			}
		})
	}
	all.Wait()
}

func TestWarnings(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "cc"), mitCache)
	s := open(t, path)
	if w := s.Warnings(); len(w) > 0 {
		t.Errorf("%q", w)
	}
	if err := errors.Join(os.Chown(path, 24901, 0), os.Chmod(path, 0o604)); err != nil {
		t.Fatal(err)
	}
	w := strings.Join(s.Warnings(), "\n")
	if !strings.Contains(w, "belongs to uid 24901, not to you (0)") || !strings.Contains(w, "chmod 600 "+path) {
		t.Errorf("%q", w)
	}
}
