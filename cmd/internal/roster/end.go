package roster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/state"
)

// MaxOrders is how many sessions may be ordered to end at once.
const MaxOrders = 1000

// asked is a session that was ordered to end from here, and has not been confirmed.
type asked struct {
	Theirs
	reason       broker.Reason
	at           time.Time // the order
	basis, since string
	next         time.Time // when to look whether it is done
	pause        time.Duration
}

// Order orders sessions of other brokers to end, for by, a name; Pending says when
// they have. With an error some were not ordered: the first n were.
func (r *Roster) Order(ctx context.Context, all []Theirs, by string, reason broker.Reason) (n int, err error) {
	for _, t := range all {
		if n >= MaxOrders {
			return n, fmt.Errorf("%d sessions at once are all that can be ordered to end: do it again", MaxOrders)
		}
		if err := r.order(ctx, t, by, reason); err != nil {
			return n, fmt.Errorf("the end of %d of %d sessions at other brokers could not be ordered: %w", len(all)-n, len(all), err)
		}
		n++
	}
	return n, nil
}

func (r *Roster) order(ctx context.Context, t Theirs, by string, reason broker.Reason) error {
	value, err := encode(order{Session: t.ID, Host: t.Host, To: t.Broker, By: by, Broker: r.c.Name, Reason: reason})
	if err == nil {
		_, err = parseOrder(t.ID, value)
	}
	if err != nil {
		return err
	}
	if err := r.place(ctx, t.ID, value); err != nil {
		return err
	}
	a := &asked{Theirs: t, reason: reason, at: r.c.Now(), basis: "none"}
	if t.Rests {
		a.basis = "account"
	}
	a.next, a.since = a.at, a.at.UTC().Format(time.RFC3339)
	r.mu.Lock()
	if e, there := r.all[t.ID]; there {
		if s, err := parseSession(t.ID, e.raw); err == nil {
			a.basis, a.since = s.Basis, s.Since
		}
	}
	r.asked[t.ID] = a
	r.mu.Unlock()
	wake(r.asking)
	return nil
}

// place writes an order. One that is there already begins anew, so that it does not
// end by itself while we wait for it to be obeyed.
func (r *Roster) place(ctx context.Context, id string, value []byte) error {
	for try := 0; ; try++ {
		err := r.c.Store.Create(ctx, state.BucketEnds, id, value, r.t.order)
		if !errors.Is(err, state.ErrExists) {
			return err
		}
		var e state.Entry
		if e, err = r.c.Store.Get(ctx, state.BucketEnds, id); err == nil {
			err = r.c.Store.Update(ctx, state.BucketEnds, id, value, e.Revision)
		}
		if try > 3 || !errors.Is(err, state.ErrNotFound) && !errors.Is(err, state.ErrConflict) {
			return err
		}
	}
}

// Pending reports whether a session that was ordered to end has not been confirmed
// yet. It is confirmed by a broker that has seen its end and removed the order, not
// by an entry that is gone, which may have only grown too old.
func (r *Roster) Pending(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[id] != nil
}

const (
	firstLook = 10 * time.Millisecond
	lastLook  = time.Second
	lookWait  = time.Second
)

// confirm looks whether orders were obeyed. The leader of the bucket is asked: what
// the watch tells may be what a server tells that lags behind.
func (r *Roster) confirm(ctx context.Context) {
	for {
		r.mu.Lock()
		now := r.c.Now()
		var ids []string
		for id, a := range r.asked {
			switch {
			case now.Sub(a.at) > r.t.order*9/10: // it may end by itself now, which says nothing
				delete(r.asked, id)
			case !now.Before(a.next):
				ids = append(ids, id)
				a.pause = min(max(2*a.pause, firstLook), lastLook)
				a.next = now.Add(a.pause)
			}
		}
		idle := len(r.asked) == 0
		r.mu.Unlock()
		for _, id := range ids {
			look, cancel := context.WithTimeout(ctx, lookWait)
			_, err := r.c.Store.Get(look, state.BucketEnds, id)
			cancel()
			if errors.Is(err, state.ErrNotFound) {
				r.mu.Lock()
				delete(r.asked, id)
				r.mu.Unlock()
			}
		}
		if idle {
			select {
			case <-ctx.Done():
				return
			case <-r.asking:
			}
		} else if !rest(ctx, firstLook) {
			return
		}
	}
}

// hearOrder takes what the store tells of orders.
func (r *Roster) hearOrder(ch state.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.asked[ch.Key]; a != nil && ch.Deleted {
		a.next = time.Time{} // look at once
	}
	delete(r.orders, ch.Key)
	if ch.Deleted {
		return
	}
	o, err := parseOrder(ch.Key, ch.Value)
	if err != nil {
		r.c.Log.WithError(err).Warn("an order to end a session is passed over: no broker has written it")
		return
	}
	r.orders[ch.Key] = o
	if _, is := r.touched[ch.Key]; is || len(r.touched) < maxTouched {
		r.touched[ch.Key] = r.touched[ch.Key]
		wake(r.poke)
	}
}

// obey ends a session that the broker has. An order counts once: the broker itself
// tells the session's keeper again.
func (r *Roster) obey(o *order) {
	r.mu.Lock()
	given := o.given
	o.given = true
	r.mu.Unlock()
	if !given {
		r.c.Broker.EndSession(broker.SessionID(o.Session), o.Reason, o.By+" by broker "+o.Broker)
	}
}

// done removes an order: its session has ended.
func (r *Roster) done(ctx context.Context, id string) error {
	if err := r.c.Store.Delete(ctx, state.BucketEnds, id); err != nil {
		return err
	}
	r.mu.Lock()
	delete(r.orders, id)
	r.mu.Unlock()
	return nil
}
