// Command chaos kills, starves and cuts off the parts of a small site at random
// while people log in, are locked out and let in again, and then looks whether
// anything that must never happen has happened:
//
//   - nobody whose right was taken away is inside;
//   - every session that lives is known once, on its host and on the broker, and
//     no session is known that does not live;
//   - the audit records are whole;
//   - no one-time code was taken twice, on whichever hosts and whenever it was tried;
//   - nobody got in while the record of it could not be written.
//
// The seed is printed; a run with -seed repeats it, as far as the machine's timing
// allows.
//
//	chaos [-rounds N] [-round 1m] [-seed N]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/site"
)

var (
	rounds = flag.Int("rounds", 2, "how many rounds")
	round  = flag.Duration("round", time.Minute, "how long one is")
	seed   = flag.Uint64("seed", 0, "of the random choices; 0: another one each time")
)

func main() {
	flag.Parse()
	os.Exit(testenv.Sandboxed(program{}).Run())
}

// program is what runs in the sandbox.
type program struct{}

func (program) Run() int {
	if !flag.Parsed() {
		flag.Parse()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	fmt.Printf("chaos: %d rounds of %v, seed %d\n", *rounds, *round, *seed)
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "chaos: seed %d: %v\n", *seed, err)
		return 1
	}
	fmt.Println("chaos: all well")
	return 0
}

func run(ctx context.Context) (err error) {
	w, err := testenv.NewWorld(testenv.WorldConfig{})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			w.ShowLogs(func(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) })
		}
		err = errors.Join(err, w.Close())
	}()
	s, err := newStorm(ctx, w)
	if err != nil {
		return fmt.Errorf("making the site: %w", err)
	}
	for n := 1; n <= *rounds; n++ {
		began := time.Now()
		s.rage(*round)
		if err := s.calm(); err != nil {
			s.show()
			return fmt.Errorf("round %d: after the storm: %w", n, err)
		}
		if err := s.check(); err != nil {
			s.show()
			return fmt.Errorf("round %d: %w", n, err)
		}
		fmt.Printf("round %d: %s, in %v\n", n, s.tally(), time.Since(began).Round(time.Second))
	}
	return nil
}

// people is how many users there are.
const people = 8

// newStorm makes a site with people who may log in to two hosts.
func newStorm(ctx context.Context, w *testenv.World) (*storm, error) {
	at, err := site.New(ctx, w, site.Config{Hosts: []string{"web1", "db1"}, Broker: unlimited})
	if err != nil {
		return nil, err
	}
	s := &storm{Site: at, rand: rand.New(rand.NewPCG(*seed, 1))}
	if err := s.StartRealm(); err != nil {
		return nil, err
	}
	for _, h := range s.Hosts {
		if err := s.Join(h); err != nil {
			return nil, err
		}
		if err := s.unlimit(h); err != nil {
			return nil, err
		}
	}
	for _, h := range s.All() {
		if err := s.Sekishod(h).Stop(); err != nil {
			return nil, err
		}
		if err := errors.Join(s.smallDisks(h), s.Start(h)); err != nil {
			return nil, err
		}
	}
	for i := range people {
		p := &person{name: fmt.Sprintf("user%d", i+1), uid: fmt.Sprint(20001 + i), in: true}
		if p.key, err = testenv.NewKey(p.name + "@client"); err != nil {
			return nil, err
		}
		file := "/root/" + p.name + ".pub"
		if err := s.Broker.WriteFile(file, p.key.Public, 0o600); err != nil {
			return nil, err
		}
		if err := s.Run("", "user", "add", p.name, "--name", p.name, "--uid", p.uid, "--key", file, "--no-password"); err != nil {
			return nil, err
		}
		s.people = append(s.people, p)
	}
	args := []string{"group", "add", "staff"}
	for _, p := range s.people {
		args = append(args, "--add", p.name)
	}
	if err := s.Run("", args...); err != nil {
		return nil, err
	}
	if err := s.Run("", "group", "add", "ops", "--add-group", "staff"); err != nil {
		return nil, err
	}
	if err := s.Run("", "rule", "add", "ops", "--subject", "group:ops", "--door", "keys", "--target", "host:*"); err != nil {
		return nil, err
	}
	if err := s.addTokens(); err != nil {
		return nil, err
	}
	return s, s.Soon(2*time.Minute, func() error {
		for _, h := range s.Hosts {
			if err := s.Login(s.people[0].name, s.people[0].key, h); err != nil {
				return err
			}
		}
		return nil
	})
}
