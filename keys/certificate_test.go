package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
)

// certParts makes certificates by hand. Zero fields become good ones.
type certParts struct {
	key        Key  // what is certified
	ca         Key  // with sig
	sig        blob // zero: a real one by a new Ed25519 key
	sk         bool // ... or by a new sk-ssh-ed25519 key
	nonce      string
	serial     uint64
	certType   uint32
	keyID      string
	principals blob
	before     uint64
	critical   blob
	extensions blob
	reserved   string
	tail       string
}

func (c certParts) sign(t testing.TB) blob {
	t.Helper()
	pk, sk, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if c.key == (Key{}) {
		c.key = Key{Type: ED25519, Blob: string(blob{}.str(ED25519).str(string(pk)))}
	}
	signed := c.sig == nil
	if c.ca == (Key{}) {
		b := blob{}.str(ED25519).str(string(pk))
		if c.sk {
			b = blob{}.str(SKED25519).str(string(pk)).str("ssh:")
		}
		c.ca = Key{Blob: string(b)}
	}
	if c.certType == 0 {
		c.certType = 1
	}
	if c.nonce == "" {
		c.nonce = strings.Repeat("n", 32)
	}
	if c.principals == nil {
		c.principals = blob{}.str("alice")
	}
	if c.before == 0 {
		c.before = math.MaxUint64
	}
	name := strings.Replace(c.key.Type, "@openssh.com", "", 1) + "-cert-v01@openssh.com"
	fields := c.key.Blob[4+len(c.key.Type):]
	b := blob{}.str(name).str(c.nonce).raw(fields).u64(c.serial).u32(c.certType).str(c.keyID).
		str(string(c.principals)).u64(1).u64(c.before).str(string(c.critical)).str(string(c.extensions)).
		str(c.reserved).str(c.ca.Blob)
	if signed && c.sk {
		app, msg := sha256.Sum256([]byte("ssh:")), sha256.Sum256(b)
		flags := blob{1}.u32(7)
		s := ed25519.Sign(sk, blob{}.raw(string(app[:])).raw(string(flags)).raw(string(msg[:])))
		c.sig = blob{}.str(SKED25519).str(string(s)).raw(string(flags))
	} else if signed {
		c.sig = blob{}.str(ED25519).str(string(ed25519.Sign(sk, b)))
	}
	return b.str(string(c.sig)).raw(c.tail)
}

func TestCertificate(t *testing.T) {
	k, err := ParseBlob(certParts{
		serial: 7, keyID: "alice's key", principals: blob{}.str("alice").str("root"), before: 99,
		critical:   blob{}.str("force-command").str(string(blob{}.str("/bin/true"))).str("verify-required").str(""),
		extensions: blob{}.str("permit-pty").str(""),
	}.sign(t))
	if err != nil {
		t.Fatal(err)
	}
	c, err := k.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	ca, err := k.CA()
	if err != nil {
		t.Fatal(err)
	}
	want := Certificate{
		Key: k.Plain(), CA: ca, Serial: 7, Type: UserCertificate, KeyID: "alice's key", Principals: []string{"alice", "root"},
		ValidAfter: 1, ValidBefore: 99, SignedWith: ED25519,
		Critical:   []CertOption{{"force-command", "/bin/true"}, {Name: "verify-required"}},
		Extensions: []CertOption{{Name: "permit-pty"}},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	if !k.IsCertificate() || ca.IsCertificate() || ca.Type != ED25519 || k.Plain().Type != ED25519 ||
		k.Fingerprint() != k.Plain().Fingerprint() || k.Bits() != 256 {
		t.Errorf("%v, of CA %v", k, ca)
	}
}

func TestCertificateCut(t *testing.T) {
	b := certParts{keyID: "x", critical: blob{}.str("verify-required").str(""), extensions: blob{}.str("permit-pty").str("")}.sign(t)
	if _, err := ParseBlob(b); err != nil {
		t.Fatal(err)
	}
	for n := range b {
		if k, err := ParseBlob(b[:n]); err == nil || k != (Key{}) {
			t.Fatalf("cut to %d bytes: %v, %v", n, k, err)
		}
	}
}

func TestCertificateRefused(t *testing.T) {
	many := func(n int) (b blob) {
		for i := range n {
			b = b.str(string([]byte{'a' + byte(i/26/26), 'a' + byte(i/26%26), 'a' + byte(i%26)}))
		}
		return b
	}
	flags := func(names ...string) (b blob) {
		for _, n := range names {
			b = b.str(n).str("")
		}
		return b
	}
	options := func(n int) blob {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprintf("x%02d", i))
		}
		return flags(names...)
	}
	rsa, err := ParseBlob(plainBlobs(t)[0].blob)
	if err != nil {
		t.Fatal(err)
	}
	skec, err := ParseBlob(plainBlobs(t)[8].blob)
	if err != nil {
		t.Fatal(err)
	}
	rs := string(blob{}.mpint(odd(256)).mpint(odd(250)))
	for _, c := range []struct {
		name string
		c    certParts
		err  string // "": good
	}{
		{"good", certParts{}, ""},
		{"host", certParts{certType: 2}, ""},
		{"no principals", certParts{principals: blob{}}, ""},
		{"reserved", certParts{reserved: "future"}, ""},
		{"256 principals", certParts{principals: many(256)}, ""},
		{"257 principals", certParts{principals: many(257)}, "more than 256 principals"},
		{"64 options", certParts{extensions: options(64)}, ""},
		{"65 options", certParts{critical: options(65)}, "more than 64 critical options"},
		{"byte after", certParts{tail: "x"}, "1 bytes after the end of the certificate"},
		{"type 3", certParts{certType: 3}, "certificate type 3"},
		{"nonce", certParts{nonce: strings.Repeat("n", 257)}, "nonce of 257 bytes"},
		{"key id NUL", certParts{keyID: "a\x00b"}, "key id: has a control"},
		{"key id long", certParts{keyID: strings.Repeat("n", 1025)}, "at most 1024"},
		{"principal empty", certParts{principals: blob{}.str("")}, "principal is empty"},
		{"principal break", certParts{principals: blob{}.str("a\nb")}, "principal: has a control"},
		{"principal cut", certParts{principals: blob{}.u32(9).raw("a")}, "principal is cut short"},
		{"option twice", certParts{critical: flags("verify-required", "verify-required")}, "double or not in"},
		{"option order", certParts{extensions: flags("permit-pty", "permit-X11-forwarding")}, "double or not in"},
		{"option raw", certParts{critical: blob{}.str("force-command").str("/bin/true")}, "cut short"},
		{"option two", certParts{critical: blob{}.str("force-command").str(string(blob{}.str("a").str("b")))}, "more than one value"},
		{"option break", certParts{critical: blob{}.str("force-command").str(string(blob{}.str("a\nb")))}, "control"},
		{"option name", certParts{critical: flags("a\nb")}, "control"},
		{"CA is certificate", certParts{ca: Key{Blob: string(certParts{}.sign(t))}, sig: blob{}}, "certificate itself"},
		{"CA garbage", certParts{ca: Key{Blob: "x"}, sig: blob{}}, "CA key: type name"},
		{"no signature", certParts{sig: blob{}}, "signature algorithm is cut short"},
		{"signature of other type", certParts{sig: blob{}.str(RSA).str("x")}, "does not fit CA key"},
		{"signature size", certParts{sig: blob{}.str(ED25519).str("x")}, "must be 64"},
		{"signature tail", certParts{sig: blob{}.str(ED25519).str(strings.Repeat("x", 64)).raw("y")}, "after the end of the signature"},
		{"RSA", certParts{ca: rsa, sig: blob{}.str("rsa-sha2-256").str(strings.Repeat("x", 256))}, ""},
		{"RSA size", certParts{ca: rsa, sig: blob{}.str("rsa-sha2-256").str(strings.Repeat("x", 257))}, "RSA signature of 257"},
		{"sk", certParts{sk: true}, ""},
		{"sk-ecdsa", certParts{ca: skec, sig: blob{}.str(SKECDSA).str(rs).raw("\x01").u32(1)}, ""},
		{"sk-ecdsa no flags", certParts{ca: skec, sig: blob{}.str(SKECDSA).str(rs)}, "flags are cut"},
		{"sk-ecdsa no counter", certParts{ca: skec, sig: blob{}.str(SKECDSA).str(rs).raw("\x01")}, "counter is cut"},
		{"sk-ecdsa raw", certParts{ca: skec, sig: blob{}.str(SKECDSA).str(rs + "x").raw("\x01").u32(1)}, "after the end of the signature value"},
		{"webauthn", certParts{ca: skec, sig: blob{}.str(webauthn).str(rs).raw("\x01").u32(1).str("https://example.org").str("{}").str("")}, ""},
		{"webauthn cut", certParts{ca: skec, sig: blob{}.str(webauthn).str(rs).raw("\x01").u32(1).str("https://example.org").str("{}")}, "extensions is cut"},
		{"webauthn by another", certParts{sig: blob{}.str(webauthn).str(rs).raw("\x01").u32(1).str("").str("").str("")}, "does not fit"},
	} {
		k, err := ParseBlob(c.c.sign(t))
		switch {
		case err == nil && c.err != "":
			t.Errorf("%s: taken", c.name)
		case err != nil && k != (Key{}):
			t.Errorf("%s: something beside the error", c.name)
		case err != nil && (c.err == "" || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: %v; want %q", c.name, err, c.err)
		case err != nil:
			checkErrorText(t, err)
		}
	}
}
