package pam

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/keys"
	"github.com/sekisho/sekisho/wire"
)

// The doors that a login through PAM may have come in by.
const (
	doorPAM  broker.Door = "pam"
	doorKeys broker.Door = "keys"
)

// maxOwners is how many users who list one key are asked about.
const maxOwners = 16

// request is what all verbs about a login have in common.
func (s *Server) request(r wire.Request) broker.Request {
	q := broker.Request{User: broker.UserName(r.Get("user")), Login: broker.Login(r.Get("user")), Door: doorPAM,
		Target: broker.Target{Host: s.c.Host}, Unconfined: true}
	rhost := r.Get("rhost")
	if a, err := netip.ParseAddr(rhost); err == nil {
		q.From = a.Unmap().WithZone("")
		q.Remote = !a.IsLoopback()
	} else {
		q.Remote = rhost != "" && !s.here(rhost)
	}
	return q
}

// here reports whether a host's name is this host's: sudo gives that as the remote
// one. Whoever comes from elsewhere under this very name has control of our DNS.
func (s *Server) here(rhost string) bool {
	first, _, _ := strings.Cut(string(s.c.Host), ".")
	own, err := os.Hostname()
	return strings.EqualFold(rhost, string(s.c.Host)) || strings.EqualFold(rhost, first) || err == nil && strings.EqualFold(rhost, own)
}

// auth signs somebody in.
func (s *Server) auth(ctx context.Context, p *peer, r wire.Request) wire.Answer {
	seen, err := readAuthInfo(r.Get("authinfo"))
	if err != nil {
		return unknown(wire.ReasonMalformed, err.Error())
	}
	q := s.request(r)
	var shown []broker.Proof
	if v := s.c.Broker.View(); v.Snapshot != nil {
		for _, k := range seen.keys {
			u, ambiguous := v.User(q.User)
			switch {
			case k.IsCertificate():
				shown, q.Door, q.Unconfined = append(shown, broker.ProofCertificate), doorKeys, false
			case u != nil && !ambiguous && u.HasKey(k.Fingerprint()):
				shown, q.Door, q.Unconfined = append(shown, broker.ProofKey), doorKeys, false
			}
		}
	}
	if s.ticketOf(seen, q.User) {
		shown = append(shown, broker.ProofTicket)
	}
	var d broker.Decision
	var e broker.Evidence
	s.converse(ctx, p, func(ctx context.Context, ask broker.Asker) { d, e = s.c.Broker.SignIn(ctx, q, shown, ask) })
	if d.Outcome != broker.Allow {
		return refusal(d)
	}
	token := s.logins.add(login{uid: p.UID, user: q.User, evidence: e})
	if token == "" {
		return unknown(wire.ReasonBusy, "too many sign-ins at once: try again later")
	}
	a := wire.Answer{Outcome: wire.Yes, Body: []string{"login " + token}}
	if d.Text != "" {
		a.Body = append(a.Body, "info "+line(d.Text))
	}
	return a
}

// account says whether a login may be. sshd (there is the field authinfo) asks
// before it says what it has verified last: what is known by then may already be
// enough or already be too much, and else only the account is judged. Its open
// session is judged with everything, see session.
func (s *Server) account(_ context.Context, p *peer, r wire.Request) wire.Answer {
	seen, err := readAuthInfo(r.Get("authinfo"))
	if err != nil {
		return unknown(wire.ReasonMalformed, err.Error())
	}
	q := s.request(r)
	if !r.Has("authinfo") {
		return s.admit(q, seen, s.proved(p, r, q.User)).answer
	}
	proved := s.proved(p, r, q.User)
	if len(proved) == 0 {
		return verdict(s.c.Broker.Standing(q))
	}
	a := s.admit(q, seen, proved).answer
	if a.Reason == string(broker.ReasonProof) { // a key may come last
		return verdict(s.c.Broker.Standing(q))
	}
	return a
}

// proved is what the caller has proved to us.
func (s *Server) proved(p *peer, r wire.Request, user broker.UserName) []broker.Proof {
	l, _ := s.logins.get(r.Get("login"), p.UID, user)
	return l.evidence.Proofs
}

// admit judges a login by all that sshd has verified and that was proved here.
func (s *Server) admit(q broker.Request, seen authInfo, proved []broker.Proof) footing {
	proved = slices.Clip(proved)
	if len(seen.keys) > 0 {
		return s.admitByKey(q, seen, proved)
	}
	if s.ticketOf(seen, "") {
		// sshd has mapped the principal to the account (krb5_kuserok): the
		// rules judge the person, as this account.
		q.User = broker.UserName(seen.principal)
		proved = append(proved, broker.ProofTicket)
	}
	return s.judge(q, proved)
}

// judge asks the broker.
func (s *Server) judge(q broker.Request, proofs []broker.Proof) footing {
	d := s.c.Broker.Ask(q, proofs)
	return footing{verdict(d), q, proofs, d, broker.BasisRules}
}

// admitByKey judges a login by the door keys. Of several owners of a key, one
// who may is enough, as at that door.
func (s *Server) admitByKey(q broker.Request, seen authInfo, proved []broker.Proof) footing {
	q.Door, q.Unconfined = doorKeys, false // the key's line confines it
	v := s.c.Broker.View()
	if v.Snapshot == nil {
		return footing{answer: verdict(broker.Decision{Outcome: broker.Unknown, Reason: broker.ReasonNoSnapshot})}
	}
	none := broker.ReasonNoKey
	if u, _ := v.User(q.User); u == nil { // a local account, such as root, with keys of its own
		none = broker.ReasonUnknownUser
	}
	best := footing{answer: no(none, "")}
	for _, k := range seen.keys {
		if k.IsCertificate() {
			if f := s.judge(q, append(proved, broker.ProofCertificate)); f.answer.Outcome != wire.No || best.answer.Reason == string(none) {
				best = f
			}
			continue
		}
		for _, u := range v.KeyOwners(sha256.Sum256([]byte(k.Blob)), maxOwners) {
			q := q
			q.User, q.Key = u.Name, k.Fingerprint()
			if !u.HasKey(q.Key) { // it signs certificates
				continue
			}
			f := s.judge(q, append(proved, broker.ProofKey))
			if f.answer.Outcome == wire.Yes {
				return f
			}
			if f.answer.Outcome == wire.Unknown || best.answer.Reason == string(none) || u.Name == broker.UserName(q.Login) {
				best = f
			}
		}
	}
	if best.answer.Reason == string(broker.ReasonNoKey) { // nobody was judged, so nothing is recorded yet
		s.c.Log.WithField("user", string(q.User)).Warn("sshd let somebody in by a key that is not in the directory: refused; set AuthorizedKeysFile none")
	}
	return best
}

// ticketOf reports whether sshd has accepted a ticket of the user; of anybody
// of our realm for "".
func (s *Server) ticketOf(seen authInfo, user broker.UserName) bool {
	return s.c.Realm != "" && seen.principal != "" && seen.realm == s.c.Realm &&
		(user == "" || broker.UserName(seen.principal) == user)
}

// passwd changes the user's own password.
func (s *Server) passwd(ctx context.Context, p *peer, r wire.Request) wire.Answer {
	q := s.request(r)
	var out broker.Proven
	switch r.Get("phase") {
	case "check":
		out = s.c.Broker.MayChange(q.User)
	case "change":
		s.converse(ctx, p, func(ctx context.Context, ask broker.Asker) { out = s.c.Broker.ChangePassword(ctx, q, ask) })
		s.c.Log.WithField("user", string(q.User)).WithField("service", r.Get("service")).WithField("outcome", out.Outcome.String()).
			WithField("reason", string(out.Reason)).Info("password change")
	default:
		return unknown(wire.ReasonMalformed, "the phase is check or change")
	}
	if out.Outcome == broker.Allow {
		return wire.Answer{Outcome: wire.Yes, Text: line(out.Text)}
	}
	return refusal(broker.Decision{Outcome: out.Outcome, Reason: out.Reason, Text: out.Text})
}

// verdict is the answer to account.
func verdict(d broker.Decision) wire.Answer {
	if d.Outcome == broker.Allow {
		return wire.Answer{Outcome: wire.Yes}
	}
	return refusal(d)
}

// refusal tells the caller no more than he may know. Why, is in the log.
func refusal(d broker.Decision) wire.Answer {
	text := line(d.Text)
	if d.Outcome == broker.Unknown {
		if text == "" {
			text = broker.TextUnknown
		}
		return unknown(string(d.Reason), text)
	}
	return no(d.Reason, text)
}

// authInfo is what sshd has verified.
type authInfo struct {
	keys             []keys.Key
	principal, realm string // of a ticket
}

const maxAuthInfoLines = 16

// readAuthInfo reads SSH_AUTH_INFO_0, what sshd_config(5) says of
// ExposeAuthInfo: a method a line, with its key or principal. Other methods are
// PAM's own and prove nothing here.
func readAuthInfo(text string) (authInfo, error) {
	var a authInfo
	for i, l := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if i == maxAuthInfoLines {
			return authInfo{}, errAuthInfo
		}
		method, rest, _ := strings.Cut(l, " ")
		switch method {
		case "publickey":
			l, err := keys.ParseLine(rest)
			if err != nil || l.Options != nil || l.Comment != "" {
				return authInfo{}, errAuthInfo
			}
			a.keys = append(a.keys, l.Key)
		case "gssapi-with-mic", "gssapi-keyex":
			name, realm, ok := strings.Cut(rest, "@")
			if !ok || name == "" || realm == "" || strings.ContainsAny(rest, "\\ \t") || strings.Contains(realm, "@") {
				return authInfo{}, errAuthInfo
			}
			a.principal, a.realm = name, realm
		}
	}
	return a, nil
}
