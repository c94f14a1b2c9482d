package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/config"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/cmd/internal/roster"
	peers "github.com/sekisho/sekisho/door/gate"
	"github.com/sekisho/sekisho/door/local"
	"github.com/sekisho/sekisho/state"
	"github.com/sekisho/sekisho/wire"
)

// beside is a broker that shares a store with others: of a daemon, what sessions
// need. Its sessions end when they are told to, unless it is stuck.
func beside(t *testing.T, name string, s state.Store, stuck bool) *daemon {
	t.Helper()
	log := logrus.New()
	log.SetOutput(t.Output())
	d := &daemon{cfg: config.Default(), log: logrus.NewEntry(log), now: time.Now, state: s}
	d.cfg.Host, d.cfg.State.Servers = name, []string{"tls://nats1.example.org:4222"}
	e := (*broker.Snapshot)(nil).Edit()
	for i, u := range []broker.UserName{"alice", "bob"} {
		e.PutUser(broker.User{ID: broker.EntryID{byte(1 + i)}, DN: broker.DN("uid=" + u), Name: u, UID: uint32(2001 + i), GID: 2001, Shell: "/bin/sh"})
	}
	view := broker.View{Snapshot: e.Commit(), AsOf: time.Now(), MaxAge: time.Hour}
	var err error
	d.broker, err = broker.New(broker.Config{Directory: func() broker.View { return view }, Now: time.Now,
		Record:        func(broker.Request, broker.Decision) error { return nil },
		RecordSession: func(e broker.SessionEvent) error { d.roster.Tell(e); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	d.roster = roster.New(roster.Config{Store: s, Broker: d.broker, Name: name, Report: sessionReport, Now: time.Now, Log: d.log,
		Vouch: func(host broker.HostName, id broker.SessionID) (known, has bool) {
			_, has = d.broker.Session(id)
			return host == broker.HostName(name), has
		}})
	d.broker.Keep("door", func(e broker.Ending) {
		if !stuck {
			d.broker.CloseSession(e.Session.ID, broker.ReasonNone)
		}
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })
	all.Go(func() {
		if err := d.roster.Run(ctx); err != nil && !errors.Is(err, state.ErrUnavailable) { // it was closed
			t.Error(err)
		}
	})
	all.Go(func() {
		d.broker.RunSessions(ctx, func(ctx context.Context, after uint64) (broker.View, error) {
			if after == 0 {
				return view, nil
			}
			<-ctx.Done()
			return broker.View{}, ctx.Err()
		})
	})
	return d
}

func (d *daemon) has(t *testing.T, id, user string) {
	t.Helper()
	err := d.broker.ResumeSession(broker.Session{ID: broker.SessionID(id), Request: broker.Request{User: broker.UserName(user), Login: broker.Login(user)},
		Basis: broker.BasisAccount, Keeper: "door", Place: broker.HostName(d.cfg.Host), Since: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	d.roster.Touch(broker.SessionID(id))
}

func ask(t *testing.T, v local.Verb, fields ...string) wire.Answer {
	t.Helper()
	r := wire.Request{}
	for i := 0; i < len(fields); i += 2 {
		if !slices.Contains(v.Fields, fields[i]) {
			t.Fatalf("the verb has no field %s", fields[i])
		}
		r.Fields = append(r.Fields, wire.Field{Name: fields[i], Value: fields[i+1]})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return v.Do(ctx, local.Caller{Peer: peers.Peer{UID: 0}}, r)
}

// shown is what `sekisho sessions` is told, as USER@BROKER, and the problem.
func (d *daemon) shown(t *testing.T, fields ...string) (string, string) {
	t.Helper()
	p, err := report.DecodeSessions(ask(t, d.sessionsVerb(), fields...))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, s := range p.Sessions {
		out = append(out, s.User+"@"+s.Broker)
	}
	slices.Sort(out)
	return strings.Join(out, " "), p.Problem
}

const (
	idAlice = "alice00000000000000000"
	idBob   = "bob0000000000000000000"
	idBobs  = "bobs000000000000000000"
)

func TestSessionsOfOtherBrokers(t *testing.T) {
	s := openStore(t, t.TempDir())
	a, b := beside(t, "a.example.org", s, false), beside(t, "b.example.org", s, false)
	a.has(t, idAlice, "alice")
	b.has(t, idBob, "bob")
	b.has(t, idBobs, "bob")
	for _, d := range []*daemon{a, b} {
		eventually(t, "each broker shows all", func() bool {
			got, problem := d.shown(t)
			return got == "alice@a.example.org bob@b.example.org bob@b.example.org" && problem == ""
		})
	}
	for fields, want := range map[[2]string]string{
		{wire.FieldUser, "bob"}: "bob@b.example.org bob@b.example.org", {report.FieldSession, idBob}: "bob@b.example.org", {report.FieldHost, "a"}: "alice@a.example.org",
		{report.FieldHere, "yes"}: "alice@a.example.org", {report.FieldAfter, idBob}: "bob@b.example.org", {wire.FieldUser, "carol"}: "",
	} {
		if got, _ := a.shown(t, fields[0], fields[1]); got != want {
			t.Errorf("with %v it shows %q", fields, got)
		}
	}
	var k report.Killed
	if err := report.Decode(ask(t, a.killVerb(), report.FieldSession, idBob), &k); err != nil || len(k.Sessions) != 0 || k.Problem != "" ||
		len(k.Others) != 1 || k.Others[0] != (report.KilledThere{Session: idBob, Host: "b.example.org", Broker: "b.example.org"}) {
		t.Fatalf("killed are %+v, %v", k, err)
	}
	eventually(t, "one is ended", func() bool { got, _ := a.shown(t); return got == "alice@a.example.org bob@b.example.org" })
	if _, open := b.broker.Session(idBob); open {
		t.Error("gone from what is shown, and open")
	}
	if ans := ask(t, a.killVerb(), wire.FieldUser, "carol"); ans.Outcome != wire.No {
		t.Errorf("killing nobody is answered %+v", ans)
	}
	rows := a.revokeTheirs(t.Context(), "bob", broker.ReasonLocked, time.Now())
	if len(rows) != 1 || !rows[0].Confirmed || rows[0].Took <= 0 || rows[0].Sessions != 1 || rows[0].Host != "b.example.org" || rows[0].Broker != "b.example.org" {
		t.Errorf("revoked are %+v", rows)
	}
	if got, _ := b.shown(t); got != "alice@a.example.org" {
		t.Errorf("left are %q", got)
	}
}

// A broker that does not end a session, and a store that is away, are said.
func TestOtherBrokersThatFail(t *testing.T) {
	s := openStore(t, t.TempDir())
	a, b := beside(t, "a.example.org", s, false), beside(t, "b.example.org", s, true)
	a.has(t, idAlice, "alice")
	b.has(t, idBob, "bob")
	eventually(t, "it shows all", func() bool { got, _ := a.shown(t); return got == "alice@a.example.org bob@b.example.org" })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // who asks has waited long enough, once the order has come
		defer cancel()
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if x, _ := b.broker.Session(idBob); x.Why != "" {
				return
			}
		}
	}()
	rows := a.revokeTheirs(ctx, "bob", broker.ReasonLocked, time.Now())
	if len(rows) != 1 || rows[0].Confirmed || rows[0].Problem == "" {
		t.Errorf("revoked are %+v", rows)
	}
	if x, _ := b.broker.Session(idBob); x.Why != broker.ReasonLocked {
		t.Errorf("its reason is %q", x.Why)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it says that others are not known", func() bool {
		got, problem := a.shown(t)
		return problem == otherBrokers && strings.HasPrefix(got, "alice@a.example.org")
	})
	if got, problem := a.shown(t, report.FieldHere, "yes"); got != "alice@a.example.org" || problem != "" {
		t.Errorf("its own are %q, %q", got, problem)
	}
	rows = a.revokeTheirs(t.Context(), "alice", broker.ReasonLocked, time.Now())
	if len(rows) != 1 || rows[0].Confirmed || rows[0].Problem == "" {
		t.Errorf("without the store revoked are %+v", rows)
	}
	if ans := ask(t, a.killVerb(), wire.FieldUser, "carol"); ans.Outcome != wire.Unknown {
		t.Errorf("whether there is one is answered %+v", ans)
	}
	var k report.Killed
	if err := report.Decode(ask(t, a.killVerb(), wire.FieldUser, "alice"), &k); err != nil || len(k.Sessions) != 1 || k.Problem == "" {
		t.Errorf("killed are %+v, %v", k, err)
	}
}
