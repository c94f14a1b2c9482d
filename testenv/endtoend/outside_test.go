package endtoend

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/testenv"
)

// outside is a site's own OpenLDAP with a host that follows it.
type outside struct {
	*site
	ldap  *testenv.Host // slapd's machine
	slapd *testenv.Slapd
	ca    *testenv.CA
	bare  string // LDIF of the tree and the service account alone
}

const outsideBase = "dc=example,dc=org"

// outsideConfig says what is special about it.
type outsideConfig struct {
	ldif  string   // more entries, after the usual ones
	more  string   // sections of sekishod.toml
	sshd  []string // lines of sshd_config
	prior func(h *testenv.Host) error
}

// newOutside starts slapd on one new host and sekishod and sshd on another, of
// that name. In the directory are alice, and rules for her and for everybody
// under his own name.
func newOutside(t *testing.T, name string, c outsideConfig) *outside {
	t.Helper()
	ca, err := testenv.NewCA("test CA")
	need(t, err)
	l, err := world.w.Host("ldap-" + name)
	need(t, err)
	h, err := world.w.Host(name)
	need(t, err)
	password := newSecret()
	var b strings.Builder
	b.WriteString(entry(outsideBase, "objectClass", "dcObject", "objectClass", "organization", "dc", "example", "o", "example"))
	for _, ou := range []string{"people", "groups", "hosts", "access", "services"} {
		b.WriteString(entry("ou="+ou+","+outsideBase, "objectClass", "organizationalUnit", "ou", ou))
	}
	b.WriteString(entry("cn=reader,ou=services,"+outsideBase, "objectClass", "applicationProcess", "objectClass", "simpleSecurityObject",
		"cn", "reader", "userPassword", ssha(password)))
	bare := b.String()
	b.WriteString(entry("cn="+name+",ou=hosts,"+outsideBase, "objectClass", "device", "objectClass", "ipHost", "cn", name, "ipHostNumber", h.Addr.String()))
	b.WriteString(userEntry("alice", 10001, string(world.alice.key.Public)))
	for _, r := range [][2]string{{"alice", "user:alice"}, {"everybody", "*"}} {
		b.WriteString(entry("cn="+r[0]+",ou=access,"+outsideBase, "objectClass", "sekishoRule", "cn", r[0],
			"sekishoSubject", r[1], "sekishoDoor", "keys", "sekishoTarget", "*"))
	}
	b.WriteString(c.ldif)
	s, err := testenv.StartSlapd(t.Context(), testenv.SlapdConfig{Host: l, CA: ca, LDIF: []byte(b.String()), Debug: "0", NoSync: true})
	need(t, err)
	conn, err := ldap.DialURL(s.URL)
	need(t, err)
	need(t, conn.Bind(s.RootDN, s.RootPW))
	t.Cleanup(func() { conn.Close() })
	if c.prior != nil {
		need(t, c.prior(h))
	}
	v := &site{Host: h, realm: &directory{base: outsideBase, conn: conn}}
	need(t, v.follow(t.Context(), following{url: "ldaps://" + l.FQDN, base: outsideBase, bindDN: "cn=reader,ou=services," + outsideBase,
		password: password, ca: ca.PEM, more: c.more, sshd: c.sshd}))
	return &outside{site: v, ldap: l, slapd: s, ca: ca, bare: bare}
}

// entry is one LDIF record (RFC 2849), its values in base64.
func entry(dn string, pairs ...string) string {
	var b strings.Builder
	b64 := base64.StdEncoding.EncodeToString
	fmt.Fprintf(&b, "dn:: %s\n", b64([]byte(dn)))
	for i := 0; i < len(pairs); i += 2 {
		fmt.Fprintf(&b, "%s:: %s\n", pairs[i], b64([]byte(pairs[i+1])))
	}
	b.WriteString("\n")
	return b.String()
}

// userEntry is a user under ou=people.
func userEntry(name string, uid int, keys ...string) string {
	return userAt("uid="+ldap.EscapeDN(name)+",ou=people,"+outsideBase, name, uid, "/home/"+name, keys...)
}

func userAt(dn, name string, uid int, home string, keys ...string) string {
	n := strconv.Itoa(uid)
	pairs := []string{"objectClass", "inetOrgPerson", "objectClass", "posixAccount", "objectClass", "ldapPublicKey",
		"uid", name, "cn", "x", "sn", "x", "uidNumber", n, "gidNumber", "100", "homeDirectory", home, "loginShell", "/bin/bash"}
	for _, k := range keys {
		if k == "" {
			continue
		}
		pairs = append(pairs, "sshPublicKey", strings.TrimSuffix(k, "\n"))
	}
	return entry(dn, pairs...)
}

// ssha is a hash that every slapd takes.
func ssha(password string) string {
	salt := make([]byte, 8)
	rand.Read(salt)
	sum := sha1.Sum(append([]byte(password), salt...))
	return "{SSHA}" + base64.StdEncoding.EncodeToString(append(sum[:], salt...))
}

// leave takes one member out of a group.
func (o *outside) leave(group, member string) error {
	r := ldap.NewModifyRequest(group, nil)
	r.Delete("member", []string{member})
	return o.realm.conn.Modify(r)
}

// addPerson adds a user to it while it runs.
func (o *outside) addPerson(name string, uid int, key string) error {
	n := strconv.Itoa(uid)
	r := ldap.NewAddRequest(o.realm.dn(name, "people"), nil)
	r.Attribute("objectClass", []string{"inetOrgPerson", "posixAccount", "ldapPublicKey"})
	for _, a := range [][2]string{{"uid", name}, {"cn", name}, {"sn", name}, {"uidNumber", n}, {"gidNumber", n},
		{"homeDirectory", "/home/" + name}, {"loginShell", "/bin/bash"}, {"sshPublicKey", strings.TrimSpace(key)}} {
		r.Attribute(a[0], []string{a[1]})
	}
	return o.realm.conn.Add(r)
}
