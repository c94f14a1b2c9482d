package main

import (
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/audit"
	"github.com/sekisho/sekisho/broker"
)

// TestRecorded: what a broker has of its hosts' sessions is that they end; and what
// could not be found out, or wanted more, is no refusal.
func TestRecorded(t *testing.T) {
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	dir := filepath.Join(t.TempDir(), "audit")
	l, err := audit.Open(audit.Config{Dir: dir, Host: "broker.example.org", FileSize: 1 << 20, Wait: time.Minute, Log: logrus.NewEntry(quiet)})
	if err != nil {
		t.Fatal(err)
	}
	q := broker.Request{User: "alice", Door: "keys", Target: broker.Target{Host: "db1"}}
	for _, d := range []broker.Decision{{Outcome: broker.Allow, Reason: broker.ReasonRule}, {Outcome: broker.Deny, Reason: broker.ReasonNoRule},
		{Outcome: broker.Unknown, Reason: broker.ReasonStale}, {Outcome: broker.NeedProof, Reason: broker.ReasonProof}} {
		if err := l.Decision(q, d); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range []struct {
		id   string
		kind broker.EventKind
	}{{"a", broker.SessionEnding}, {"a", broker.SessionClosed}, {"b", broker.SessionClosed}, {"c", broker.SessionOpened}} {
		if err := l.Session(broker.SessionEvent{Kind: e.kind, Session: broker.Session{ID: broker.SessionID(e.id), Request: q, Place: "db1"}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r, all := auditReport{Host: "db1"}, ways{}
	if err := r.recorded(t.Context(), dir, audit.Query{Since: time.Now().Add(-time.Hour)}, all); err != nil {
		t.Fatal(err)
	}
	e := all.at("alice", "db1", "keys")
	if got := fmt.Sprintln(len(all), e.Grants, e.Refusals, e.Sessions, r.RecordOf); got != "1 1 1 3 broker.example.org\n" {
		t.Errorf("ways, grants, refusals, sessions, whose record: %s", got)
	}
}
