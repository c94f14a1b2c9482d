package gss

import (
	"bytes"
	"crypto/md5"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

func principal(t testing.TB, s string) krb.Principal {
	t.Helper()
	p, err := krb.ParsePrincipal(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestToken(t *testing.T) {
	for _, n := range []int{1, 100, 200, 65_000} {
		msg := bytes.Repeat([]byte{7}, n)
		tok, err := formatToken(tokAPReq, OIDKrb5, msg)
		if err != nil {
			t.Fatal(err)
		}
		id, oid, got, err := parseToken(tok)
		if err != nil || id != tokAPReq || !oid.Equal(OIDKrb5) || !bytes.Equal(got, msg) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if _, _, _, err := parseToken(append(tok, 0)); err == nil {
			t.Error("a byte more")
		}
		if n > 1000 {
			continue
		}
		for k := range tok {
			if _, _, _, err := parseToken(tok[:k]); err == nil {
				t.Errorf("cut to %d", k)
			}
		}
	}
	if _, err := formatToken(tokAPReq, OIDKrb5, make([]byte, MaxToken)); err == nil {
		t.Error("too long a token was made")
	}
	for name, h := range map[string]string{
		"no message":           "600d06092a864886f71201020201" + "00",
		"another mechanism":    "600f06092a864886f7120102030100" + "6e00",
		"an unknown token":     "600f06092a864886f7120102020104" + "6e00",
		"length not minimal":   "60810f06092a864886f7120102020100" + "6e00",
		"indefinite length":    "608006092a864886f7120102020100" + "6e000000",
		"no framing":           "6e00",
		"OID without its end":  "600406022a86",
		"a MIC of RFC 1964":    "601106092a864886f7120102020101" + "00000000",
		"NTLMSSP":              hex.EncodeToString([]byte("NTLMSSP\x00\x01\x00\x00\x00")),
		"a SPNEGO token alone": "600906062b0601050502" + "a0",
	} {
		b, err := hex.DecodeString(h)
		if err != nil {
			t.Fatal(name, err)
		}
		if _, _, _, err := parseToken(b); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if m := Mechanism([]byte{0x60, 0x0b, 6, 9, 0x2a, 0x86, 0x48, 0x82, 0xf7, 0x12, 1, 2, 2}); !m.Equal(OIDMSKrb5) {
		t.Errorf("Microsoft's mechanism is %v", m)
	}
}

func TestChecksum(t *testing.T) {
	for _, c := range []checksum{{flags: Mutual | Integrity}, {flags: Delegate, cred: []byte("c")},
		{flags: Delegate, cred: make([]byte, 65535), bindings: [16]byte{1, 2}}} {
		b, err := c.format()
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseChecksum(b)
		if err != nil || got.flags != c.flags || got.bindings != c.bindings || !bytes.Equal(got.cred, c.cred) {
			t.Errorf("%+v: %v", got, err)
		}
		for n := range min(len(b), 100) {
			if _, err := parseChecksum(b[:n]); err == nil {
				t.Errorf("cut to %d", n)
			}
		}
		ext := append(bytes.Clone(b), 0, 0, 0, 1, 0, 0, 0, 2, 'x', 'y')
		if got, err := parseChecksum(ext); err != nil || !bytes.Equal(got.cred, c.cred) {
			t.Errorf("an extension: %v", err)
		}
		for n := len(b) + 1; n < len(ext); n++ {
			if _, err := parseChecksum(ext[:n]); err == nil {
				t.Errorf("extension cut to %d", n)
			}
		}
	}
	if _, err := (checksum{flags: Delegate, cred: make([]byte, 65536)}).format(); err == nil {
		t.Error("65536 bytes of credentials")
	}
}

func TestBindings(t *testing.T) {
	if bindingsHash(nil) != [16]byte{} || bindingsHash([]byte{}) != [16]byte{} {
		t.Error("no bindings have a hash")
	}
	if got, want := bindingsHash([]byte("ab")), md5.Sum([]byte(strings.Repeat("\x00", 16)+"\x02\x00\x00\x00ab")); got != want {
		t.Errorf("%x, not %x", got, want)
	}
	a, b := []byte("tls-unique:a"), []byte("tls-unique:b")
	none := [16]byte{}
	for _, c := range []struct {
		name             string
		got              [16]byte
		want             [][]byte
		claimed, require bool
		ok               bool
	}{
		{"equal", bindingsHash(a), [][]byte{a}, true, true, true},
		{"one of two", bindingsHash(b), [][]byte{a, b}, false, true, true},
		{"different", bindingsHash(a), [][]byte{b}, false, false, false},
		{"none sent", none, [][]byte{a}, false, false, true},
		{"none sent, required", none, [][]byte{a}, false, true, false},
		{"none sent, claimed", none, [][]byte{a}, true, false, false},
		{"none wanted", bindingsHash(a), nil, true, false, true},
		{"none wanted, required", bindingsHash(a), nil, true, true, false},
		{"empty ones wanted", none, [][]byte{nil, {}}, false, true, false},
		{"empty ones wanted, some sent", bindingsHash(a), [][]byte{{}}, false, false, false},
	} {
		if err := checkBindings(c.got, c.want, c.claimed, c.require); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func tgt(t testing.TB, etype int32) krb.Credential {
	t.Helper()
	k, err := krb.RandomKey(etype)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	return krb.Credential{Client: principal(t, "alice@EXAMPLE.ORG"), Server: principal(t, "krbtgt/EXAMPLE.ORG@EXAMPLE.ORG"), Key: k,
		Ticket: []byte{0x61, 3, 0x30, 1, 0}, Flags: krb.FlagForwardable | krb.FlagForwarded, AuthTime: at, StartTime: at.Add(time.Second),
		EndTime: at.Add(time.Hour), RenewTill: at.Add(24 * time.Hour)}
}

func TestCred(t *testing.T) {
	for _, etype := range etypes {
		c := tgt(t, etype)
		session, _ := krb.RandomKey(etype)
		b, err := formatCred(c, session, c.AuthTime)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseCred(b, session, c.Client)
		if err != nil || len(got) != 1 {
			t.Fatal(len(got), err)
		}
		g := got[0]
		if !g.Client.Equal(c.Client) || !g.Server.Equal(c.Server) || !bytes.Equal(g.Key.Value, c.Key.Value) || !bytes.Equal(g.Ticket, c.Ticket) ||
			g.Flags != c.Flags || !g.AuthTime.Equal(c.AuthTime) || !g.StartTime.Equal(c.StartTime) || !g.EndTime.Equal(c.EndTime) || !g.RenewTill.Equal(c.RenewTill) {
			t.Errorf("%+v", g)
		}
		for n := range b {
			for bit := range 8 {
				x := bytes.Clone(b)
				x[n] ^= 1 << bit
				// The ticket itself is the KDC's to judge, not ours.
				if got, err := parseCred(x, session, c.Client); err == nil && bytes.Equal(got[0].Ticket, c.Ticket) {
					t.Errorf("bit %d of byte %d flipped", bit, n)
				}
			}
			if _, err := parseCred(b[:n], session, c.Client); err == nil {
				t.Errorf("cut to %d", n)
			}
		}
		if _, err := parseCred(b, session, principal(t, "bob@EXAMPLE.ORG")); err == nil {
			t.Error("alice's ticket from bob")
		}
		if _, err := parseCred(b, session, principal(t, "alice@EXAMPLE.NET")); err == nil {
			t.Error("alice's ticket from another realm's alice")
		}
		c.Server = principal(t, "host/web1@EXAMPLE.ORG")
		if b, err = formatCred(c, session, c.AuthTime); err != nil {
			t.Fatal(err)
		}
		if _, err := parseCred(b, session, c.Client); err == nil {
			t.Error("a service ticket was taken")
		}
	}
}

// TestCredAsOthersReadIt: gokrb5's reader of KRB-CRED agrees with our writer.
func TestCredAsOthersReadIt(t *testing.T) {
	c := tgt(t, krb.AES256SHA1)
	session, _ := krb.RandomKey(krb.AES256SHA1)
	b, err := formatCred(c, session, c.AuthTime)
	if err != nil {
		t.Fatal(err)
	}
	r := der.Open(b, appCred)
	r.Head(0, appCred)
	r.Field(2)
	plain, err := r.Field(3).Sealed().Open(session, usageKRBCred)
	if err != nil {
		t.Fatal(err)
	}
	var part messages.EncKrbCredPart
	if err := part.Unmarshal(plain); err != nil {
		t.Fatal(err)
	}
	i := part.TicketInfo[0]
	if i.PName.PrincipalNameString() != "alice" || i.SRealm != "EXAMPLE.ORG" || !bytes.Equal(i.Key.KeyValue, c.Key.Value) || !i.EndTime.Equal(c.EndTime) {
		t.Errorf("%+v", i.PName)
	}
}

func TestKRBError(t *testing.T) {
	before := time.Now().Truncate(time.Second)
	host := principal(t, "host/web1.example.org@EXAMPLE.ORG")
	e := messages.NewKRBError(host.Name(), host.Realm, 37, "text")
	b, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var pe *PeerError
	if err := parseKRBError(b); !errors.As(err, &pe) || pe.Code != 37 || pe.Time.Before(before) || pe.Time.After(time.Now()) {
		t.Errorf("%v", err)
	}
	for n := range b {
		if err := parseKRBError(b[:n]); errors.As(err, &pe) {
			t.Errorf("cut to %d", n)
		}
	}
}

func FuzzContextToken(f *testing.F) {
	for _, id := range []uint16{tokAPReq, tokAPRep, tokKRBError} {
		tok, _ := formatToken(id, OIDKrb5, []byte{0x6e, 0})
		f.Add(tok)
	}
	c := tgt(f, krb.AES256SHA1)
	session, _ := krb.RandomKey(krb.AES256SHA1)
	b, _ := formatCred(c, session, c.AuthTime)
	f.Add(b)
	sum, _ := checksum{flags: Delegate, cred: b}.format()
	f.Add(sum)
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, oid, msg, err := parseToken(b); err == nil {
			again, err := formatToken(id, oid, msg)
			if err != nil || !bytes.Equal(again, b) {
				t.Fatalf("%x becomes %x (%v)", b, again, err)
			}
		}
		if c, err := parseChecksum(b); err == nil {
			again, err := c.format()
			if err != nil || !bytes.HasPrefix(b, again) {
				t.Fatalf("%x becomes %x (%v)", b, again, err)
			}
		}
		if got, err := parseCred(b, session, c.Client); err == nil && len(got) == 0 {
			t.Fatal("no credentials and no error")
		}
		parseKRBError(b)
		if m := Mechanism(b); m != nil && m.Equal(asn1.ObjectIdentifier{}) {
			t.Fatal("an empty mechanism")
		}
	})
}

// FuzzSealedParts gives the readers of what a peer seals bytes that no seal protects.
func FuzzSealedParts(f *testing.F) {
	c := tgt(f, krb.AES256SHA1)
	session, _ := krb.RandomKey(krb.AES256SHA1)
	b, _ := formatCred(c, session, c.AuthTime)
	r := der.Open(b, appCred)
	r.Head(0, appCred)
	r.Field(2)
	plain, _ := r.Field(3).Sealed().Open(session, usageKRBCred)
	f.Add(plain)
	ctime := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	f.Add([]byte("{\x1a0\x18\xa0\x11\x18\x0f20260304050607Z\xa1\x03\x02\x01\x00"))
	f.Fuzz(func(t *testing.T, part []byte) {
		i := &Initiator{session: session, ctime: ctime, c: &Context{key: session, flags: allFlags}}
		if err := i.apRep(sealAPRep(t, part, session)); err == nil && !bytes.Contains(part, []byte("20260304050607Z")) {
			t.Fatalf("%x is an answer", part)
		}
		b, err := sealCred(c.Ticket, part, session)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseCred(b, session, c.Client)
		if err == nil && (len(got) != 1 || !got[0].Client.Equal(c.Client)) {
			t.Fatalf("%d credentials", len(got))
		}
	})
}

// sealAPRep makes the AP-REP of any EncAPRepPart.
func sealAPRep(t testing.TB, part []byte, session krb.Key) []byte {
	t.Helper()
	sealed, err := der.Seal(session, 12, part)
	if err != nil {
		t.Fatal(err)
	}
	return der.App(15, der.Field(0, der.Int(5)), der.Field(1, der.Int(15)), der.Field(2, sealed))
}

// TestAPRepParts: an acceptor that sends no subkey and no number is believed, one that
// repeats another time is not.
func TestAPRepParts(t *testing.T) {
	session, _ := krb.RandomKey(krb.AES256SHA2)
	other, _ := krb.RandomKey(krb.AES256SHA2)
	ctime := time.Date(2026, 3, 4, 5, 6, 7, 890_000_000, time.UTC)
	for _, c := range []struct {
		name string
		at   time.Time
		key  krb.Key
		sub  bool
		rest bool
		ok   bool
	}{
		{"least", ctime, session, false, false, true},
		{"subkey", ctime, session, true, false, true},
		{"another time", ctime.Add(time.Microsecond), session, true, false, false},
		{"another key", ctime, other, true, false, false},
		{"a rest", ctime, session, true, true, false},
	} {
		var sub, seq, rest []byte
		if c.sub {
			sub, seq = der.Field(2, der.Key(other)), der.Field(3, der.Int(-1))
		}
		if c.rest {
			rest = der.Field(4, der.Int(1))
		}
		part := der.App(27, der.Field(0, der.Time(c.at)), der.Field(1, der.Microseconds(c.at)), sub, seq, rest)
		i := &Initiator{session: session, ctime: ctime, c: &Context{key: session, flags: allFlags}}
		if err := i.apRep(sealAPRep(t, part, c.key)); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		} else if c.ok && (i.c.acceptorKey != c.sub || c.sub && (i.c.recv.first != 1<<32-1 || !bytes.Equal(i.c.key.Value, other.Value))) {
			t.Errorf("%s: %+v", c.name, i.c.recv)
		}
	}
}
