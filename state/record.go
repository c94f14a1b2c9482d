package state

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"time"
)

// record is what is kept of an entry:
//
//	1 byte    version, 1
//	16 bytes  token: random, of the call that wrote it
//	8 bytes   when it may be forgotten, seconds since 1970; 0: never
//	4 bytes   ttl in seconds; 0: none
//	2 bytes   length of the key
//	          key, value
//
// all numbers big-endian.
type record struct {
	token   [16]byte
	expires int64
	ttl     uint32
	key     string
	value   []byte
}

const (
	recordVersion = 1
	recordHead    = 1 + 16 + 8 + 4 + 2
	maxRecord     = recordHead + MaxKey + MaxValue
)

var errRecord = errors.New("what is kept there is no entry of ours, or is damaged")

func (r record) bytes() []byte {
	b := make([]byte, 0, recordHead+len(r.key)+len(r.value))
	b = append(b, recordVersion)
	b = append(b, r.token[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.expires))
	b = binary.BigEndian.AppendUint32(b, r.ttl)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.key)))
	b = append(b, r.key...)
	return append(b, r.value...)
}

func parseRecord(b []byte) (record, error) {
	var r record
	if len(b) < recordHead || len(b) > maxRecord || b[0] != recordVersion {
		return r, errRecord
	}
	r.token = [16]byte(b[1:])
	r.expires = int64(binary.BigEndian.Uint64(b[17:]))
	r.ttl = binary.BigEndian.Uint32(b[25:])
	n := int(binary.BigEndian.Uint16(b[29:]))
	b = b[recordHead:]
	if n < 1 || n > MaxKey || n > len(b) || len(b)-n > MaxValue || r.expires < 0 || (r.expires == 0) != (r.ttl == 0) {
		return record{}, errRecord
	}
	r.key, r.value = string(b[:n]), append([]byte(nil), b[n:]...)
	return r, nil
}

// maxTTL is as long as ttl can say: over a hundred years.
const maxTTL = (1<<32 - 1) * time.Second

// seconds rounds up: nothing is forgotten too early.
func seconds(ttl time.Duration) uint32 {
	return uint32((ttl + time.Second - 1) / time.Second)
}

// longKey is from where on a key is known by its hash: a subject of NATS should
// stay short, and every server keeps all of them in memory.
const longKey = 96

// token is the key as one token of a subject. Keys are any bytes, so none can be
// a wildcard or hold a dot; the first letter keeps the two kinds apart.
func token(key string) string {
	if len(key) <= longKey {
		return "k" + base64.RawURLEncoding.EncodeToString([]byte(key))
	}
	sum := sha256.Sum256([]byte(key))
	return "h" + base64.RawURLEncoding.EncodeToString(sum[:])
}
