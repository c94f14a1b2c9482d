package client_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb/client"
)

// heard is what Observe was told.
type heard struct {
	mu   sync.Mutex
	list []observation
}

type observation struct {
	kdc           string
	offset, bound time.Duration
}

func (h *heard) hear(kdc string, offset, bound time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, observation{kdc, offset, bound})
}

// TestSkew: a KDC whose clock is wrong is Skew, whatever the password, and says by
// how much; nothing is corrected.
func TestSkew(t *testing.T) {
	leaks(t)
	for _, ahead := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
		k := own(t, kdcOptions{kdcOf: shared(t), ahead: ahead})
		for _, x := range []struct {
			user, password string
			max            time.Duration
			want           client.Kind
			code           int32
		}{
			{"alice", "right", 0, client.Skew, 25},
			{"alice", "wrong", 0, client.Skew, 25},
			{"open", "right", 0, client.Skew, 0},
			{"stale", "right", 0, client.Skew, 23},
			{"nobody", "right", 0, client.UnknownPrincipal, 6},
			{"locked", "right", 0, client.Locked, 18},
			// Here the KDC itself says it: we would have taken it.
			{"alice", "right", time.Hour, client.Skew, 37},
			{"alice", "wrong", time.Hour, client.WrongPassword, 24},
		} {
			var h heard
			c := newClient(t, func(c *client.Config) { c.MaxSkew, c.Observe = x.max, h.hear }, k.addr)
			began := time.Now()
			_, err := c.Login(within(t, time.Minute), principal(t, x.user), x.password, client.LoginOptions{})
			var e *client.Error
			if !errors.As(err, &e) || e.Kind != x.want || e.Code != x.code {
				t.Errorf("%s with %q at %s: %v; want %v (%d)", x.user, x.password, ahead, err, x.want, x.code)
				continue
			}
			// libfaketime moves by whole seconds from its start on.
			if d := e.Skew - ahead; d.Abs() > e.SkewBound+time.Second || e.SkewBound > time.Second+time.Since(began) {
				t.Errorf("%s at %s: it says %s ± %s", x.user, ahead, e.Skew, e.SkewBound)
			}
			if len(h.list) == 0 || h.list[len(h.list)-1] != (observation{k.addr, e.Skew, e.SkewBound}) {
				t.Errorf("%s at %s: heard %v", x.user, ahead, h.list)
			}
		}
	}
}

// TestSmallSkew: a clock within what is allowed is told of and does no harm.
func TestSmallSkew(t *testing.T) {
	leaks(t)
	for _, ahead := range []time.Duration{3 * time.Minute, -3 * time.Minute, 0} {
		k := own(t, kdcOptions{kdcOf: shared(t), ahead: ahead})
		var h heard
		c := newClient(t, func(c *client.Config) { c.Observe = h.hear }, k.addr)
		ctx := within(t, time.Minute)
		began := time.Now()
		tgt, err := c.Login(ctx, principal(t, "alice"), "right", client.LoginOptions{Life: time.Hour})
		if err != nil {
			t.Errorf("%s: %v", ahead, err)
			continue
		}
		took := time.Since(began)
		if _, err := c.Service(ctx, tgt, principal(t, "host/web1.example.org")); err != nil {
			t.Errorf("%s: %v", ahead, err)
		}
		if len(h.list) != 2 { // PREAUTH_REQUIRED to the microsecond, AS-REP to the second
			t.Errorf("heard %v", h.list)
		}
		for i, o := range h.list {
			if o.kdc != k.addr || (o.offset-ahead).Abs() > o.bound+time.Second || o.bound > time.Second+took || i == 0 && o.bound > 100*time.Millisecond+took || i == 1 && o.bound < 500*time.Millisecond {
				t.Errorf("%s: heard %v", ahead, o)
			}
		}
		if ahead != 0 {
			continue
		}
		// Our clock beside the KDC's; both bounds hold.
		for _, o := range h.list {
			if o.offset.Abs() > o.bound {
				t.Errorf("the same clock is heard %s away, ± %s", o.offset, o.bound)
			}
		}
	}
}
