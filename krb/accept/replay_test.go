package accept

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb"
)

// machine is one whose clocks and starts the test decides.
type machine struct {
	now  time.Time
	up   time.Duration
	boot shortMark
	path string
}

func newMachine(t testing.TB) *machine {
	return &machine{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), time.Hour, shortMark{1}, filepath.Join(t.TempDir(), "replay")}
}

func (m *machine) pass(d time.Duration) { m.now, m.up = m.now.Add(d), m.up+d }

func (m *machine) tryOpen(most int) (*FileReplay, error) {
	return openReplay(ReplayConfig{Path: m.path, Max: most, Now: func() time.Time { return m.now }},
		func() (time.Duration, error) { return m.up, nil }, func() (shortMark, error) { return m.boot, nil })
}

func (m *machine) open(t testing.TB, most int) *FileReplay {
	t.Helper()
	r, err := m.tryOpen(most)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// crash is the end of the process: what it wrote stays, nothing is tidied up.
func crash(r *FileReplay) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.f.Close()
	r.f = nil
	r.unlock()
}

func testMark(n int) (m [32]byte) {
	binary.BigEndian.PutUint64(m[:], uint64(n))
	return m
}

type answer string

const (
	fresh, spent     answer = "fresh", "spent"
	lost, full, fail answer = "lost", "full", "failed"
)

// spend is Spend with the default skew, in one word.
func (m *machine) spend(r *FileReplay, n int, made time.Time) answer {
	ok, err := r.Spend(context.Background(), testMark(n), made, made.Add(DefaultSkew))
	switch {
	case errors.Is(err, ErrReplayLost):
		return lost
	case errors.Is(err, ErrReplayFull):
		return full
	case err != nil:
		return fail
	case ok:
		return fresh
	}
	return spent
}

func want(t testing.TB, what string, got, want answer) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %s, not %s", what, got, want)
	}
}

func TestReplayRemembers(t *testing.T) {
	m := newMachine(t)
	r := m.open(t, 0)
	m.pass(time.Second)
	for n := range 100 {
		want(t, "first", m.spend(r, n, m.now), fresh)
		want(t, "second", m.spend(r, n, m.now), spent)
	}
	for range 3 { // ended in each way, and begun again
		crash(r)
		r = m.open(t, 0)
		m.pass(time.Second)
		for n := range 100 {
			want(t, "after a crash", m.spend(r, n, m.now), spent)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Errorf("closed twice: %v", err)
		}
		want(t, "closed", m.spend(r, 1000, m.now), fail)
		r = m.open(t, 0)
		for n := range 100 {
			want(t, "after a close", m.spend(r, n, m.now), spent)
		}
	}
	want(t, "another", m.spend(r, 100, m.now), fresh)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if ok, err := r.Spend(ctx, testMark(101), m.now, m.now.Add(time.Minute)); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, %v", ok, err)
	}
	want(t, "after a cancelled one", m.spend(r, 101, m.now), fresh)
	if st, err := os.Stat(m.path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

// TestReplayAtOnce: exactly one of 200 gets yes, for each mark.
func TestReplayAtOnce(t *testing.T) {
	r, err := OpenReplay(ReplayConfig{Path: filepath.Join(t.TempDir(), "replay")})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for n := range 20 {
		made := time.Now()
		if n%2 == 1 {
			made = made.Add(time.Minute) // these are brought to the disk
		}
		var yes, no atomic.Int32
		var wg sync.WaitGroup
		begin := make(chan struct{})
		for range 200 {
			wg.Go(func() {
				<-begin
				ok, err := r.Spend(context.Background(), testMark(n), made, made.Add(DefaultSkew))
				switch {
				case err != nil:
					t.Error(err)
				case ok:
					yes.Add(1)
				default:
					no.Add(1)
				}
			})
		}
		close(begin)
		wg.Wait()
		if yes.Load() != 1 || no.Load() != 199 {
			t.Errorf("%d yes, %d no", yes.Load(), no.Load())
		}
	}
}

// TestAcceptAtOnce: of 200 who send the same AP-REQ at the same instant one comes in.
func TestAcceptAtOnce(t *testing.T) {
	r, err := OpenReplay(ReplayConfig{Path: filepath.Join(t.TempDir(), "replay")})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	key := randomKey(t, 18)
	kt, err := OpenKeytab(writeKeytab(t, krb.KeytabEntry{Principal: host, KVNO: 3, Key: key}))
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Config{Keytab: kt, Replay: r})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		msg := newRequest(t, alice, host, key, 3, time.Now()).make(t)
		var yes, no atomic.Int32
		var wg sync.WaitGroup
		begin := make(chan struct{})
		for range 200 {
			wg.Go(func() {
				<-begin
				_, err := a.Accept(context.Background(), msg, Options{})
				var e *Error
				switch {
				case err == nil:
					yes.Add(1)
				case errors.As(err, &e) && e.Kind == Replayed:
					no.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		close(begin)
		wg.Wait()
		if yes.Load() != 1 || no.Load() != 199 {
			t.Errorf("%d yes, %d no", yes.Load(), no.Load())
		}
	}
}

// TestReplayTidies: old marks leave file and memory, none does too early, and an
// authenticator whose mark is gone is refused even when the clock is set back.
func TestReplayTidies(t *testing.T) {
	m := newMachine(t)
	r := m.open(t, 1000)
	m.pass(time.Second)
	old := m.now
	for n := range 600 {
		want(t, "old", m.spend(r, n, old), fresh)
	}
	m.pass(4 * time.Minute)
	for n := 600; n < 1000; n++ {
		want(t, "young", m.spend(r, n, m.now), fresh)
	}
	young := m.now
	want(t, "no room", m.spend(r, 1000, m.now), full)
	want(t, "no room, spent", m.spend(r, 599, m.now), spent)
	m.pass(time.Minute) // the old ones' last instant
	want(t, "no room yet", m.spend(r, 1000, m.now), full)
	m.pass(2 * time.Second)
	for n := 1000; n < 1600; n++ {
		want(t, "room", m.spend(r, n, m.now), fresh)
	}
	want(t, "no room again", m.spend(r, 1600, m.now), full)
	for n := 600; n < 1000; n++ {
		want(t, "young", m.spend(r, n, young), spent)
	}
	for range 2 {
		m.now = old.Add(time.Minute) // set back
		want(t, "old again", m.spend(r, 5, old), lost)
		want(t, "young again", m.spend(r, 700, young), spent)
		m.now = young.Add(2 * time.Minute)
		crash(r)
		r = m.open(t, 1000)
		m.pass(time.Second)
	}
	st, err := os.Stat(m.path)
	if err != nil || st.Size() != recordSize*(2+1000) || len(r.marks) != 1000 {
		t.Errorf("%d bytes, %d marks, %v", st.Size(), len(r.marks), err)
	}
	m.pass(time.Hour)
	r.Close()
	r = m.open(t, 1000)
	if st, err := os.Stat(m.path); err != nil || st.Size() != recordSize*2 || len(r.marks) != 0 {
		t.Errorf("%d bytes, %d marks, %v", st.Size(), len(r.marks), err)
	}
	want(t, "all anew", m.spend(r, 1, m.now.Add(time.Millisecond)), fresh)
}

// TestReplayMachineStarts: the machine may have lost what was not on the disk.
func TestReplayMachineStarts(t *testing.T) {
	m := newMachine(t)
	r := m.open(t, 0)
	m.pass(time.Second)
	made := m.now
	want(t, "before", m.spend(r, 1, made), fresh)
	want(t, "before, ahead", m.spend(r, 2, made.Add(4*time.Minute)), fresh)
	if r.synced != 2 {
		t.Errorf("%d marks are on the disk, not 2", r.synced)
	}
	want(t, "before, lost with the machine", m.spend(r, 3, made), fresh)
	if r.synced != 2 {
		t.Errorf("each mark is brought to the disk")
	}
	crash(r)
	b, err := os.ReadFile(m.path)
	if err != nil {
		t.Fatal(err)
	}
	for name, left := range map[string][]byte{
		"lost":  b[:len(b)-recordSize],
		"cut":   b[:len(b)-7],
		"zeros": append(bytes.Clone(b[:len(b)-recordSize]), make([]byte, recordSize)...),
	} {
		m2 := &machine{made.Add(20 * time.Second), 15 * time.Second, shortMark{2}, m.path}
		if err := os.WriteFile(m.path, left, 0o600); err != nil {
			t.Fatal(err)
		}
		r := m2.open(t, 0)
		begun := m2.now
		for range 2 {
			want(t, name+": one that is kept", m2.spend(r, 2, made.Add(4*time.Minute)), spent)
			want(t, name+": one that was lost", m2.spend(r, 3, made), lost)
			want(t, name+": as old as the start", m2.spend(r, 4, begun), lost)
			want(t, name+": 2 s later", m2.spend(r, 4, begun.Add(grace)), lost)
			want(t, name+": later than that", m2.spend(r, 4, begun.Add(grace+time.Microsecond)), fresh)
			want(t, name+": later than that", m2.spend(r, 5, begun.Add(4*time.Minute)), fresh)
			// The clock was wrong when the machine started, and is put right.
			m2.now = m2.now.AddDate(1, 0, 0)
			m2.pass(time.Minute)
			right := m2.now.Add(15*time.Second - m2.up)
			want(t, name+": before the start by the right clock", m2.spend(r, 6, right.Add(grace)), lost)
			want(t, name+": after it", m2.spend(r, 6, right.Add(grace+time.Microsecond)), fresh)
			m2.now = m2.now.AddDate(-1, 0, 0)
			m2.pass(-time.Minute)
			// Another process of the same start of the machine keeps to it.
			crash(r)
			if err := os.Truncate(m.path, recordSize*4); err != nil { // all but the first two marks
				t.Fatal(err)
			}
			m2.pass(10 * time.Second)
			r = m2.open(t, 0)
		}
		crash(r)
	}
}

func TestReplayMissing(t *testing.T) {
	m := newMachine(t)
	r := m.open(t, 0)
	want(t, "before the file", m.spend(r, 1, m.now), lost)
	want(t, "after it", m.spend(r, 1, m.now.Add(time.Microsecond)), fresh)
	crash(r)
	if err := os.Remove(m.path); err != nil {
		t.Fatal(err)
	}
	m.pass(time.Minute)
	r = m.open(t, 0)
	want(t, "file removed", m.spend(r, 1, m.now.Add(-time.Second)), lost)
}

// TestReplayCut cuts a file at each byte, as the end of a process may: no whole
// mark is lost, and nobody is refused for the half one.
func TestReplayCut(t *testing.T) {
	m := newMachine(t)
	r := m.open(t, 0)
	m.pass(time.Second)
	made := m.now
	for n := range 5 {
		want(t, "first", m.spend(r, n, made), fresh)
	}
	crash(r)
	b, err := os.ReadFile(m.path)
	if err != nil {
		t.Fatal(err)
	}
	for size := range b {
		if err := os.WriteFile(m.path, b[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		r := m.open(t, 0)
		kept := size/recordSize - 2
		for n := range 5 {
			switch {
			case kept < 0: // no header
				want(t, "headless", m.spend(r, n, made), lost)
				want(t, "headless, ahead", m.spend(r, n, made.Add(DefaultSkew)), lost)
			case n < kept:
				want(t, "whole", m.spend(r, n, made), spent)
			default:
				want(t, "cut", m.spend(r, n, made), fresh)
			}
		}
		r.Close()
	}
}

// TestReplayDamage changes each byte of a file: never is a spent mark fresh.
func TestReplayDamage(t *testing.T) {
	m := newMachine(t)
	r := m.open(t, 0)
	m.pass(time.Second)
	made := m.now
	for n := range 3 {
		want(t, "first", m.spend(r, n, made.Add(time.Duration(n)*time.Minute)), fresh)
	}
	crash(r)
	b, err := os.ReadFile(m.path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		for bit := range 8 {
			bad := bytes.Clone(b)
			bad[i] ^= 1 << bit
			if err := os.WriteFile(m.path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			r := m.open(t, 0)
			for n := range 3 {
				got := m.spend(r, n, made.Add(time.Duration(n)*time.Minute))
				if got != spent && got != lost {
					t.Fatalf("byte %d, bit %d: mark %d is %s", i, bit, n, got)
				}
			}
			want(t, "another", m.spend(r, 9, made), lost)
			m.pass(6 * time.Minute)
			want(t, "when the skew has passed", m.spend(r, 10, m.now), fresh)
			m.pass(-6 * time.Minute)
			crash(r)
		}
	}
}

// TestReplayDisk: no yes without a written mark, and all goes on when the disk does.
func TestReplayDisk(t *testing.T) {
	m := newMachine(t)
	r := m.open(t, 0)
	m.pass(2 * time.Second)
	want(t, "first", m.spend(r, 1, m.now), fresh)
	// A file that cannot be written, in a directory that cannot either.
	r.mu.Lock()
	r.f.Close()
	r.f, _ = os.Open(m.path)
	r.mu.Unlock()
	if err := os.Mkdir(m.path+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	want(t, "disk broken", m.spend(r, 2, m.now), fail)
	want(t, "disk broken, spent", m.spend(r, 1, m.now), spent)
	m.pass(2 * time.Second)
	want(t, "still broken", m.spend(r, 2, m.now), fail)
	if err := os.Remove(m.path + ".new"); err != nil {
		t.Fatal(err)
	}
	want(t, "mended, not looked yet", m.spend(r, 2, m.now), fail)
	m.pass(2 * time.Second)
	want(t, "mended", m.spend(r, 2, m.now), fresh)
	crash(r)
	r = m.open(t, 0)
	want(t, "first, read again", m.spend(r, 1, m.now), spent)
	want(t, "second, read again", m.spend(r, 2, m.now), spent)
}

func TestReplayOpens(t *testing.T) {
	m := newMachine(t)
	r := m.open(t, 0)
	if r2, err := m.tryOpen(0); err == nil {
		r2.Close()
		t.Error("opened twice")
	}
	m.pass(time.Second)
	want(t, "the first is undisturbed", m.spend(r, 1, m.now), fresh)
	crash(r)
	if r, err := m.tryOpen(-1); err == nil {
		r.Close()
		t.Error("opened for no marks")
	}
	if err := os.Chmod(m.path, 0o644); err != nil {
		t.Fatal(err)
	}
	if r, err := m.tryOpen(0); err == nil {
		r.Close()
		t.Error("opened a file that others may read")
	}
	os.Remove(m.path)
	if err := os.Symlink("/dev/zero", m.path); err != nil {
		t.Fatal(err)
	}
	if r, err := m.tryOpen(0); err == nil {
		r.Close()
		t.Error("followed a link")
	}
	os.Remove(m.path)
	if err := os.Chmod(filepath.Dir(m.path), 0o777); err != nil {
		t.Fatal(err)
	}
	if r, err := m.tryOpen(0); err == nil {
		r.Close()
		t.Error("opened in a directory for everybody")
	}
}

func FuzzReplayFile(f *testing.F) {
	b := func(rs ...record) (out []byte) {
		for _, r := range rs {
			out = append(out, r[:]...)
		}
		return out
	}
	head, floor := formatRecord('B', 5, 1, shortMark{1}), formatRecord('F', 7, 0, shortMark{})
	f.Add(b(head, floor, formatMark(shortMark{9}, times{1, 2})))
	f.Add(b(head, floor, floor, formatMark(shortMark{9}, times{1, 2})))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		old, err := readRecords(bytes.NewReader(in))
		if err != nil {
			t.Fatal(err)
		}
		if old.damaged {
			return
		}
		// What is whole is written again as it was read.
		again := b(formatRecord('B', int64(old.h.barrier), 1, old.h.boot), formatRecord('F', old.h.floor, 0, shortMark{}))
		if !bytes.HasPrefix(in, again) {
			t.Fatal("the header is read as another")
		}
		for i := 2; i < len(in)/recordSize; i++ {
			rec := record(in[i*recordSize:])
			_, made, until, id, ok := rec.read()
			if kept, found := old.marks[id]; !ok || !found || formatMark(id, times{made, until}) != rec {
				t.Fatalf("record %d: %v", i, kept)
			}
		}
	})
}
