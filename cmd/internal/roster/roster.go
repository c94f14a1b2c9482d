// Package roster is what brokers tell each other of open sessions, through the
// store that they share: who is logged in where, in the bucket sessions, and orders
// to end a session that another broker has, in the bucket ends.
//
// It is never in a login's way: a session is tracked by its broker first, and
// published a moment later. Nothing that is read from the store lets anybody in, or
// has a broker take a session for its own: it is shown, or ends one.
package roster

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/state"
)

// Config is what a Roster is made of. All of it is needed.
type Config struct {
	Store  state.Store
	Broker *broker.Broker
	// Name is this broker's among all: its host's.
	Name string
	// Report is a session as `sekisho sessions` shows it.
	Report func(broker.Session) report.Session
	// Vouch tells whether it is known now which sessions a host has, and whether
	// this is one of them.
	Vouch func(broker.HostName, broker.SessionID) (known, has bool)
	Now   func() time.Time
	Log   *logrus.Entry
}

// timing is how often things are done; tests have less patience.
type timing struct {
	ttl      time.Duration // of a session's entry
	renew    time.Duration // when it is written again
	takeOver time.Duration // how old another broker's entry must be
	pass     time.Duration // what is known is compared with what is published
	pace     time.Duration // between two writes of a pass
	batch    time.Duration // from an event to its publication
	beat     time.Duration // a broker says that it lives
	silent   time.Duration // then it is missed
	fresh    time.Duration // how old what is told of others may be
	order    time.Duration // the ttl of one
}

var usual = timing{ttl: 10 * time.Minute, renew: 4 * time.Minute, takeOver: time.Minute, pass: 15 * time.Second, pace: 5 * time.Millisecond,
	batch: 20 * time.Millisecond, beat: time.Minute, silent: 3 * time.Minute, fresh: 2 * time.Second, order: 10 * time.Minute}

const (
	// beatTTL is for how long a silent broker is remembered.
	beatTTL = 24 * time.Hour
	// slow is how long a write takes that fails because the store is not there.
	slow = time.Second
	// maxTouched bounds what waits to be published; a pass finds the rest.
	maxTouched = 1 << 18
)

// Roster is one broker's part. It is safe for any number of goroutines.
type Roster struct {
	c   Config // immutable, as t and run
	t   timing
	run string

	poke   chan struct{} // of one: there is something touched
	asking chan struct{} // of one: there is something in asked
	heard  chan struct{} // of one: an echo has come
	beats  chan struct{} // of one: only who holds it beats; before mu

	mu      sync.Mutex           // guards all below
	all     map[string]entry     // what the store has, as its watch tells
	wrote   map[string]time.Time // when this process wrote one last
	brokers map[string]time.Time // when each was last heard of
	orders  map[string]*order
	touched map[string]bool // to be looked at; true: its end was seen here
	moved   map[string]bool // another broker has it, and its host is away from here
	asked   map[string]*asked
	n, echo uint64    // beats sent, and heard of
	asOf    time.Time // all that was written before was heard
	failed  time.Time // a beat, with fault
	fault   error
	well    bool
}

// entry is a published session, of ours or another broker's.
type entry struct {
	Theirs
	raw      []byte
	revision uint64
	at       time.Time // when it was written, by the servers' clock
	renewed  time.Time // when we wrote it, by ours; zero: this process has not
}

// Theirs is a session that a broker has published.
type Theirs struct {
	ID, User, Login, Host, Broker string
	// Rests: it is somebody's of the directory.
	Rests bool
}

// New makes a Roster. It is of use once Run runs.
func New(c Config) *Roster { return newRoster(c, usual) }

func newRoster(c Config, t timing) *Roster {
	one := func() chan struct{} { return make(chan struct{}, 1) }
	return &Roster{c: c, t: t, run: rand.Text(), poke: one(), asking: one(), heard: one(), beats: one(), well: true,
		all: map[string]entry{}, wrote: map[string]time.Time{}, brokers: map[string]time.Time{}, orders: map[string]*order{},
		touched: map[string]bool{}, moved: map[string]bool{}, asked: map[string]*asked{}}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Tell is told what happens to sessions. It returns at once.
func (r *Roster) Tell(e broker.SessionEvent) {
	ended := e.Kind == broker.SessionClosed || e.Kind == broker.SessionLost
	if ended { // of a host that is away it is not certain
		ended, _ = r.c.Vouch(e.Session.Place, e.Session.ID)
	}
	r.touch(string(e.Session.ID), ended)
}

// Touch has a session looked at that was not opened here, but reported by a host.
func (r *Roster) Touch(id broker.SessionID) { r.touch(string(id), false) }

func (r *Roster) touch(id string, ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, is := r.touched[id]; !is && len(r.touched) >= maxTouched {
		return
	}
	r.touched[id] = r.touched[id] || ended
	wake(r.poke)
}

// Run publishes, listens and obeys until ctx ends.
func (r *Roster) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	ended := make(chan error, 2)
	all.Go(func() { ended <- r.c.Store.Watch(ctx, state.BucketSessions, r.hearSession) })
	all.Go(func() { ended <- r.c.Store.Watch(ctx, state.BucketEnds, r.hearOrder) })
	all.Go(func() { r.confirm(ctx) })
	all.Go(func() { r.work(ctx) })
	select {
	case <-ctx.Done():
		return nil
	case err := <-ended:
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
}

// hearSession takes what the store tells of sessions and brokers.
func (r *Roster) hearSession(ch state.Change) {
	if strings.HasPrefix(ch.Key, beatPrefix) {
		r.hearBeat(ch)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, ch.Key)
	if ch.Deleted {
		delete(r.wrote, ch.Key)
		return
	}
	s, err := parseSession(ch.Key, ch.Value)
	if err != nil {
		r.c.Log.WithError(err).Debug("a session of another broker is passed over")
		return
	}
	e := r.entry(&s, ch.Value)
	e.revision, e.at = ch.Revision, ch.Created
	if s.Broker == r.c.Name {
		e.renewed = r.wrote[ch.Key]
	}
	r.all[ch.Key] = e
	if s.Broker != r.c.Name && len(r.touched) < maxTouched { // do we have it too?
		if _, tracked := r.c.Broker.Session(broker.SessionID(ch.Key)); tracked {
			r.touched[ch.Key] = r.touched[ch.Key]
			wake(r.poke)
		}
	}
}

func (r *Roster) entry(s *report.Session, raw []byte) entry {
	return entry{Theirs: Theirs{ID: s.ID, User: s.User, Login: s.Login, Host: s.Host, Broker: s.Broker, Rests: s.Basis != "none"}, raw: raw}
}

func (r *Roster) hearBeat(ch state.Change) {
	name := strings.TrimPrefix(ch.Key, beatPrefix)
	r.mu.Lock()
	defer r.mu.Unlock()
	if ch.Deleted {
		delete(r.brokers, name)
		return
	}
	x, err := parseBeat(ch.Key, ch.Value)
	if err != nil {
		r.c.Log.WithError(err).Debug("a broker's sign of life is passed over")
		return
	}
	at := r.c.Now()
	if _, known := r.brokers[name]; !known && ch.Created.Before(at) {
		at = ch.Created // it was there before us
	}
	r.brokers[name] = at
	if name == r.c.Name && x.Run == r.run {
		r.echo = max(r.echo, x.N)
		wake(r.heard)
	}
}

var errDeaf = errors.New("what was written is not heard of")

// freshen makes sure that all is heard that was written until age ago.
func (r *Roster) freshen(ctx context.Context, age time.Duration) error {
	select {
	case r.beats <- struct{}{}:
		defer func() { <-r.beats }()
	case <-ctx.Done():
		return ctx.Err()
	}
	now := r.c.Now()
	r.mu.Lock()
	switch {
	case r.fault == nil && !r.asOf.IsZero() && now.Sub(r.asOf) < age:
		r.mu.Unlock()
		return nil
	case r.fault != nil && now.Sub(r.failed) < r.t.fresh:
		defer r.mu.Unlock()
		return r.fault
	}
	r.n++
	n := r.n
	r.mu.Unlock()
	err := r.beat(ctx, n)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fault = err; err != nil {
		r.failed = r.c.Now()
		return err
	}
	r.asOf = now
	return nil
}

// beatWait bounds a beat, and so how long somebody waits who only looks.
const beatWait = 2500 * time.Millisecond

func (r *Roster) beat(ctx context.Context, n uint64) error {
	ctx, cancel := context.WithTimeout(ctx, beatWait)
	defer cancel()
	value, err := encode(beat{r.c.Name, r.run, n})
	if err == nil {
		err = r.c.Store.Put(ctx, state.BucketSessions, beatPrefix+r.c.Name, value, beatTTL)
	}
	if err != nil {
		return err
	}
	for {
		r.mu.Lock()
		echo := r.echo
		r.mu.Unlock()
		if echo >= n {
			return nil
		}
		select {
		case <-r.heard:
		case <-ctx.Done():
			return errDeaf
		}
	}
}

// Find is what other brokers have published, by id, of which match says yes; with
// an error nothing is known of them.
func (r *Roster) Find(ctx context.Context, match func(*Theirs) bool) ([]Theirs, error) {
	if err := r.freshen(ctx, r.t.fresh); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Theirs
	for _, e := range r.all {
		if e.Broker != r.c.Name && match(&e.Theirs) {
			out = append(out, e.Theirs)
		}
	}
	slices.SortFunc(out, func(a, b Theirs) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// Sessions is Find with all that was published of each, and with when its broker
// last confirmed it. A session that was ordered to end is among them until its
// broker has said that it has ended, whatever the store tells.
func (r *Roster) Sessions(ctx context.Context, match func(*Theirs) bool) ([]report.Session, error) {
	found, err := r.Find(ctx, match)
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]report.Session{}
	for _, t := range found {
		e, there := r.all[t.ID]
		if !there {
			continue
		}
		if s, err := parseSession(t.ID, e.raw); err == nil {
			s.Confirmed = e.at.UTC().Format(time.RFC3339)
			out[t.ID] = s
		}
	}
	for id, a := range r.asked {
		if !match(&a.Theirs) {
			continue
		}
		s, listed := out[id]
		if !listed {
			s = report.Session{ID: id, User: a.User, Login: a.Login, Host: a.Host, Broker: a.Broker, Basis: a.basis, Since: a.since}
		}
		if s.Ending == "" {
			s.Ending, s.Why = a.at.UTC().Format(time.RFC3339), string(a.reason)
		}
		out[id] = s
	}
	return slices.Collect(maps.Values(out)), err
}

// Elsewhere reports whether a session that is tracked here is another broker's by
// now: its host has gone over to that one, and this broker does not hear of its end.
func (r *Roster) Elsewhere(id broker.SessionID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.moved[string(id)]
}

// Silent is one broker that is not heard of.
type Silent struct {
	Broker string
	Since  time.Time
}

// Missing is which other brokers are silent: what they have published ends, and
// what they have is not known.
func (r *Roster) Missing() []Silent {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Silent
	for _, name := range slices.Sorted(maps.Keys(r.brokers)) {
		if at := r.brokers[name]; name != r.c.Name && r.c.Now().Sub(at) > r.t.silent {
			out = append(out, Silent{name, at})
		}
	}
	return out
}
