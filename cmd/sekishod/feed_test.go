package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/door/pam"
)

// TestAHostSpeaksForItself: a session that a host reports is judged as one on that
// host, whatever it says; so nobody is kept out elsewhere by the word of a host that
// he may not even enter.
func TestAHostSpeaksForItself(t *testing.T) {
	e := (*broker.Snapshot)(nil).Edit()
	e.PutUser(broker.User{ID: broker.EntryID{1}, DN: "uid=bob", Name: "bob", UID: 2001, GID: 2001, Shell: "/bin/sh"})
	for i, name := range []broker.HostName{"web1", "web2"} {
		e.PutHost(broker.Host{ID: broker.EntryID{2, byte(i)}, DN: broker.DN("cn=" + name), Names: []broker.HostName{name}})
	}
	r, err := broker.ParseRule(broker.RuleAttributes{Name: "r", Subject: []string{"user:bob"}, Door: []string{"pam"}, Target: []string{"host:web2"}})
	if err != nil {
		t.Fatal(err)
	}
	e.PutRule(r)
	v := broker.View{Snapshot: e.Commit(), AsOf: time.Now(), MaxAge: time.Hour}
	log := logrus.New()
	log.SetOutput(io.Discard)
	d := &daemon{log: logrus.NewEntry(log), now: time.Now}
	d.broker, err = broker.New(broker.Config{Directory: func() broker.View { return v }, Now: time.Now, MaxSessions: 1,
		Record: func(broker.Request, broker.Decision) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	d.broker.Keep(keeperFeed, func(broker.Ending) {})
	s := broker.Session{ID: "lie", Basis: broker.BasisRules, Place: "web1", Since: time.Now(),
		Request: broker.Request{User: "bob", Login: "bob", Door: "pam", Target: broker.Target{Host: "web2"}}}
	d.openedThere("web1", s)
	if now, ok := d.broker.Session("lie"); !ok || now.Ending.IsZero() {
		t.Errorf("a session on web1 lives by a rule for web2: %+v", now)
	}
	s.ID = "true"
	d.openedThere("web2", s)
	if now, ok := d.broker.Session("true"); !ok || !now.Ending.IsZero() {
		t.Errorf("a session on web2: %+v", now)
	}
	// It is closed by its host under the name that this one has by then, and only
	// if a host has it at all.
	d.closedThere("web2.example.org", s, broker.SessionClosed, broker.ReasonNone)
	if now, ok := d.broker.Session("true"); ok {
		t.Errorf("a session that its host has closed: %+v", now)
	}
	d.broker.Keep("pam", func(broker.Ending) {})
	s.Keeper, s.Place = "pam", "web1"
	if err := d.broker.ResumeSession(s); err != nil {
		t.Fatal(err)
	}
	d.closedThere("web1", s, broker.SessionLost, broker.ReasonNone)
	if _, ok := d.broker.Session("true"); !ok {
		t.Error("a host has closed a session of the broker's own")
	}
}

// TestSessionsAreFoundBeforeTheyAreReported: a host that comes back tells its broker
// of the sessions that it has, and not that there is none because it has not looked.
func TestSessionsAreFoundBeforeTheyAreReported(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	d := &daemon{log: logrus.NewEntry(log), now: time.Now}
	d.cfg.Host = "web1"
	var err error
	d.broker, err = broker.New(broker.Config{Directory: func() broker.View { return broker.View{} }, Now: time.Now,
		Record: func(broker.Request, broker.Decision) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	s := pam.Session{Opened: true, Boot: strings.TrimSpace(string(boot))}
	s.ID, s.Keeper, s.Place, s.Since = "AAAAAAAAAAAAAAAAAAAAAA", pam.Keeper, "web1", time.Now()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sessions"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sessions", string(s.ID)), b, 0o600); err != nil {
		t.Fatal(err)
	}
	d.pam, err = pam.New(pam.Config{Broker: d.broker, Host: "web1", Tickets: filepath.Join(dir, "tickets"), Sessions: filepath.Join(dir, "sessions"), Log: d.log})
	if err != nil {
		t.Fatal(err)
	}
	d.broker.Keep(pam.Keeper, d.pam.End)
	reported := make(chan int, 1)
	go func() {
		n := 0
		d.sessionsToReport(func(*broker.Session) bool { n++; return true })
		reported <- n
	}()
	select {
	case n := <-reported:
		t.Fatalf("%d sessions are reported before anybody has looked", n)
	case <-time.After(50 * time.Millisecond):
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); d.pam.Run(ctx) }()
	defer func() { cancel(); <-done }()
	if n := <-reported; n != 1 {
		t.Errorf("%d sessions are reported", n)
	}
}
