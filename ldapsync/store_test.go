package ldapsync

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/testenv"
)

func quietLog() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(&bytes.Buffer{})
	return logrus.NewEntry(l)
}

// storeBench is a store without a Sync.
type storeBench struct {
	t    testing.TB
	c    Config
	p    *plan
	s    *store
	m    *mirror
	seq  uint64
	base broker.DN
}

func newStoreBench(t testing.TB, dir string) (*storeBench, *loaded) {
	t.Helper()
	b, l := readStore(t, dir)
	b.seq = l.last.seq
	b.s.start(l)
	return b, l
}

// readStore loads what is in dir, and begins no writing.
func readStore(t testing.TB, dir string) (*storeBench, *loaded) {
	t.Helper()
	b := &storeBench{t: t, base: testBase}
	b.c = Config{Provider: Provider{URLs: []string{"ldapi:///x"}}, BaseDN: testBase, StateDir: dir, Log: quietLog()}
	if err := b.c.validate(); err != nil {
		t.Fatal(err)
	}
	var err error
	if b.p, err = newPlan(b.c.Schema); err != nil {
		t.Fatal(err)
	}
	b.s, err = openStore(&b.c, header{plan: b.p.fingerprint(), base: testBase, names: b.p.names})
	if err != nil {
		t.Fatal(err)
	}
	b.m = newMirror(&b.c, b.p)
	l, err := b.s.load(b.m, b.p, b.base)
	if err != nil {
		t.Fatal(err)
	}
	b.m.commit()
	return b, l
}

func (b *storeBench) put(n int, shell string) []byte {
	e := entryOf(b.p, fmt.Sprintf("uid=u%d,ou=people,%s", n, testBase), "objectClass", "posixAccount", "uid", fmt.Sprintf("u%d", n),
		"uidNumber", fmt.Sprint(2000+n), "gidNumber", "5000", "homeDirectory", "/h", "loginShell", shell)
	e.id = testID(n)
	return appendPut(nil, e)
}

func (b *storeBench) commit(recs ...[]byte) {
	after := b.seq
	b.seq++
	data := slices.Concat(append(recs, commit{seq: b.seq, generation: b.seq, asOf: time.Unix(1e9+int64(b.seq), 0),
		cookie: fmt.Sprint("cookie", b.seq)}.append(nil))...)
	b.s.do(op{kind: opData, data: data, after: after})
}

// state is the users' names and shells.
func state(snap *broker.Snapshot) string {
	if snap == nil {
		return "nothing"
	}
	var out []string
	snap.Users(func(u *broker.User) bool { out = append(out, string(u.Name)+u.Shell); return true })
	sort.Strings(out)
	return strings.Join(out, " ")
}

// segmentFiles are the good segments in dir, in order.
func segmentFiles(t testing.TB, dir string) (names []string) {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		if _, _, ok := segmentNumber(e.Name()); ok {
			names = append(names, e.Name())
		}
	}
	return names
}

// script makes a state directory with a full segment and two journals, and
// tells the state after each commit.
func script(t *testing.T, dir string) map[string]bool {
	states := map[string]bool{"nothing": true}
	b, _ := newStoreBench(t, dir)
	add := func(want string) { states[want] = true }
	b.s.do(op{kind: opBegin, full: true})
	b.commit(b.put(1, "/a"), b.put(2, "/a"), b.put(3, "/a"))
	add("u1/a u2/a u3/a")
	b.s.do(op{kind: opSeal})
	b.commit(b.put(2, "/b"))
	add("u1/a u2/b u3/a")
	b.commit(appendDelete(nil, testID(1)), b.put(4, "/a"))
	add("u2/b u3/a u4/a")
	b.s.do(op{kind: opBegin, after: b.seq})
	b.commit(b.put(5, "/a"), appendDelete(nil, testID(2)))
	b.s.do(op{kind: opSeal})
	add("u3/a u4/a u5/a")
	b.commit(b.put(1, "/c"), appendDelete(nil, testID(3)))
	add("u1/c u4/a u5/a")
	b.s.stop()
	return states
}

const lastState = "u1/c u4/a u5/a"

func loadState(t *testing.T, dir string) (string, *loaded) {
	t.Helper()
	b, l := readStore(t, dir)
	b.s.stop()
	return state(b.m.cur), l
}

func TestStoreRoundTrip(t *testing.T) {
	dir := t.TempDir()
	script(t, dir)
	got, l := loadState(t, dir)
	if got != lastState || l.last.cookie != "cookie5" || !l.samePlan || len(l.faults) != 0 || l.last.asOf.Unix() != 1e9+5 {
		t.Errorf("%q %+v", got, l)
	}
	if len(segmentFiles(t, dir)) != 4 {
		t.Errorf("segments: %q", segmentFiles(t, dir))
	}
}

// TestCutAnywhere cuts each file at every byte, and turns each byte over: what
// loads is always the state of some commit, and a fault is told with its file.
func TestCutAnywhere(t *testing.T) {
	dir := t.TempDir()
	states := script(t, dir)
	files := segmentFiles(t, dir)
	type content struct {
		name string
		b    []byte
	}
	var all []content
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, content{f, b})
	}
	work := t.TempDir()
	try := func(what string, victim int, b []byte) {
		t.Helper()
		for _, f := range segmentFiles(t, work) {
			os.Remove(filepath.Join(work, f))
		}
		for i, c := range all {
			data := c.b
			if i == victim {
				data = b
			}
			if err := os.WriteFile(filepath.Join(work, c.name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, l := loadState(t, work)
		if !states[got] {
			t.Fatalf("%s of %s: loaded %q, which never was", what, all[victim].name, got)
		}
		if got == "nothing" && (len(l.faults) == 0 || !strings.Contains(l.faults[0].Error(), all[victim].name) ||
			!strings.Contains(l.faults[0].Error(), "remove")) {
			t.Fatalf("%s of %s: nothing loaded, and told is %v", what, all[victim].name, l.faults)
		}
		if got != lastState && got != "nothing" && l.last.cookie == "cookie5" {
			t.Fatalf("%s of %s: an older state with the newest cookie", what, all[victim].name)
		}
	}
	for i, c := range all {
		for n := range len(c.b) {
			try(fmt.Sprintf("cut at %d", n), i, c.b[:n])
		}
		for n := range len(c.b) {
			b := bytes.Clone(c.b)
			b[n] ^= 0x41
			try(fmt.Sprintf("byte %d turned", n), i, b)
		}
	}
}

// TestCompaction folds a long journal, deletes and puts again included.
func TestCompaction(t *testing.T) {
	dir := t.TempDir()
	b, _ := newStoreBench(t, dir)
	b.s.do(op{kind: opBegin, full: true})
	b.commit(b.put(1, "/a"), b.put(2, "/a"), b.put(3, "/a"), appendDelete(nil, testID(3)), b.put(4, "/a"), b.put(4, "/b"))
	b.s.do(op{kind: opSeal})
	for i := range 3 * maxSegments {
		b.s.do(op{kind: opBegin, after: b.seq})
		b.commit(b.put(10+i%5, fmt.Sprintf("/%d", i)), appendDelete(nil, testID(10+(i+1)%5)))
		b.s.do(op{kind: opSeal})
	}
	b.s.stop()
	if n := len(segmentFiles(t, dir)); n > maxSegments+1 {
		t.Errorf("%d segments are left", n)
	}
	got, l := loadState(t, dir)
	last := 3*maxSegments - 1
	want := fmt.Sprintf("u1/a u%d/%d u%d/%d u%d/%d u%d/%d u2/a u4/b", 10+last%5, last, 10+(last-1)%5, last-1, 10+(last-2)%5, last-2, 10+(last-3)%5, last-3)
	w := strings.Fields(want)
	sort.Strings(w)
	if got != strings.Join(w, " ") || l.last.seq != b.seq || len(l.faults) != 0 {
		t.Errorf("after folding %q, want %q; %+v", got, want, l)
	}
	// A large journal folds, too, while it is written to.
	b, _ = newStoreBench(t, dir)
	for range 40 {
		var recs [][]byte
		for n := range 1000 {
			recs = append(recs, b.put(n, "/"+strings.Repeat("x", 200)))
		}
		b.commit(recs...)
	}
	b.s.stop()
	if _, n := b.s.state(); n > 12<<20 {
		t.Errorf("%d bytes on disk for 1000 users", n)
	}
	if got, _ := loadState(t, dir); len(strings.Fields(got)) != 1000 {
		t.Errorf("%d users after folding", len(strings.Fields(got)))
	}
}

// TestUnfinished: what was not sealed is not there after a restart, and
// nothing of it stays behind.
func TestUnfinished(t *testing.T) {
	dir := t.TempDir()
	script(t, dir)
	b, _ := newStoreBench(t, dir)
	b.s.do(op{kind: opBegin, after: b.seq})
	b.commit(b.put(77, "/held"))
	b.s.do(op{kind: opBegin, full: true})
	b.commit(b.put(78, "/held"))
	wait(t, "all is written", func() bool {
		fs := segmentFiles(t, dir)
		if len(fs) < 2 || !strings.HasSuffix(fs[len(fs)-2], "tmp") || !strings.HasSuffix(fs[len(fs)-1], "tmp") {
			return false
		}
		d, err := os.ReadFile(filepath.Join(dir, fs[len(fs)-1]))
		return err == nil && bytes.Contains(d, []byte("/held"))
	})
	// As by kill -9: copy the directory as it is now.
	dead := t.TempDir()
	for _, f := range segmentFiles(t, dir) {
		d, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dead, f), d, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.s.stop()
	if got, l := loadState(t, dead); got != lastState || l.last.cookie != "cookie5" {
		t.Errorf("loaded %q, %+v", got, l.last)
	}
	for _, f := range segmentFiles(t, dead) {
		if strings.HasSuffix(f, "tmp") {
			t.Errorf("%s is left", f)
		}
	}
}

// TestFullDisk: the service goes on, says so, and writes again when there is
// room.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m,mode=700"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	d := startDirectory(t, testenv.SlapdConfig{})
	d.user("alice", 2001)
	c := d.config(t)
	c.StateDir = dir
	r := startSync(t, c)
	r.until("alice is there", hasUser("alice"))
	r.live()
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for buf := make([]byte, 4096); ; {
		if _, err := f.Write(buf); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			break
		}
	}
	f.Close()
	for i := range 30 {
		d.user(fmt.Sprintf("u%d", i), 2100+i, "sshPublicKey", testKey(i, strings.Repeat("c", 1000)))
	}
	r.until("changes are seen though the disk is full", hasUser("u29"))
	wait(t, "the status tells of the disk", func() bool { return strings.Contains(r.Status().DiskError, "no space left") })
	r.younger()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	wait(t, "the snapshot is on disk again", func() bool { return r.Status().DiskError == "" })
	r.stop()
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	r = startSync(t, c)
	r.until("all is on disk", hasUser("u29"))
}
