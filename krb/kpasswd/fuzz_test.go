package kpasswd

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

func testKey(t testing.TB) krb.Key {
	k, err := krb.NewKey(krb.AES256SHA1, bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// part is an EncKrbPrivPart as seal makes it.
func part(t testing.TB, p private) []byte {
	t.Helper()
	k := testKey(t)
	raw, err := p.seal(k, netip.MustParseAddr("203.0.113.9"))
	if err != nil {
		t.Fatal(err)
	}
	r := der.Open(raw, typePriv)
	r.Head(0, typePriv)
	plain, err := r.Field(3).Sealed().Open(k, usagePriv)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// FuzzRequest: a frame that is taken prints as it was, and no bytes make the parsers
// fail otherwise than by an error.
func FuzzRequest(f *testing.F) {
	f.Add([]byte{0, 10, 0, 1, 0, 2, 0x6e, 0, 0x75, 0})
	f.Add([]byte{0, 6, 0xff, 0x80, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err != nil {
			return
		}
		again, err := frame(r.version, r.apReq, r.priv)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
	})
}

// FuzzPrivate: what is inside the seal is the peer's to write too.
func FuzzPrivate(f *testing.F) {
	f.Add(part(f, private{data: []byte("password"), seq: 77}), uint16(1))
	f.Add(part(f, private{data: setData("x", "R", "a", "b"), seq: 1 << 31}), uint16(versionSet))
	f.Add(part(f, private{data: setData("x", "")}), uint16(versionSet))
	f.Fuzz(func(t *testing.T, b []byte, version uint16) {
		p, err := parsePrivate(b)
		if err != nil {
			return
		}
		n, err := parseNewPassword(version, p.data)
		if err == nil && version != versionChange && n.target == nil && !bytes.Equal(setData(n.password, ""), p.data) {
			t.Fatalf("%x is read as no target", p.data)
		}
		if err == nil && n.target != nil && version == versionChange {
			t.Fatal("a change with a target")
		}
	})
}

// FuzzReply: what a server sends, or who plays one.
func FuzzReply(f *testing.F) {
	cred := krb.Credential{Client: alice, Server: Service(testRealm), Key: testKey(f), Ticket: []byte{0x61, 0}}
	x, err := newExchange(cred, time.Unix(1e9, 0))
	if err != nil {
		f.Fatal(err)
	}
	e := krbError(testRealm, resultSoftError, "words", time.Unix(1e9, 0))
	reply, err := frame(versionChange, nil, e)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(reply)
	f.Add(e)
	f.Fuzz(func(t *testing.T, b []byte) {
		if code, _, err := x.parse(b); err == nil {
			t.Fatalf("%x is believed: %d", b, code)
		}
		parseError(b)
	})
}

// TestSealing: what is sealed opens with the same key alone, at every etype.
func TestSealing(t *testing.T) {
	for _, etype := range []int32{17, 18, 19, 20} {
		k, err := krb.RandomKey(etype)
		if err != nil {
			t.Fatal(err)
		}
		for _, from := range []string{"203.0.113.9", "2001:db8::9", "::ffff:203.0.113.9"} {
			for _, seq := range []uint32{0, 1, 1 << 31, 1<<32 - 1} {
				raw, err := private{[]byte("words"), seq}.seal(k, netip.MustParseAddr(from))
				if err != nil {
					t.Fatal(err)
				}
				got, err := openPrivate(raw, k)
				if err != nil || got.seq != seq || string(got.data) != "words" {
					t.Errorf("%d, %s, %d: %+v, %v", etype, from, seq, got, err)
				}
				other, err := krb.RandomKey(etype)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := openPrivate(raw, other); err == nil {
					t.Error("opened with another key")
				}
				for n := range raw {
					if _, err := openPrivate(raw[:n], k); err == nil {
						t.Errorf("cut to %d bytes: opened", n)
					}
				}
			}
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain ä": "plain ä", "a\x1b[2Jb": "a[2Jb", "two\nlines": "two lines", "\xff": "", "a\u202eb": "ab", "\u0085x": "x",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
	if got := clean(string(bytes.Repeat([]byte("ä"), 2000))); len(got) > maxWords || len(got) < maxWords-2 {
		t.Errorf("%d bytes", len(got))
	}
}
