package der

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/test/testdata"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/sekisho/sekisho/krb"
)

func key(t testing.TB, etype int32) krb.Key {
	t.Helper()
	k, err := krb.RandomKey(etype)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func vector(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAPReq: another codec reads what we write.
func TestAPReq(t *testing.T) {
	session, sub, seq := key(t, krb.AES256SHA1), key(t, krb.AES128SHA2), uint32(1<<32-1)
	cred := krb.Credential{Client: alice, Server: web, Key: session, Ticket: vector(t, testdata.MarshaledKRB5ticket)}
	for _, full := range []bool{false, true} {
		a := APReq{Ticket: cred, Usage: 11, At: at}
		if full {
			a.Options, a.Checksum, a.Subkey, a.Seq = 1<<29, Typed{0x8003, []byte("sum")}, &sub, &seq
		}
		b, err := a.Encode()
		if err != nil {
			t.Fatal(err)
		}
		var m messages.APReq
		if err := m.Unmarshal(b); err != nil || types.IsFlagSet(&m.APOptions, 2) != full {
			t.Fatal(m.APOptions, err)
		}
		plain, err := session.Decrypt(11, m.EncryptedAuthenticator.Cipher)
		if err != nil {
			t.Fatal(err)
		}
		var au types.Authenticator
		if err := au.Unmarshal(plain); err != nil {
			t.Fatal(err)
		}
		if au.CRealm != alice.Realm || !au.CName.Equal(alice.Name()) || !au.CTime.Equal(at.Truncate(time.Second)) || au.Cusec != 890_123 {
			t.Errorf("%+v", au)
		}
		if full && (au.Cksum.CksumType != 0x8003 || !bytes.Equal(au.SubKey.KeyValue, sub.Value) || au.SeqNumber != 1<<32-1) ||
			!full && (au.Cksum.CksumType != 0 || au.SubKey.KeyType != 0 || au.SeqNumber != 0) {
			t.Errorf("%+v", au)
		}
	}
	if _, err := (APReq{Ticket: krb.Credential{Key: krb.Key{EType: 23}}, At: at}).Encode(); err == nil {
		t.Error("sealed with no key")
	}
}

func apRep(t testing.TB, k krb.Key, part []byte) []byte {
	t.Helper()
	sealed, err := Seal(k, usageAPRep, part)
	if err != nil {
		t.Fatal(err)
	}
	return App(tagAPRep, Field(0, Int(5)), Field(1, Int(15)), Field(2, sealed))
}

func TestAPRep(t *testing.T) {
	k, sub := key(t, krb.AES256SHA2), key(t, krb.AES256SHA2)
	part := App(tagEncAPRepPart, Field(0, Time(at)), Field(1, Microseconds(at)), Field(2, Key(sub)), Field(3, Int(-2)))
	b := apRep(t, k, part)
	got, err := OpenAPRep(b, k)
	if err != nil || !got.At.Equal(at) || got.Subkey == nil || !bytes.Equal(got.Subkey.Value, sub.Value) || got.Seq != 1<<32-2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := OpenAPRep(b, sub); err == nil {
		t.Error("another key opens it")
	}
	if _, err := OpenAPRep(b, key(t, krb.AES128SHA1)); err == nil || errors.Is(err, ErrMalformed) {
		t.Error("a key of another type:", err)
	}
	for n := range b {
		if _, err := OpenAPRep(b[:n], k); err == nil {
			t.Errorf("cut to %d bytes it opens", n)
		}
		bad := slices.Clone(b)
		if bad[n] ^= 1; n != 0 {
			if got, err := OpenAPRep(bad, k); err == nil && !bytes.Equal(bad, b) && !got.At.Equal(at) {
				t.Errorf("byte %d changed: %+v", n, got)
			}
		}
	}
	for n := range part {
		if _, err := parseAPRepPart(part[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	least := App(tagEncAPRepPart, Field(0, Time(at)), Field(1, Int(0)))
	if got, err := parseAPRepPart(least); err != nil || got.Subkey != nil || got.Seq != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := parseAPRepPart(App(tagEncAPRepPart, Field(0, Time(at)), Field(1, Int(1_000_000)))); err == nil {
		t.Error("a million microseconds")
	}
}

func TestTicket(t *testing.T) {
	b := vector(t, testdata.MarshaledKRB5ticket)
	r := NewReader(b)
	if got := r.Ticket(); r.Err() != nil || got.Server.Realm != "ATHENA.MIT.EDU" || !slices.Equal(got.Server.Components, []string{"hftsai", "extra"}) ||
		got.Part.KVNO != 5 || len(got.Part.Cipher) == 0 {
		t.Errorf("%+v", got)
	}
	for n := range b {
		r := NewReader(b[:n])
		if r.Ticket(); r.Err() == nil {
			t.Errorf("cut to %d bytes it is read", n)
		}
	}
}

func ticketPart(t testing.TB, change func(*messages.EncTicketPart)) []byte {
	t.Helper()
	p := messages.EncTicketPart{
		Flags: types.NewKrbFlags(), Key: types.EncryptionKey{KeyType: 17, KeyValue: make([]byte, 16)}, CRealm: alice.Realm, CName: alice.Name(),
		Transited: messages.TransitedEncoding{TRType: 1}, AuthTime: at.Truncate(time.Second), EndTime: at.Add(time.Hour).Truncate(time.Second),
	}
	change(&p)
	b, err := asn1.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return asn1tools.AddASNAppTag(b, tagEncTicketPart)
}

func TestTicketPart(t *testing.T) {
	full := ticketPart(t, func(p *messages.EncTicketPart) {
		p.StartTime, p.RenewTill = p.AuthTime.Add(time.Minute), p.EndTime.Add(time.Hour)
		p.CAddr = types.HostAddresses{{AddrType: 2, Address: []byte{203, 0, 113, 7}}}
		p.AuthorizationData = types.AuthorizationData{{ADType: 1, ADData: []byte("x")}}
		types.SetFlag(&p.Flags, 9)
	})
	got, err := ParseTicketPart(full)
	if err != nil || got.Flags != krb.FlagInitial || !got.Client.Equal(alice) || got.Key.Type != 17 || got.Transited.Type != 1 || len(got.Addresses) != 1 ||
		len(got.AuthData) != 1 || !got.Start.Equal(got.Auth.Add(time.Minute)) || !got.RenewTill.Equal(got.End.Add(time.Hour)) {
		t.Errorf("%+v, %v", got, err)
	}
	least := ticketPart(t, func(*messages.EncTicketPart) {})
	if got, err = ParseTicketPart(least); err != nil || !got.Start.Equal(got.Auth) || !got.RenewTill.IsZero() || got.Addresses != nil || got.AuthData != nil {
		t.Errorf("%+v, %v", got, err)
	}
	for _, b := range [][]byte{full, least} {
		for n := range b {
			if got, err := ParseTicketPart(b[:n]); !errors.Is(err, ErrMalformed) || got.Key.Value != nil {
				t.Errorf("cut to %d bytes: %v", n, err)
			}
		}
	}
}

func TestError(t *testing.T) {
	e := Error{Code: 37, At: at, Server: web, Text: "text", Data: []byte("data")}
	var m messages.KRBError
	if err := m.Unmarshal(e.Encode()); err != nil || m.ErrorCode != 37 || !m.STime.Equal(at.Truncate(time.Second)) || m.Susec != 890_123 ||
		m.Realm != web.Realm || !m.SName.Equal(web.Name()) || m.EText != "text" || string(m.EData) != "data" {
		t.Errorf("%+v, %v", m, err)
	}
	got, err := ParseError(e.Encode())
	if err != nil || got.Code != 37 || !got.At.Equal(at) || got.Client != nil || !got.Server.Equal(web) || got.Text != "text" || string(got.Data) != "data" {
		t.Errorf("%+v, %v", got, err)
	}
	m.CRealm, m.CName, m.CTime = alice.Realm, alice.Name(), at.Truncate(time.Second)
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if got, err = ParseError(b); err != nil || !slices.Equal(got.Client, alice.Components) {
		t.Errorf("%+v, %v", got, err)
	}
	for n := range b {
		if _, err := ParseError(b[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	if _, err := ParseError(append(b, 0)); err == nil || !IsError(b) || IsError(nil) {
		t.Error("a rest is read")
	}
	// A client with no name is not no client.
	none := App(30, Field(0, Int(5)), Field(1, Int(30)), Field(4, Time(at)), Field(5, Int(0)), Field(6, Int(60)),
		Field(8, Name(krb.Principal{})), Field(9, Text("R")), Field(10, Name(web)))
	if _, err := ParseError(none); !errors.Is(err, ErrMalformed) {
		t.Error("a client with no name:", err)
	}
	for _, text := range []string{testdata.MarshaledKRB5error, testdata.MarshaledKRB5errorOptionalsNULL} {
		if _, err := ParseError(vector(t, text)); err != nil {
			t.Errorf("MIT's: %v", err)
		}
	}
}

// FuzzRead: what our readers take, another codec reads likewise.
func FuzzRead(f *testing.F) {
	for _, p := range parts(f) {
		if len(p[1]) < 1000 {
			f.Add(p[1])
		}
	}
	f.Add(Error{Code: 37, At: at, Server: web, Text: "text", Data: []byte("data")}.Encode())
	f.Add(vector(f, testdata.MarshaledKRB5error))
	f.Add(vector(f, testdata.MarshaledKRB5ticket))
	f.Add(ticketPart(f, func(*messages.EncTicketPart) {}))
	f.Add(App(tagEncAPRepPart, Field(0, Time(at)), Field(1, Microseconds(at)), Field(2, Key(krb.Key{EType: 17, Value: make([]byte, 16)})), Field(3, Int(7))))
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, read := range readers {
			r := NewReader(b)
			read(r)
			if r.Err() != nil && r.Rest() != nil {
				t.Errorf("%s gives a rest", name)
			}
		}
		if r := NewReader(b); true {
			if got := r.Name(); r.Err() == nil {
				var p types.PrincipalName
				if rest, err := asn1.Unmarshal(b, &p); err != nil || len(rest) > 0 || !slices.Equal(p.NameString, got) {
					t.Errorf("%x is the name %q, or %q, %v", b, got, p.NameString, err)
				}
			}
		}
		if r := NewReader(b); true {
			if got := r.AuthData(); r.Err() == nil {
				var d types.AuthorizationData
				if rest, err := asn1.Unmarshal(b, &d); err != nil || len(rest) > 0 || len(d) != len(got) ||
					len(d) > 0 && (d[0].ADType != got[0].Type || !bytes.Equal(d[0].ADData, got[0].Value)) {
					t.Errorf("%x is %v, or %v, %v", b, got, d, err)
				}
			}
		}
		if got, err := ParseError(b); err == nil {
			var m messages.KRBError
			if err := m.Unmarshal(b); err == nil && (m.ErrorCode != got.Code || m.Realm != got.Server.Realm || !slices.Equal(m.SName.NameString, got.Server.Components) ||
				!m.STime.Add(time.Duration(m.Susec)*time.Microsecond).Equal(got.At) || !bytes.Equal(m.EData, got.Data) || m.EText != got.Text) {
				t.Errorf("%+v is read as %+v", m, got)
			}
		}
		if got, err := ParseTicketPart(b); err == nil {
			var m messages.EncTicketPart
			if err := m.Unmarshal(b); err == nil && (m.CRealm != got.Client.Realm || !slices.Equal(m.CName.NameString, got.Client.Components) ||
				!m.EndTime.Equal(got.End) || !bytes.Equal(m.Key.KeyValue, got.Key.Value) || len(m.CAddr) != len(got.Addresses)) {
				t.Errorf("%+v is read as %+v", m, got)
			}
		}
		r := NewReader(b)
		r.Ticket()
		parseAPRepPart(b)
	})
}
