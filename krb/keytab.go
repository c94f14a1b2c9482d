package krb

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// Limits of a keytab file, and the name types of RFC 4120 §6.2.
const (
	maxKeytab        = 1 << 20
	maxKeytabEntries = 4096
	ntPrincipal      = 1
	ntSrvInst        = 2
	ntSrvHst         = 3
)

// KeytabEntry is one key in a keytab file.
type KeytabEntry struct {
	Principal Principal
	// KVNO is the key version, 1 to 65535.
	KVNO int
	// Time is when the key was written, to the second.
	Time time.Time
	Key  Key
}

// ReadKeytab reads a keytab file of version 2 (also the form of a stash file).
// Truncated files, unknown encryption types and odd lengths are refused whole;
// holes that MIT's tools leave behind deleted keys are skipped. The file must not
// be readable by others than its owner and group.
func ReadKeytab(path string) ([]KeytabEntry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if st.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%s may be used by everybody: chmod 600 it and change the keys", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeytab+1))
	if err != nil {
		return nil, err
	}
	entries, err := parseKeytab(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return entries, nil
}

func parseKeytab(b []byte) ([]KeytabEntry, error) {
	if len(b) > maxKeytab {
		return nil, errors.New("keytab is too long")
	}
	s := cryptobyte.String(b)
	var version uint16
	if !s.ReadUint16(&version) || version != 0x0502 {
		return nil, errors.New("not a keytab of version 2")
	}
	var out []KeytabEntry
	for !s.Empty() {
		var size uint32
		if !s.ReadUint32(&size) {
			return nil, errors.New("keytab ends within an entry")
		}
		if n := int32(size); n < 0 {
			if n == -1<<31 || !s.Skip(int(-n)) {
				return nil, errors.New("keytab ends within a hole")
			}
			continue
		}
		var body []byte
		if size == 0 || int64(size) > int64(len(s)) || !s.ReadBytes(&body, int(size)) {
			return nil, errors.New("keytab ends within an entry")
		}
		if len(out) == maxKeytabEntries {
			return nil, errors.New("keytab has too many entries")
		}
		e, err := parseEntry(body)
		if err != nil {
			return nil, fmt.Errorf("keytab entry %d: %w", len(out)+1, err)
		}
		out = append(out, e)
	}
	return out, nil
}

func parseEntry(body cryptobyte.String) (KeytabEntry, error) {
	var e KeytabEntry
	var count, etype uint16
	var nameType, at uint32
	var kvno8 uint8
	var realm, value cryptobyte.String
	bad := errors.New("malformed")
	if !body.ReadUint16(&count) || count < 1 || count > maxComponents || !body.ReadUint16LengthPrefixed(&realm) {
		return e, bad
	}
	e.Principal.Realm = string(realm)
	for range count {
		var c cryptobyte.String
		if !body.ReadUint16LengthPrefixed(&c) {
			return e, bad
		}
		e.Principal.Components = append(e.Principal.Components, string(c))
	}
	if !body.ReadUint32(&nameType) || !body.ReadUint32(&at) || !body.ReadUint8(&kvno8) ||
		!body.ReadUint16(&etype) || !body.ReadUint16LengthPrefixed(&value) {
		return e, bad
	}
	kvno := uint32(kvno8)
	if !body.Empty() {
		var wide uint32
		if !body.ReadUint32(&wide) || !body.Empty() {
			return e, bad
		}
		if wide != 0 {
			kvno = wide
		}
	}
	if kvno < 1 || kvno > maxKVNO {
		return e, fmt.Errorf("key version %d is not within 1 to %d", kvno, maxKVNO)
	}
	e.KVNO, e.Time = int(kvno), time.Unix(int64(at), 0).UTC()
	e.Key = Key{int32(etype), append([]byte(nil), value...)}
	if err := e.Principal.validate(); err != nil {
		return KeytabEntry{}, err
	}
	if err := e.Key.validate(); err != nil {
		return KeytabEntry{}, err
	}
	return e, nil
}

func formatKeytab(entries []KeytabEntry) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddUint16(0x0502)
	for _, e := range entries {
		if err := e.Principal.validate(); err != nil {
			return nil, err
		}
		if err := e.Key.validate(); err != nil {
			return nil, err
		}
		if e.KVNO < 1 || e.KVNO > maxKVNO {
			return nil, fmt.Errorf("key version %d is not within 1 to %d", e.KVNO, maxKVNO)
		}
		var body cryptobyte.Builder
		body.AddUint16(uint16(len(e.Principal.Components)))
		for _, s := range append([]string{e.Principal.Realm}, e.Principal.Components...) {
			body.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
		}
		body.AddUint32(nameType(e.Principal))
		body.AddUint32(uint32(e.Time.Unix()))
		body.AddUint8(uint8(e.KVNO))
		body.AddUint16(uint16(e.Key.EType))
		body.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(e.Key.Value) })
		body.AddUint32(uint32(e.KVNO))
		raw, err := body.Bytes()
		if err != nil {
			return nil, err
		}
		b.AddUint32(uint32(len(raw)))
		b.AddBytes(raw)
	}
	return b.Bytes()
}

func nameType(p Principal) uint32 {
	switch {
	case len(p.Components) == 2 && p.Components[0] == "krbtgt":
		return ntSrvInst
	case len(p.Components) == 2 && p.Components[0] != "K":
		return ntSrvHst
	}
	return ntPrincipal
}

// WriteKeytab writes a keytab file of version 2, mode 0600, so that path holds at
// every instant either its old content or all of the new.
func WriteKeytab(path string, entries []KeytabEntry) error {
	b, err := formatKeytab(entries)
	if err != nil {
		return fmt.Errorf("keytab %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".keytab-*") // made with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("keytab %s: %w", path, err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
