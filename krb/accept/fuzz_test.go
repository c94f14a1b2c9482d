package accept

import (
	"errors"
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/sekisho/sekisho/krb"
)

// FuzzAccept gives Accept any bytes as the message, or as what is sealed in a
// ticket, an authenticator or a PAC. What it accepts must fit together.
func FuzzAccept(f *testing.F) {
	s := newService(f, krb.AES128SHA2, nil)
	sample := s.request(f)
	sample.auth.SubKey = types.EncryptionKey{KeyType: 17, KeyValue: make([]byte, 16)}
	sample.auth.Cksum = types.Checksum{CksumType: 0x8003, Checksum: make([]byte, 24)}
	sample.part.CAddr = types.HostAddresses{{AddrType: 2, Address: []byte{203, 0, 113, 7}}}
	sample.part.RenewTill = sample.part.EndTime
	list, err := asn1.Marshal(types.AuthorizationData{{ADType: 128, ADData: []byte("x")}, {ADType: 129, ADData: []byte{0x30, 3, 2, 1, 18}}, {ADType: 143, ADData: []byte{0, 0x40, 0, 0}}})
	if err != nil {
		f.Fatal(err)
	}
	sample.part.AuthorizationData = types.AuthorizationData{{ADType: 1, ADData: list}}
	sample.auth.AuthorizationData = sample.part.AuthorizationData
	keep := func(kind byte) func([]byte) []byte {
		return func(b []byte) []byte { f.Add(kind, b); return b }
	}
	sample.rawPart, sample.rawAuth = keep(1), keep(2)
	f.Add(byte(0), sample.make(f))
	f.Add(byte(3), append([]byte{1, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 20, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 19}, make([]byte, 19)...))
	f.Fuzz(func(t *testing.T, kind byte, in []byte) {
		now := time.Now()
		s.now = now
		s.replay.marks = nil
		r := s.request(t)
		var msg []byte
		switch kind % 4 {
		case 0:
			msg = in
		case 1:
			r.rawPart = func([]byte) []byte { return in }
		case 2:
			r.rawAuth = func([]byte) []byte { return in }
		case 3:
			list, err := asn1.Marshal(types.AuthorizationData{{ADType: adPAC, ADData: in}})
			if err != nil {
				t.Fatal(err)
			}
			r.part.AuthorizationData = types.AuthorizationData{{ADType: adIfRelevant, ADData: list}}
		}
		if msg == nil {
			msg = r.make(t)
		}
		got, err := s.Accept(t.Context(), msg, Options{WantPAC: true})
		var e *Error
		switch {
		case err == nil:
			if got.Client.Realm != testRealm || !got.Server.Equal(host) || got.CTime.Sub(now).Abs() > DefaultSkew ||
				now.Sub(got.EndTime) > DefaultSkew || got.StartTime.Sub(now) > DefaultSkew || kind%4 == 3 {
				t.Errorf("%+v", got)
			}
			if _, err := s.Accept(t.Context(), msg, Options{}); err == nil {
				t.Error("accepted twice")
			}
			if _, err := got.Reply(got.Subkey, got.Seq); err != nil {
				t.Error(err)
			}
		case !errors.As(err, &e) || e.Kind == "" || e.Code == 0 || len(e.KRBError()) == 0 || got != nil:
			t.Errorf("%v", err)
		}
	})
}
