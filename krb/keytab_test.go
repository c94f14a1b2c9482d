package krb

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestKeytabRoundTrip(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keytab")
	at := time.Date(2026, 11, 21, 22, 9, 3, 0, time.UTC)
	_, keys, err := RandomKeys(300, mitMaster(t))
	if err != nil {
		t.Fatal(err)
	}
	host := Principal{[]string{"host", "web1.sekisho.internal"}, "SEKISHO.INTERNAL"}
	var want []KeytabEntry
	for _, k := range keys {
		want = append(want, KeytabEntry{host, 300, at, k})
	}
	if err := os.WriteFile(path, []byte("old"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := WriteKeytab(path, want); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	got, err := ReadKeytab(path)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d entries, %v", len(got), err)
	}
	for i := range got {
		if got[i].Principal.String() != host.String() || got[i].KVNO != 300 || !got[i].Time.Equal(at) ||
			got[i].Key.EType != keys[i].EType || !bytes.Equal(got[i].Key.Value, keys[i].Value) {
			t.Errorf("entry %d: %v", i, got[i])
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%d files left, %v", len(left), err)
	}
	bad := want[:1:1]
	bad[0].Key.Value = bad[0].Key.Value[:31]
	if err := WriteKeytab(path, bad); err == nil {
		t.Error("short key: written")
	}
	if after, err := ReadKeytab(path); err != nil || len(after) != len(want) {
		t.Errorf("after a failed write: %d entries, %v", len(after), err)
	}
}

// TestStashBytes writes the stash file that MIT wrote.
func TestStashBytes(t *testing.T) {
	m := mitMaster(t)
	path := filepath.Join(t.TempDir(), "stash")
	if err := m.WriteStash(path, "EXAMPLE.TEST", time.Unix(0x6b02167f, 0)); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, unhex(t, mitStash)) {
		t.Errorf("%x, %v", got, err)
	}
}

func TestLoadMasterKey(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "stash")
	km := Principal{[]string{"K", "M"}, "EXAMPLE.TEST"}
	write := func(kvnos ...int) {
		t.Helper()
		var es []KeytabEntry
		for _, n := range kvnos {
			k, err := RandomKey(AES256SHA1)
			if err != nil {
				t.Fatal(err)
			}
			es = append(es, KeytabEntry{Principal: km, KVNO: n, Key: k})
		}
		if err := WriteKeytab(path, es); err != nil {
			t.Fatal(err)
		}
	}
	write(2, 5, 3)
	if m, err := LoadMasterKey(path, "EXAMPLE.TEST"); err != nil || m.KVNO() != 5 {
		t.Errorf("highest version: %v, %v", m, err)
	}
	if _, err := LoadMasterKey(path, "OTHER.TEST"); err == nil {
		t.Error("another realm: taken")
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadMasterKey(path, "EXAMPLE.TEST"); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by all: %v", err)
	}
	write(4, 4)
	if _, err := LoadMasterKey(path, "EXAMPLE.TEST"); err == nil {
		t.Error("two keys of one version: taken")
	}
	if _, err := LoadMasterKey(filepath.Join(dir, "none"), "EXAMPLE.TEST"); err == nil {
		t.Error("no file: taken")
	}
	if _, err := LoadMasterKey(dir, "EXAMPLE.TEST"); err == nil {
		t.Error("a directory: taken")
	}
}

// TestKeytabCutAnywhere: a cut file is an error at each length but those where an
// entry ends, and no error tells the key.
func TestKeytabCutAnywhere(t *testing.T) {
	raw := unhex(t, mitStash)
	key := string(mitMaster(t).key.Value)
	for n := range raw {
		got, err := parseKeytab(raw[:n])
		if n == 2 { // the version alone: an empty keytab
			if err != nil || len(got) != 0 {
				t.Errorf("empty: %v, %v", got, err)
			}
			continue
		}
		if err == nil || got != nil {
			t.Errorf("cut to %d bytes: %v, %v", n, got, err)
		} else if strings.Contains(err.Error(), key[:4]) {
			t.Errorf("cut to %d bytes: the error tells the key", n)
		}
	}
	hole := append(unhex(t, "0502 fffffffc 00000000"), raw[2:]...)
	if got, err := parseKeytab(hole); err != nil || len(got) != 1 {
		t.Errorf("after a hole: %v, %v", got, err)
	}
	for name, s := range map[string]string{
		"hole past the end": "0502 fffffff0 00", "least integer": "0502 80000000", "empty entry": "0502 00000000",
		"version 1": "0501", "huge entry": "0502 7fffffff 00",
	} {
		if _, err := parseKeytab(unhex(t, s)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestPrincipals(t *testing.T) {
	for s, salt := range map[string]string{
		"alice@EXAMPLE.TEST":                     "EXAMPLE.TESTalice",
		"host/web1.sekisho.internal@SEKISHO.INT": "SEKISHO.INThostweb1.sekisho.internal",
	} {
		p, err := ParsePrincipal(s)
		if err != nil || p.String() != s || p.salt() != salt {
			t.Errorf("%s: %v, salt %s, %v", s, p, p.salt(), err)
		}
	}
	for _, s := range []string{"", "alice", "@R", "alice@", "a@b@c", "a//b@R", "/a@R", `a\/b@R`, "a b@R", "a\x00@R", "ä@R",
		"a,b@R", "a=b@R", strings.Repeat("x", 256) + "@R", "a/a/a/a/a/a/a/a/a@R", "a*@R", "a\n@R"} {
		if p, err := ParsePrincipal(s); err == nil {
			t.Errorf("%q: taken as %v", s, p)
		}
	}
}

func FuzzParseKeytab(f *testing.F) {
	f.Add(unhex(f, mitStash))
	f.Add(unhex(f, "0502 fffffffc 00000000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		es, err := parseKeytab(b)
		if err != nil {
			if es != nil {
				t.Fatal("entries beside an error")
			}
			return
		}
		out, err := formatKeytab(es)
		if err != nil {
			t.Fatalf("parsed, and not printed: %v", err)
		}
		again, err := parseKeytab(out)
		if err != nil || len(again) != len(es) {
			t.Fatalf("printed, and not parsed: %v", err)
		}
		for i := range es {
			if es[i].Principal.String() != again[i].Principal.String() || es[i].KVNO != again[i].KVNO ||
				es[i].Key.EType != again[i].Key.EType || !bytes.Equal(es[i].Key.Value, again[i].Key.Value) {
				t.Fatalf("entry %d changed", i)
			}
		}
	})
}
