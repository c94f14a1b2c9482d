package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/site"
	"github.com/sekisho/sekisho/wire"
)

// patience bounds the wait for what must come about, on a slow machine too.
const patience = 5 * time.Minute

// newSite makes a site with these hosts; its world must be closed.
func newSite(ctx context.Context, c site.Config) (s *site.Site, w *testenv.World, err error) {
	if w, err = testenv.NewWorld(testenv.WorldConfig{}); err != nil {
		return nil, nil, err
	}
	if s, err = site.New(ctx, w, c); err == nil {
		err = s.StartRealm()
	}
	for i := 0; err == nil && i < len(s.Hosts); i++ {
		err = s.Join(s.Hosts[i])
	}
	if err != nil {
		return nil, nil, errors.Join(err, w.Close())
	}
	return s, w, nil
}

// measureLeave takes people out of a group one by one, each of whom is logged in
// four times on two hosts with programs that no hangup ends, and measures from
// the directory's answer to the end of the last process.
func measureLeave(ctx context.Context, b *bench) (err error) {
	s, w, err := newSite(ctx, site.Config{Hosts: []string{"web1", "db1"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	people := pick(50, 2)
	keys := make([]*testenv.Key, people)
	group := []string{"group", "add", "staff"}
	for i := range people {
		name := fmt.Sprintf("user%d", i)
		if keys[i], err = testenv.NewKey(name); err != nil {
			return err
		}
		if err := errors.Join(s.Broker.WriteFile("/root/key.pub", keys[i].Public, 0o600),
			s.Run("", "user", "add", name, "--name", name, "--key", "/root/key.pub", "--no-password")); err != nil {
			return err
		}
		group = append(group, "--add", name)
	}
	if err := errors.Join(s.Run("", group...), s.Run("", "rule", "add", "staff", "--subject", "group:staff", "--door", "keys", "--target", "host:*")); err != nil {
		return err
	}
	lives := make([][]*site.Live, people)
	for i := range people {
		for n := range 4 {
			var l *site.Live
			if err := s.Soon(patience, func() (err error) {
				l, err = s.Stay(fmt.Sprintf("user%d", i), keys[i], s.Hosts[n%2])
				return err
			}); err != nil {
				return err
			}
			lives[i] = append(lives[i], l)
		}
	}
	var last, clients []float64
	for i, ls := range lives {
		if err := s.Run("", "group", "set", "staff", "--remove", fmt.Sprintf("user%d", i)); err != nil {
			return err
		}
		since := time.Now()
		took, err := s.Out(since, ls...)
		if err != nil {
			return err
		}
		last = append(last, took.Seconds()*1e3)
		for _, l := range ls {
			clients = append(clients, l.Ended().Sub(since).Seconds()*1e3)
		}
	}
	n := fmt.Sprintf("%d ssh sessions", 4*people)
	b.table.add(row{name: "revocation to the last process's end, median, " + n, ours: quantile(last, 0.5), peer: math.NaN(), unit: "ms"})
	b.table.add(row{name: "revocation to the last process's end, p99, " + n, ours: quantile(last, 0.99), peer: math.NaN(), unit: "ms", bound: bound{"ours", "<=", 1000},
		note: "from the return of sekisho group set, a process's end after the directory's answer; 200 ms of it are the grace that programs get"})
	b.table.add(row{name: "revocation to the end of the connection, p99, " + n, ours: quantile(clients, 0.99), peer: math.NaN(), unit: "ms"})
	return nil
}

// asked is what a person types at web1's PAM door, as sshd would pass it on.
func asked(socket, user, from, password string) (wire.Outcome, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	a, err := wire.Ask(conn, wire.Request{Verb: "auth", Fields: []wire.Field{{Name: "user", Value: user}, {Name: "service", Value: "sshd"}, {Name: "rhost", Value: from}}})
	if err == nil && a.Reason != "prompt" {
		err = fmt.Errorf("no prompt, but %v", a)
	}
	if err != nil {
		return 0, err
	}
	a, err = wire.Ask(conn, wire.Request{Verb: "answer", Fields: []wire.Field{{Name: "a1", Value: password}}})
	return a.Outcome, err
}

// binds is how many the broker's slapd has answered.
func binds(s *site.Site) (n int, err error) {
	out, err := s.Broker.Command(s.Ctx, "ldapsearch", "-LLL", "-Q", "-Y", "EXTERNAL", "-H", "ldapi://%2Frun%2Fsekisho%2Fldapi",
		"-b", "cn=Bind,cn=Operations,cn=Monitor", "-s", "base", "monitorOpCompleted").Output()
	if err != nil {
		return 0, fmt.Errorf("counting binds: %w", err)
	}
	_, count, _ := strings.Cut(string(out), "monitorOpCompleted: ")
	if _, err := fmt.Sscan(count, &n); err != nil {
		return 0, fmt.Errorf("counting binds: %w", err)
	}
	return n, nil
}

// measureSpray compares sign-ins of somebody from a known network while it is
// quiet with those while others guess, and counts what the directory is asked.
func measureSpray(ctx context.Context, b *bench) (err error) {
	const password = "correct horse battery"
	s, w, err := newSite(ctx, site.Config{Broker: "[pam]\npassword = \"ldap\"\n"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := errors.Join(s.Run(password+"\n", "user", "add", "alice", "--name", "Alice", "--password-stdin"),
		s.Run("", "host", "add", "broker", "--addr", s.Broker.Addr.String(), "--alias", s.Broker.FQDN),
		s.Run("", "rule", "add", "alice", "--subject", "user:alice", "--door", "pam", "--target", "host:*")); err != nil {
		return err
	}
	// A sign-in that came before the broker has read all would count as a guess.
	if err := s.Soon(patience, func() error {
		st, err := s.Status(s.Broker)
		if err == nil && st.Sync.Rules == 0 {
			err = errors.New("the broker has not read the rule")
		}
		return err
	}); err != nil {
		return err
	}
	socket := s.Broker.Path("/run/sekisho/pam.sock")
	signIns := func(n int) ([]float64, error) {
		var took []float64
		for range n {
			began := time.Now()
			o, err := asked(socket, "alice", s.Client.Addr.String(), password)
			if err == nil && o != wire.Yes {
				err = errors.New(o.String())
			}
			if err != nil {
				return nil, fmt.Errorf("alice does not get in: %w", err)
			}
			took = append(took, time.Since(began).Seconds()*1e3)
			time.Sleep(50 * time.Millisecond)
		}
		return took, nil
	}
	// By it the network is known.
	if err := s.Soon(patience, func() error { _, err := signIns(1); return err }); err != nil {
		return err
	}
	n := pick(300, 10)
	quiet, err := signIns(n)
	if err != nil {
		return err
	}
	before, err := binds(s)
	if err != nil {
		return err
	}
	guesses := pick(50_000, 500)
	var all sync.WaitGroup
	var next, odd atomic.Int64
	for range pick(1500, 100) {
		all.Go(func() {
			for i := next.Add(1); i <= int64(guesses) && ctx.Err() == nil; i = next.Add(1) {
				user := "alice"
				if i%4 != 0 {
					user = fmt.Sprintf("user%d", i%997)
				}
				from := fmt.Sprintf("198.%d.%d.7", 18+i%1000/500, i%500/2) // 1,000 sources
				if i%2 == 1 {
					from = fmt.Sprintf("2001:db8:%x::7", i%1000)
				}
				if o, err := asked(socket, user, from, fmt.Sprintf("guess %d", i)); err != nil || o == wire.Yes {
					odd.Add(1)
				}
			}
		})
	}
	loud, err := signIns(n)
	all.Wait()
	if err != nil {
		return fmt.Errorf("during the spray: %w", err)
	}
	after, err := binds(s)
	if err != nil {
		return err
	}
	reached := after - before - 1 - n // ours for counting, and alice's
	b.table.add(row{name: "guesses that reached slapd, in 100", ours: 100 * float64(reached) / float64(guesses), peer: math.NaN(), unit: "%", bound: bound{"ours", "<=", 2},
		note: fmt.Sprintf("%d guesses from 1,000 sources, %d of them without an answer of no", guesses, odd.Load())})
	b.table.add(row{name: "sign-in from a known network, p99, while others guess", ours: quantile(loud, 0.99), peer: quantile(quiet, 0.99), peerName: "quiet", unit: "ms", bound: bound{"ratio", "<=", 2}})
	b.table.add(row{name: "sign-in from a known network, median, while others guess", ours: quantile(loud, 0.5), peer: quantile(quiet, 0.5), peerName: "quiet", unit: "ms"})
	return nil
}
