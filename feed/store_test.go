package feed

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// reload reads a log that has this content.
func reload(t *testing.T, log []byte, host broker.HostName) (*loaded, *store) {
	t.Helper()
	dir := inMemory(t)
	if err := os.WriteFile(filepath.Join(dir, logName), log, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := openStore(dir, host, quiet())
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	return l, s
}

// inMemory is a folder that need not be synced to a disk.
func inMemory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "feed-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// history is a log of some changes, with the state after each, by its AsOf.
func history(t *testing.T) (log []byte, states map[int64][]string) {
	t.Helper()
	const name = "host0.example.org"
	dir := t.TempDir()
	st, err := openStore(dir, name, quiet())
	if err != nil {
		t.Fatal(err)
	}
	l, err := st.load()
	if err != nil {
		t.Fatal(err)
	}
	m, s := l.mirror, small(t)
	key, rules, groups := kin(s, s.Host("host0"))
	c, _ := newClass(s, key, rules, groups)
	states = map[int64][]string{0: nil}
	asOf := time.Unix(1_800_000_000, 0).UTC()
	commit1 := func(frames [][]byte) {
		tx := m.begin()
		for _, f := range frames {
			v, err := parseServerFrame(kind(f[4]), f[5:])
			if err != nil {
				t.Fatal(err)
			}
			tx.keep(kind(f[4]), f[5:])
			switch v := v.(type) {
			case *ops:
				err = tx.ops(v)
			case *self:
				tx.self = v
			case *commit:
				_, _, err = m.commit(tx, v, st.reserve)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		asOf = asOf.Add(time.Minute)
		st.write(tx.kept, m, asOf)
		states[asOf.Unix()] = names(m.snap)
	}
	commit1(append([][]byte{newFrame(kindSelf, selfOf(s, s.Host("host0")))}, append(c.all(s), c.commitFrame(1))...))
	for i := range 6 {
		e := s.Edit()
		if i%2 == 0 {
			e.RemoveUser(testUser(0).ID)
		} else {
			e.PutUser(testUser(0))
		}
		now := e.Commit()
		ch := c.update(newNews(s, now), nil)
		s = now
		frames := ch.frames(false)
		c.record(frames)
		commit1(append(frames, c.commitFrame(s.Generation())))
		if i == 2 { // an AsOf alone
			asOf = asOf.Add(2 * time.Minute)
			st.heartbeat(m, asOf)
			states[asOf.Unix()] = names(m.snap)
		}
	}
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
	if log, err = os.ReadFile(filepath.Join(dir, logName)); err != nil {
		t.Fatal(err)
	}
	return log, states
}

// TestStoreOfOlder: what a host has on disk is still read when the protocol has another
// version: its broker may be away when it is brought up to date.
func TestStoreOfOlder(t *testing.T) {
	log, _ := history(t)
	const head = `{"version":1,"host":"host0.example.org"}`
	if at := bytes.Index(log, []byte(head)); at < 0 || at > 64 {
		t.Errorf("the file does not begin with %s", head)
	}
	l, s := reload(t, log, "host0.example.org")
	defer s.close()
	if l.mirror.snap == nil || len(l.faults) > 0 {
		t.Errorf("nothing is read: %v", l.faults)
	}
}

func names(s *broker.Snapshot) (out []string) {
	if s == nil {
		return nil
	}
	s.Users(func(u *broker.User) bool { out = append(out, string(u.Name)); return true })
	slices.Sort(out)
	return out
}

// TestCut: a log that is cut at any byte gives the last change that is whole, with
// the age of that; and the next start sees no fault.
func TestCut(t *testing.T) {
	log, states := history(t)
	if len(states) < 8 {
		t.Fatalf("%d states", len(states))
	}
	last := int64(0)
	for n := range len(log) + 1 {
		l, st := reload(t, log[:n], "host0.example.org")
		at := int64(0)
		if !l.asOf.IsZero() {
			at = l.asOf.Unix()
		}
		want, known := states[at]
		if !known || !slices.Equal(names(l.mirror.snap), want) || at < last {
			t.Fatalf("cut at %d of %d: as of %d: %v, want %v", n, len(log), at, names(l.mirror.snap), want)
		}
		last = at
		if n == len(log) && (len(l.faults) > 0 || at != slices.Max(keysOf(states))) {
			t.Errorf("the whole log: %v", l.faults)
		}
		if err := st.close(); err != nil {
			t.Fatal(err)
		}
		if n%8 != 0 {
			continue
		}
		again, err := openStore(st.dir, "host0.example.org", quiet())
		if err != nil {
			t.Fatal(err)
		}
		l2, err := again.load()
		if err != nil || len(l2.faults) > 0 || !slices.Equal(names(l2.mirror.snap), want) {
			t.Fatalf("cut at %d, the second time: %v %v", n, err, l2.faults)
		}
		if l.mirror.snap != nil && l2.mirror.snap.Generation() <= l.mirror.snap.Generation() {
			t.Fatalf("cut at %d: generation %d comes after %d", n, l2.mirror.snap.Generation(), l.mirror.snap.Generation())
		}
		if err := again.close(); err != nil {
			t.Fatal(err)
		}
	}
}

func keysOf(m map[int64][]string) (out []int64) {
	for k := range m {
		out = append(out, k)
	}
	return out
}

// TestDamaged: a byte that has changed costs what comes after it, and never makes
// another state of what comes before.
func TestDamaged(t *testing.T) {
	log, states := history(t)
	for n := 0; n < len(log); n += 3 {
		bad := slices.Clone(log)
		bad[n] ^= 0x40
		l, st := reload(t, bad, "host0.example.org")
		at := int64(0)
		if !l.asOf.IsZero() {
			at = l.asOf.Unix()
		}
		if want, known := states[at]; !known || !slices.Equal(names(l.mirror.snap), want) || len(l.faults) == 0 {
			t.Fatalf("byte %d: as of %d: %v, %v", n, at, names(l.mirror.snap), l.faults)
		}
		if err := st.close(); err != nil {
			t.Fatal(err)
		}
	}
	// Another host's is not used.
	l, st := reload(t, log, "host1.example.org")
	if l.mirror.snap != nil || len(l.faults) == 0 {
		t.Error("another host's log is used")
	}
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
}

// TestDisk: one process at a time; a folder that cannot be written costs the copy
// and not the service, and is mended.
func TestDisk(t *testing.T) {
	x := newSite(t, small(t), nil)
	h := x.host("host0.example.org", x.join("host0.example.org"), nil)
	until(t, "followed", func() bool { return h.Status().State == Live && h.Status().DiskBytes > 100 })
	if _, err := NewClient(h.conf); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second client: %v", err)
	}
	// Many changes are compacted.
	u := testUser(0)
	u.Gecos = strings.Repeat("x", 100_000)
	for i := range 40 {
		u.UID = uint32(30000 + i)
		x.confirmed(x.src.edit(func(e *broker.Edit) { e.PutUser(u) }))
	}
	until(t, "compaction", func() bool { return h.Status().DiskBytes < 2<<20 })
	st, err := os.Stat(filepath.Join(h.conf.StateDir, logName))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	h.stop()
	h.start()
	until(t, "loaded", func() bool { return h.View().Snapshot != nil })
	if got, _ := h.View().User("user0"); got == nil || got.UID != 30039 {
		t.Errorf("%+v", got)
	}
}

// TestOlderBroker: a broker that is behind what this host has seen is not
// followed, and one that has caught up is.
func TestOlderBroker(t *testing.T) {
	x := newSite(t, small(t), nil)
	cert := x.join("host0.example.org")
	h := x.host("host0.example.org", cert, nil)
	until(t, "followed", func() bool { return h.Status().State == Live })
	old := x.src.View()
	g := x.src.edit(func(e *broker.Edit) { e.RemoveUser(testUser(0).ID) })
	x.confirmed(g)
	until(t, "a proof since", func() bool { return h.View().AsOf.After(old.AsOf.Add(time.Second)) })
	x.stop()
	x.src.mu.Lock()
	now := x.src.view
	x.src.view, x.src.live = old, false
	x.src.mu.Unlock()
	x.start(x.addr)
	until(t, "it is refused", func() bool { return strings.Contains(h.Status().LastError, "has seen that of") })
	if h.View().UserByID(testUser(0).ID) != nil {
		t.Fatal("the older view has brought somebody back who was removed")
	}
	x.src.mu.Lock()
	x.src.view, x.src.live = now, true
	close(x.src.news)
	x.src.news = make(chan struct{})
	x.src.mu.Unlock()
	until(t, "it has caught up", func() bool { return h.Status().State == Live })
	if h.View().UserByID(testUser(0).ID) != nil {
		t.Fatal("somebody is back who was removed")
	}
}

// TestAge: the age of the broker's own view counts.
func TestAge(t *testing.T) {
	x := newSite(t, small(t), nil)
	h := x.host("host0.example.org", x.join("host0.example.org"), nil)
	until(t, "followed", func() bool { return h.Status().State == Live })
	x.src.mu.Lock()
	x.src.live = false
	stopped := time.Now()
	x.src.view.AsOf = stopped
	x.src.mu.Unlock()
	time.Sleep(3 * time.Second)
	if v := h.View(); v.AsOf.After(stopped) {
		t.Errorf("as of %s, and the broker's view is of %s", v.AsOf, stopped)
	} else if v.Age(time.Now()) < 2900*time.Millisecond {
		t.Errorf("it is %s old", v.Age(time.Now()))
	}
}

// TestSameView: a broker whose directory cannot be reached is followed again, for its
// view is the one that this host has seen.
func TestSameView(t *testing.T) {
	x := newSite(t, small(t), nil)
	h := x.host("host0.example.org", x.join("host0.example.org"), nil)
	until(t, "followed", func() bool { return h.Status().State == Live })
	x.src.mu.Lock()
	x.src.live = false
	x.src.view.AsOf = time.Now()
	x.src.mu.Unlock()
	seen := h.View().AsOf
	until(t, "proofs", func() bool { return h.View().AsOf.After(seen) })
	for range 5 {
		x.stop()
		x.start(x.addr)
		until(t, "followed again", func() bool {
			if e := h.Status().LastError; strings.Contains(e, "has seen that of") {
				t.Fatal(e)
			}
			return h.Status().State == Live && len(x.server.Hosts()) == 1
		})
	}
}

// TestNotReady: a broker without a snapshot sends hosts away for now.
func TestNotReady(t *testing.T) {
	x := newSite(t, small(t), nil)
	cert := x.join("host0.example.org")
	x.stop()
	v := x.src.view
	x.src.view.Snapshot = nil
	x.start(x.addr)
	h := x.host("host0.example.org", cert, nil)
	until(t, "it says so", func() bool { return strings.Contains(h.Status().LastError, "no snapshot yet") })
	if err := h.Call(t.Context(), "x", nil, nil); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	x.src.mu.Lock()
	x.src.view = v
	close(x.src.news)
	x.src.news = make(chan struct{})
	x.src.mu.Unlock()
	until(t, "followed", func() bool { return h.Status().State == Live })
}
