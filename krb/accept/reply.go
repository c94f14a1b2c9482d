package accept

import (
	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

const (
	appAPRep    = 15
	appEncAPRep = 27
)

// Reply makes the AP-REP (RFC 4120 §3.2.4), with our subkey, or nil for none,
// and our first sequence number.
func (a *Accepted) Reply(subkey *krb.Key, seq uint32) ([]byte, error) {
	var sub []byte
	if subkey != nil {
		sub = der.Field(2, der.Key(*subkey))
	}
	sealed, err := der.Seal(a.SessionKey, usageAPRep, der.App(appEncAPRep,
		der.Field(0, der.Time(a.CTime)), der.Field(1, der.Microseconds(a.CTime)), sub, der.Field(3, der.Int(int64(seq)))))
	if err != nil {
		return nil, err
	}
	return der.App(appAPRep, der.Field(0, der.Int(der.Version)), der.Field(1, der.Int(appAPRep)), der.Field(2, sealed)), nil
}

// KRBError is the KRB-ERROR message for the peer (RFC 4120 §5.9.1), DER: the
// code, our time and our name, and nothing of the cause.
func (e *Error) KRBError() []byte {
	return der.Error{Code: e.Code, At: e.stime, Server: e.Server}.Encode()
}
