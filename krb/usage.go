package krb

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"sync"
)

// UsageKey is a Key at one key usage (RFC 4120 §7.5.1). Key's methods derive keys
// from it at each call; who seals or opens many messages keeps a UsageKey. It
// may be used by many goroutines at once.
type UsageKey struct {
	etype int32
	block cipher.Block // Ke
	ki    []byte
}

// The last byte of the constants that keys are derived with (RFC 3961 §5.3).
const (
	deriveChecksum   = 0x99
	deriveEncryption = 0xaa
	deriveIntegrity  = 0x55
)

// At derives the keys of a usage. Usage 0 is what the KDB uses.
func (k Key) At(usage uint32) (*UsageKey, error) {
	if err := k.validate(); err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(k.derive(usage, deriveEncryption))
	if err != nil {
		return nil, fmt.Errorf("a %s: %w", k, err)
	}
	return &UsageKey{k.EType, block, k.derive(usage, deriveIntegrity)}, nil
}

// String and GoString keep the keys out of logs.
func (u *UsageKey) String() string   { return Key{EType: u.etype}.String() }
func (u *UsageKey) GoString() string { return u.String() }

// Encrypt is encrypt of RFC 3961 §3.
func (u *UsageKey) Encrypt(plain []byte) ([]byte, error) {
	msg := make([]byte, aes.BlockSize, aes.BlockSize+len(plain))
	rand.Read(msg) // never fails: crypto/rand ends the program instead
	return u.encrypt(append(msg, plain...)), nil
}

// encrypt seals a message that begins with its confounder.
func (u *UsageKey) encrypt(msg []byte) []byte {
	sealed := encryptCTS(u.block, msg, macSize(u.etype))
	return u.appendMAC(sealed, msg, sealed)
}

// Decrypt is the inverse of Encrypt. It fails on every change of the ciphertext.
func (u *UsageKey) Decrypt(sealed []byte) ([]byte, error) {
	n := len(sealed) - macSize(u.etype)
	if n < aes.BlockSize {
		return nil, errors.New("ciphertext is too short")
	}
	body, got := sealed[:n], sealed[n:]
	msg := decryptCTS(u.block, body)
	if !hmac.Equal(got, u.appendMAC(nil, msg, body)) {
		return nil, fmt.Errorf("not sealed with this %s, or altered", u)
	}
	return msg[aes.BlockSize:], nil
}

// appendMAC is over the plaintext for the types of RFC 3962 (§6) and over a zero
// cipher state and the ciphertext for those of RFC 8009 (§5).
func (u *UsageKey) appendMAC(to, msg, body []byte) []byte {
	h := hmac.New(hashOf(u.etype), u.ki)
	if u.etype == AES128SHA2 || u.etype == AES256SHA2 {
		var state [aes.BlockSize]byte
		h.Write(state[:])
		h.Write(body)
	} else {
		h.Write(msg)
	}
	return append(to, h.Sum(nil)[:macSize(u.etype)]...)
}

// derive gives Kc, Ke or Ki of a valid key. For the types of RFC 3962 Ki and Kc are
// as long as the key, for those of RFC 8009 as long as the checksum.
func (k Key) derive(usage uint32, kind byte) []byte {
	if k.EType == AES128SHA2 || k.EType == AES256SHA2 {
		size := macSize(k.EType)
		if kind == deriveEncryption {
			size = len(k.Value)
		}
		// KDF-HMAC-SHA2 (RFC 8009 §3): one block of it is enough.
		h := hmac.New(hashOf(k.EType), k.Value)
		h.Write([]byte{0, 0, 0, 1})
		h.Write(append(binary.BigEndian.AppendUint32(nil, usage), kind, 0))
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(8*size)))
		return h.Sum(nil)[:size]
	}
	// DR (RFC 3961 §5.1): the folded constant, encrypted again and again.
	block, err := aes.NewCipher(k.Value)
	if err != nil {
		panic("krb: a valid key has no cipher")
	}
	out, in := make([]byte, len(k.Value)), foldedConstant(usage, kind)
	for at := 0; at < len(out); at += aes.BlockSize {
		block.Encrypt(out[at:], in)
		in = out[at:]
	}
	return out
}

func hashOf(etype int32) func() hash.Hash {
	switch etype {
	case AES128SHA2:
		return sha256.New
	case AES256SHA2:
		return sha512.New384
	}
	return sha1.New
}

// macSize is the length of checksums in bytes.
func macSize(etype int32) int {
	switch etype {
	case AES128SHA2:
		return 16
	case AES256SHA2:
		return 24
	}
	return 12
}

// folded keeps what foldedConstant made: to fold takes longer than all else that
// a key is derived with, and few usages are ever asked for, all by our own code.
var folded sync.Map // [5]byte to []byte

func foldedConstant(usage uint32, kind byte) []byte {
	var constant [5]byte
	binary.BigEndian.PutUint32(constant[:], usage)
	constant[4] = kind
	if f, ok := folded.Load(constant); ok {
		return f.([]byte)
	}
	f := nfold(constant[:], aes.BlockSize)
	folded.Store(constant, f)
	return f
}

// nfold stretches in to n bytes (RFC 3961 §5.1): copies of it, each turned to the
// right by 13 bits more than the last, are laid end to end until their length is a
// multiple of n, and the parts of n bytes are added in ones' complement.
func nfold(in []byte, n int) []byte {
	long := len(in)
	for long%n != 0 {
		long += len(in)
	}
	laid := make([]byte, long)
	for copies := 0; copies < long/len(in); copies++ {
		part := laid[copies*len(in):][:len(in)]
		turn, bits := 13*copies/8, uint(13*copies%8)
		for i, b := range in {
			part[(i+turn)%len(in)] |= b >> bits
			part[(i+turn+1)%len(in)] |= b << (8 - bits)
		}
	}
	sum := make([]byte, n)
	for ; len(laid) > 0; laid = laid[n:] {
		carry := uint(0)
		for i := n - 1; i >= 0; i-- {
			carry += uint(sum[i]) + uint(laid[i])
			sum[i] = byte(carry)
			carry >>= 8
		}
		for i := n - 1; carry > 0; i = (i + n - 1) % n {
			carry += uint(sum[i])
			sum[i] = byte(carry)
			carry >>= 8
		}
	}
	return sum
}

// encryptCTS is AES in CBC mode with ciphertext stealing and a zero initial vector
// (RFC 3962 §5), of a message of at least one block. The result has room for more.
func encryptCTS(block cipher.Block, msg []byte, room int) []byte {
	const size = aes.BlockSize
	blocks := (len(msg) + size - 1) / size
	out := make([]byte, blocks*size, blocks*size+room)
	copy(out, msg)
	cipher.NewCBCEncrypter(block, make([]byte, size)).CryptBlocks(out, out)
	if blocks > 1 {
		var last [size]byte
		copy(last[:], out[(blocks-1)*size:])
		copy(out[(blocks-1)*size:], out[(blocks-2)*size:(blocks-1)*size])
		copy(out[(blocks-2)*size:], last[:])
	}
	return out[:len(msg)]
}

// decryptCTS is the inverse of encryptCTS.
func decryptCTS(block cipher.Block, sealed []byte) []byte {
	const size = aes.BlockSize
	blocks := (len(sealed) + size - 1) / size
	out := make([]byte, blocks*size)
	copy(out, sealed)
	if blocks > 1 {
		last, before := out[(blocks-2)*size:(blocks-1)*size], out[(blocks-1)*size:]
		// What was stolen from the last block but one is found in the last.
		var stolen, swap [size]byte
		block.Decrypt(stolen[:], last)
		have := len(sealed) - (blocks-1)*size
		copy(before[have:], stolen[have:])
		copy(swap[:], last)
		copy(last, before)
		copy(before, swap[:])
	}
	cipher.NewCBCDecrypter(block, make([]byte, size)).CryptBlocks(out, out)
	return out[:len(sealed)]
}
