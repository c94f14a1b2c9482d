package keys

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"math"
	"math/big"
	"reflect"
	"strings"
	"testing"
)

// blob writes the data types of RFC 4251 §5.
type blob []byte

func (b blob) str(s string) blob {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}
func (b blob) raw(s string) blob { return append(b, s...) }
func (b blob) u32(n uint32) blob { return binary.BigEndian.AppendUint32(b, n) }
func (b blob) u64(n uint64) blob { return binary.BigEndian.AppendUint64(b, n) }
func (b blob) mpint(n *big.Int) blob {
	v := n.Bytes()
	if len(v) > 0 && v[0]&0x80 != 0 {
		v = append([]byte{0}, v...)
	}
	return b.str(string(v))
}
func (b blob) line() string {
	return string(b[4:4+binary.BigEndian.Uint32(b)]) + " " + base64.StdEncoding.EncodeToString(b)
}

// odd is an odd number of that many bits; no key of any use.
func odd(bits uint) *big.Int {
	n := new(big.Int).Lsh(big.NewInt(1), bits-1)
	return n.SetBit(n, 0, 1)
}

func point(t testing.TB, c ecdh.Curve) string {
	t.Helper()
	k, err := c.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return string(k.PublicKey().Bytes())
}

// plainBlobs is one key of each type, made by hand, with its size.
func plainBlobs(t testing.TB) []struct {
	blob blob
	bits int
} {
	pk, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, p384, p521 := point(t, ecdh.P256()), point(t, ecdh.P384()), point(t, ecdh.P521())
	return []struct {
		blob blob
		bits int
	}{
		{blob{}.str(RSA).mpint(big.NewInt(65537)).mpint(odd(2048)), 2048},
		{blob{}.str(RSA).mpint(big.NewInt(3)).mpint(odd(1025)), 1025},
		{blob{}.str(RSA).mpint(big.NewInt(65537)).mpint(odd(16384)), 16384},
		{blob{}.str(DSA).mpint(odd(1024)).mpint(odd(160)).mpint(odd(1000)).mpint(odd(1023)), 1024},
		{blob{}.str(ECDSA256).str("nistp256").str(p256), 256},
		{blob{}.str(ECDSA384).str("nistp384").str(p384), 384},
		{blob{}.str(ECDSA521).str("nistp521").str(p521), 521},
		{blob{}.str(ED25519).str(string(pk)), 256},
		{blob{}.str(SKECDSA).str("nistp256").str(p256).str("ssh:"), 256},
		{blob{}.str(SKED25519).str(string(pk)).str("ssh:work laptop"), 256},
	}
}

func TestParseBlob(t *testing.T) {
	for _, c := range plainBlobs(t) {
		k, err := ParseBlob(c.blob)
		if err != nil {
			t.Errorf("%.40q: %v", c.blob, err)
			continue
		}
		sum := sha256.Sum256(c.blob)
		if k.Blob != string(c.blob) || k.Bits() != c.bits || k.IsCertificate() || k.Plain() != k ||
			k.Fingerprint() != "SHA256:"+base64.RawStdEncoding.EncodeToString(sum[:]) ||
			k.Type+" "+k.Base64() != c.blob.line() || k.String() != k.Type+" "+k.Fingerprint() {
			t.Errorf("%s: %d bits, %s", k.Type, k.Bits(), k.Fingerprint())
		}
		if _, err := k.CA(); err == nil {
			t.Errorf("%s: has a CA", k.Type)
		}
		for n := range c.blob {
			if k, err := ParseBlob(c.blob[:n]); err == nil || k != (Key{}) {
				t.Fatalf("%s cut to %d bytes: %v, %v", c.blob.line()[:20], n, k, err)
			}
		}
		if k, err := ParseBlob(append(c.blob[:len(c.blob):len(c.blob)], 0)); err == nil || k != (Key{}) {
			t.Errorf("%s with a byte more: %v, %v", c.blob.line()[:20], k, err)
		}
	}
}

// badBlobs are keys that are refused. Where strict is set, OpenSSH takes them,
// and strict says why we do not.
func badBlobs(t testing.TB) []struct {
	blob        blob
	err, strict string
} {
	e, n := big.NewInt(65537), odd(2048)
	even := new(big.Int).Lsh(big.NewInt(1), 2047)
	p, q, g, y := odd(1024), odd(160), odd(1000), odd(1023)
	p256 := point(t, ecdh.P256())
	off := []byte(p256)
	off[64] ^= 1
	x25519 := strings.Repeat("x", 32)
	return []struct {
		blob        blob
		err, strict string
	}{
		{blob: blob{}, err: "type name is cut short"},
		{blob: blob{}.u32(math.MaxUint32).raw(RSA), err: "cut short"},
		{blob: blob{}.str(""), err: `unknown key type ""`},
		{blob: blob{}.str("ssh-foo").str("x"), err: `unknown key type "ssh-foo"`},
		{blob: blob{}.str("ED25519").str(x25519), err: "unknown key type"},
		{blob: blob{}.str("rsa-sha2-512").mpint(e).mpint(n), err: "unknown key type", strict: "a signature algorithm"},
		{blob: blob{}.str(webauthn).str("nistp256").str(p256).str("ssh:"), err: "unknown key type", strict: "a signature algorithm"},
		{blob: blob{}.str(strings.Repeat("x", 65)), err: "at most 64"},
		{blob: make(blob, MaxBlob+1), err: "at most 12000"},

		{blob: blob{}.str(RSA).mpint(e).mpint(odd(1023)), err: "OpenSSH takes none under 1024"},
		{blob: blob{}.str(RSA).mpint(e).mpint(odd(16385)), err: "at most 2048 are"},
		{blob: blob{}.str(RSA).mpint(e).mpint(odd(16400)), err: "at most 2049 are"},
		{blob: blob{}.str(RSA).mpint(e).mpint(even), err: "modulus is even", strict: "no modulus"},
		{blob: blob{}.str(RSA).mpint(big.NewInt(65538)).mpint(n), err: "odd number above 1", strict: "no exponent"},
		{blob: blob{}.str(RSA).mpint(big.NewInt(1)).mpint(n), err: "odd number above 1", strict: "signature is the message"},
		{blob: blob{}.str(RSA).mpint(big.NewInt(0)).mpint(n), err: "exponent is zero", strict: "no exponent"},
		{blob: blob{}.str(RSA).mpint(odd(65)).mpint(n), err: "at most 8 are", strict: "a signature check would take long"},
		{blob: blob{}.str(RSA).str("\x00\x01\x00\x01").mpint(n), err: "leading zeros", strict: "two blobs of one key"},
		{blob: blob{}.str(RSA).mpint(e).str("\x00\x00" + string(n.Bytes())), err: "leading zeros", strict: "two blobs of one key"},
		{blob: blob{}.str(RSA).mpint(e).str(string(n.Bytes())), err: "negative"},
		{blob: blob{}.str(RSA).mpint(e).str("\x00"), err: "leading zeros"},
		{blob: blob{}.str(RSA).mpint(n).mpint(e), err: "exponent of"},

		{blob: blob{}.str(DSA).mpint(odd(1023)).mpint(q).mpint(g).mpint(y), err: "p is even or too small", strict: "size"},
		{blob: blob{}.str(DSA).mpint(p).mpint(odd(159)).mpint(g).mpint(y), err: "q is not", strict: "size"},
		{blob: blob{}.str(DSA).mpint(p).mpint(q).mpint(p).mpint(y), err: "g is not", strict: "range"},
		{blob: blob{}.str(DSA).mpint(p).mpint(q).mpint(g).mpint(big.NewInt(1)), err: "y is not", strict: "range"},
		{blob: blob{}.str(DSA).mpint(p).mpint(q).mpint(g), err: "y is cut short"},

		{blob: blob{}.str(ECDSA256).str("nistp384").str(p256), err: `curve "nistp384": must be nistp256`},
		{blob: blob{}.str(ECDSA384).str("nistp384").str(p256), err: "not an uncompressed point"},
		{blob: blob{}.str(ECDSA256).str("nistp256").str(string(off)), err: "not an uncompressed point"},
		{blob: blob{}.str(ECDSA256).str("nistp256").str("\x00"), err: "not an uncompressed point"},
		{blob: blob{}.str(ECDSA256).str("nistp256").str(""), err: "not an uncompressed point"},
		{blob: blob{}.str(ECDSA256).str("nistp256").str("\x02" + p256[1:33]), err: "not an uncompressed point"},
		{blob: blob{}.str(ECDSA256).str("nistp256").str(p256 + "x"), err: "at most 65"},
		{blob: blob{}.str(ECDSA256).str("nistp256\x00").str(p256), err: "must be nistp256", strict: "two blobs of one key"},

		{blob: blob{}.str(ED25519).str(x25519[1:]), err: "must be 32"},
		{blob: blob{}.str(ED25519).str(x25519 + "x"), err: "at most 32"},
		{blob: blob{}.str(SKED25519).str(x25519), err: "application is cut short"},
		{blob: blob{}.str(SKED25519).str(x25519).str(""), err: "application is empty", strict: "no application"},
		{blob: blob{}.str(SKED25519).str(x25519).str("ssh:\x00a"), err: "control character"},
		{blob: blob{}.str(SKED25519).str(x25519).str("ssh:\na"), err: "control character", strict: "not text"},
		{blob: blob{}.str(SKED25519).str(x25519).str("\xff"), err: "UTF-8", strict: "not text"},
		{blob: blob{}.str(SKED25519).str(x25519).str(strings.Repeat("x", 256)), err: "at most 255", strict: "limit"},
	}
}

func TestParseBlobRefuses(t *testing.T) {
	for _, c := range badBlobs(t) {
		k, err := ParseBlob(c.blob)
		if err == nil || k != (Key{}) {
			t.Errorf("%.60q: taken", c.blob)
		} else if !strings.Contains(err.Error(), c.err) {
			t.Errorf("%.60q: error %q does not say %q", c.blob, err, c.err)
		} else {
			checkErrorText(t, err)
		}
	}
}

// A Key that was not parsed has no properties, and does not panic.
func TestUnparsedKey(t *testing.T) {
	for _, k := range []Key{{}, {Type: ED25519}, {Type: RSA, Blob: "x"}, {Type: "x", Blob: benchED25519},
		{Type: "ssh-ed25519-cert-v01@openssh.com", Blob: "\x00\x00\x00\x20ssh-ed25519-cert-v01@openssh.com"}} {
		if k.Bits() != 0 || k.Plain() != (Key{}) {
			t.Errorf("%q has properties", k)
		}
		if _, err := k.CA(); err == nil {
			t.Errorf("%q has a CA", k)
		}
		if err := (Policy{Certificates: true}).Check(k); err == nil {
			t.Errorf("%q is good", k)
		}
		if c, err := k.Certificate(); err == nil || !reflect.DeepEqual(c, Certificate{}) {
			t.Errorf("%q is a certificate", k)
		}
	}
	if got := (Key{}).Fingerprint(); got != "" {
		t.Errorf("no key has fingerprint %s", got)
	}
}

func TestParseLineRefuses(t *testing.T) {
	ed, rsa := benchED25519, benchRSA
	word, rest, _ := strings.Cut(ed, " ")
	b64 := strings.Fields(ed)[1]
	for in, want := range map[string]string{
		"":                                       "empty or a comment",
		" \t ":                                   "empty or a comment",
		"# " + ed:                                "empty or a comment",
		"#":                                      "empty or a comment",
		ed + "\n":                                "line break",
		ed + "\r":                                "line break",
		ed + "\x00":                              "control character",
		"\x00" + ed:                              "control character",
		ed + "\n" + rsa:                          "line break",
		ed + "\x1b[2J":                           "control character",
		ed + "\x7f":                              "control character",
		ed + "\u0085":                            "control character",
		ed + "\u2028":                            "line break",
		ed + "\xff":                              "UTF-8",
		ed + "\xed\xa0\x80":                      "UTF-8",
		ed + "\tx":                               "comment has a control",
		"\ufeff" + ed:                            "unknown",
		word:                                     "no key after the key type",
		word + " ":                               "no key after the key type",
		"restrict":                               "no key after the options",
		"restrict ":                              "no key after the options",
		"restrict x " + b64:                      `unknown key type "x"`,
		"restrict restrict " + ed:                `unknown key type "restrict"`,
		"ssh-rsa " + rest:                        "line says ssh-rsa, the key in it ssh-ed25519",
		"SSH-ED25519 " + rest:                    `"SSH-ED25519": unknown`,
		"ed25519 " + rest:                        `"ed25519": unknown`,
		"rsa-sha2-512 " + strings.Fields(rsa)[1]: `"rsa-sha2-512": unknown`,
		b64:                                      "unknown",
		word + " " + b64[:len(b64)-1]:            "cut or wrapped",
		word + " " + b64[:len(b64)-4]:            "cut short",
		word + " " + b64 + "=":                   "cut or wrapped",
		word + " " + b64 + "AAAA":                "3 bytes after the end",
		word + " " + b64[:20] + "-" + b64[21:]:   "cut or wrapped",
		word + " " + b64[:20] + " " + b64[20:]:   "cut short",
		"-----BEGIN OPENSSH PRIVATE KEY-----":    "unknown",
		"---- BEGIN SSH2 PUBLIC KEY ----":        "unknown",
		ed + strings.Repeat("x", MaxLine):        "at most 16384",
		word + " " + strings.Repeat("A", 16100):  "at most 12000",
		strings.Repeat("x", 16000):               "unknown",
	} {
		l, err := ParseLine(in)
		if err == nil || !reflect.DeepEqual(l, Line{}) {
			t.Errorf("%.60q: taken", in)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: error %q does not say %q", in, err, want)
		} else {
			checkErrorText(t, err)
		}
	}
}

func TestParseLineBlanks(t *testing.T) {
	f := strings.Fields(benchED25519)
	for in, want := range map[string]string{
		" \t" + f[0] + "\t " + f[1] + " \t" + f[2] + "\t ":   benchED25519,
		"restrict\t" + benchED25519:                          "restrict " + benchED25519,
		f[0] + " " + f[1]:                                    f[0] + " " + f[1],
		f[0] + " " + f[1] + " two  words, #3 ü € \U0001F511": f[0] + " " + f[1] + " two  words, #3 ü € \U0001F511",
		`command="x` + `ssh-rsa AAAA" ` + benchED25519:       `command="x` + `ssh-rsa AAAA" ` + benchED25519,
	} {
		l, err := ParseLine(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
		} else if got := l.String(); got != want {
			t.Errorf("%q: printed as %q", in, got)
		}
	}
}
