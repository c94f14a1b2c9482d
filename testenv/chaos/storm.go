package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/site"
)

// person is a user whose rights come and go.
type person struct {
	name string
	uid  string // which a host's pgrep knows when the host no longer knows the name
	key  *testenv.Key

	mu sync.Mutex // held while the directory is changed
	in bool       // guarded by mu: he may log in
	// unsure: a change was cut short, so that nobody knows which of the two it is.
	unsure bool // guarded by mu
}

// storm is a site in trouble.
type storm struct {
	*site.Site
	people []*person
	tokens []*token

	mu     sync.Mutex
	rand   *rand.Rand     // guarded by mu
	lives  []*site.Live   // guarded by mu
	counts map[string]int // guarded by mu; what was done in this round
	bad    error          // guarded by mu; what must not happen and was seen during the storm
}

// wrong keeps an error for check, and returns nil.
func (s *storm) wrong(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad = errors.Join(s.bad, err)
	return nil
}

func (s *storm) pick(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rand.IntN(n)
}

func (s *storm) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what]++
}

// tally is what the last round did.
func (s *storm) tally() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var words []string
	for what, n := range s.counts {
		words = append(words, fmt.Sprintf("%d %s", n, what))
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

// rage is one round: load and faults for d.
func (s *storm) rage(d time.Duration) {
	s.mu.Lock()
	s.counts = map[string]int{}
	s.mu.Unlock()
	end := time.Now().Add(d)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for time.Now().Before(end) && s.Ctx.Err() == nil {
				s.comeOrGo()
			}
		})
	}
	for _, t := range s.tokens {
		all.Go(func() {
			for time.Now().Before(end) && s.Ctx.Err() == nil {
				_ = s.spend(t) // what it says is counted
				time.Sleep(time.Duration(s.pick(600)) * time.Millisecond)
			}
		})
	}
	all.Go(func() {
		for time.Now().Before(end) && s.Ctx.Err() == nil {
			s.change()
			time.Sleep(time.Duration(200+s.pick(800)) * time.Millisecond)
		}
	})
	all.Go(func() {
		for time.Now().Before(end) && s.Ctx.Err() == nil {
			time.Sleep(time.Duration(1000+s.pick(4000)) * time.Millisecond)
			if err := s.fault(); err != nil {
				fmt.Printf("chaos: a fault could not be made: %v\n", err)
			}
		}
	})
	all.Wait()
}

// comeOrGo logs somebody in, or ends one of the clients.
func (s *storm) comeOrGo() {
	s.mu.Lock()
	s.lives = slices.DeleteFunc(s.lives, func(l *site.Live) bool { return !l.Ended().IsZero() })
	open := len(s.lives)
	s.mu.Unlock()
	if open > 6 || open > 0 && s.pick(3) == 0 {
		s.mu.Lock()
		l := s.lives[s.rand.IntN(len(s.lives))]
		s.mu.Unlock()
		l.Leave()
		s.count("logouts")
		return
	}
	p := s.people[s.pick(len(s.people))]
	l, err := s.StayWith(site.Plain, p.name, p.key, s.Hosts[s.pick(len(s.Hosts))])
	if err != nil {
		s.count("refusals")
		return
	}
	s.count("logins")
	s.mu.Lock()
	s.lives = append(s.lives, l)
	s.mu.Unlock()
}

// change takes somebody's right away, or gives it back, in one of two ways.
func (s *storm) change() {
	p := s.people[s.pick(len(s.people))]
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	if p.in || p.unsure {
		err = s.Run("", "group", "set", "staff", "--remove", p.name)
	} else {
		err = s.Run("", "group", "set", "staff", "--add", p.name)
	}
	switch {
	case err == nil && p.unsure:
		p.in, p.unsure = false, false
	case err == nil:
		p.in = !p.in
	default:
		p.unsure = true
		s.count("changes that failed")
		return
	}
	s.count("changes")
}

// fault does one bad thing.
func (s *storm) fault() error {
	hosts := s.All()
	switch n := s.pick(11); n {
	case 0, 1, 2, 3:
		h := hosts[s.pick(len(hosts))]
		s.count("kills of sekishod")
		s.Sekishod(h).Kill()
		time.Sleep(time.Duration(s.pick(1500)) * time.Millisecond)
		return s.Start(h)
	case 4, 5:
		s.count("kills of slapd")
		return s.kill("slapd")
	case 6:
		s.count("kills of krb5kdc")
		return s.kill("krb5kdc")
	case 7:
		h := s.Hosts[s.pick(len(s.Hosts))]
		s.count("partitions")
		if err := h.Partition(); err != nil {
			return err
		}
		time.Sleep(time.Duration(500+s.pick(4000)) * time.Millisecond)
		return h.Heal()
	case 8, 9:
		return s.full(hosts[s.pick(len(hosts))])
	default:
		s.count("clock steps")
		return s.Broker.MoveClock(time.Duration(s.pick(1200)-600) * time.Second)
	}
}

// kill is SIGKILL for one of the broker's servers; that it is just not there is
// fine.
func (s *storm) kill(server string) error {
	err := s.Signal(server, syscall.SIGKILL)
	if err != nil && strings.Contains(err.Error(), "names no") {
		return nil
	}
	return err
}

// calm sets all right that a fault may have left, and waits until the site has
// caught up.
func (s *storm) calm() error {
	if err := s.Broker.MoveClock(0); err != nil {
		return err
	}
	for _, h := range s.All() {
		select {
		case <-s.Sekishod(h).Done():
			if err := s.Start(h); err != nil {
				return err
			}
		default:
		}
	}
	for _, p := range s.people {
		p.mu.Lock()
		if p.unsure {
			err := s.Soon(2*time.Minute, func() error { // slapd may be on its way up
				_ = s.Run("", "group", "set", "staff", "--add", p.name) // he may be in it
				return s.Run("", "group", "set", "staff", "--remove", p.name)
			})
			if err != nil {
				p.mu.Unlock()
				return err
			}
			p.in, p.unsure = false, false
		}
		p.mu.Unlock()
	}
	// A last change that every host must have seen.
	return s.Soon(3*time.Minute, func() error {
		for _, h := range s.All() {
			st, err := s.Status(h)
			if err != nil {
				return fmt.Errorf("%s: %w", h.Name, err)
			}
			if st.Sync.State != "live" {
				return fmt.Errorf("%s is %s", h.Name, st.Sync.State)
			}
		}
		return nil
	})
}
