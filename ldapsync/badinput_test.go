package ldapsync

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/testenv"
)

// skipped finds the status's word on an entry.
func (r *running) skipped(dn string) (Skipped, bool) {
	for _, s := range r.Status().Skipped {
		if s.DN == dn {
			return s, true
		}
	}
	return Skipped{}, false
}

// TestBadValues: what slapd's schemas let through and must not harm: each is
// named in Status and spoils nothing beside it.
func TestBadValues(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{Debug: "0"})
	good := testKey(1, "good")
	d.user("keys", 2001, "sshPublicKey", good,
		"sshPublicKey", "ssh-ed25519 "+strings.Repeat("A", 1<<20),
		"sshPublicKey", strings.Repeat("x", 1<<20),
		"sshPublicKey", testKey(2, "nul")+"\x00",
		"sshPublicKey", testKey(3, "one")+"\n"+testKey(4, "two"),
		"sshPublicKey", "command=\"a\nb\" "+testKey(5, "newline"),
		"sshPublicKey", testKey(6, "\xff\xfe"),
		"sshPublicKey", "environment=\"A=\x01\" "+testKey(7, "control"),
		"sshPublicKey", testKey(8, "line end")+"\n")
	d.user("colon", 2002, "gecos", "root:x:0:0")
	d.user("newline", 2003, "description", "x")
	d.modify(userDN("newline"), "replace", "cn", "good\nroot::0:0:::")
	d.user("clean", 2013)
	d.user("low", 999)
	d.user("rootgroup", 2004)
	d.modify(userDN("rootgroup"), "replace", "gidNumber", "0")
	d.user("minusone", 4294967295)
	d.user("shell", 2005)
	d.modify(userDN("shell"), "replace", "loginShell", "/bin/sh\nx")
	d.user("home", 2006)
	d.modify(userDN("home"), "replace", "homeDirectory", "relative")
	d.add("uid=name with spaces,ou=people,"+testBase, "objectClass", "account", "objectClass", "posixAccount", "uid", "name with spaces",
		"cn", "x", "uidNumber", "2007", "gidNumber", "5000", "homeDirectory", "/x")
	d.add("uid=12345,ou=people,"+testBase, "objectClass", "account", "objectClass", "posixAccount", "uid", "12345",
		"cn", "x", "uidNumber", "2008", "gidNumber", "5000", "homeDirectory", "/x")
	d.user("twonames", 2009, "uid", "othername")
	d.user("same1", 2010)
	d.user("same2", 2010)
	d.add("uid=dup,ou=people,"+testBase, "objectClass", "account", "objectClass", "posixAccount", "uid", "dup",
		"cn", "x", "uidNumber", "2011", "gidNumber", "5000", "homeDirectory", "/x")
	d.add("uid=dup,ou=groups,"+testBase, "objectClass", "account", "objectClass", "posixAccount", "uid", "dup",
		"cn", "x", "uidNumber", "2012", "gidNumber", "5000", "homeDirectory", "/x")
	d.add("cn=bad,ou=access,"+testBase, "objectClass", "sekishoRule", "cn", "bad", "sekishoSubject", "user:keys",
		"sekishoDoor", "keys", "sekishoTarget", "*", "sekishoFrom", "everywhere")
	d.add("cn=wheel,ou=groups,"+testBase, "objectClass", "groupOfNames", "objectClass", "posixGroup", "cn", "wheel", "gidNumber", "27", "member", userDN("keys"))
	d.add("cn=web,ou=hosts,"+testBase, "objectClass", "device", "objectClass", "ipHost", "cn", "web", "cn", "no host name", "ipHostNumber", "300.1.1.1")

	r := startSync(t, d.config(t))
	v := r.until("the directory is read", hasUser("keys"))
	r.live()
	u, _ := v.User("keys")
	if len(u.Keys) != 2 || u.Keys[0].Comment != "good" || u.Keys[1].Comment != "line end" {
		t.Errorf("keys: %+v", u.Keys)
	}
	for _, name := range []string{"low", "rootgroup", "minusone", "shell", "home", "12345", "name with spaces", "othername"} {
		if u, _ := v.User(broker.UserName(name)); u != nil {
			t.Errorf("%s came in as %+v", name, u)
		}
	}
	for _, name := range []string{"low", "rootgroup", "minusone", "shell", "home"} {
		if s, ok := r.skipped(userDN(name)); !ok || !s.Whole || s.Why == "" {
			t.Errorf("status on %s: %+v", name, s)
		}
	}
	if s, ok := r.skipped(userDN("keys")); !ok || s.Whole {
		t.Errorf("status on keys: %+v", s)
	} else if len(s.Why) > 4000 || strings.ContainsAny(s.Why, "\n\x00\x01") {
		t.Errorf("status on keys is no short line: %d bytes", len(s.Why))
	}
	if got := strings.Count(r.log.String(), `dn="uid=keys,`); got != 1 {
		t.Errorf("%d lines in the log on one entry with bad keys", got)
	}
	if u, _ := v.User("colon"); u.Gecos != "User colon" {
		t.Errorf("gecos %q", u.Gecos)
	}
	if u, _ := v.User("newline"); u.Gecos != "" {
		t.Errorf("gecos %q", u.Gecos)
	}
	if u, _ := v.User("twonames"); u == nil {
		t.Error("a second uid value hides the one in the RDN")
	}
	for _, name := range []string{"same1", "same2", "dup"} {
		if u, ambiguous := v.User(broker.UserName(name)); u == nil || !ambiguous {
			t.Errorf("%s: %v, ambiguous %v", name, u, ambiguous)
		}
	}
	if len(v.Rules()) != 0 {
		t.Error("a rule that cannot be read came in")
	}
	if s, ok := r.skipped("cn=bad,ou=access," + testBase); !ok || !strings.Contains(s.Why, "sekishoFrom") {
		t.Errorf("status on the rule: %+v", s)
	}
	if g, _ := v.Group("wheel"); g == nil || g.GID != 0 {
		t.Errorf("group 27 came as %+v", g)
	}
	if h := v.Host("web"); h == nil || len(h.Names) != 1 || len(h.Addrs) != 0 {
		t.Errorf("host: %+v", h)
	}
	st := r.Status()
	if st.SkippedEntries < 8 || st.SkippedValues < 10 {
		t.Errorf("counts: %d entries, %d values", st.SkippedEntries, st.SkippedValues)
	}
	// Mended entries leave the status.
	d.modify(userDN("home"), "replace", "homeDirectory", "/home/home")
	r.until("home is mended", hasUser("home"))
	wait(t, "the status forgets it", func() bool { _, ok := r.skipped(userDN("home")); return !ok })
	// A rule that turns bad is taken out.
	d.modify("cn=bad,ou=access,"+testBase, "delete", "sekishoFrom")
	r.until("the rule is good", func(v broker.View) bool { return len(v.Rules()) == 1 })
	d.modify("cn=bad,ou=access,"+testBase, "add", "sekishoTime", "at dawn")
	r.until("the rule is bad again", func(v broker.View) bool { return len(v.Rules()) == 0 })
	// What cannot be used is told at once, where nothing else changes with it.
	d.modify(userDN("clean"), "add", "sshPublicKey", "ssh-ed25519 AAAAnonsense bad")
	wait(t, "the status tells of a key", func() bool { _, ok := r.skipped(userDN("clean")); return ok })
	d.modify(userDN("clean"), "delete", "sshPublicKey")
	wait(t, "the status forgets the key", func() bool { _, ok := r.skipped(userDN("clean")); return !ok })
	d.user("late", 998)
	wait(t, "the status tells of a user", func() bool { s, ok := r.skipped(userDN("late")); return ok && s.Whole })
	d.delete(userDN("late"))
	wait(t, "the status forgets the user", func() bool { _, ok := r.skipped(userDN("late")); return !ok })
}

// TestLargeGroups: a group of 50,000, a user in 5,000 groups, loops.
func TestLargeGroups(t *testing.T) {
	const members, groups = 50_000, 5_000
	var b bytes.Buffer
	fmt.Fprintf(&b, "dn: %s\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: example\n\n", testBase)
	user := func(name string, uid int) {
		fmt.Fprintf(&b, "dn: uid=%s,ou=folk,%s\nobjectClass: account\nobjectClass: posixAccount\nuid: %s\ncn: %s\nuidNumber: %d\ngidNumber: 5000\nhomeDirectory: /h\n\n",
			name, testBase, name, name, uid)
	}
	fmt.Fprintf(&b, "dn: ou=folk,%s\nobjectClass: organizationalUnit\nou: folk\n\n", testBase)
	user("alice", 2000)
	user("last", 2001)
	fmt.Fprintf(&b, "dn: cn=all,ou=folk,%s\nobjectClass: groupOfNames\ncn: all\n", testBase)
	for i := range members - 1 {
		fmt.Fprintf(&b, "member: uid=nobody%06d,ou=people with a long name,%s\n", i, testBase)
	}
	fmt.Fprintf(&b, "member: UID=Last, OU=folk, DC=example,DC=org\n\n")
	for i := range groups { // each in the next, the last in the first
		fmt.Fprintf(&b, "dn: cn=g%d,ou=folk,%s\nobjectClass: groupOfNames\ncn: g%d\nmember: uid=alice,ou=folk,%s\n", i, testBase, i, testBase)
		if i%100 == 0 {
			fmt.Fprintf(&b, "member: cn=g%d,ou=folk,%s\n", (i+groups-100)%groups, testBase)
		}
		b.WriteByte('\n')
	}
	d := startDirectory(t, testenv.SlapdConfig{Debug: "0", NoSync: true, LDIF: b.Bytes()})
	r := startSync(t, d.config(t))
	v := r.until("the directory is read", hasUser("alice"))
	u, _ := v.User("alice")
	n := 0
	v.GroupsOf(u, func(*broker.Group) bool { n++; return true })
	if n != groups || !inGroup(v, "alice", "g4999") {
		t.Errorf("alice is in %d groups", n)
	}
	if g, _ := v.Group("all"); g == nil || len(g.Members) != members || !inGroup(v, "last", "all") || inGroup(v, "alice", "all") {
		t.Error("the large group is not as it should be")
	}
	r.live()
	began := time.Now()
	d.modify("cn=all,ou=folk,"+testBase, "add", "member", "uid=alice,ou=folk,"+testBase)
	written := time.Now()
	r.until("alice is in the large group", func(v broker.View) bool { return inGroup(v, "alice", "all") })
	t.Logf("a member more in a group of %d: slapd %s, then visible after %s", members, written.Sub(began), time.Since(written))
	d.modify("cn=all,ou=folk,"+testBase, "delete", "member", "uid=last,ou=folk,"+testBase)
	r.until("last has left", func(v broker.View) bool { return !inGroup(v, "last", "all") })
	// Renames and moves.
	d.delete("cn=g0,ou=folk," + testBase)
	r.until("g0 is gone", func(v broker.View) bool { g, _ := v.Group("g0"); return g == nil })
}

// TestDNs: members and entries are the same DN however they are written.
func TestDNs(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{})
	name := `uid=smith\2c J+sn=Über \#1,ou=people,` + testBase
	d.add(name, "objectClass", "inetOrgPerson", "objectClass", "posixAccount", "uid", "smith, J", "uid", "jsmith", "sn", "Über #1",
		"cn", "x", "uidNumber", "2001", "gidNumber", "5000", "homeDirectory", "/x")
	d.modify(name, "replace", "uid", "smith, J", "jsmith")
	d.add("cn=plain,ou=people,"+testBase, "objectClass", "inetOrgPerson", "objectClass", "posixAccount", "uid", "plain", "sn", "p",
		"cn", "plain", "uidNumber", "2002", "gidNumber", "5000", "homeDirectory", "/x")
	d.group("g", `SN=über \231 + UID="Smith,  j" , OU=People,dc=EXAMPLE,dc=Org`, `CN=PLAIN, ou=people,`+testBase)
	r := startSync(t, d.config(t))
	v := r.until("plain is there", hasUser("plain"))
	if !inGroup(v, "plain", "g") {
		t.Error("plain is not in g")
	}
	g, _ := v.Group("g")
	dn, err := NormalizeDN(name)
	if err != nil || len(g.Members) != 2 || g.Members[0] != dn && g.Members[1] != dn {
		t.Errorf("members %q, want %q among them", g.Members, dn)
	}
	r.live()
	m := newRename("cn=plain,ou=people,"+testBase, "cn=plain jane")
	if err := d.admin.ModifyDN(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	v = r.until("plain is renamed", func(v broker.View) bool {
		u, _ := v.User("plain")
		return u != nil && u.DN == "cn=plain jane,ou=people,dc=example,dc=org"
	})
	if inGroup(v, "plain", "g") {
		t.Error("the group still names the old DN, and plain is in it")
	}
}

// TestNetgroups: triples and nesting by name.
func TestNetgroups(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{Schemas: testenv.PackagedSchemas("core", "cosine", "nis", "inetorgperson")})
	d.add("uid=alice,ou=people,"+testBase, "objectClass", "account", "objectClass", "posixAccount", "uid", "alice",
		"cn", "x", "uidNumber", "2001", "gidNumber", "5000", "homeDirectory", "/x")
	d.add("cn=legacy,ou=groups,"+testBase, "objectClass", "posixGroup", "cn", "legacy", "gidNumber", "6000", "memberUid", "alice", "memberUid", "-x:")
	d.add("cn=web1,ou=hosts,"+testBase, "objectClass", "device", "objectClass", "ipHost", "cn", "web1", "ipHostNumber", "203.0.113.1")
	d.add("cn=outer,ou=groups,"+testBase, "objectClass", "nisNetgroup", "cn", "outer", "memberNisNetgroup", "inner")
	d.add("cn=inner,ou=groups,"+testBase, "objectClass", "nisNetgroup", "cn", "inner", "nisNetgroupTriple", "(web1,alice,example.org)",
		"nisNetgroupTriple", "(,,)", "memberNisNetgroup", "outer")
	c := d.config(t)
	c.Schema = RFC2307()
	r := startSync(t, c)
	v := r.until("alice is there", hasUser("alice"))
	if !inGroup(v, "alice", "outer") || !inGroup(v, "alice", "inner") || !inGroup(v, "alice", "legacy") {
		t.Error("alice is not in all her groups")
	}
	if _, in := v.HostInGroup(v.Host("web1"), "outer"); !in {
		t.Error("web1 is not in outer")
	}
}

// TestHugeEntry: an entry longer than MaxMessage hides itself and nothing
// else, in the refresh and later, and comes back when it is mended.
func TestHugeEntry(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{Debug: "0"})
	huge := func(n int) []string {
		vs := []string{testKey(1, "good")}
		for i := range n {
			vs = append(vs, fmt.Sprintf("%d", i)+strings.Repeat("x", 1<<20))
		}
		return vs
	}
	for i := range 50 {
		d.user(fmt.Sprintf("u%02d", i), 2001+i)
	}
	d.modify(userDN("u25"), "add", "sshPublicKey", huge(2)...)
	c := d.config(t)
	c.MaxMessage = 1 << 20
	c.URLs, c.External = []string{d.URL}, false
	r := startSync(t, c)
	v := r.until("the others are there", hasUser("u49"))
	if n, _, _, _ := v.Size(); n != 49 || hasUser("u25")(v) {
		t.Errorf("%d users are there", n)
	}
	if s, ok := r.skipped(userDN("u25")); !ok || !s.Whole || !strings.Contains(s.Why, "too long to be read") {
		t.Errorf("status: %+v", s)
	}
	r.live()
	d.modify(userDN("u30"), "add", "sshPublicKey", huge(2)...)
	r.until("u30 hides itself", hasNoUser("u30"))
	d.modify(userDN("u30"), "replace", "sshPublicKey", testKey(2, "good"))
	r.until("u30 is back", hasUser("u30"))
	d.user("later", 3000)
	v = r.until("changes go on", hasUser("later"))
	if n, _, _, _ := v.Size(); n != 50 {
		t.Errorf("%d users are there", n)
	}
	r.younger()
	if strings.Contains(r.log.String(), "cannot be followed") {
		t.Error("the stream suffered")
	}
	r.stop()
	// With a greater limit it is read; what can be of no use does not get to the disk.
	c.MaxMessage = 16 << 20
	c.StateDir = t.TempDir()
	r = startSync(t, c)
	v = r.until("u25 is there", hasUser("u25"))
	if u, _ := v.User("u25"); len(u.Keys) != 1 {
		t.Errorf("%d keys", len(u.Keys))
	}
	r.live()
	wait(t, "the snapshot is on disk", func() bool { return r.Status().DiskBytes > 0 })
	if n := r.Status().DiskBytes; n > 100_000 {
		t.Errorf("%d bytes on disk", n)
	}
}
