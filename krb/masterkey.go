package krb

import (
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// MasterKey seals the keys of all principals of a realm. Printing it shows
// neither key nor realm data.
type MasterKey struct {
	key  Key
	kvno int
}

// String and GoString keep the key out of logs.
func (m MasterKey) String() string   { return fmt.Sprintf("master key %d, %s", m.kvno, m.key) }
func (m MasterKey) GoString() string { return m.String() }

// KVNO is the master key's version (mkvno).
func (m MasterKey) KVNO() int { return m.kvno }

// NewMasterKey makes a random master key of type AES256SHA1, which is what MIT's
// tools expect where nothing else is configured; its version is 1.
func NewMasterKey() (MasterKey, error) {
	k, err := RandomKey(AES256SHA1)
	return MasterKey{k, 1}, err
}

// LoadMasterKey reads a stash file: a keytab with K/M@REALM, of which the highest
// version is in use.
func LoadMasterKey(path, realm string) (MasterKey, error) {
	want := Principal{[]string{"K", "M"}, realm}
	if err := want.validate(); err != nil {
		return MasterKey{}, err
	}
	entries, err := ReadKeytab(path)
	if err != nil {
		return MasterKey{}, fmt.Errorf("reading the stash file: %w", err)
	}
	var m MasterKey
	for _, e := range entries {
		if e.Principal.String() != want.String() {
			continue
		}
		if e.KVNO == m.kvno && m.key.Value != nil {
			return MasterKey{}, fmt.Errorf("stash file %s: two keys of version %d", path, e.KVNO)
		}
		if e.KVNO > m.kvno {
			m = MasterKey{e.Key, e.KVNO}
		}
	}
	if m.key.Value == nil {
		return MasterKey{}, fmt.Errorf("stash file %s holds no key of %s", path, want)
	}
	return m, nil
}

// WriteStash writes the stash file of a master key, mode 0600.
func (m MasterKey) WriteStash(path, realm string, now time.Time) error {
	p := Principal{[]string{"K", "M"}, realm}
	if err := WriteKeytab(path, []KeytabEntry{{Principal: p, KVNO: m.kvno, Time: now, Key: m.key}}); err != nil {
		return fmt.Errorf("writing the stash file: %w", err)
	}
	return nil
}

// Record is the krbPrincipalKey value of K/M itself: the master key sealed with
// itself.
func (m MasterKey) Record() ([]byte, error) { return m.Seal(m.kvno, []Key{m.key}) }

// Seal gives the krbPrincipalKey value that holds keys as version kvno, 1 to
// 65535, with the default salt.
func (m MasterKey) Seal(kvno int, keys []Key) ([]byte, error) {
	if kvno < 1 || kvno > maxKVNO {
		return nil, fmt.Errorf("key version %d is not within 1 to %d", kvno, maxKVNO)
	}
	set := KeySet{KVNO: kvno, MKVNO: m.kvno}
	for _, k := range keys {
		if err := k.validate(); err != nil {
			return nil, err
		}
		sealed, err := m.key.Encrypt(0, k.Value)
		if err != nil {
			return nil, fmt.Errorf("sealing a key: %w", err)
		}
		v := binary.LittleEndian.AppendUint16(nil, uint16(len(k.Value)))
		set.Keys = append(set.Keys, SealedKey{Salt: &Salt{}, EType: k.EType, Value: append(v, sealed...)})
	}
	return set.Encode()
}

// Open gives the plain keys of a record and their version. It fails when one key
// was sealed with another master key, was altered, or is of a type unknown here.
func (m MasterKey) Open(value []byte) ([]Key, int, error) {
	set, err := DecodeKeySet(value)
	if err != nil {
		return nil, 0, err
	}
	var keys []Key
	for _, sk := range set.Keys {
		if len(sk.Value) < 2 {
			return nil, 0, badRecord("key value is too short")
		}
		plain, err := m.key.Decrypt(0, sk.Value[2:])
		if err != nil {
			return nil, 0, fmt.Errorf("opening a key of type %d: %w", sk.EType, err)
		}
		if n := int(binary.LittleEndian.Uint16(sk.Value)); n != len(plain) {
			return nil, 0, badRecord("length of a key differs from what was sealed")
		}
		k := Key{sk.EType, plain}
		if err := k.validate(); err != nil {
			return nil, 0, err
		}
		keys = append(keys, k)
	}
	return keys, set.KVNO, nil
}

// NewKeys gives the krbPrincipalKey value for a password, as key version kvno.
func NewKeys(p Principal, password string, kvno int, m MasterKey) ([]byte, error) {
	keys, err := passwordKeys(p, password)
	if err != nil {
		return nil, fmt.Errorf("keys for %s: %w", p, err)
	}
	return m.Seal(kvno, keys)
}

// RandomKeys makes keys for a host or service: the krbPrincipalKey value, and the
// plain keys for its keytab.
func RandomKeys(kvno int, m MasterKey) ([]byte, []Key, error) {
	var keys []Key
	for _, id := range newETypes {
		k, err := RandomKey(id)
		if err != nil {
			return nil, nil, err
		}
		keys = append(keys, k)
	}
	v, err := m.Seal(kvno, keys)
	return v, keys, err
}

// NextKVNO is the version that follows the highest of a principal's
// krbPrincipalKey values; 1 when there is none.
func NextKVNO(values [][]byte) (int, error) {
	high := 0
	for _, v := range values {
		set, err := DecodeKeySet(v)
		if err != nil {
			return 0, err
		}
		high = max(high, set.KVNO)
	}
	if high >= maxKVNO {
		return 0, errors.New("the key version is at its end (65535): delete the keys and set the password again")
	}
	return high + 1, nil
}

// Types of krbExtraData values (tl_data of MIT's KDB).
const (
	extraModified   = 0x0002
	extraMasterKVNO = 0x0008
	extraActiveKVNO = 0x0009
)

// ModifiedBy is the krbExtraData value that tells who changed the principal last.
func ModifiedBy(by Principal, at time.Time) []byte {
	b := binary.BigEndian.AppendUint16(nil, extraModified)
	b = binary.LittleEndian.AppendUint32(b, uint32(at.Unix()))
	return append(append(b, by.String()...), 0)
}

// MasterKVNO is the krbExtraData value that names the master key version.
func (m MasterKey) MasterKVNO() []byte {
	b := binary.BigEndian.AppendUint16(nil, extraMasterKVNO)
	return binary.LittleEndian.AppendUint16(b, uint16(m.kvno))
}

// ActiveKVNO is the krbExtraData value of K/M that says since when its version is
// in use.
func (m MasterKey) ActiveKVNO(at time.Time) []byte {
	b := binary.BigEndian.AppendUint16(nil, extraActiveKVNO)
	b = binary.LittleEndian.AppendUint16(b, 1)
	b = binary.LittleEndian.AppendUint16(b, uint16(m.kvno))
	return binary.LittleEndian.AppendUint32(b, uint32(at.Unix()))
}

// ReplaceExtra gives the krbExtraData values for a change of keys: old without
// those that ModifiedBy and MasterKVNO replace, then these two. Values of other
// types are kept, for they hold settings.
func (m MasterKey) ReplaceExtra(old [][]byte, by Principal, at time.Time) ([][]byte, error) {
	var out [][]byte
	for _, v := range old {
		if len(v) < 2 {
			return nil, errors.New("a krbExtraData value is shorter than its type")
		}
		switch binary.BigEndian.Uint16(v) {
		case extraModified, extraMasterKVNO:
		default:
			out = append(out, v)
		}
	}
	return append(out, ModifiedBy(by, at), m.MasterKVNO()), nil
}

// PasswordFits says whether a record's keys, of a principal with the default salt,
// are those of the password, in constant time. One key is made and compared, the
// first of the record, for all are of one password; that takes tens of milliseconds.
// A nil record fits nothing, after the same work.
func (m MasterKey) PasswordFits(p Principal, password string, record []byte) (bool, error) {
	if err := p.validate(); err != nil {
		return false, err
	}
	want := Key{EType: newETypes[0]}
	if record != nil {
		keys, _, err := m.Open(record)
		if err != nil {
			return false, err
		}
		defer func() {
			for _, k := range keys {
				clear(k.Value)
			}
		}()
		want = keys[0]
	}
	k, err := passwordKey(p, password, want.EType)
	if err != nil {
		return false, err
	}
	defer clear(k.Value)
	return hmac.Equal(k.Value, want.Value), nil
}
