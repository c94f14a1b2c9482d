package main

import (
	"io"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
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
}
