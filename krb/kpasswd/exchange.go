package kpasswd

import (
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

// exchange is the client's side of one request.
type exchange struct {
	cred   krb.Credential
	subkey krb.Key
	seq    uint32
	at     time.Time // the authenticator's, to the microsecond
	apReq  []byte
}

// newExchange makes the AP-REQ (RFC 4120 §5.5.1) with a subkey of our own, which
// RFC 3244 §2 has everything sealed with.
func newExchange(cred krb.Credential, now time.Time) (*exchange, error) {
	x := &exchange{cred: cred, seq: newSeq(), at: now.UTC().Truncate(time.Microsecond)}
	var err error
	if x.subkey, err = krb.RandomKey(cred.Key.EType); err != nil {
		return nil, err
	}
	x.apReq, err = der.APReq{Ticket: cred, Usage: usageAuthenticator, At: x.at, Subkey: &x.subkey, Seq: &x.seq}.Encode()
	return x, err
}

// openReply opens an AP-REP, which proves that the server opened our ticket, and
// gives its sequence number.
func (x *exchange) openReply(raw []byte) (seq uint32, err error) {
	rep, err := der.OpenAPRep(raw, x.cred.Key)
	if err != nil {
		return 0, err
	}
	if !rep.At.Equal(x.at) {
		return 0, errOtherRequest
	}
	return rep.Seq, nil
}
