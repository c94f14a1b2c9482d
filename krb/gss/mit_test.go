package gss_test

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb/accept"
	"github.com/sekisho/sekisho/krb/gss"
)

const all = gss.Mutual | gss.Replay | gss.Sequence | gss.Confidential | gss.Integrity

// combinations of flags and of what each side says of channel bindings. The words are

var contexts = []struct {
	name         string
	flags        gss.Flags
	mine, theirs string // bindings of initiator and acceptor
	refused      bool
}{
	{"all", all, "-", "-", false},
	{"one-way", all &^ gss.Mutual, "-", "-", false},
	{"no order", all &^ gss.Sequence, "-", "-", false},
	{"neither", gss.Integrity | gss.Confidential, "-", "-", false},
	{"bound", all, "tls-unique:abc", "tls-unique:abc", false},
	{"bound, one-way", all &^ gss.Mutual, "tls-unique:abc", "tls-unique:abc", false},
	{"bound otherwise", all, "tls-unique:abc", "tls-unique:abd", true},
	{"acceptor bound", all, "-", "tls-unique:abc", false},
	{"initiator bound", all, "tls-unique:abc", "-", false},
}

func some(s string) [][]byte {
	if s == "-" {
		return nil
	}
	return [][]byte{[]byte(s)}
}

// TestMITInitiator: MIT's library signs in to our acceptor.
func TestMITInitiator(t *testing.T) {
	r := newRealm(t)
	bin, cc := buildPeer(t), r.kinit(t)
	a := r.acceptor(t, nil)
	for _, s := range services {
		for _, c := range contexts {
			t.Run(fmt.Sprintf("%d/%s", s.etype, c.name), func(t *testing.T) {
				p := startPeer(t, r.env(cc), bin, "init", "krb5", fmt.Sprintf("%x", c.flags), c.mine, strings.Replace(s.name, "/", "@", 1))
				first := p.answer(t)
				token := fromHex(t, first["token"])
				ctx, reply, err := a.Accept(t.Context(), token, gss.Peer{Bindings: some(c.theirs)})
				if c.refused {
					if !errors.Is(err, gss.ErrBindings) || ctx != nil || reply != nil {
						t.Fatalf("%v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if ctx.Client().String() != "alice@EXAMPLE.ORG" || ctx.Server().String() != s.name+"@EXAMPLE.ORG" || ctx.Delegated() != nil ||
					ctx.Flags()&^(gss.Integrity|gss.Confidential) != c.flags&^(gss.Integrity|gss.Confidential) ||
					ctx.Bound() != (c.mine == c.theirs && c.mine != "-") || time.Until(ctx.Until()) < time.Hour {
					t.Errorf("%s for %s, flags %x", ctx.Client(), ctx.Server(), ctx.Flags())
				}
				if (len(reply) > 0) != (c.flags&gss.Mutual != 0) {
					t.Errorf("a reply of %d bytes", len(reply))
				}
				done := first
				if len(reply) > 0 {
					done = p.ask(t, "token", toHex(reply))
				}
				if !strings.HasPrefix(done["established"], s.name+"@EXAMPLE.ORG ") {
					t.Fatalf("MIT says %q", done)
				}
				p.messages(t, ctx)

				_, reply, err = a.Accept(t.Context(), token, gss.Peer{Bindings: some(c.theirs)})
				var e *accept.Error
				if !errors.As(err, &e) || e.Kind != accept.Replayed || len(reply) == 0 {
					t.Errorf("the token twice: %v", err)
				}
			})
		}
	}
}

// TestMITAcceptor: we sign in to MIT's library.
func TestMITAcceptor(t *testing.T) {
	r := newRealm(t)
	bin, tgt := buildPeer(t), r.tgt(t)
	for _, s := range services {
		ticket := r.ticket(t, tgt, s.name)
		if ticket.Key.EType != s.etype {
			t.Fatalf("a session key of type %d", ticket.Key.EType)
		}
		for _, c := range contexts {
			t.Run(fmt.Sprintf("%d/%s", s.etype, c.name), func(t *testing.T) {
				p := startPeer(t, r.env("/nonexistent"), bin, "accept", "krb5", c.theirs)
				o := gss.Options{Flags: c.flags}
				if c.mine != "-" {
					o.Bindings = []byte(c.mine)
				}
				i, err := gss.Initiate(ticket, o)
				if err != nil {
					t.Fatal(err)
				}
				got := p.ask(t, "token", toHex(i.Token()))
				if c.refused {
					if got["error"] == "" {
						t.Fatalf("MIT says %q", got)
					}
					return
				}
				if !strings.HasPrefix(got["established"], "alice@EXAMPLE.ORG ") {
					t.Fatalf("MIT says %q", got)
				}
				var reply []byte
				if c.flags&gss.Mutual != 0 {
					reply = fromHex(t, got["token"])
				}
				ctx, err := i.Finish(reply)
				if err != nil {
					t.Fatal(err)
				}
				p.messages(t, ctx)
				if _, err := i.Finish(reply); err == nil {
					t.Error("finished twice")
				}
			})
		}
	}
}

// TestMITDelegates: the ticket that MIT's initiator hands over opens services, and only
// to those who ask for it.
func TestMITDelegates(t *testing.T) {
	r := newRealm(t)
	bin, cc := buildPeer(t), r.kinit(t)
	takes := r.acceptor(t, func(c *gss.Config, _ *accept.Config) { c.TakeDelegated = true })
	leaves := r.acceptor(t, nil)
	for _, s := range services {
		for _, a := range []*gss.Acceptor{takes, leaves} {
			p := startPeer(t, r.env(cc), bin, "init", "krb5", fmt.Sprintf("%x", all|gss.Delegate), "-", strings.Replace(s.name, "/", "@", 1))
			ctx, reply, err := a.Accept(t.Context(), fromHex(t, p.answer(t)["token"]), gss.Peer{})
			if err != nil {
				t.Fatal(err)
			}
			if got := p.ask(t, "token", toHex(reply)); got["established"] == "" {
				t.Fatalf("MIT says %q", got)
			}
			p.messages(t, ctx)
			if a == leaves {
				if ctx.Delegated() != nil || ctx.Flags()&gss.Delegate != 0 {
					t.Error("a ticket was taken unasked")
				}
				continue
			}
			got := ctx.Delegated()
			if len(got) != 1 || ctx.Flags()&gss.Delegate == 0 || got[0].Client.String() != "alice@EXAMPLE.ORG" {
				t.Fatalf("%v", got)
			}
			r.ticket(t, got[0], "host/e20.example.org") // the KDC takes it
		}
	}
}

// TestWeDelegateToMIT: MIT's acceptor stores our ticket, and its tools use it.
func TestWeDelegateToMIT(t *testing.T) {
	r := newRealm(t)
	bin, tgt := buildPeer(t), r.tgt(t)
	for _, s := range services {
		p := startPeer(t, r.env("/nonexistent"), bin, "accept", "krb5", "-")
		i, err := gss.Initiate(r.ticket(t, tgt, s.name), gss.Options{Flags: all, Delegate: r.forward(t, tgt)})
		if err != nil {
			t.Fatal(err)
		}
		got := p.ask(t, "token", toHex(i.Token()))
		if !strings.Contains(got["established"], "delegated alice@EXAMPLE.ORG") {
			t.Fatalf("%d: MIT says %q", s.etype, got)
		}
		cc := filepath.Join(t.TempDir(), "delegated")
		if got := p.ask(t, "store", "FILE:"+cc); got["error"] != "" {
			t.Fatal(got["error"])
		}
		cmd := exec.CommandContext(within(t, 20*time.Second), "kvno", "host/e17.example.org")
		cmd.Env = r.env(cc)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("kvno: %v\n%s", err, out)
		}
	}
}

// TestMITReadsOurError: the error token that refuses an expired replay tells MIT why.
func TestMITReadsOurError(t *testing.T) {
	r := newRealm(t)
	bin, cc := buildPeer(t), r.kinit(t)
	now := time.Now()
	a := r.acceptor(t, func(_ *gss.Config, c *accept.Config) { c.Now = func() time.Time { return now.Add(10 * time.Minute) } })
	p := startPeer(t, r.env(cc), bin, "init", "krb5", fmt.Sprintf("%x", all), "-", "host@e20.example.org")
	_, reply, err := a.Accept(t.Context(), fromHex(t, p.answer(t)["token"]), gss.Peer{})
	var e *accept.Error
	if !errors.As(err, &e) || e.Kind != accept.Clock {
		t.Fatal(err)
	}
	if got := p.ask(t, "token", toHex(reply))["error"]; !strings.Contains(got, "Clock skew") {
		t.Errorf("MIT says %q", got)
	}

	// And we read it.
	i, err := gss.Initiate(r.ticket(t, r.tgt(t), "host/e20.example.org"), gss.Options{Flags: all})
	if err != nil {
		t.Fatal(err)
	}
	if _, reply, err = a.Accept(t.Context(), i.Token(), gss.Peer{}); err == nil {
		t.Fatal("accepted")
	}
	var pe *gss.PeerError
	if _, err := i.Finish(reply); !errors.As(err, &pe) || pe.Code != 37 || pe.Time.Sub(now) < 9*time.Minute {
		t.Errorf("%v", err)
	}
}
