package keys

import (
	"crypto/ecdh"
	"math/big"
	"strings"
	"testing"
)

func TestPolicy(t *testing.T) {
	key := func(b blob) Key {
		t.Helper()
		k, err := ParseBlob(b)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	rsa := func(bits uint) Key { return key(blob{}.str(RSA).mpint(big.NewInt(65537)).mpint(odd(bits))) }
	ed := key(blob{}.str(ED25519).str(strings.Repeat("x", 32)))
	ec := key(blob{}.str(ECDSA256).str("nistp256").str(point(t, ecdh.P256())))
	dsa := key(blob{}.str(DSA).mpint(odd(1024)).mpint(odd(160)).mpint(odd(1000)).mpint(odd(1023)))
	sk := key(blob{}.str(SKED25519).str(strings.Repeat("x", 32)).str("ssh:"))
	weak := key(blob{}.str(SKED25519).str(strings.Repeat("\x00", 32)).str("ssh:"))
	cert := func(c certParts) Key { return key(c.sign(t)) }
	userCert := cert(certParts{})
	for _, c := range []struct {
		name   string
		policy Policy
		key    Key
		err    string // "": good
	}{
		{"default", Policy{}, ed, ""},
		{"default", Policy{}, ec, ""},
		{"default", Policy{}, sk, ""},
		{"default", Policy{}, rsa(2048), ""},
		{"default", Policy{}, rsa(2047), "at least 2048"},
		{"default", Policy{}, dsa, "DSA keys are not allowed"},
		{"default", Policy{}, weak, "small order"},
		{"default", Policy{}, userCert, "where a plain key is needed"},
		{"default", Policy{}, Key{}, "cut short"},
		{"default", Policy{}, Key{Type: RSA, Blob: ed.Blob}, "not a parsed key"},
		{"rsa 4096", Policy{MinRSABits: 4096}, rsa(4095), "at least 4096"},
		{"rsa 4096", Policy{MinRSABits: 4096}, rsa(4096), ""},
		{"rsa 1024", Policy{MinRSABits: 1024}, rsa(1024), ""},
		{"types", Policy{Types: []string{ED25519}}, ed, ""},
		{"types", Policy{Types: []string{ED25519}}, sk, "not allowed here"},
		{"types", Policy{Types: []string{ED25519}}, rsa(4096), "not allowed here"},
		{"types", Policy{Types: []string{RSA}}, rsa(1024), "at least 2048"},
		{"types", Policy{Types: []string{DSA}}, dsa, ""},
		{"bad type", Policy{Types: []string{"ssh-ed448"}}, ed, `policy: key type "ssh-ed448": unknown`},
		{"certificate type", Policy{Types: []string{userCert.Type}}, ed, "name plain types only"},
		{"bad size", Policy{MinRSABits: 1023}, ed, "must be 1024 to 16384"},
		{"bad size", Policy{MinRSABits: -1}, ed, "must be 1024 to 16384"},
		{"certificates", Policy{Certificates: true}, userCert, ""},
		{"certificates", Policy{Certificates: true}, ed, ""},
		{"certificates", Policy{Certificates: true, Types: []string{RSA}}, userCert, "not allowed here"},
		{"weak key", Policy{Certificates: true}, cert(certParts{key: weak}), "small order"},
		{"DSA key", Policy{Certificates: true}, cert(certParts{key: dsa}), "DSA"},
		{"small RSA key", Policy{Certificates: true}, cert(certParts{key: rsa(1024)}), "at least 2048"},
		{"DSA CA", Policy{Certificates: true}, cert(certParts{ca: dsa, sig: blob{}.str(DSA).str(strings.Repeat("x", 40))}), "SHA-1"},
		{"small CA", Policy{Certificates: true}, cert(certParts{ca: rsa(1024), sig: blob{}.str("rsa-sha2-512").str("x")}), "CA key: ssh-rsa: 1024 bits"},
		{"SHA-1", Policy{Certificates: true}, cert(certParts{ca: rsa(2048), sig: blob{}.str(RSA).str("x")}), "SHA-1"},
		{"SHA-2", Policy{Certificates: true}, cert(certParts{ca: rsa(2048), sig: blob{}.str("rsa-sha2-256").str("x")}), ""},
		{"other CA type", Policy{Certificates: true, Types: []string{ED25519}}, cert(certParts{ca: rsa(2048), sig: blob{}.str("rsa-sha2-256").str("x")}), "CA key: ssh-rsa: key type is not allowed"},
	} {
		err := c.policy.Check(c.key)
		switch {
		case err == nil && c.err != "":
			t.Errorf("%s: %s passes; want %q", c.name, c.key, c.err)
		case err != nil && (c.err == "" || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: %s: %v; want %q", c.name, c.key, err, c.err)
		case err != nil:
			checkErrorText(t, err)
		}
	}
}

// The table of points of small order, against the arithmetic of RFC 8032 §5.1:
// each of them added to itself three times gives the neutral point.
func TestSmallOrder(t *testing.T) {
	one := big.NewInt(1)
	p := new(big.Int).Sub(new(big.Int).Lsh(one, 255), big.NewInt(19))
	mod := func(n *big.Int) *big.Int { return n.Mod(n, p) }
	mul := func(a, b *big.Int) *big.Int { return mod(new(big.Int).Mul(a, b)) }
	inv := func(a *big.Int) *big.Int { return new(big.Int).ModInverse(a, p) }
	d := mul(big.NewInt(-121665), inv(big.NewInt(121666)))
	// x² = (y² - 1) / (d y² + 1), then three doublings.
	order8 := func(y *big.Int) bool {
		yy := mul(y, y)
		x := new(big.Int).ModSqrt(mul(mod(new(big.Int).Sub(yy, one)), inv(mod(new(big.Int).Add(mul(d, yy), one)))), p)
		if x == nil {
			return false
		}
		y = mod(new(big.Int).Set(y))
		for range 3 {
			xy, dxy := mul(x, y), new(big.Int)
			dxy = mul(d, mul(xy, xy))
			nx := mul(new(big.Int).Add(xy, xy), inv(mod(new(big.Int).Add(one, dxy))))
			ny := mul(new(big.Int).Add(mul(y, y), mul(x, x)), inv(mod(new(big.Int).Sub(one, dxy))))
			x, y = nx, ny
		}
		return x.Sign() == 0 && y.Cmp(one) == 0
	}
	for i, le := range smallOrderY {
		be := make([]byte, 32)
		for j := range le {
			be[31-j] = le[j]
		}
		if !order8(new(big.Int).SetBytes(be)) {
			t.Errorf("entry %d is not of small order", i)
		}
		for _, sign := range []byte{0, 0x80} {
			pt := le
			pt[31] |= sign
			if !smallOrder(pt[:]) {
				t.Errorf("entry %d with sign %x is not found", i, sign)
			}
		}
	}
	base := mul(big.NewInt(4), inv(big.NewInt(5)))
	if order8(base) {
		t.Error("the base point is of small order: this test is wrong")
	}
}
