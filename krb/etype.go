package krb

import (
	"crypto/hmac"
	"crypto/rand"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/crypto/common"
	"github.com/jcmturner/gokrb5/v8/crypto/etype"
)

// The encryption types that are accepted (RFC 3962, RFC 8009): no other is,
// RC4 and DES least of all. Sekisho makes keys of all but AES128SHA2.
const (
	AES128SHA1 int32 = 17
	AES256SHA1 int32 = 18
	AES128SHA2 int32 = 19
	AES256SHA2 int32 = 20
)

// newETypes are the types of each new key, the strongest first: a KDC picks the
// first one that the client knows.
var newETypes = []int32{AES256SHA2, AES256SHA1, AES128SHA1}

// keySize is the length of a key in bytes. gokrb5 says 24 for AES256SHA2, which
// is the length of its integrity key (RFC 8009 §3).
func keySize(id int32) (int, error) {
	switch id {
	case AES128SHA1, AES128SHA2:
		return 16, nil
	case AES256SHA1, AES256SHA2:
		return 32, nil
	}
	return 0, fmt.Errorf("encryption type %d is not one of 17, 18, 19, 20", id)
}

// Key is a plain Kerberos key. Printing it shows the type only.
type Key struct {
	EType int32
	Value []byte
}

// String and GoString keep the value out of logs.
func (k Key) String() string   { return fmt.Sprintf("key of type %d", k.EType) }
func (k Key) GoString() string { return k.String() }

func (k Key) validate() error {
	n, err := keySize(k.EType)
	if err != nil {
		return err
	}
	if len(k.Value) != n {
		return fmt.Errorf("key of type %d has %d bytes, not %d", k.EType, len(k.Value), n)
	}
	return nil
}

const maxPassword = 4096

// CheckPassword says whether a string can be a password: 1 to 4096 bytes of
// UTF-8 without NUL, which C programs would cut it at.
func CheckPassword(password string) error {
	switch {
	case password == "":
		return errors.New("the password is empty")
	case len(password) > maxPassword:
		return fmt.Errorf("the password is longer than %d bytes", maxPassword)
	case !utf8.ValidString(password):
		return errors.New("the password is not UTF-8")
	}
	for i := 0; i < len(password); i++ {
		if password[i] == 0 {
			return errors.New("the password holds a NUL character")
		}
	}
	return nil
}

// passwordKeys derives one key of each new type (string-to-key with the default
// salt and iteration count of RFC 3962 §4 and RFC 8009 §4).
func passwordKeys(p Principal, password string) ([]Key, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	if err := CheckPassword(password); err != nil {
		return nil, err
	}
	var keys []Key
	for _, id := range newETypes {
		et, err := crypto.GetEtype(id)
		if err != nil {
			return nil, fmt.Errorf("encryption type %d: %w", id, err)
		}
		v, err := et.StringToKey(password, p.salt(), et.GetDefaultStringToKeyParams())
		if err != nil {
			return nil, fmt.Errorf("deriving a key of type %d failed", id)
		}
		keys = append(keys, Key{id, v})
		if err := keys[len(keys)-1].validate(); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// RandomKey makes a key of one of the accepted types.
func RandomKey(id int32) (Key, error) {
	n, err := keySize(id)
	if err != nil {
		return Key{}, err
	}
	k := Key{id, make([]byte, n)}
	rand.Read(k.Value) // never fails: crypto/rand ends the program instead
	return k, nil
}

// Encrypt is encrypt of RFC 3961 §3 at a key usage of RFC 4120 §7.5.1. Usage 0
// is what the KDB uses, and what gokrb5's EncryptMessage cannot do: it derives
// no key there.
func (k Key) Encrypt(usage uint32, plain []byte) ([]byte, error) {
	et, err := k.etype()
	if err != nil {
		return nil, err
	}
	msg := make([]byte, et.GetConfounderByteSize(), et.GetConfounderByteSize()+len(plain))
	rand.Read(msg)
	msg = append(msg, plain...)
	ke, err := et.DeriveKey(k.Value, common.GetUsageKe(usage))
	if err != nil {
		return nil, fmt.Errorf("deriving from a %s failed", k)
	}
	_, sealed, err := et.EncryptData(ke, msg)
	if err != nil {
		return nil, fmt.Errorf("encrypting with a %s failed", k)
	}
	mac, err := k.mac(et, usage, msg, sealed)
	if err != nil {
		return nil, err
	}
	return append(sealed, mac...), nil
}

// Decrypt is the inverse of Encrypt. It fails on every change of the ciphertext.
func (k Key) Decrypt(usage uint32, sealed []byte) ([]byte, error) {
	et, err := k.etype()
	if err != nil {
		return nil, err
	}
	conf, macLen := et.GetConfounderByteSize(), et.GetHMACBitLength()/8
	if len(sealed) < conf+macLen {
		return nil, errors.New("ciphertext is too short")
	}
	body, got := sealed[:len(sealed)-macLen], sealed[len(sealed)-macLen:]
	ke, err := et.DeriveKey(k.Value, common.GetUsageKe(usage))
	if err != nil {
		return nil, fmt.Errorf("deriving from a %s failed", k)
	}
	msg, err := et.DecryptData(ke, append([]byte(nil), body...))
	if err != nil || len(msg) < conf {
		return nil, fmt.Errorf("decrypting with a %s failed", k)
	}
	want, err := k.mac(et, usage, msg, body)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(got, want) {
		return nil, fmt.Errorf("not sealed with this %s, or altered", k)
	}
	return msg[conf:], nil
}

// mac is over the plaintext for the types of RFC 3962 (§6) and over a zero
// cipher state and the ciphertext for those of RFC 8009 (§5).
func (k Key) mac(et etype.EType, usage uint32, msg, sealed []byte) ([]byte, error) {
	ki, err := et.DeriveKey(k.Value, common.GetUsageKi(usage))
	if err != nil {
		return nil, fmt.Errorf("deriving from a %s failed", k)
	}
	h := hmac.New(et.GetHashFunc(), ki)
	if k.EType == AES256SHA2 || k.EType == AES128SHA2 {
		h.Write(make([]byte, et.GetConfounderByteSize()))
		h.Write(sealed)
	} else {
		h.Write(msg)
	}
	return h.Sum(nil)[:et.GetHMACBitLength()/8], nil
}

func (k Key) etype() (etype.EType, error) {
	if err := k.validate(); err != nil {
		return nil, err
	}
	et, err := crypto.GetEtype(k.EType)
	if err != nil {
		return nil, fmt.Errorf("encryption type %d: %w", k.EType, err)
	}
	return et, nil
}

// Checksum is get_mic of RFC 3961 §3 at a key usage, of the key's own checksum
// type (ChecksumType).
func (k Key) Checksum(usage uint32, data []byte) ([]byte, error) {
	et, err := k.etype()
	if err != nil {
		return nil, err
	}
	sum, err := et.GetChecksumHash(k.Value, data, usage)
	if err != nil {
		return nil, fmt.Errorf("a checksum with a %s failed", k)
	}
	return sum, nil
}

// VerifyChecksum reports whether sum is the Checksum of data, in constant time.
func (k Key) VerifyChecksum(usage uint32, data, sum []byte) bool {
	want, err := k.Checksum(usage, data)
	return err == nil && len(sum) > 0 && hmac.Equal(want, sum)
}

// ChecksumType is the number of the checksum type that goes with the key's
// encryption type (RFC 3961 §6), 0 for a key that is none.
func (k Key) ChecksumType() int32 {
	et, err := k.etype()
	if err != nil {
		return 0
	}
	return et.GetHashID()
}

// NewKey makes a Key of a type and value from elsewhere; the value is copied.
func NewKey(etype int32, value []byte) (Key, error) {
	k := Key{etype, append([]byte(nil), value...)}
	if err := k.validate(); err != nil {
		return Key{}, err
	}
	return k, nil
}
