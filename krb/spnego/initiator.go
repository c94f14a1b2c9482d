package spnego

import (
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/gss"
)

// Initiator is the client's side of one negotiation. It is used by one goroutine.
type Initiator struct {
	i       *gss.Initiator
	mutual  bool
	list    []byte
	token   []byte
	c       *gss.Context
	sentMIC bool
	over    bool
}

// Initiate begins a negotiation with the server of a service ticket, Kerberos alone
// being offered.
func Initiate(cred krb.Credential, o gss.Options) (*Initiator, error) {
	i, err := gss.Initiate(cred, o)
	if err != nil {
		return nil, err
	}
	s := &Initiator{i: i, mutual: o.Flags&gss.Mutual != 0}
	if s.list, err = formatMechs([]asn1.ObjectIdentifier{gss.OIDKrb5}); err != nil {
		return nil, err
	}
	s.token, err = initToken{list: s.list, mech: i.Token()}.format()
	return s, err
}

// Token is the token to send first.
func (s *Initiator) Token() []byte { return s.token }

// Context is the established context; nil until Step says done.
func (s *Initiator) Context() *gss.Context {
	if !s.over {
		return nil
	}
	return s.c
}

// Step takes the server's token and gives the next one to send, which may be empty,
// and whether the context is established. After an error the negotiation is over. The
// error wraps a *gss.PeerError when the server sent one.
func (s *Initiator) Step(token []byte) (reply []byte, done bool, err error) {
	if s.over {
		return nil, false, errors.New("the negotiation is over")
	}
	reply, done, err = s.step(token)
	if err != nil {
		s.c, done = nil, false
	}
	s.over = done || err != nil
	return reply, done, err
}

func (s *Initiator) step(token []byte) ([]byte, bool, error) {
	t, err := parseResp(token)
	if err != nil {
		return nil, false, err
	}
	if t.mech != nil && !isKrb5(t.mech) {
		return nil, false, fmt.Errorf("the server chose %s, which was not offered", t.mech)
	}
	switch t.state {
	case noState:
		return nil, false, errors.New("the server does not say how far it is (RFC 4178 §4.2.2)")
	case reject:
		if t.token != nil {
			if _, err := s.i.Finish(t.token); err != nil {
				return nil, false, err
			}
		}
		return nil, false, errors.New("the server refuses")
	}
	if s.c == nil {
		if s.mutual && t.token == nil {
			return nil, false, errors.New("the server has not proved itself")
		}
		if s.c, err = s.i.Finish(t.token); err != nil {
			return nil, false, err
		}
	} else if t.token != nil {
		return nil, false, errors.New("another Kerberos token after the last one")
	}
	if t.mic != nil {
		if err := s.c.VerifyMIC(s.list, t.mic); err != nil {
			return nil, false, fmt.Errorf("the MIC of the mechanism list: %w", err)
		}
	}
	switch {
	case t.state == acceptCompleted && s.sentMIC && t.mic == nil:
		return nil, false, errors.New("the server does not protect the mechanism list by a MIC")
	case t.state == acceptCompleted:
		return nil, true, nil
	case s.sentMIC:
		return nil, false, errors.New("the server goes on after the last token")
	}
	// The server wants the list protected.
	mic, err := s.c.GetMIC(s.list)
	if err != nil {
		return nil, false, err
	}
	s.sentMIC = true
	reply, err := respToken{state: acceptCompleted, mic: mic}.format()
	return reply, t.mic != nil, err
}
