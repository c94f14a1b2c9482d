package local

import (
	"encoding/base64"
	"slices"
	"strings"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/door/gate"
	"github.com/sekisho/sekisho/keys"
	"github.com/sekisho/sekisho/wire"
)

// doorKeys is this door's name in rules.
const doorKeys broker.Door = "keys"

// The reasons of keys beside the broker's own (broker.Reason).
const (
	reasonCertificate = "certificate" // a certificate was offered
	reasonOptions     = "key-options" // the key's own options and the grant do not go together
	reasonAnswer      = "answer"      // unknown: the answer breaks a limit of the protocol
)

// maxOwners is how many users who list one key are asked about.
const maxOwners = 16

const certSuffix = "-cert-v01@openssh.com" // PROTOCOL.certkeys

// offer is the key that a client offered to sshd.
type offer struct {
	fp   [32]byte // SHA-256 of the plain key
	text string   // as sshd writes it
	typ  string   // empty: not said
	blob string   // base64, empty: not said
}

func (s *Server) answerKeys(p gate.Peer, r wire.Request) wire.Answer {
	if p.UID != 0 && !slices.Contains(s.c.KeysCallers, p.UID) {
		if caller := s.named(p); !isSelf(caller, r) {
			return s.deny(caller, r)
		}
	}
	o, every, text := readOffer(r)
	if text != "" {
		s.malformed.Add(1)
		return refusal(wire.ReasonMalformed, text)
	}
	s.requests.Add(1)
	login := broker.Login(r.Get(wire.FieldUser))
	v := s.c.Broker.View()
	if v.Snapshot == nil {
		return unknown(broker.ReasonNoSnapshot)
	}
	if v.Age(s.c.Broker.Now()) > v.MaxAge {
		return unknown(broker.ReasonStale)
	}
	if strings.HasSuffix(o.typ, certSuffix) {
		return no(reasonCertificate)
	}
	a := no(string(broker.ReasonNoKey))
	for _, u := range owners(v, login, o, every) {
		lines := o.among(u.Keys, every)
		if len(lines) == 0 {
			continue
		}
		q := broker.Request{
			User:           u.Name,
			Login:          login,
			Door:           doorKeys,
			Target:         broker.Target{Host: s.c.Host},
			SourceDeferred: true,
		}
		d := s.c.Broker.Ask(q, []broker.Proof{broker.ProofKey})
		if d.Outcome == broker.NeedProof && s.c.ProofsDeferred != nil && s.c.ProofsDeferred(login) {
			q.ProofsDeferred = true
			d = s.c.Broker.Ask(q, []broker.Proof{broker.ProofKey})
		}
		switch {
		case d.Outcome == broker.Allow:
			if body := s.print(lines, d.Grants); len(body) > 0 {
				return wire.Answer{Outcome: wire.Yes, Body: body}
			}
			a = worse(a, no(reasonOptions))
		case d.Outcome == broker.Unknown:
			a = worse(a, unknown(d.Reason))
		default:
			a = worse(a, no(string(d.Reason)))
		}
	}
	return a
}

// readOffer reads the fields; text says what is wrong with them. every is
// true when no key was named.
func readOffer(r wire.Request) (o offer, every bool, text string) {
	if err := r.Only(wire.FieldUser, wire.FieldFingerprint, wire.FieldType, wire.FieldKey); err != nil {
		return offer{}, false, err.Error()
	}
	if r.Get(wire.FieldUser) == "" {
		return offer{}, false, "keys needs the field user"
	}
	o = offer{text: r.Get(wire.FieldFingerprint), typ: r.Get(wire.FieldType), blob: r.Get(wire.FieldKey)}
	if !r.Has(wire.FieldFingerprint) {
		if !r.Has(wire.FieldKey) {
			return o, true, ""
		}
		raw, err := base64.StdEncoding.Strict().DecodeString(o.blob)
		if err != nil {
			return offer{}, false, "the field key is not base64"
		}
		k, err := keys.ParseBlob(raw)
		if err != nil {
			return offer{}, false, "the field key is no key that sekishod knows"
		}
		o.text, o.typ = k.Fingerprint(), k.Type
	}
	b64, ok := strings.CutPrefix(o.text, "SHA256:")
	n, err := base64.RawStdEncoding.Strict().Decode(o.fp[:], []byte(b64)[:min(len(b64), 43)])
	if !ok || err != nil || n != len(o.fp) || len(b64) != 43 {
		return offer{}, false, "the field fp is no SHA256 fingerprint: set FingerprintHash sha256 in sshd_config"
	}
	return o, false, ""
}

// owners are the users whose keys may open the account, its own user first.
func owners(v broker.View, login broker.Login, o offer, every bool) []*broker.User {
	self, _ := v.User(broker.UserName(login)) // an ambiguous one is refused by Decide
	if every {
		if self == nil {
			return nil
		}
		return []*broker.User{self}
	}
	us := v.KeyOwners(o.fp, maxOwners)
	if len(us) > 1 {
		slices.SortFunc(us, func(a, b *broker.User) int { return strings.Compare(string(a.Name), string(b.Name)) })
	}
	if self != nil && len(us) > 0 {
		// However many others list his key.
		us = append([]*broker.User{self}, slices.DeleteFunc(us, func(u *broker.User) bool { return u == self })...)
	}
	return us
}

// among picks the lines with the offered key. Keys that sign certificates are
// never picked.
func (o offer) among(lines []keys.Line, every bool) []keys.Line {
	var out []keys.Line
	for _, l := range lines {
		switch {
		case l.Options != nil && l.Options.CertAuthority, l.Key.IsCertificate():
		case every:
			out = append(out, l)
		case o.typ != "" && o.typ != l.Key.Type:
		case o.blob != "" && o.blob != l.Key.Base64():
		case o.text != l.Key.Fingerprint():
		default:
			out = append(out, l)
		}
	}
	return out
}

// print gives each key once for each grant, in the grants' order, which is the
// order in which sshd tries them. A key whose options do not go together with
// a grant is left out for that grant and all after it: a wider grant must not
// take the place of a narrower one.
func (s *Server) print(lines []keys.Line, grants []broker.Grant) []string {
	var body []string
	for _, l := range lines {
		for _, g := range grants {
			text, err := limited(l, g)
			if err == errApart {
				continue
			}
			if err != nil {
				s.c.Log.WithError(err).WithField("user", string(g.User)).WithField("key", l.Key.String()).
					Debug("a key was left out: its own options and the grant do not go together")
				break
			}
			body = append(body, text)
		}
	}
	return body
}

func no(reason string) wire.Answer {
	return wire.Answer{Outcome: wire.No, Reason: reason, Text: "no key opens this account here"}
}

func unknown(reason broker.Reason) wire.Answer {
	return refusal(string(reason), "the directory's answer is not known: see sekisho status")
}

// worse joins the answers for two owners of a key, neither of which is yes:
// "could not find out" stays, and of two refusals the first, for the account's
// own user comes first.
func worse(a, b wire.Answer) wire.Answer {
	if b.Outcome == wire.Unknown && a.Outcome != wire.Unknown || a.Outcome == wire.No && a.Reason == string(broker.ReasonNoKey) {
		return b
	}
	return a
}
