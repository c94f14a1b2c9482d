package roster

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/state"
)

// work publishes what happens soon after, and at each pass what was missed.
func (r *Roster) work(ctx context.Context) {
	pass := time.NewTicker(r.t.pass)
	defer pass.Stop()
	r.pass(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.poke:
			if rest(ctx, r.t.batch) {
				r.drain(ctx)
			}
		case <-pass.C:
			r.drain(ctx)
			r.pass(ctx)
		}
	}
}

func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// drain looks at what was touched, ends first. When the store is not there, the
// rest waits for the next time.
func (r *Roster) drain(ctx context.Context) (well bool) {
	r.mu.Lock()
	todo := r.touched
	r.touched = map[string]bool{}
	r.mu.Unlock()
	var ids []string
	for id, ended := range todo {
		if ended {
			ids = append(ids, id)
		}
	}
	for id, ended := range todo {
		if !ended {
			ids = append(ids, id)
		}
	}
	for i, id := range ids {
		began := time.Now()
		err := r.sync(ctx, id, todo[id])
		if err == nil {
			continue
		}
		r.say(ctx, err)
		keep := ids[i : i+1]
		if away := time.Since(began) > slow; away || ctx.Err() != nil {
			keep = ids[i:]
		} else if !todo[id] {
			continue // the next pass finds it
		}
		r.mu.Lock()
		for _, id := range keep {
			r.touched[id] = r.touched[id] || todo[id]
		}
		r.mu.Unlock()
		if len(keep) > 1 || ctx.Err() != nil {
			return false
		}
	}
	return true
}

// pass compares what is known with what is published.
func (r *Roster) pass(ctx context.Context) {
	// All that was told before is heard then, what we had published in another life
	// too.
	if err := r.freshen(ctx, r.t.beat); err != nil {
		r.say(ctx, err)
		return
	}
	var fault error
	for _, id := range r.differing() {
		began := time.Now()
		err := r.sync(ctx, id, false)
		if err != nil {
			fault = err
		}
		if err != nil && time.Since(began) > slow || !rest(ctx, r.t.pace) {
			r.say(ctx, fault)
			return
		}
		r.mu.Lock()
		fresh := len(r.touched) > 0
		r.mu.Unlock()
		if fresh && !r.drain(ctx) {
			return
		}
	}
	r.say(ctx, fault)
}

// differing is what a pass has to do: first what has room in the store already.
func (r *Roster) differing() []string {
	tracked := map[string]bool{}
	var fresh []string
	var there []string
	r.c.Broker.Sessions(func(s *broker.Session) bool {
		id := string(s.ID)
		tracked[id] = true
		r.mu.Lock()
		e, is := r.all[id]
		r.mu.Unlock()
		switch {
		case !is:
			fresh = append(fresh, id)
		case e.Broker != r.c.Name || r.age(e) >= r.t.renew:
			there = append(there, id)
		}
		return true
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, e := range r.all {
		if e.Broker == r.c.Name && !tracked[id] {
			there = append(there, id)
		}
	}
	for id := range r.orders {
		there = append(there, id)
	}
	for id := range r.moved {
		if !tracked[id] {
			delete(r.moved, id)
		}
	}
	return append(there, fresh...)
}

// age is how long ago an entry was written.
func (r *Roster) age(e entry) time.Duration {
	if !e.renewed.IsZero() {
		return r.c.Now().Sub(e.renewed)
	}
	return r.c.Now().Sub(e.at)
}

// sync has the store say of one session what is so; ended says that its end was
// seen here. It obeys an order for it, too.
func (r *Roster) sync(ctx context.Context, id string, ended bool) error {
	if !idForm.MatchString(id) {
		return nil
	}
	s, tracked := r.c.Broker.Session(broker.SessionID(id))
	r.mu.Lock()
	e, there := r.all[id]
	o := r.orders[id]
	r.mu.Unlock()
	if tracked {
		known, has := r.c.Vouch(s.Place, s.ID)
		vouched := known && has
		r.mu.Lock()
		switch {
		case vouched:
			delete(r.moved, id)
		case there && e.Broker != r.c.Name:
			r.moved[id] = true // until its host is back, also when it has ended there
		}
		r.mu.Unlock()
		if o != nil {
			r.obey(o)
		}
		return r.publish(ctx, s, e, vouched)
	}
	var host string
	switch {
	case there:
		host = e.Host
	case o != nil:
		host = o.Host
	default:
		return nil
	}
	if !ended {
		// That we do not know it does not say that it is gone: its host may not have
		// come back yet.
		known, has := r.c.Vouch(broker.HostName(host), broker.SessionID(id))
		if !known || has {
			return nil
		}
	}
	if there && (ended || e.Broker == r.c.Name) {
		if err := r.c.Store.Delete(ctx, state.BucketSessions, id); err != nil {
			return err
		}
		r.mu.Lock()
		delete(r.all, id)
		r.mu.Unlock()
	}
	if o != nil && (ended || o.To == r.c.Name) {
		return r.done(ctx, id)
	}
	return nil
}

// publish writes a session's entry, if there is a need. e.ID is empty if there is
// none. One that its host does not vouch for now stays as it is, and what another
// broker says of it counts.
func (r *Roster) publish(ctx context.Context, s broker.Session, e entry, vouched bool) error {
	ours := e.Broker == r.c.Name
	switch {
	case e.ID == "" && !vouched, e.ID != "" && !ours && (!vouched || r.age(e) < r.t.takeOver):
		return nil
	}
	doc := r.c.Report(s)
	doc.Broker, doc.Confirmed = r.c.Name, ""
	value, err := encode(doc)
	if err == nil {
		_, err = parseSession(doc.ID, value)
	}
	if err != nil {
		r.c.Log.WithError(err).WithField("session", doc.ID).Debug("a session cannot be shown at other brokers")
		return nil
	}
	if ours && r.age(e) < r.t.renew && bytes.Equal(value, e.raw) {
		return nil
	}
	r.mu.Lock()
	r.wrote[doc.ID] = r.c.Now()
	r.mu.Unlock()
	// That it is there, the watch tells. An answer may come after the entry has gone
	// again: a Delete of ours that could not tell may be done late.
	if vouched { // it counts, whatever else is there
		err = r.c.Store.Put(ctx, state.BucketSessions, doc.ID, value, r.t.ttl)
	} else {
		err = r.c.Store.Update(ctx, state.BucketSessions, doc.ID, value, e.revision)
	}
	if errors.Is(err, state.ErrConflict) || errors.Is(err, state.ErrNotFound) {
		return nil // another broker has it: the watch tells, and the next pass sees
	}
	return err
}

// say says once that it does not go, and once that it goes again.
func (r *Roster) say(ctx context.Context, err error) {
	r.mu.Lock()
	was := r.well
	if ctx.Err() == nil {
		r.well = err == nil
	}
	now := r.well
	r.mu.Unlock()
	switch {
	case was && !now:
		r.c.Log.WithError(err).Warn("other brokers do not hear of all sessions of this one: it goes on trying")
	case !was && now:
		r.c.Log.Info("other brokers hear of this one's sessions again")
	}
}
