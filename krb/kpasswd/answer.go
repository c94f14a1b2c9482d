package kpasswd

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/accept"
	"github.com/sekisho/sekisho/krb/der"
)

// answer is the reply to a request, nil for none. local and remote are the ends of
// the connection; datagram says that nobody waits for an answer to this very copy.
func (s *Server) answer(ctx context.Context, raw []byte, local, remote netip.AddrPort, datagram bool) []byte {
	r, err := parseRequest(raw)
	if err != nil {
		s.c.Log.WithField("from", remote).Debug("not a request: no answer")
		return nil
	}
	if r.version != versionChange && r.version != versionSet {
		return s.refuse(resultBadVersion, "this server speaks the versions 1 and 0xff80")
	}
	mark := sha256.Sum256(r.apReq)
	o, first := s.replies.begin(mark)
	if !first {
		select {
		case <-o.done:
		default:
			if datagram {
				return nil // the first copy will be answered
			}
			select {
			case <-o.done:
			case <-ctx.Done():
				return nil
			}
		}
		if !o.believed {
			return nil
		}
		return s.seal(o, local)
	}
	defer s.replies.end(mark, o)
	a, err := s.c.Acceptor.Accept(ctx, r.apReq, accept.Options{From: remote.Addr().Unmap(), RequireInitial: true})
	if err != nil {
		s.c.Log.WithField("from", remote).WithError(err).Info("ticket refused")
		var ae *accept.Error
		if !errors.As(err, &ae) {
			return s.refuse(resultHardError, "")
		}
		reply, err := frame(versionChange, nil, ae.KRBError())
		if err != nil {
			return nil
		}
		return reply
	}
	if !a.Server.Equal(Service(s.c.Realm)) || a.Client.Realm != s.c.Realm {
		s.c.Log.WithField("from", remote).WithField("user", a.Client.String()).Warn("a ticket for another service or from another realm")
		return s.refuse(resultAuthError, "this ticket is not for changing passwords here")
	}
	o.key = a.SessionKey
	if a.Subkey != nil {
		o.key = *a.Subkey
	}
	o.seq = newSeq()
	if o.apRep, err = a.Reply(nil, o.seq); err != nil {
		s.c.Log.WithError(err).Warn("no AP-REP could be made")
		return s.refuse(resultHardError, "")
	}
	o.code, o.words = s.change(ctx, a, r, o.key, remote)
	o.believed = true
	return s.seal(o, local)
}

// change opens the request's inside and has the password set.
func (s *Server) change(ctx context.Context, a *accept.Accepted, r request, key krb.Key, remote netip.AddrPort) (code uint16, words string) {
	log := s.c.Log.WithField("user", a.Client.String()).WithField("from", remote)
	priv, err := openPrivate(r.priv, key)
	switch {
	case errors.Is(err, der.ErrMalformed):
		log.Info("malformed request")
		return resultMalformed, "the request is malformed"
	case err != nil:
		log.WithError(err).Info("the request cannot be opened")
		return resultAuthError, "the request cannot be opened"
	case priv.seq != a.Seq:
		log.Info("the request's sequence number is not the authenticator's")
		return resultAuthError, "the request is out of its sequence"
	}
	defer clear(priv.data)
	want, err := parseNewPassword(r.version, priv.data)
	if err != nil {
		log.Info("malformed request")
		return resultMalformed, "the request is malformed"
	}
	if want.target != nil && !want.target.Equal(a.Client) {
		log.WithField("target", clean(want.target.String())).Warn("somebody else's password was to be set")
		return resultAccessDenied, "you may change your own password only"
	}
	if err := krb.CheckPassword(want.password); err != nil {
		return resultSoftError, err.Error()
	}
	var refused *Refused
	var denied *Denied
	switch err := s.c.Change(ctx, a.Client, want.password); {
	case err == nil:
		log.Info("password changed")
		return resultSuccess, ""
	case errors.As(err, &refused):
		log.Info("new password refused")
		return resultSoftError, clean(refused.Words)
	case errors.As(err, &denied):
		log.WithError(err).Warn("password change denied")
		return resultAccessDenied, clean(denied.Words)
	default:
		log.WithError(err).Warn("password not changed")
		return resultHardError, "the password could not be changed now: try again later"
	}
}

// seal is the reply that tells an outcome. RFC 3244 §2: it is sealed with the
// client's subkey, in which MIT's and Heimdal's clients expect it.
func (s *Server) seal(o *outcome, local netip.AddrPort) []byte {
	priv, err := private{data: result(o.code, o.words), seq: o.seq}.seal(o.key, local.Addr())
	if err == nil {
		var reply []byte
		if reply, err = frame(versionChange, o.apRep, priv); err == nil {
			return reply
		}
	}
	s.c.Log.WithError(err).Warn("no reply could be made")
	return nil
}

// refuse is the reply to somebody whose ticket was not believed.
func (s *Server) refuse(code uint16, words string) []byte {
	reply, err := frame(versionChange, nil, krbError(s.c.Realm, code, words, s.c.Now()))
	if err == nil {
		return reply
	}
	s.c.Log.WithError(err).Warn("no reply could be made")
	return nil
}

// newSeq is a sequence number over 0 that all clients read alike (RFC 4120 §5.3.2:
// some take it for a signed one).
func newSeq() uint32 {
	var b [4]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint32(b[:])&0x3fffffff | 1
}
