package krb

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unbase64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// mitSample is the vector of src/tests/asn.1/ldap_encode.out in MIT krb5.
const mitSample = `30 81 87 A0 03 02 01 01 A1 03 02 01 01 A2 03 02 01 2A A3 03 02 01 0E A4 71 30 6F
30 23 A0 10 30 0E A0 03 02 01 00 A1 07 04 05 73 61 6C 74 30 A1 0F 30 0D A0 03 02 01 02 A1 06 04 04 6B 65 79 30
30 23 A0 10 30 0E A0 03 02 01 01 A1 07 04 05 73 61 6C 74 31 A1 0F 30 0D A0 03 02 01 02 A1 06 04 04 6B 65 79 31
30 23 A0 10 30 0E A0 03 02 01 02 A1 07 04 05 73 61 6C 74 32 A1 0F 30 0D A0 03 02 01 02 A1 06 04 04 6B 65 79 32`

// The realm EXAMPLE.TEST of these was made by kdb5_ldap_util and kadmin.local of
// MIT krb5 1.20.1, with the master password "masterpw" and alice's "alice-krb".
const (
	mitStash = "0502000000470002000c4558414d504c452e5445535400014b00014d000000016b02167f01001200206a22837ff88243cc04ef2c155ccfdd12995abaec63e9908800b2fd42374f926900000001"
	mitKM    = "MG6gAwIBAaEDAgEBogMCAQGjAwIBAKRYMFYwVKAHMAWgAwIBAKFJMEegAwIBEqFABD4gAN1r6NNIeBW93h9gcx7qM3osx/F70+s0Il/Ys2sloiHmTY1M5c8e+TO6ZGWCRkWLFIdZO4/auewoFgPugw=="
	mitAlice = "MIIBDKADAgEBoQMCAQGiAwIBAaMDAgEBpIH1MIHyMFSgBzAFoAMCAQChSTBHoAMCARKhQAQ+IABML7X4ZWnAwBmdhBzHHYyKBkkKgEa1po0qJ7chhwbPyGs3nkrfAnAX3JaBSqIq0dmcYf2522Eu+84406wwRKAHMAWgAwIBAKE5MDegAwIBEaEwBC4QAPl8XMjmcDx6hy9ZhOCATzUI1Ho5FvYgjLWZZQAin4H7a9vFuqe67xPiXc7oMFSgBzAFoAMCAQChSTBHoAMCARShQAQ+IAAdTWO5xs38Q7T5DSd4mmd/LljpodARcXnCua3e+uwNCxPY3k8oDGcghTYid/abHwTeFUt4k2qTvvo9c9s="
)

func TestMITSample(t *testing.T) {
	want := KeySet{KVNO: 42, MKVNO: 14}
	for i := range 3 {
		want.Keys = append(want.Keys, SealedKey{
			Salt:  &Salt{Type: int32(i), Value: fmt.Appendf(nil, "salt%d", i)},
			EType: 2,
			Value: fmt.Appendf(nil, "key%d", i),
		})
	}
	raw := unhex(t, mitSample)
	got, err := DecodeKeySet(raw)
	if err != nil {
		t.Fatal(err)
	}
	if g, w := show(got), show(want); g != w {
		t.Errorf("decoded\n%s\nwant\n%s", g, w)
	}
	again, err := want.Encode()
	if err != nil || !bytes.Equal(again, raw) {
		t.Errorf("encoded %x, %v", again, err)
	}
}

func show(s KeySet) string {
	var b strings.Builder
	fmt.Fprintf(&b, "kvno %d mkvno %d\n", s.KVNO, s.MKVNO)
	for _, k := range s.Keys {
		fmt.Fprintf(&b, "  salt %+v type %d value %q\n", k.Salt, k.EType, k.Value)
	}
	return b.String()
}

func mitMaster(t testing.TB) MasterKey {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stash")
	if err := os.WriteFile(path, unhex(t, mitStash), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := LoadMasterKey(path, "EXAMPLE.TEST")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestMITRecords opens what MIT sealed, and derives the same keys from the same
// passwords: string-to-key and sealing are thereby right for all three types.
func TestMITRecords(t *testing.T) {
	m := mitMaster(t)
	if m.KVNO() != 1 {
		t.Errorf("mkvno %d", m.KVNO())
	}
	km, kvno, err := m.Open(unbase64(t, mitKM))
	if err != nil || kvno != 1 || len(km) != 1 || !bytes.Equal(km[0].Value, m.key.Value) {
		t.Errorf("K/M: kvno %d, %d keys, %v", kvno, len(km), err)
	}
	raw := unbase64(t, mitAlice)
	keys, kvno, err := m.Open(raw)
	if err != nil || kvno != 1 || len(keys) != 3 {
		t.Fatalf("alice: kvno %d, %d keys, %v", kvno, len(keys), err)
	}
	ours, err := passwordKeys(Principal{[]string{"alice"}, "EXAMPLE.TEST"}, "alice-krb")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		found := false
		for _, o := range ours {
			if o.EType == k.EType {
				found = bytes.Equal(o.Value, k.Value)
			}
		}
		if !found {
			t.Errorf("%s: ours is not MIT's", k)
		}
	}
	set, err := DecodeKeySet(raw)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := set.Encode(); err != nil || !bytes.Equal(again, raw) {
		t.Errorf("alice's record changed: %x, %v", again, err)
	}
}

func TestSealOpen(t *testing.T) {
	for _, id := range []int32{AES128SHA1, AES256SHA1, AES256SHA2} {
		mk, err := RandomKey(id)
		if err != nil {
			t.Fatal(err)
		}
		m := MasterKey{mk, 3}
		v, keys, err := RandomKeys(7, m)
		if err != nil {
			t.Fatal(err)
		}
		got, kvno, err := m.Open(v)
		if err != nil || kvno != 7 || len(got) != len(keys) {
			t.Fatalf("master key type %d: kvno %d, %d keys, %v", id, kvno, len(got), err)
		}
		for i := range got {
			if got[i].EType != keys[i].EType || !bytes.Equal(got[i].Value, keys[i].Value) {
				t.Errorf("master key type %d: key %d differs", id, i)
			}
		}
		set, err := DecodeKeySet(v)
		if err != nil {
			t.Fatal(err)
		}
		for i := range set.Keys {
			for at := range set.Keys[i].Value {
				set.Keys[i].Value[at] ^= 1
				b, err := set.Encode()
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := m.Open(b); err == nil {
					t.Fatalf("master key type %d: byte %d of key %d altered, and opened", id, at, i)
				}
				set.Keys[i].Value[at] ^= 1
			}
		}
		other, err := NewMasterKey()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := other.Open(v); err == nil {
			t.Error("opened with another master key")
		}
	}
}

func TestDecodeKeySetRefuses(t *testing.T) {
	raw := unhex(t, mitSample)
	for n := range raw {
		if _, err := DecodeKeySet(raw[:n]); err == nil {
			t.Errorf("cut to %d bytes: taken", n)
		}
	}
	edit := func(at int, b byte) []byte {
		c := bytes.Clone(raw)
		c[at] = b
		return c
	}
	indefinite := append([]byte{0x30, 0x80}, append(bytes.Clone(raw[3:]), 0, 0)...)
	longLength := append([]byte{0x30, 0x82, 0x00, 0x87}, raw[3:]...)
	many := KeySet{KVNO: 1, MKVNO: 1, Keys: make([]SealedKey, maxKeys+1)}
	for name, b := range map[string][]byte{
		"trailing byte":     append(bytes.Clone(raw), 0),
		"major version 2":   edit(7, 2),
		"minor version 0":   edit(12, 0),
		"negative kvno":     edit(17, 0x80),
		"indefinite length": indefinite,
		"long length":       longLength,
		"a set":             edit(0, 0x31),
		"empty":             {},
		"too long":          append(bytes.Clone(raw), make([]byte, maxRecord)...),
		"no keys":           unhex(t, "30 18 A0 03 02 01 01 A1 03 02 01 01 A2 03 02 01 2A A3 03 02 01 0E A4 02 30 00"),
	} {
		if got, err := DecodeKeySet(b); err == nil {
			t.Errorf("%s: taken", name)
		} else if got.Keys != nil {
			t.Errorf("%s: keys beside an error", name)
		}
	}
	if _, err := many.Encode(); err == nil {
		t.Error("too many keys: encoded")
	}
}

func TestVersions(t *testing.T) {
	m := mitMaster(t)
	for _, kvno := range []int{0, -1, 65536} {
		if _, _, err := RandomKeys(kvno, m); err == nil {
			t.Errorf("kvno %d: taken", kvno)
		}
	}
	v9, _, err := RandomKeys(9, m)
	if err != nil {
		t.Fatal(err)
	}
	v300, _, err := RandomKeys(300, m)
	if err != nil {
		t.Fatal(err)
	}
	last, _, err := RandomKeys(65535, m)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		values [][]byte
		want   int
	}{{nil, 1}, {[][]byte{v9}, 10}, {[][]byte{v300, v9}, 301}, {[][]byte{last}, 0}, {[][]byte{v9, {1}}, 0}} {
		got, err := NextKVNO(c.values)
		if got != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("next of %d values: %d, %v; want %d", len(c.values), got, err, c.want)
		}
	}
}

func TestPasswords(t *testing.T) {
	p := Principal{[]string{"alice"}, "EXAMPLE.TEST"}
	m := mitMaster(t)
	for _, good := range []string{"a", "pässwörd 関所", strings.Repeat("x", 4096)} {
		if _, err := NewKeys(p, good, 1, m); err != nil {
			t.Errorf("%.20q: %v", good, err)
		}
	}
	for _, bad := range []string{"", strings.Repeat("x", 4097), "a\x00b", "\xff"} {
		_, err := NewKeys(p, bad, 1, m)
		if err == nil {
			t.Errorf("%.20q: taken", bad)
		} else if bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("error tells the password: %v", err)
		}
	}
}

// TestExtraData checks the bytes against those that MIT wrote at 2026-11-21
// 22:09:03 UTC.
func TestExtraData(t *testing.T) {
	m := mitMaster(t)
	at := time.Date(2026, 11, 21, 22, 9, 3, 0, time.UTC)
	by := Principal{[]string{"root", "admin"}, "EXAMPLE.TEST"}
	modified, mkvno := unbase64(t, "AAJ/FgJrcm9vdC9hZG1pbkBFWEFNUExFLlRFU1QA"), unbase64(t, "AAgBAA==")
	if got := ModifiedBy(by, at); !bytes.Equal(got, modified) {
		t.Errorf("modified by: %x", got)
	}
	if got := m.MasterKVNO(); !bytes.Equal(got, mkvno) {
		t.Errorf("mkvno: %x", got)
	}
	if got := m.ActiveKVNO(at); !bytes.Equal(got, unbase64(t, "AAkBAAEAfxYCaw==")) {
		t.Errorf("active kvno: %x", got)
	}
	setting := unbase64(t, "AAtvdHAAW3sidHlwZSI6InNvY2sifV0A")
	old := ModifiedBy(by, at.Add(-time.Hour))
	got, err := m.ReplaceExtra([][]byte{old, setting, {0, 8, 9, 0}}, by, at)
	if err != nil || !bytes.Equal(bytes.Join(got, nil), bytes.Join([][]byte{setting, modified, mkvno}, nil)) {
		t.Errorf("replaced: %x, %v", got, err)
	}
	if _, err := m.ReplaceExtra([][]byte{{0}}, by, at); err == nil {
		t.Error("short value: taken")
	}
}

func TestNothingPrintsKeys(t *testing.T) {
	m := mitMaster(t)
	e := KeytabEntry{Principal: Principal{[]string{"K", "M"}, "EXAMPLE.TEST"}, KVNO: 1, Key: m.key}
	secret := fmt.Sprintf("%x", m.key.Value)
	dotted := strings.Trim(fmt.Sprint(m.key.Value), "[]")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		for _, v := range []any{m, &m, m.key, &m.key, e, []Key{m.key}} {
			s := fmt.Sprintf(verb, v)
			if strings.Contains(s, secret[:16]) || strings.Contains(s, dotted[:20]) || strings.Contains(s, string(m.key.Value[:6])) {
				t.Errorf("%s of %T tells the key", verb, v)
			}
		}
	}
}

func FuzzDecodeKeySet(f *testing.F) {
	f.Add(unhex(f, mitSample))
	f.Add(unbase64(f, mitKM))
	f.Add(unbase64(f, mitAlice))
	m := mitMaster(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		set, err := DecodeKeySet(b)
		if err != nil {
			return
		}
		again, err := set.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
		m.Open(b) // must not panic; what it gives is judged elsewhere
	})
}
