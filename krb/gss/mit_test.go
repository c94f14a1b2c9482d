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
	"github.com/sekisho/sekisho/testenv/mit"
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
	r := mit.NewRealm(t)
	bin, cc := mit.BuildPeer(t), r.Kinit(t)
	a := r.Acceptor(t, nil)
	for _, s := range mit.Services {
		for _, c := range contexts {
			t.Run(fmt.Sprintf("%d/%s", s.EType, c.name), func(t *testing.T) {
				p := mit.StartPeer(t, r.Env(cc), bin, "init", "krb5", fmt.Sprintf("%x", c.flags), c.mine, strings.Replace(s.Name, "/", "@", 1))
				first := p.Answer(t)
				token := mit.Unhex(t, first["token"])
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
				if ctx.Client().String() != "alice@EXAMPLE.ORG" || ctx.Server().String() != s.Name+"@EXAMPLE.ORG" || ctx.Delegated() != nil ||
					ctx.Flags()&^(gss.Integrity|gss.Confidential) != c.flags&^(gss.Integrity|gss.Confidential) ||
					ctx.Bound() != (c.mine == c.theirs && c.mine != "-") || time.Until(ctx.Until()) < time.Hour {
					t.Errorf("%s for %s, flags %x", ctx.Client(), ctx.Server(), ctx.Flags())
				}
				if (len(reply) > 0) != (c.flags&gss.Mutual != 0) {
					t.Errorf("a reply of %d bytes", len(reply))
				}
				done := first
				if len(reply) > 0 {
					done = p.Ask(t, "token", mit.Hex(reply))
				}
				if !strings.HasPrefix(done["established"], s.Name+"@EXAMPLE.ORG ") {
					t.Fatalf("MIT says %q", done)
				}
				p.Messages(t, ctx)

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
	r := mit.NewRealm(t)
	bin, tgt := mit.BuildPeer(t), r.TGT(t)
	for _, s := range mit.Services {
		ticket := r.Ticket(t, tgt, s.Name)
		if ticket.Key.EType != s.EType {
			t.Fatalf("a session key of type %d", ticket.Key.EType)
		}
		for _, c := range contexts {
			t.Run(fmt.Sprintf("%d/%s", s.EType, c.name), func(t *testing.T) {
				p := mit.StartPeer(t, r.Env("/nonexistent"), bin, "accept", "krb5", c.theirs)
				o := gss.Options{Flags: c.flags}
				if c.mine != "-" {
					o.Bindings = []byte(c.mine)
				}
				i, err := gss.Initiate(ticket, o)
				if err != nil {
					t.Fatal(err)
				}
				got := p.Ask(t, "token", mit.Hex(i.Token()))
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
					reply = mit.Unhex(t, got["token"])
				}
				ctx, err := i.Finish(reply)
				if err != nil {
					t.Fatal(err)
				}
				p.Messages(t, ctx)
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
	r := mit.NewRealm(t)
	bin, cc := mit.BuildPeer(t), r.Kinit(t)
	takes := r.Acceptor(t, func(c *gss.Config, _ *accept.Config) { c.TakeDelegated = true })
	leaves := r.Acceptor(t, nil)
	for _, s := range mit.Services {
		for _, a := range []*gss.Acceptor{takes, leaves} {
			p := mit.StartPeer(t, r.Env(cc), bin, "init", "krb5", fmt.Sprintf("%x", all|gss.Delegate), "-", strings.Replace(s.Name, "/", "@", 1))
			ctx, reply, err := a.Accept(t.Context(), mit.Unhex(t, p.Answer(t)["token"]), gss.Peer{})
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Ask(t, "token", mit.Hex(reply)); got["established"] == "" {
				t.Fatalf("MIT says %q", got)
			}
			p.Messages(t, ctx)
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
			r.Ticket(t, got[0], "host/e20.example.org") // the KDC takes it
		}
	}
}

// TestWeDelegateToMIT: MIT's acceptor stores our ticket, and its tools use it.
func TestWeDelegateToMIT(t *testing.T) {
	r := mit.NewRealm(t)
	bin, tgt := mit.BuildPeer(t), r.TGT(t)
	for _, s := range mit.Services {
		p := mit.StartPeer(t, r.Env("/nonexistent"), bin, "accept", "krb5", "-")
		i, err := gss.Initiate(r.Ticket(t, tgt, s.Name), gss.Options{Flags: all, Delegate: r.Forward(t, tgt)})
		if err != nil {
			t.Fatal(err)
		}
		got := p.Ask(t, "token", mit.Hex(i.Token()))
		if !strings.Contains(got["established"], "delegated alice@EXAMPLE.ORG") {
			t.Fatalf("%d: MIT says %q", s.EType, got)
		}
		cc := filepath.Join(t.TempDir(), "delegated")
		if got := p.Ask(t, "store", "FILE:"+cc); got["error"] != "" {
			t.Fatal(got["error"])
		}
		cmd := exec.CommandContext(within(t, time.Minute), "kvno", "host/e17.example.org")
		cmd.Env = r.Env(cc)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("kvno: %v\n%s", err, out)
		}
	}
}

// TestMITReadsOurError: the error token that refuses an expired replay tells MIT why.
func TestMITReadsOurError(t *testing.T) {
	r := mit.NewRealm(t)
	bin, cc := mit.BuildPeer(t), r.Kinit(t)
	now := time.Now()
	a := r.Acceptor(t, func(_ *gss.Config, c *accept.Config) { c.Now = func() time.Time { return now.Add(10 * time.Minute) } })
	p := mit.StartPeer(t, r.Env(cc), bin, "init", "krb5", fmt.Sprintf("%x", all), "-", "host@e20.example.org")
	_, reply, err := a.Accept(t.Context(), mit.Unhex(t, p.Answer(t)["token"]), gss.Peer{})
	var e *accept.Error
	if !errors.As(err, &e) || e.Kind != accept.Clock {
		t.Fatal(err)
	}
	if got := p.Ask(t, "token", mit.Hex(reply))["error"]; !strings.Contains(got, "Clock skew") {
		t.Errorf("MIT says %q", got)
	}

	// And we read it.
	i, err := gss.Initiate(r.Ticket(t, r.TGT(t), "host/e20.example.org"), gss.Options{Flags: all})
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
