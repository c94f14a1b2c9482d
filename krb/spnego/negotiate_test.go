package spnego

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sekisho/sekisho/krb/accept"
	"github.com/sekisho/sekisho/krb/gss"
	"github.com/sekisho/sekisho/testenv/mit"
)

const all = gss.Mutual | gss.Replay | gss.Sequence | gss.Confidential | gss.Integrity

const service = "host/e20.example.org"

// TestMITInitiator: MIT's SPNEGO signs in to ours; with another mechanism as its
// favourite it must switch, and protect the list of mechanisms.
func TestMITInitiator(t *testing.T) {
	r := mit.NewRealm(t)
	bin, env := mit.BuildPeer(t), append(r.Env(r.Kinit(t)), mit.OtherMech(t))
	a := r.Acceptor(t, nil)
	for _, s := range mit.Services {
		for _, mech := range []string{"spnego", "other"} {
			for _, f := range []gss.Flags{all, all &^ gss.Mutual} {
				t.Run(fmt.Sprintf("%d/%s/%x", s.EType, mech, f), func(t *testing.T) {
					p := mit.StartPeer(t, env, bin, "init", mech, fmt.Sprintf("%x", f), "-", strings.Replace(s.Name, "/", "@", 1))
					got := p.Answer(t)
					n := NewAcceptor(a, gss.Peer{})
					done, rounds := false, 0
					for !done {
						if rounds++; rounds > 3 {
							t.Fatal("no end")
						}
						var reply []byte
						var err error
						if reply, done, err = n.Step(t.Context(), mit.Unhex(t, got["token"])); err != nil {
							t.Fatal(err)
						}
						if n.Context() != nil != done {
							t.Fatal("a context before the end, or none at the end")
						}
						if len(reply) > 0 {
							got = p.Ask(t, "token", mit.Hex(reply))
						}
					}
					if !strings.HasPrefix(got["established"], s.Name+"@EXAMPLE.ORG ") {
						t.Fatalf("MIT says %q", got)
					}
					want := 1
					if mech == "other" {
						if want = 2; f&gss.Mutual != 0 {
							want = 3 // the acceptor's AP-REP comes last, so the MIC is a round of its own
						}
					}
					if rounds != want {
						t.Errorf("%d rounds, not %d", rounds, want)
					}
					if c := n.Context().Client().String(); c != "alice@EXAMPLE.ORG" {
						t.Errorf("%s", c)
					}
					p.Messages(t, n.Context())
				})
			}
		}
	}
}

// TestMITAcceptor: we sign in to MIT's SPNEGO.
func TestMITAcceptor(t *testing.T) {
	r := mit.NewRealm(t)
	bin, tgt := mit.BuildPeer(t), r.TGT(t)
	for _, s := range mit.Services {
		for _, f := range []gss.Flags{all, all &^ gss.Mutual} {
			p := mit.StartPeer(t, r.Env("/nonexistent"), bin, "accept", "spnego", "-")
			i, err := Initiate(r.Ticket(t, tgt, s.Name), gss.Options{Flags: f})
			if err != nil {
				t.Fatal(err)
			}
			got := p.Ask(t, "token", mit.Hex(i.Token()))
			reply, done, err := i.Step(mit.Unhex(t, got["token"]))
			if err != nil || !done || len(reply) > 0 || !strings.HasPrefix(got["established"], "alice@EXAMPLE.ORG ") {
				t.Fatalf("%v; MIT says %q", err, got)
			}
			p.Messages(t, i.Context())
		}
	}
}

// TestMITWantsMIC: offered something else first, MIT asks for the MIC, which we give.
func TestMITWantsMIC(t *testing.T) {
	r := mit.NewRealm(t)
	bin := mit.BuildPeer(t)
	ticket := r.Ticket(t, r.TGT(t), service)
	for _, right := range []bool{true, false} {
		p := mit.StartPeer(t, r.Env("/nonexistent"), bin, "accept", "spnego", "-")
		i, err := Initiate(ticket, gss.Options{Flags: all})
		if err != nil {
			t.Fatal(err)
		}
		i.list = list(t, oidNTLM, gss.OIDKrb5)
		first, _ := initToken{list: i.list, mech: []byte("NTLMSSP")}.format()
		resp, err := parseResp(mit.Unhex(t, p.Ask(t, "token", mit.Hex(first))["token"]))
		if err != nil || resp.state != requestMIC || !resp.mech.Equal(gss.OIDKrb5) {
			t.Fatalf("%+v, %v", resp, err)
		}
		if !right {
			i.list = list(t, gss.OIDKrb5)
		}
		second, _ := respToken{state: noState, token: i.i.Token()}.format()
		got := p.Ask(t, "token", mit.Hex(second))
		reply, done, err := i.Step(mit.Unhex(t, got["token"]))
		if !right {
			if err == nil {
				t.Error("a MIC of another list was taken")
			}
			continue
		}
		if err != nil || !done || len(reply) == 0 {
			t.Fatal(err)
		}
		if got := p.Ask(t, "token", mit.Hex(reply)); !strings.HasPrefix(got["established"], "alice@EXAMPLE.ORG ") {
			t.Fatalf("MIT says %q", got)
		}
		p.Messages(t, i.Context())
	}
}

// client is a hand-driven initiator.
type client struct {
	t     *testing.T
	i     *gss.Initiator
	mechs []byte
}

func newClient(t *testing.T, r *mit.Realm, f gss.Flags, mechs ...asn1.ObjectIdentifier) *client {
	t.Helper()
	i, err := gss.Initiate(r.Ticket(t, r.TGT(t), service), gss.Options{Flags: f})
	if err != nil {
		t.Fatal(err)
	}
	return &client{t, i, list(t, mechs...)}
}

func (c *client) init(mech, mic []byte) []byte {
	b, err := initToken{list: c.mechs, mech: mech, mic: mic}.format()
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

func (c *client) resp(token, mic []byte) []byte {
	b, err := respToken{state: noState, token: token, mic: mic}.format()
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

func step(t *testing.T, a *Acceptor, token []byte) (respToken, bool, error) {
	t.Helper()
	reply, done, err := a.Step(t.Context(), token)
	if (a.Context() != nil) != done {
		t.Error("a context before the end, or none at the end")
	}
	if len(reply) == 0 {
		return respToken{state: noState}, done, err
	}
	r, perr := parseResp(reply)
	if perr != nil {
		t.Fatal(perr)
	}
	return r, done, err
}

// TestLists: which mechanism is chosen, and when the list must be protected.
func TestLists(t *testing.T) {
	r := mit.NewRealm(t)
	a := r.Acceptor(t, nil)
	for _, c := range []struct {
		name  string
		mechs []asn1.ObjectIdentifier
		mic   bool
	}{
		{"ours", []asn1.ObjectIdentifier{gss.OIDKrb5}, false},
		{"Microsoft's", []asn1.ObjectIdentifier{gss.OIDMSKrb5, gss.OIDKrb5, oidNTLM}, false},
		{"ours and more", []asn1.ObjectIdentifier{gss.OIDKrb5, oidNTLM}, false},
		{"ours second", []asn1.ObjectIdentifier{oidNTLM, gss.OIDKrb5}, true},
		{"ours third", []asn1.ObjectIdentifier{oidNTLM, {1, 2, 3}, gss.OIDMSKrb5}, true},
	} {
		for _, f := range []gss.Flags{all, all &^ gss.Mutual} {
			cl := newClient(t, r, f, c.mechs...)
			n := NewAcceptor(a, gss.Peer{})
			var got respToken
			var done bool
			var err error
			if !c.mic {
				got, done, err = step(t, n, cl.init(cl.i.Token(), nil))
				if err != nil || !done || got.state != acceptCompleted || !got.mech.Equal(c.mechs[0]) || got.mic != nil {
					t.Fatalf("%s: %+v, %v", c.name, got, err)
				}
				if _, err := cl.i.Finish(got.token); err != nil {
					t.Error(err)
				}
				continue
			}
			if got, done, err = step(t, n, cl.init([]byte("NTLMSSP"), nil)); err != nil || done || got.state != requestMIC || !isKrb5(got.mech) || got.token != nil {
				t.Fatalf("%s: %+v, %v", c.name, got, err)
			}
			if f&gss.Mutual == 0 {
				ctx, err := cl.i.Finish(nil)
				if err != nil {
					t.Fatal(err)
				}
				mic, _ := ctx.GetMIC(cl.mechs)
				got, done, err = step(t, n, cl.resp(cl.i.Token(), mic))
				if err != nil || !done || got.state != acceptCompleted {
					t.Fatalf("%s: %+v, %v", c.name, got, err)
				}
				if err := ctx.VerifyMIC(cl.mechs, got.mic); err != nil {
					t.Error(err)
				}
				continue
			}
			if got, done, err = step(t, n, cl.resp(cl.i.Token(), nil)); err != nil || done || got.state != acceptIncomplete {
				t.Fatalf("%s: %+v, %v", c.name, got, err)
			}
			ctx, err := cl.i.Finish(got.token)
			if err != nil {
				t.Fatal(err)
			}
			if err := ctx.VerifyMIC(cl.mechs, got.mic); err != nil {
				t.Error(err)
			}
			mic, _ := ctx.GetMIC(cl.mechs)
			if got, done, err = step(t, n, cl.resp(nil, mic)); err != nil || !done {
				t.Fatalf("%s: %+v, %v", c.name, got, err)
			}
		}
	}
	// Without an optimistic token the list is asked for one.
	cl := newClient(t, r, all, gss.OIDKrb5)
	n := NewAcceptor(a, gss.Peer{})
	if got, done, err := step(t, n, cl.init(nil, nil)); err != nil || done || got.state != acceptIncomplete {
		t.Fatalf("%+v, %v", got, err)
	}
	if got, done, err := step(t, n, cl.resp(cl.i.Token(), nil)); err != nil || !done || got.state != acceptCompleted || got.mic != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	// A MIC that nobody asked for is checked and answered.
	cl = newClient(t, r, all&^gss.Mutual, gss.OIDKrb5, oidNTLM)
	ctx, _ := cl.i.Finish(nil)
	mic, _ := ctx.GetMIC(cl.mechs)
	if got, done, err := step(t, NewAcceptor(a, gss.Peer{}), cl.init(cl.i.Token(), mic)); err != nil || !done || ctx.VerifyMIC(cl.mechs, got.mic) != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	// Raw Kerberos is answered with raw Kerberos.
	cl = newClient(t, r, all, gss.OIDKrb5)
	reply, done, err := NewAcceptor(a, gss.Peer{}).Step(t.Context(), cl.i.Token())
	if err != nil || !done {
		t.Fatal(err)
	}
	if _, err := cl.i.Finish(reply); err != nil {
		t.Error(err)
	}
}

// TestRefusals: what an attacker between the two can do to the list.
func TestRefusals(t *testing.T) {
	r := mit.NewRealm(t)
	a := r.Acceptor(t, nil)
	begin := func(f gss.Flags, mechs ...asn1.ObjectIdentifier) (*client, *Acceptor) {
		cl, n := newClient(t, r, f, mechs...), NewAcceptor(a, gss.Peer{})
		if _, _, err := step(t, n, cl.init(nil, nil)); err != nil {
			t.Fatal(err)
		}
		return cl, n
	}
	refused := func(name string, n *Acceptor, token []byte) respToken {
		t.Helper()
		got, done, err := step(t, n, token)
		if err == nil || done {
			t.Errorf("%s: taken", name)
		}
		if _, done, err := n.Step(t.Context(), token); err == nil || done {
			t.Errorf("%s: it goes on", name)
		}
		return got
	}
	cl, n := begin(all&^gss.Mutual, oidNTLM, gss.OIDKrb5)
	if got := refused("no MIC beside the last token", n, cl.resp(cl.i.Token(), nil)); got.state != reject {
		t.Errorf("%+v", got)
	}
	cl, n = begin(all&^gss.Mutual, oidNTLM, gss.OIDKrb5)
	ctx, _ := cl.i.Finish(nil)
	mic, _ := ctx.GetMIC(list(t, gss.OIDKrb5, oidNTLM))
	refused("the MIC of another list", n, cl.resp(cl.i.Token(), mic))
	cl, n = begin(all, oidNTLM, gss.OIDKrb5)
	got, _, err := step(t, n, cl.resp(cl.i.Token(), nil))
	if err != nil {
		t.Fatal(err)
	}
	refused("our own MIC back", n, cl.resp(nil, got.mic))
	cl, n = begin(all, oidNTLM, gss.OIDKrb5)
	if _, _, err = step(t, n, cl.resp(cl.i.Token(), nil)); err != nil {
		t.Fatal(err)
	}
	refused("no MIC", n, cl.resp(nil, nil))
	cl, n = begin(all, oidNTLM, gss.OIDKrb5)
	refused("no token", n, cl.resp(nil, []byte("mic")))
	cl, n = begin(all, oidNTLM, gss.OIDKrb5)
	refused("a NegTokenInit again", n, cl.init(cl.i.Token(), nil))
	cl = newClient(t, r, all, oidNTLM)
	if got := refused("no Kerberos", NewAcceptor(a, gss.Peer{}), cl.init([]byte("NTLMSSP"), nil)); got.state != reject {
		t.Errorf("%+v", got)
	}
	cl = newClient(t, r, all, gss.OIDKrb5)
	refused("another's token under our name", NewAcceptor(a, gss.Peer{}), cl.init([]byte("NTLMSSP\x00"), nil))
	refused("NTLM, raw", NewAcceptor(a, gss.Peer{}), []byte("NTLMSSP\x00\x01\x00\x00\x00"))
	refused("nothing", NewAcceptor(a, gss.Peer{}), nil)

	// The ticket is refused: the reason comes back in a reject, and our client reads it.
	cl = newClient(t, r, all, gss.OIDKrb5)
	token := cl.init(cl.i.Token(), nil)
	if _, _, err := step(t, NewAcceptor(a, gss.Peer{}), token); err != nil {
		t.Fatal(err)
	}
	reply, _, err := NewAcceptor(a, gss.Peer{}).Step(t.Context(), token)
	var e *accept.Error
	if !errors.As(err, &e) || e.Kind != accept.Replayed {
		t.Errorf("twice: %v", err)
	}
	var pe *gss.PeerError
	i := &Initiator{i: cl.i, mutual: true, list: cl.mechs}
	if _, done, err := i.Step(reply); done || !errors.As(err, &pe) || pe.Code != 34 {
		t.Errorf("%v", err)
	}
}

// TestFlipped: no bit of our reply can be changed so that the client believes what it
// should not; those that are harmless change no context.
func TestFlipped(t *testing.T) {
	r := mit.NewRealm(t)
	a := r.Acceptor(t, nil)
	i, err := Initiate(r.Ticket(t, r.TGT(t), service), gss.Options{Flags: all})
	if err != nil {
		t.Fatal(err)
	}
	n := NewAcceptor(a, gss.Peer{})
	reply, done, err := n.Step(t.Context(), i.Token())
	if err != nil || !done {
		t.Fatal(err)
	}
	try := func(b []byte) (*gss.Context, bool) {
		g := *i.i
		c := &Initiator{i: &g, mutual: true, list: i.list}
		_, done, err := c.Step(b)
		if (c.Context() != nil) != done || done && err != nil {
			t.Error("a context before the end, or none at the end")
		}
		return c.Context(), done
	}
	believed := 0
	for k := range reply {
		for bit := range 8 {
			b := bytes.Clone(reply)
			b[k] ^= 1 << bit
			if _, done := try(b); done {
				believed++
			}
		}
		if _, done := try(reply[:k]); done {
			t.Errorf("cut to %d", k)
		}
	}
	if believed > 1 { // the chosen mechanism's other name
		t.Errorf("%d changes were believed", believed)
	}
	if _, done := try(reply); !done {
		t.Error("after all this the reply is refused")
	}
}
