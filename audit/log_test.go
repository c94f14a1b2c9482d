package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/sekisho/sekisho/broker"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("AUDIT_TEST_WRITER"); dir != "" {
		writeForEver(dir)
	}
	goleak.VerifyTestMain(m)
}

func testLog(t testing.TB) *logrus.Entry {
	l := logrus.New()
	l.SetOutput(testOutput{t})
	return logrus.NewEntry(l)
}

func quiet() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

type testOutput struct{ t testing.TB }

func (o testOutput) Write(p []byte) (int, error) {
	o.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// open opens a Log in dir that is closed with the test. It waits long for a disk
// that is slow and well.
func open(t testing.TB, dir string, change func(*Config)) *Log {
	t.Helper()
	c := Config{Dir: dir, Host: "broker.example.org", FileSize: 1 << 30, Wait: time.Minute, Log: testLog(t)}
	if change != nil {
		change(&c)
	}
	l, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func folder(t testing.TB) string { return filepath.Join(t.TempDir(), "audit") }

func grant() (broker.Request, broker.Decision) {
	return broker.Request{User: "alice", Login: "deploy", Door: "keys", Target: broker.Target{Host: "web1.example.org"},
			From: netip.MustParseAddr("198.51.100.7")},
		broker.Decision{Outcome: broker.Allow, Reason: broker.ReasonRule, Rules: []broker.RuleName{"staff-web"}, Shown: []broker.Proof{"key"}, Generation: 7, Age: 3 * time.Second}
}

func refusal(user string) (broker.Request, broker.Decision) {
	q, d := grant()
	q.User = broker.UserName(user)
	return q, broker.Decision{Reason: broker.ReasonNoRule, Generation: d.Generation}
}

func write(t testing.TB, l *Log, grants, refusals int) {
	t.Helper()
	for i := range grants {
		q, d := grant()
		q.User = broker.UserName(fmt.Sprintf("user%d", i))
		if err := l.Decision(q, d); err != nil {
			t.Fatal(err)
		}
	}
	for i := range refusals {
		if err := l.Decision(refusal(fmt.Sprintf("nobody%d", i))); err != nil {
			t.Fatal(err)
		}
	}
}

func verify(t testing.TB, c VerifyConfig) *Verdict {
	t.Helper()
	v, err := Verify(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func good(t testing.TB, dir string) *Verdict {
	t.Helper()
	v := verify(t, VerifyConfig{Dir: dir})
	if !v.Good() {
		t.Fatalf("it is not good: %v", v.Problems)
	}
	return v
}

// read gives all records.
func read(t testing.TB, dir string, q Query) []*Record {
	t.Helper()
	var out []*Record
	if err := Scan(context.Background(), dir, q, func(r *Record) bool { out = append(out, r); return true }); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRoundTrip(t *testing.T) {
	dir := folder(t)
	now := time.Date(2030, 1, 2, 3, 4, 5, 6000, time.FixedZone("", 3600))
	l := open(t, dir, func(c *Config) { c.Now = func() time.Time { return now } })
	q, d := grant()
	d.Until = now.Add(time.Hour)
	q.Recent = []broker.RecentProof{{Proof: broker.ProofOTP, Age: time.Hour}}
	if err := l.Decision(q, d); err != nil {
		t.Fatal(err)
	}
	d = broker.Decision{Outcome: broker.NeedProof, Reason: broker.ReasonProof}
	if err := l.Decision(q, d); err != nil {
		t.Fatal(err)
	}
	if err := l.Session(broker.SessionEvent{Kind: broker.SessionOpened, Session: broker.Session{ID: "abc", Request: q, Proofs: []broker.Proof{"key"},
		Keeper: "pam", Place: "web1.example.org", Service: "sshd", TTY: "ssh", Since: now}}); err != nil {
		t.Fatal(err)
	}
	if err := l.Session(broker.SessionEvent{Kind: broker.SessionClosed, Session: broker.Session{ID: "abc", Request: q}, Reason: broker.ReasonKilled,
		By: "root", Took: 1500 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if err := l.Note(Event{Kind: "kill", Actor: "root", Subject: "alice", Text: "all\nof them", Sure: true}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal("twice:", err)
	}
	if err := l.Decision(grant()); err != ErrClosed {
		t.Fatal(err)
	}
	all, err := files(dir)
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, all[0].name))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	// On a slow disk there are seals between them (sealAge).
	at := func(has string) int {
		t.Helper()
		i := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, has) })
		if i < 1 {
			t.Fatalf("no line has %s: %q", has, lines)
		}
		return i
	}
	first, opened := at(`"kind":"decision"`), at(`"event":"opened"`)
	want := fmt.Sprintf(`{"seq":%d`, first+1) + `,"time":"2030-01-02T02:04:05.000006000Z","kind":"decision","host":"broker.example.org","door":"keys","user":"alice","login":"deploy",` +
		`"from":"198.51.100.7","target":"web1.example.org","outcome":"allow","reason":"rule","rules":["staff-web"],"shown":["key"],"recent":["otp:3600"],` +
		`"until":"2030-01-02T03:04:05Z","generation":7,"age":3,"prev":"` + hashOf([]byte(lines[first-1]+"\n")) + `"}`
	if lines[first] != want {
		t.Errorf("got\n%s\nwant\n%s", lines[first], want)
	}
	if !strings.HasPrefix(lines[opened], fmt.Sprintf(`{"seq":%d`, opened+1)+`,"time":"2030-01-02T02:04:05.000006000Z","kind":"session","host":"broker.example.org","event":"opened","session":"abc"`) {
		t.Error(lines[opened])
	}
	for i, line := range lines[:len(lines)-1] {
		var r Record
		dec := json.NewDecoder(strings.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&r); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if r.Seq != uint64(i+1) || !r.Time.Equal(now) || r.Host != "broker.example.org" {
			t.Errorf("%s", line)
		}
	}
	v := good(t, dir)
	if v.Records != 7+v.Seals || v.Seals < 1 || v.Unsealed != 0 || v.First.Seq != 1 || v.Last.Seq != uint64(v.Records) || v.Trusted || v.Key != l.Status().Key {
		t.Errorf("%+v", v)
	}
	got := read(t, dir, Query{Kinds: []Kind{KindSession, KindNote}})
	if len(got) != 5 || got[2].Took != 1.5 || got[3].Text != "all\nof them" || got[4].Event != "stop" || got[1].Shown[0] != "key" {
		t.Errorf("%+v", got)
	}
}

// TestOrder: many at once, and all are there, in order and once.
func TestOrder(t *testing.T) {
	dir := folder(t)
	l := open(t, dir, func(c *Config) { c.FileSize = 100 << 10 })
	const each = 50
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			for k := range each {
				q, d := grant()
				if k%3 == 0 {
					q, d = refusal("")
				}
				q.User = broker.UserName(fmt.Sprintf("u%d-%d", i, k))
				if err := l.Decision(q, d); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	v := good(t, dir)
	if v.Files < 5 || v.Unsealed != 0 {
		t.Errorf("%+v", v)
	}
	next := map[string]int{}
	for _, r := range read(t, dir, Query{Kinds: []Kind{KindDecision}}) {
		who, k, _ := strings.Cut(r.User, "-")
		if k != fmt.Sprint(next[who]) {
			t.Fatalf("%s comes when %d is due", r.User, next[who])
		}
		next[who]++
	}
	if len(next) != 64 || next["u63"] != each {
		t.Error("some are missing", next)
	}
}
