package ldapsync

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/broker"
)

// FuzzMessage feeds bytes as a server would send them through everything that
// reads them: nothing may panic, and nothing may be read beyond its message.
func FuzzMessage(f *testing.F) {
	id := testID(1)
	state := tlv(tagSequence, integer(tagEnumerated, stateAdd), tlv(tagOctetString, id[:]), text(cookieOf(csn1)))
	entry := tlv(opSearchEntry, text("uid=a,ou=people,"+testBase), tlv(tagSequence,
		tlv(tagSequence, text("objectClass"), tlv(tagSet, text("posixAccount"))), tlv(tagSequence, text("uid"), tlv(tagSet, text("a")))))
	f.Add(request(7, entry, tlv(tagSequence, text(oidSyncState), tlv(tagOctetString, state))))
	f.Add(request(7, tlv(opIntermediate, tlv(0x80, []byte(oidSyncInfo)), tlv(0x81, tlv(infoIDSet, text("c"), boolean(true), tlv(tagSet, tlv(tagOctetString, id[:])))))))
	f.Add(request(7, tlv(opIntermediate, tlv(0x80, []byte(oidSyncInfo)), tlv(0x81, tlv(infoRefreshPresent, boolean(false))))))
	f.Add(request(7, result(opSearchDone, 4096, "stale"), tlv(tagSequence, text(oidSyncDone), tlv(tagOctetString, tlv(tagSequence, text("c"), boolean(true))))))
	f.Add(request(0, result(opExtendedResponse, 52, "bye")))
	p, err := newPlan(RFC2307bis())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		withoutAttributes(b, b[len(b)/2:], &largeError{size: len(b), max: 1})
		n, err := frame(b, 1<<20)
		if err != nil || n == 0 || n > len(b) {
			return
		}
		msg := b[:n:n]
		m, err := parseMessage(msg)
		if err != nil {
			return
		}
		if !bytes.Contains(msg, m.body) || !bytes.Contains(msg, m.controls) {
			t.Fatal("read beyond the message")
		}
		m.result()
		if v, ok, _ := m.control(oidSyncState); ok {
			parseSyncState(v)
		}
		if v, ok, _ := m.control(oidSyncDone); ok {
			parseSyncDone(v)
		}
		if i, ok, err := parseSyncInfo(m.body); ok && err == nil {
			i.eachID(func(broker.EntryID) {})
		}
		stringValues(m.body, map[string][]string{})
		e := p.newEntry()
		if p.decodeEntry(m.body, e) != nil {
			return
		}
		// What can be read can be kept, and comes back the same.
		rec := appendEntry(nil, e)
		columns := make([]int, len(p.names))
		for i := range columns {
			columns[i] = i
		}
		back := p.newEntry()
		if err := readEntry(rec, columns, back); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(appendEntry(nil, back), rec) {
			t.Fatal("an entry changes on disk")
		}
	})
}

// FuzzEntry translates entries of any values: what comes out is fit for passwd
// lines, and a second time changes nothing.
func FuzzEntry(f *testing.F) {
	f.Add("uid=a,dc=x", "posixAccount", "a", "2000", "/home/a", "/bin/sh", "ssh-ed25519 AAAA x", "20300101000000Z")
	f.Add("cn=g,dc=x", "groupOfNames", "g", "3000", "uid=a,dc=x", "b", "(h,u,d)", "x")
	f.Add("cn=h,dc=x", "ipHost", "h", "1", "203.0.113.1", "*", "user:a", "x")
	p, err := newPlan(RFC2307bis())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, dn, class, a, b, c, d, e, g string) {
		en := entryOf(p, dn, "objectClass", class, "uid", a, "cn", a, "uidNumber", b, "gidNumber", b, "homeDirectory", c, "loginShell", d,
			"gecos", e, "sshPublicKey", e, "sshPublicKey", d, "member", c, "member", d, "memberUid", d, "nisNetgroupTriple", e,
			"memberNisNetgroup", a, "ipHostNumber", c, "sekishoSubject", e, "sekishoDoor", d, "sekishoTarget", d, "sekishoFrom", c,
			"pwdLockoutDuration", b, "pwdAccountLockedTime", g, "krbPrincipalExpiration", g, "shadowExpire", b, "krbTicketFlags", b)
		var cfg Config
		cfg.UIDFloor, cfg.Now, cfg.Log = 1000, benchNow, quietLog()
		m := newMirror(&cfg, p)
		m.put(en)
		m.commit()
		m.cur.Users(func(u *broker.User) bool {
			for _, s := range []string{string(u.Name), u.Gecos, u.Home, u.Shell} {
				if strings.ContainsAny(s, ":\n\r\x00") || !utf8.ValidString(s) {
					t.Fatalf("in a passwd field: %q", s)
				}
			}
			if u.UID < 1000 || u.Name == "" || u.Home == "" || u.Shell == "" {
				t.Fatalf("user %+v", u)
			}
			return true
		})
		m.put(en)
		if m.changed {
			t.Fatal("the same entry again is a change")
		}
		if m.commit() {
			t.Fatal("a generation without a change")
		}
		m.remove(en.id)
		m.commit()
		if !m.empty() {
			t.Fatal("something is left")
		}
	})
}

// FuzzNormalizeDN: normal forms are their own normal form, and what go-ldap
// takes for equal DNs of plain values has one normal form.
func FuzzNormalizeDN(f *testing.F) {
	for _, s := range []string{"", "dc=x", "UID=Alice, OU=People , dc=example", `cn=a\,b+sn=\20x\20`, `cn="a,b;c"`, "cn=#04024869,dc=x", "2.5.4.3=X",
		`cn=\e4\xx`, "cn=a  b;ou=c", "cn=\xff", `cn=\`, "x=Y", "cn=İ", "uid=a+cn=b", "cn=,dc=x", `cn=a\00b`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := NormalizeDN(s)
		if err != nil {
			return
		}
		again, err := NormalizeDN(string(n))
		if err != nil || again != n {
			t.Fatalf("%q becomes %q becomes %q, %v", s, n, again, err)
		}
		if !utf8.ValidString(string(n)) || strings.ContainsAny(string(n), "\x00\n\r") {
			t.Fatalf("normal form %q", n)
		}
		if strings.ContainsAny(s, "\\\"#; ") || s == "" {
			return
		}
		// Plain: the number of RDNs is what go-ldap finds.
		p, err := ldap.ParseDN(s)
		if err != nil {
			return
		}
		q, err := ldap.ParseDN(string(n))
		if err != nil || len(p.RDNs) != len(q.RDNs) {
			t.Fatalf("%q and its normal form %q are not parsed the same: %v", s, n, err)
		}
	})
}

// FuzzRecord reads records of a segment from any bytes.
func FuzzRecord(f *testing.F) {
	f.Add(commit{seq: 3, generation: 2, cookie: "c"}.append(nil)[recordHead+1:])
	f.Add(header{full: true, base: "dc=x", names: []string{"a", "b"}}.append(nil)[recordHead+1:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parseCommit(b); err == nil {
			if back, err := parseCommit(c.append(nil)[recordHead+1:]); err != nil || back != c {
				t.Fatalf("%+v became %+v, %v", c, back, err)
			}
		}
		parseHeader(b)
		e := &entry{attrs: make([][][]byte, 3)}
		readEntry(b, []int{0, -1, 2}, e)
	})
}
