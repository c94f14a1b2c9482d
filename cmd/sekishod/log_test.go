package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/config"
)

// gate is a file that can be blocked and can fail.
type gate struct {
	mu   sync.Mutex
	err  error
	got  bytes.Buffer
	hold chan struct{} // nil: open
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	hold := g.hold
	g.mu.Unlock()
	if hold != nil {
		<-hold
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return 0, g.err
	}
	return g.got.Write(p)
}

func (g *gate) text() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.got.String()
}

func fixedTime() time.Time { return time.Date(2030, 1, 2, 3, 4, 5, 6000, time.UTC) }

func request() (broker.Request, broker.Decision) {
	return broker.Request{User: "alice", Login: "deploy", Door: "keys", Target: broker.Target{Host: "web1"},
			From: netip.MustParseAddr("198.51.100.7")},
		broker.Decision{Outcome: broker.Allow, Reason: broker.ReasonRule, Rules: []broker.RuleName{"a", "b"}, Generation: 7, Age: 3 * time.Second}
}

func TestRecordLine(t *testing.T) {
	var out bytes.Buffer
	q, d := request()
	newRecorder(config.Log{Format: "json"}, &out, fixedTime).record(q, d)
	want := `{"time":"2030-01-02T03:04:05.000006Z","level":"info","msg":"decision","door":"keys","user":"alice","login":"deploy",` +
		`"target":"web1","from":"198.51.100.7","outcome":"allow","reason":"rule","rule":"a","rule2":"b","generation":7,"age_seconds":3}` + "\n"
	if out.String() != want {
		t.Errorf("got  %swant %s", out.String(), want)
	}
	out.Reset()
	q.User = "a\"b\n=c"
	newRecorder(config.Log{Format: "text"}, &out, fixedTime).record(q, d)
	if s := out.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, `user="a\"b\n=c" login="deploy"`) {
		t.Errorf("got %s", s)
	}
}

// TestRecordNames: whatever a name holds, it is one line of JSON that reads
// back as the name.
func FuzzRecordNames(f *testing.F) {
	for _, s := range []string{"alice", "a\"b\\c\n", "\x00\x7f", "é\u2028\u009b", "\xff\xfe", strings.Repeat("x", 5000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var out bytes.Buffer
		q, d := request()
		q.User = broker.UserName(s)
		newRecorder(config.Log{Format: "json"}, &out, fixedTime).record(q, d)
		if bytes.Count(out.Bytes(), []byte("\n")) != 1 || bytes.ContainsFunc(out.Bytes()[:out.Len()-1], func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 }) {
			t.Fatalf("control characters: %q", out.Bytes())
		}
		var doc map[string]any
		if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
			t.Fatalf("%v: %q", err, out.Bytes())
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); len(s) < 50 && strings.ToValidUTF8(s, "") == s && doc["user"] != want {
			t.Errorf("got %q, want %q", doc["user"], want)
		}
	})
}

func TestLogWriterKeepsOrder(t *testing.T) {
	g := &gate{}
	w := newLogWriter(g)
	var want strings.Builder
	for i := range 1000 {
		line := strings.Repeat("x", i%50) + "\n"
		want.WriteString(line)
		if _, err := io.WriteString(w, line); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if g.text() != want.String() {
		t.Error("lines are lost or out of order")
	}
	if _, err := w.Write([]byte("late\n")); err == nil {
		t.Error("a closed log takes a line")
	}
}

// TestLogWriterHangs: a log that nobody reads hangs nobody and withholds nothing,
// and says afterwards what it lacks.
func TestLogWriterHangs(t *testing.T) {
	g := &gate{hold: make(chan struct{})}
	w := newLogWriter(g)
	rec := newRecorder(config.Log{Format: "json"}, w, fixedTime)
	begun := time.Now()
	q, d := request()
	for rec.lost.Load() < 10 {
		rec.record(q, d)
		if time.Since(begun) > time.Minute {
			t.Fatal("it takes lines for ever")
		}
	}
	if _, err := io.WriteString(w, strings.Repeat("x", 1024)); !errors.Is(err, errLogFull) {
		t.Errorf("full: %v", err)
	}
	close(g.hold)
	for end := time.Now().Add(time.Minute); rec.lost.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never recovers")
		}
		rec.record(q, d)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s := g.text()
	if strings.Count(s, "\n") < 1000 || !strings.HasSuffix(s, "}\n") {
		t.Error("lines that were taken are lost")
	}
	if i := strings.Index(s, `"level":"warning","msg":"decisions are missing here`); i < 0 || !strings.Contains(s[i:], `"missing":1`) {
		t.Error("nothing is said of what is missing")
	}
}

// TestLogWriterFails: a file that refuses lines (a full disk) is an error until it
// takes them again; nothing that was taken over is lost.
func TestLogWriterFails(t *testing.T) {
	g := &gate{err: errors.New("no space left on device")}
	w := newLogWriter(g)
	if _, err := w.Write([]byte("one\n")); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, err := w.Write([]byte("")); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the failure is never told")
		}
	}
	g.mu.Lock()
	g.err = nil
	g.mu.Unlock()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, err := w.Write([]byte("two\n")); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it never recovers")
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if g.text() != "one\ntwo\n" {
		t.Errorf("got %q", g.text())
	}
}

func BenchmarkRecord(b *testing.B) {
	w := newLogWriter(io.Discard)
	defer w.Close()
	rec := newRecorder(config.Log{Format: "json"}, w, time.Now)
	q, d := request()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			rec.record(q, d)
		}
	})
}

func TestGCPercent(t *testing.T) {
	for live, want := range map[uint64]int{0: 1000, 1 << 20: 1000, 64 << 20: 100, 128 << 20: 50, 600 << 20: 25, 1 << 40: 25} {
		if got := gcPercent(live); got != want {
			t.Errorf("%d: %d, want %d", live, got, want)
		}
	}
}
