package gss_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/accept"
	"github.com/sekisho/sekisho/krb/gss"
	"github.com/sekisho/sekisho/testenv/mit"
)

// noReplay lets everything through, so that what is refused is refused for another
// reason: this is no test of the replay cache.
type noReplay struct{}

func (noReplay) Spend(context.Context, [32]byte, time.Time, time.Time) (bool, error) {
	return true, nil
}

func forgetful(c *gss.Config, a *accept.Config) {
	a.Replay = noReplay{}
	c.TakeDelegated = true
}

func establish(t testing.TB, a *gss.Acceptor, ticket krb.Credential, o gss.Options) (mine, theirs *gss.Context) {
	t.Helper()
	i, err := gss.Initiate(ticket, o)
	if err != nil {
		t.Fatal(err)
	}
	theirs, reply, err := a.Accept(t.Context(), i.Token(), gss.Peer{})
	if err != nil {
		t.Fatal(err)
	}
	if mine, err = i.Finish(reply); err != nil {
		t.Fatal(err)
	}
	return mine, theirs
}

// TestBothOurs: each encryption type, each flag.
func TestBothOurs(t *testing.T) {
	r := mit.NewRealm(t)
	a := r.Acceptor(t, forgetful)
	tgt := r.TGT(t)
	for _, s := range mit.Services {
		ticket := r.Ticket(t, tgt, s.Name)
		for _, o := range []gss.Options{{}, {Flags: all}, {Flags: gss.Mutual}, {Flags: all, Delegate: r.Forward(t, tgt)}, {Delegate: r.Forward(t, tgt)}} {
			mine, theirs := establish(t, a, ticket, o)
			if !mine.Client().Equal(theirs.Client()) || !mine.Server().Equal(theirs.Server()) || mine.Flags() != theirs.Flags() ||
				!mine.Until().Equal(theirs.Until()) || mine.TicketFlags() != theirs.TicketFlags() || theirs.Bound() {
				t.Errorf("%+v: the sides differ", o)
			}
			if got := theirs.Delegated(); (len(got) == 1) != (o.Delegate != nil) {
				t.Errorf("delegated: %v", got)
			} else if o.Delegate != nil && (!bytes.Equal(got[0].Ticket, o.Delegate.Ticket) || !got[0].EndTime.Equal(o.Delegate.EndTime) ||
				got[0].Flags != o.Delegate.Flags || !got[0].Server.Equal(o.Delegate.Server)) {
				t.Error("what was delegated is not what came")
			}
			for _, side := range [][2]*gss.Context{{mine, theirs}, {theirs, mine}} {
				mic, err := side[0].GetMIC([]byte("m"))
				if err != nil {
					t.Fatal(err)
				}
				if err := side[1].VerifyMIC([]byte("m"), mic); err != nil {
					t.Errorf("%+v: %v", o, err)
				}
			}
			if text := fmt.Sprintf("%v %+v", theirs.Delegated(), o); o.Delegate != nil && strings.Contains(text, fmt.Sprint(o.Delegate.Key.Value)) {
				t.Error("printing shows keys")
			}
		}
	}
}

// TestFlippedAndCut: no bit of a context token can be changed without notice, but for
// those that say nothing: the type of the server's name, the request for an AP-REP,
// which the sealed flags repeat, and the mechanism's other name.
func TestFlippedAndCut(t *testing.T) {
	r := mit.NewRealm(t)
	a := r.Acceptor(t, forgetful)
	tgt := r.TGT(t)
	for _, s := range mit.Services {
		i, err := gss.Initiate(r.Ticket(t, tgt, s.Name), gss.Options{Flags: all, Delegate: r.Forward(t, tgt)})
		if err != nil {
			t.Fatal(err)
		}
		token := i.Token()
		_, reply, err := a.Accept(t.Context(), token, gss.Peer{})
		if err != nil {
			t.Fatal(err)
		}
		harmless := 0
		for n := range token {
			for bit := range 8 {
				b := bytes.Clone(token)
				b[n] ^= 1 << bit
				c, _, err := a.Accept(t.Context(), b, gss.Peer{})
				if err != nil {
					if c != nil {
						t.Fatal("a context beside an error")
					}
					continue
				}
				harmless++
				if c.Client().String() != "alice@EXAMPLE.ORG" || c.Flags() != all|gss.Delegate || len(c.Delegated()) != 1 {
					t.Errorf("bit %d of byte %d changes the context", bit, n)
				}
			}
			if _, _, err := a.Accept(t.Context(), token[:n], gss.Peer{}); err == nil {
				t.Errorf("cut to %d of %d bytes", n, len(token))
			}
		}
		if harmless > 64 {
			t.Errorf("%d bits of %d bytes are not protected", harmless, len(token))
		}
		for n := range reply {
			for bit := range 8 {
				b := bytes.Clone(reply)
				b[n] ^= 1 << bit
				again := *i
				if _, err := again.Finish(b); err == nil {
					t.Errorf("bit %d of byte %d of the AP-REP flipped", bit, n)
				}
			}
			again := *i
			if _, err := again.Finish(reply[:n]); err == nil {
				t.Errorf("AP-REP cut to %d", n)
			}
		}
		if _, err := i.Finish(reply); err != nil {
			t.Errorf("after all this: %v", err)
		}
	}
}

// TestWrongAnswers: an AP-REP of another attempt, of another acceptor, none, or one
// that nobody asked for.
func TestWrongAnswers(t *testing.T) {
	r := mit.NewRealm(t)
	a := r.Acceptor(t, forgetful)
	ticket := r.Ticket(t, r.TGT(t), "host/e20.example.org")
	begin := func(f gss.Flags) (*gss.Initiator, []byte) {
		i, err := gss.Initiate(ticket, gss.Options{Flags: f})
		if err != nil {
			t.Fatal(err)
		}
		_, reply, err := a.Accept(t.Context(), i.Token(), gss.Peer{})
		if err != nil {
			t.Fatal(err)
		}
		return i, reply
	}
	_, other := begin(all)
	for name, answer := range map[string][]byte{"another attempt's": other, "none": nil, "ours": nil} {
		i, _ := begin(all)
		if name == "ours" {
			answer = i.Token()
		}
		if c, err := i.Finish(answer); err == nil || c != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := i.Finish(other); err == nil {
			t.Errorf("%s: a second try", name)
		}
	}
	i, reply := begin(0)
	if reply != nil {
		t.Error("an AP-REP unasked")
	}
	if _, err := i.Finish(other); err == nil {
		t.Error("an AP-REP that was not asked for")
	}
}

// TestPolicy: what an acceptor may require, and what an initiator may not do.
func TestPolicy(t *testing.T) {
	r := mit.NewRealm(t)
	tgt := r.TGT(t)
	ticket := r.Ticket(t, tgt, "host/e20.example.org")
	try := func(a *gss.Acceptor, o gss.Options, p gss.Peer) error {
		i, err := gss.Initiate(ticket, o)
		if err != nil {
			t.Fatal(err)
		}
		c, reply, err := a.Accept(t.Context(), i.Token(), p)
		if err != nil && (c != nil || reply != nil) {
			t.Error("a context or a token beside an error")
		}
		return err
	}
	strict := r.Acceptor(t, func(c *gss.Config, _ *accept.Config) { c.Require = gss.Mutual | gss.Replay })
	if err := try(strict, gss.Options{Flags: gss.Mutual}, gss.Peer{}); err == nil {
		t.Error("without the required flags")
	}
	if err := try(strict, gss.Options{Flags: all}, gss.Peer{}); err != nil {
		t.Error(err)
	}
	bound := r.Acceptor(t, func(c *gss.Config, _ *accept.Config) { c.RequireBindings = true })
	ours := gss.Peer{Bindings: [][]byte{[]byte("tls-unique:x"), []byte("tls-exporter:y")}}
	if err := try(bound, gss.Options{Bindings: []byte("tls-exporter:y")}, ours); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		b []byte
		p gss.Peer
	}{"none": {nil, ours}, "others": {[]byte("tls-unique:y"), ours}} {
		if err := try(bound, gss.Options{Bindings: c.b}, c.p); !errors.Is(err, gss.ErrBindings) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := try(bound, gss.Options{Bindings: []byte("tls-unique:x")}, gss.Peer{}); err == nil {
		t.Error("bindings are required, and nobody compared them")
	}
	for _, c := range []gss.Config{{}, {RequireBindings: true}} {
		if _, err := gss.NewAcceptor(c); err == nil {
			t.Errorf("%+v", c)
		}
	}
	bob := *r.Forward(t, tgt)
	bob.Client = r.Principal(t, "bob")
	for name, o := range map[string]gss.Options{"another's ticket": {Delegate: &bob}, "the flag alone": {Flags: gss.Delegate}, "DCE style": {Flags: 0x1000},
		"after the end": {Now: func() time.Time { return ticket.EndTime }}} {
		if _, err := gss.Initiate(ticket, o); err == nil {
			t.Errorf("%s was begun", name)
		}
	}
	notForUs := r.Acceptor(t, func(_ *gss.Config, c *accept.Config) {
		c.Service = func(p krb.Principal) bool { return p.Components[1] == "e17.example.org" }
	})
	var e *accept.Error
	i, _ := gss.Initiate(ticket, gss.Options{})
	if _, reply, err := notForUs.Accept(t.Context(), i.Token(), gss.Peer{}); !errors.As(err, &e) || e.Kind != accept.WrongService || len(reply) == 0 {
		t.Errorf("%v", err)
	}
}

// TestSameInstant: 200 copies of one token at once; one is accepted.
func TestSameInstant(t *testing.T) {
	r := mit.NewRealm(t)
	a := r.Acceptor(t, nil)
	i, err := gss.Initiate(r.Ticket(t, r.TGT(t), "host/e18.example.org"), gss.Options{Flags: all})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	results := make(chan error, 200)
	for range 200 {
		wg.Go(func() {
			_, _, err := a.Accept(context.Background(), i.Token(), gss.Peer{})
			results <- err
		})
	}
	wg.Wait()
	accepted := 0
	for range 200 {
		var e *accept.Error
		if err := <-results; err == nil {
			accepted++
		} else if !errors.As(err, &e) || e.Kind != accept.Replayed {
			t.Error(err)
		}
	}
	if accepted != 1 {
		t.Errorf("accepted %d times", accepted)
	}
}
