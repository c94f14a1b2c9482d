package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"time"

	"github.com/go-ldap/ldap/v3"
	"golang.org/x/crypto/ssh"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/wire"
)

// visible measures how soon a key that is added to or taken from the directory
// counts in lookups.
func visible(ctx context.Context, b *bench, users int, d *testenv.Slapd, s *sekishod) error {
	lc, err := writer(d)
	if err != nil {
		return err
	}
	defer lc.Close()
	sock, err := net.Dial("unix", s.socket)
	if err != nil {
		return err
	}
	defer sock.Close()
	random := rand.New(rand.NewPCG(3, 4))
	var fromStart, fromAnswer []float64
	n := 0
	for i := range pick(400, 20) {
		add := i%2 == 0 // and taken away by the next
		if add {
			n = random.IntN(users)
		}
		time.Sleep(time.Duration(random.IntN(20_000)) * time.Microsecond)
		start := time.Now()
		if err := changeKey(lc, n, 100, add); err != nil {
			return err
		}
		answered := time.Now()
		if err := awaitKey(ctx, sock, n, 100, add); err != nil {
			return err
		}
		fromStart = append(fromStart, time.Since(start).Seconds()*1e3)
		fromAnswer = append(fromAnswer, time.Since(answered).Seconds()*1e3)
	}
	of := thousands(users) + " users"
	b.table.add(row{name: "a change is visible after its write, p99, " + of, ours: quantile(fromAnswer, 0.99), peer: math.NaN(),
		unit: "ms", bound: bound{"ours", "<=", 50}})
	b.table.add(row{name: "the same, median", ours: median(fromAnswer), peer: math.NaN(), unit: "ms"})
	b.table.add(row{name: "the same from the write's start, p99", ours: quantile(fromStart, 0.99), peer: math.NaN(), unit: "ms"})
	return nil
}

// changeKey adds the i-th key to user n, or takes it away.
func changeKey(c *ldap.Conn, n, i int, add bool) error {
	r := ldap.NewModifyRequest(personOf(n).dn(), nil)
	value := []string{keyOf(n, i)}
	if add {
		r.Add("sshPublicKey", value)
	} else {
		r.Delete("sshPublicKey", value)
	}
	return c.Modify(r)
}

// awaitKey asks for user n's i-th key until the answer is yes, or no.
func awaitKey(ctx context.Context, sock net.Conn, n, i int, there bool) error {
	k, err := ssh.ParsePublicKey(blobOf(n, i))
	if err != nil {
		return err
	}
	q := wire.Request{Verb: wire.VerbKeys, Fields: []wire.Field{
		{Name: wire.FieldUser, Value: personOf(n).name}, {Name: wire.FieldFingerprint, Value: ssh.FingerprintSHA256(k)}}}
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end) && ctx.Err() == nil; {
		sock.SetDeadline(end)
		a, err := wire.Ask(sock, q)
		if err != nil {
			return err
		}
		switch {
		case a.Outcome == wire.Unknown:
			return fmt.Errorf("keys answers unknown: %s %s", a.Reason, a.Text)
		case (a.Outcome == wire.Yes) == there:
			return nil
		}
		time.Sleep(100 * time.Microsecond)
	}
	return errors.Join(ctx.Err(), fmt.Errorf("the key of %s did not change in two minutes", personOf(n).name))
}

// changes compares what the whole process spends on one change: with the
// largest directory and with a small one, both followed at once.
func changes(ctx context.Context, b *bench, r syncRun, d *testenv.Slapd, s *sekishod) (err error) {
	if r.small == r.users {
		return nil
	}
	d2, err := startDirectory(ctx, r.small, 2389, "0")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d2.Stop()) }()
	s2, err := firstSync(ctx, d2, r.small)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s2.Stop()) }()
	large, err := newChanger(d, s, r.users)
	if err != nil {
		return err
	}
	defer large.close()
	small, err := newChanger(d2, s2, r.small)
	if err != nil {
		return err
	}
	defer small.close()
	for range pick(10, 2) {
		for _, c := range []*changer{small, large} {
			if err := c.batch(ctx, pick(200, 20)); err != nil {
				return err
			}
		}
	}
	b.table.add(row{name: "publishing a user's change, " + thousands(r.users) + " users, CPU of sekishod", ours: median(large.took),
		peer: median(small.took), peerName: "the same with " + thousands(r.small), unit: "µs", bound: bound{"ratio", "<=", 2}})
	return nil
}

// changer changes a directory and looks at what it costs its sekishod.
type changer struct {
	s      *sekishod
	users  int
	ldap   *ldap.Conn
	sock   net.Conn
	random *rand.Rand
	took   []float64 // microseconds a change, by batch
}

func newChanger(d *testenv.Slapd, s *sekishod, users int) (*changer, error) {
	lc, err := writer(d)
	if err != nil {
		return nil, err
	}
	sock, err := net.Dial("unix", s.socket)
	if err != nil {
		lc.Close()
		return nil, err
	}
	return &changer{s: s, users: users, ldap: lc, sock: sock, random: rand.New(rand.NewPCG(5, 6))}, nil
}

func (c *changer) close() {
	c.ldap.Close()
	c.sock.Close()
}

// batch makes n changes, with pauses so that each is published for itself,
// and waits until the last one counts.
func (c *changer) batch(ctx context.Context, n int) error {
	before, err := cpuOf(c.s.Daemon)
	if err != nil {
		return err
	}
	user := 0
	for i := range n {
		if user = c.random.IntN(c.users); i%2 == 1 {
			user = c.random.IntN(c.users/everyKeys) * everyKeys // one with keys
		}
		key := 200 + len(c.took)*n + i
		if err := changeKey(c.ldap, user, key, true); err != nil {
			return err
		}
		if i == n-1 {
			if err := awaitKey(ctx, c.sock, user, key, true); err != nil {
				return err
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	after, err := cpuOf(c.s.Daemon)
	c.took = append(c.took, (after-before).Seconds()*1e6/float64(n))
	return err
}
