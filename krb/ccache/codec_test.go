package ccache

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb"
)

// mitCache was written by kinit and kvno of MIT krb5 1.20.1 in a realm that there
// is no more: a TGT, an entry of configuration, two service tickets.
//
//go:embed testdata/mit.ccache
var mitCache []byte

func sampleCache() Cache {
	alice := Name{1, "EXAMPLE.ORG", []string{"alice"}}
	key := func(n byte, size int) []byte { return bytes.Repeat([]byte{n}, size) }
	c := Cache{
		Header:    []Field{{Tag: 7, Value: []byte("kept")}},
		Principal: alice,
		Entries: []Entry{
			{Client: alice, Server: Name{2, "EXAMPLE.ORG", []string{"krbtgt", "EXAMPLE.ORG"}}, EType: 18, Key: key(1, 32),
				AuthTime: 1700000000, StartTime: 1700000001, EndTime: 1700036000, RenewTill: 4294967295, Flags: krb.FlagForwardable | krb.FlagRenewable,
				Addresses: []Typed{{2, []byte{192, 0, 2, 1}}, {24, make([]byte, 16)}}, Ticket: []byte("ticket-one")},
			NewConfig(alice, "fast_avail", "krbtgt/EXAMPLE.ORG@EXAMPLE.ORG", []byte("yes")),
			{Client: alice, Server: Name{3, "", []string{"host", "web 1/@\\"}}, EType: 23, Key: key(2, 16), AuthTime: 1700000000, EndTime: 1700036000,
				IsSKey: true, AuthData: []Typed{{1, []byte("authorization")}}, Ticket: []byte("ticket-two"), SecondTicket: []byte("second")},
			{Client: alice, Server: Name{1, removedRealm, []string{configService, "gone"}}, AuthTime: 1<<32 - 1, Ticket: []byte("old")},
		},
	}
	c.SetOffset(-90*time.Second - 250*time.Millisecond)
	return c
}

func TestRoundTrip(t *testing.T) {
	c := sampleCache()
	b, err := Format(c)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Format(got)
	if err != nil || !bytes.Equal(again, b) {
		t.Fatalf("%v, or other bytes", err)
	}
	if off, ok := got.Offset(); !ok || off != -90*time.Second-250*time.Millisecond {
		t.Errorf("offset %v, %v", off, ok)
	}
	if string(got.Header[0].Value) != "kept" || got.Header[0].Tag != 7 {
		t.Errorf("header %v", got.Header)
	}
	if n := len(got.Tickets()); n != 2 {
		t.Errorf("%d tickets", n)
	}
	tgt, err := got.TGT()
	if err != nil || tgt.Server.String() != "krbtgt/EXAMPLE.ORG@EXAMPLE.ORG" || tgt.RenewTill.Year() != 2106 || string(tgt.Ticket) != "ticket-one" {
		t.Errorf("%v, %v", tgt, err)
	}
	if got := got.Entries[2].Server.String(); got != `host/web 1\/\@\\@` {
		t.Errorf("name %s", got)
	}
	key, about, ok := got.Entries[1].Config()
	if !ok || key != "fast_avail" || about != "krbtgt/EXAMPLE.ORG@EXAMPLE.ORG" || !got.Entries[3].Removed() || got.Entries[1].Removed() {
		t.Errorf("configuration %s, %s, %v", key, about, ok)
	}
	for _, e := range got.Entries[1:] {
		if cred, err := e.Credential(); err == nil || cred.Key.Value != nil {
			t.Errorf("%v: taken", e)
		}
	}
	for i, e := range got.Entries {
		for _, s := range []string{fmt.Sprint(e), fmt.Sprintf("%v %+v %#v", got.Entries[i], e, e)} {
			if strings.Contains(s, "\x01\x01\x01\x01") || strings.Contains(s, "1, 1, 1, 1") || strings.Contains(s, "1 1 1 1") || strings.Contains(s, "0x1, 0x1, 0x1") {
				t.Errorf("prints its key: %s", s)
			}
		}
	}
}

func TestMITCache(t *testing.T) {
	c, err := Parse(mitCache)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Format(c)
	if err != nil || !bytes.Equal(b, mitCache) {
		t.Errorf("%v, or other bytes than MIT's", err)
	}
	var names []string
	for _, e := range c.Tickets() {
		cred, err := e.Credential()
		if err != nil || !cred.Client.Equal(krb.Principal{Components: []string{"alice"}, Realm: "EXAMPLE.ORG"}) || len(cred.Key.Value) != 32 {
			t.Errorf("%v, %v", cred, err)
		}
		// What we make of it is what was there, but for what MIT alone notes.
		mine := NewEntry(cred)
		mine.Client.Type, mine.Server.Type = e.Client.Type, e.Server.Type
		if fmt.Sprintf("%x", putEntry(nil, mine)) != fmt.Sprintf("%x", putEntry(nil, e)) {
			t.Errorf("%v: another entry", cred)
		}
		names = append(names, e.Server.String())
	}
	if got := strings.Join(names, " "); got != "krbtgt/EXAMPLE.ORG@EXAMPLE.ORG host/web1.example.org@EXAMPLE.ORG host/web2.example.org@EXAMPLE.ORG" {
		t.Errorf("tickets %s", got)
	}
	if _, err := c.TGT(); err != nil {
		t.Error(err)
	}
}

// TestDamage cuts a cache of MIT's at every byte and changes every byte in many
// ways: what is taken is whole credentials, and a key is read only from where one
// is.
func TestDamage(t *testing.T) {
	whole, err := Parse(mitCache)
	if err != nil {
		t.Fatal(err)
	}
	taken := 0
	for n := range mitCache {
		c, err := Parse(mitCache[:n])
		if err != nil {
			if c.Entries != nil || c.Header != nil || c.Principal.Realm != "" {
				t.Fatalf("cut at %d: a cache beside an error", n)
			}
			continue
		}
		taken++
		if b, err := Format(c); err != nil || !bytes.Equal(b, mitCache[:n]) || len(c.Entries) >= len(whole.Entries) {
			t.Fatalf("cut at %d: not whole credentials", n)
		}
	}
	// A cache ends where its file ends: between credentials it cannot be told.
	if taken != len(whole.Entries) {
		t.Errorf("%d cuts were taken, there are %d ends of credentials", taken, len(whole.Entries))
	}
	for n := range mitCache {
		for _, x := range []byte{1, 16, 128, 255} {
			b := bytes.Clone(mitCache)
			b[n] ^= x
			c, err := Parse(b)
			if err != nil {
				if c.Entries != nil {
					t.Fatalf("byte %d: a cache beside an error", n)
				}
				continue
			}
			if again, err := Format(c); err != nil || !bytes.Equal(again, b) {
				t.Fatalf("byte %d: other bytes again", n)
			}
			if len(c.Entries) != len(whole.Entries) {
				t.Fatalf("byte %d ^ %d: %d credentials", n, x, len(c.Entries))
			}
			for i, e := range c.Entries {
				if w := whole.Entries[i].Key; len(e.Key) != len(w) || differing(e.Key, w) > 1 {
					t.Fatalf("byte %d ^ %d: another key", n, x)
				}
			}
		}
	}
	for _, tail := range [][]byte{{0}, make([]byte, 4), make([]byte, 89), make([]byte, 4096), []byte("garbage"), bytes.Repeat([]byte{255}, 64)} {
		if _, err := Parse(append(bytes.Clone(mitCache), tail...)); err == nil {
			t.Errorf("%d bytes behind the end: taken", len(tail))
		}
	}
}

func differing(a, b []byte) int {
	n := 0
	for i := range a {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}

func TestParseRefuses(t *testing.T) {
	for b, want := range map[string]string{
		"":                                     "is empty",
		"\x05":                                 "not a credential cache",
		"\x05\x02\x00":                         "version 2, which is not read", // as a keytab begins
		"hello":                                "not a credential cache",
		"\x05\x05\x00\x00":                     "not a credential cache",
		"\x05\x00\x00\x00":                     "not a credential cache",
		"\x05\x01\x00\x00\x00\x01":             "version 1, which is not read",
		"\x05\x03\x00\x00\x00\x01":             "version 3, which is not read",
		"\x05\x04":                             "ends within the header",
		"\x05\x04\x00\x04\x00\x01\x00\x08":     "ends within the header",
		"\x05\x04\x00\x05\x00\x01\x00\x01\x00": "has not 8 bytes",
		"\x05\x04\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00":                 "0 components",
		"\x05\x04\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00": "no realm",
		"\x05\x04\x00\x00\x00\x00\x00\x01\xff\xff\xff\xff\x00\x00\x00\x01A":                "components",
		"\x05\x04\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01\xff\xff\xff\xffA":                "ends within the principal",
	} {
		c, err := Parse([]byte(b))
		if err == nil || c.Entries != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%x: %v; want %s", b, err, want)
		}
	}
	for what, change := range map[string]func(*Cache){
		"wrong length":        func(c *Cache) { c.Entries[0].Key = c.Entries[0].Key[:31] },
		"a key of type 0":     func(c *Cache) { c.Entries[1].Key = []byte{1} },
		"components":          func(c *Cache) { c.Principal.Components = make([]string, 33) },
		"more than 65536":     func(c *Cache) { c.Principal.Components[0] = strings.Repeat("x", 65537) },
		"more than 1024 byte": func(c *Cache) { c.Entries[2].Key = make([]byte, 1025) },
		"of the addresses":    func(c *Cache) { c.Entries[0].Addresses = make([]Typed, 1025) },
		"more than 1048576":   func(c *Cache) { c.Entries[0].Ticket = make([]byte, 1<<20+1) },
		"more than 16384 cr":  func(c *Cache) { c.Entries = make([]Entry, 16385); fill(c) },
		"header is too long":  func(c *Cache) { c.Header = []Field{{9, make([]byte, 65530)}, {9, make([]byte, 9)}} },
		"field of the header": func(c *Cache) { c.Header = []Field{{9, make([]byte, 65536)}} },
	} {
		c := sampleCache()
		change(&c)
		if b, err := Format(c); err == nil || b != nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	big := append(bytes.Clone(mitCache), make([]byte, maxCache)...)
	if _, err := Parse(big); err == nil || !strings.Contains(err.Error(), "larger than 16 MiB") {
		t.Errorf("too large: %v", err)
	}
}

func fill(c *Cache) {
	for i := range c.Entries {
		c.Entries[i] = NewConfig(c.Principal, "k", "", nil)
	}
}

func TestStrictCredential(t *testing.T) {
	for what, change := range map[string]func(*Entry){
		"encryption type 23":    func(e *Entry) { e.EType, e.Key = 23, make([]byte, 16) },
		"is no ticket":          func(e *Entry) { e.EndTime = 0 },
		"user-to-user":          func(e *Entry) { e.IsSKey = true },
		"is empty":              func(e *Entry) { e.Ticket = nil },
		"only letters":          func(e *Entry) { e.Server.Components = []string{"krbtgt/EXAMPLE.ORG"} },
		"each component":        func(e *Entry) { e.Client.Components = []string{""} },
		"components":            func(e *Entry) { e.Client.Components = nil },
		"is no ticket ":         func(e *Entry) { *e = NewConfig(e.Client, "x", "", nil) },
		"and the realm have 1 ": func(e *Entry) { e.Client.Realm = "" },
	} {
		e := sampleCache().Entries[0]
		change(&e)
		if c, err := e.Credential(); err == nil || c.Key.Value != nil || !strings.Contains(err.Error(), strings.TrimSpace(what)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	c := sampleCache()
	c.Entries = c.Entries[1:]
	if _, err := c.TGT(); err == nil || !strings.Contains(err.Error(), "log in again") {
		t.Error(err)
	}
	if !errors.Is(ErrNone, fs.ErrNotExist) {
		t.Error("ErrNone is no ErrNotExist")
	}
	// Of several TGTs the last one counts, and another realm's none.
	c = sampleCache()
	later := c.Entries[0]
	later.EndTime++
	cross := c.Entries[0]
	cross.Server.Components = []string{"krbtgt", "OTHER.ORG"}
	c.Entries = append(c.Entries, later, cross)
	if tgt, err := c.TGT(); err != nil || tgt.EndTime.Unix() != 1700036001 {
		t.Errorf("%v, %v", tgt, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(mitCache)
	b, err := Format(sampleCache())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err != nil {
			if c.Entries != nil || c.Header != nil || c.Principal.Components != nil {
				t.Fatal("a cache beside an error")
			}
			return
		}
		again, err := Format(c)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%v, or other bytes", err)
		}
		c.TGT()
		c.Offset()
		for _, e := range c.Entries {
			e.Config()
			_ = e.String()
			if cred, err := e.Credential(); err == nil {
				if _, err := krb.NewKey(cred.Key.EType, cred.Key.Value); err != nil || !NameOf(cred.Client).Equal(e.Client) {
					t.Fatalf("%v: a wrong key or name", cred)
				}
			}
		}
	})
}
