package krb

import (
	"crypto/hmac"
	"crypto/rand"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/jcmturner/gokrb5/v8/crypto"
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
		k, err := passwordKey(p, password, id)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// passwordKey is passwordKeys for one type.
func passwordKey(p Principal, password string, id int32) (Key, error) {
	et, err := crypto.GetEtype(id)
	if err != nil {
		return Key{}, fmt.Errorf("encryption type %d: %w", id, err)
	}
	v, err := et.StringToKey(password, p.salt(), et.GetDefaultStringToKeyParams())
	if err != nil {
		return Key{}, fmt.Errorf("deriving a key of type %d failed", id)
	}
	k := Key{id, v}
	return k, k.validate()
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

// Encrypt is encrypt of RFC 3961 §3 at a key usage of RFC 4120 §7.5.1.
func (k Key) Encrypt(usage uint32, plain []byte) ([]byte, error) {
	u, err := k.At(usage)
	if err != nil {
		return nil, err
	}
	return u.Encrypt(plain)
}

// Decrypt is the inverse of Encrypt. It fails on every change of the ciphertext.
func (k Key) Decrypt(usage uint32, sealed []byte) ([]byte, error) {
	u, err := k.At(usage)
	if err != nil {
		return nil, err
	}
	return u.Decrypt(sealed)
}

// Checksum is get_mic of RFC 3961 §3 at a key usage, of the key's own checksum
// type (ChecksumType).
func (k Key) Checksum(usage uint32, data []byte) ([]byte, error) {
	if err := k.validate(); err != nil {
		return nil, err
	}
	h := hmac.New(hashOf(k.EType), k.derive(usage, deriveChecksum))
	h.Write(data)
	return h.Sum(nil)[:macSize(k.EType)], nil
}

// VerifyChecksum reports whether sum is the Checksum of data, in constant time.
func (k Key) VerifyChecksum(usage uint32, data, sum []byte) bool {
	want, err := k.Checksum(usage, data)
	return err == nil && len(sum) > 0 && hmac.Equal(want, sum)
}

// ChecksumType is the number of the checksum type that goes with the key's
// encryption type (RFC 3961 §6), 0 for a key that is none.
func (k Key) ChecksumType() int32 {
	if k.validate() != nil {
		return 0
	}
	switch k.EType {
	case AES128SHA1:
		return 15
	case AES256SHA1:
		return 16
	}
	return k.EType // 19 and 20, as RFC 8009 §7 numbers them
}

// NewKey makes a Key of a type and value from elsewhere; the value is copied.
func NewKey(etype int32, value []byte) (Key, error) {
	k := Key{etype, append([]byte(nil), value...)}
	if err := k.validate(); err != nil {
		return Key{}, err
	}
	return k, nil
}
