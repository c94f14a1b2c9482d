package spnego

import (
	"context"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/sekisho/sekisho/krb/gss"
)

// Acceptor is the server's side of one negotiation. It is used by one goroutine.
type Acceptor struct {
	a *gss.Acceptor
	p gss.Peer

	stage stage
	mech  asn1.ObjectIdentifier // chosen
	list  []byte                // the client's list, as encoded
	// mic says that the client's favourite was not chosen: the list must be protected,
	// lest somebody has changed its order (RFC 4178 §5).
	mic bool
	c   *gss.Context
}

type stage int

const (
	begin     stage = iota
	wantToken       // the client's Kerberos token
	wantMIC         // the client's mechListMIC
	over
)

// NewAcceptor begins a negotiation with the peer of one connection.
func NewAcceptor(a *gss.Acceptor, p gss.Peer) *Acceptor { return &Acceptor{a: a, p: p} }

// Context is the established context; nil until Step says done.
func (s *Acceptor) Context() *gss.Context {
	if s.stage != over {
		return nil
	}
	return s.c
}

// Step takes the client's next token and gives the reply, which may be empty, and
// whether the client is now authenticated. A Kerberos token without SPNEGO around it
// serves too, and is answered in kind.
//
// After an error the negotiation is over; reply may still hold a token that tells
// the client so. The error is gss.Acceptor's, or about SPNEGO itself.
func (s *Acceptor) Step(ctx context.Context, token []byte) (reply []byte, done bool, err error) {
	switch s.stage {
	case begin:
		reply, err = s.first(ctx, token)
	case wantToken:
		reply, err = s.second(ctx, token)
	case wantMIC:
		err = s.last(token)
	default:
		err = errors.New("the negotiation is over")
	}
	if err != nil {
		s.stage, s.c = over, nil
		return reply, false, err
	}
	return reply, s.stage == over, nil
}

func isKrb5(oid asn1.ObjectIdentifier) bool {
	return oid.Equal(gss.OIDKrb5) || oid.Equal(gss.OIDMSKrb5)
}

func (s *Acceptor) first(ctx context.Context, token []byte) ([]byte, error) {
	if isKrb5(gss.Mechanism(token)) {
		c, reply, err := s.a.Accept(ctx, token, s.p)
		if err != nil {
			return reply, err
		}
		s.c, s.stage = c, over
		return reply, nil
	}
	t, err := parseInit(token)
	if err != nil {
		return nil, err
	}
	for n, m := range t.mechs {
		if isKrb5(m) {
			s.mech, s.list, s.mic = m, t.list, n > 0
			break
		}
	}
	switch {
	case s.mech == nil:
		return s.rejection(nil), fmt.Errorf("the client offers no Kerberos, but %s", t.mechs)
	case s.mic: // its token, if any, is of its favourite mechanism
		s.stage = wantToken
		return respToken{state: requestMIC, mech: s.mech}.format()
	case t.mech == nil:
		s.stage = wantToken
		return respToken{state: acceptIncomplete, mech: s.mech}.format()
	}
	return s.establish(ctx, respToken{mech: s.mech, token: t.mech, mic: t.mic})
}

func (s *Acceptor) second(ctx context.Context, token []byte) ([]byte, error) {
	t, err := parseResp(token)
	if err != nil {
		return nil, err
	}
	if t.state == reject || t.token == nil || t.mech != nil {
		return nil, errors.New("the client breaks the negotiation off, or sends no token of the chosen mechanism")
	}
	return s.establish(ctx, t)
}

// establish judges the client's Kerberos token, and its mechListMIC if it came along.
func (s *Acceptor) establish(ctx context.Context, t respToken) ([]byte, error) {
	c, reply, err := s.a.Accept(ctx, t.token, s.p)
	if err != nil {
		return s.rejection(reply), err
	}
	s.c = c
	answer := respToken{state: acceptCompleted, token: reply}
	if t.mech != nil { // our first reply
		answer.mech = s.mech
	}
	if t.mic != nil {
		if err := c.VerifyMIC(s.list, t.mic); err != nil {
			return s.rejection(nil), fmt.Errorf("the MIC of the mechanism list: %w", err)
		}
	}
	if s.mic || t.mic != nil {
		if answer.mic, err = c.GetMIC(s.list); err != nil {
			return s.rejection(nil), fmt.Errorf("a MIC of the mechanism list: %w", err)
		}
	}
	if s.mic && t.mic == nil {
		if reply == nil { // the last Kerberos token was the client's: its MIC belongs there
			return s.rejection(nil), errors.New("the mechanism list is not protected by a MIC")
		}
		answer.state = acceptIncomplete
		s.stage = wantMIC
		return answer.format()
	}
	s.stage = over
	return answer.format()
}

func (s *Acceptor) last(token []byte) error {
	t, err := parseResp(token)
	if err != nil {
		return err
	}
	if t.state == reject || t.token != nil || t.mech != nil || t.mic == nil {
		return errors.New("the mechanism list is not protected by a MIC")
	}
	if err := s.c.VerifyMIC(s.list, t.mic); err != nil {
		return fmt.Errorf("the MIC of the mechanism list: %w", err)
	}
	s.stage = over
	return nil
}

// rejection is the token that says no, with a Kerberos error token if there is one.
func (s *Acceptor) rejection(token []byte) []byte {
	if len(token) == 0 {
		token = nil
	}
	b, err := respToken{state: reject, token: token}.format()
	if err != nil {
		return nil
	}
	return b
}
