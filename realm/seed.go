package realm

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sekisho/sekisho/krb"
	"golang.org/x/crypto/argon2"
)

// Cost of a password hash (RFC 9106): 7 MiB and 5 passes, about 10 ms.
const (
	argonMemory  = 7168 // KiB
	argonTime    = 5
	argonThreads = 1
)

// sekishodIs describes sekishod's entry, which it writes again at each start.
const sekishodIs = "the broker, over ldapi; it has no password"

// maxFailures is how many wrong passwords within ten minutes lock a person's account
// for ten: more than the doors' own budgets let through, or others could lock
// somebody out.
const maxFailures = 50

// hashPassword gives the form of slapd's argon2 module.
func hashPassword(password string) string {
	salt := make([]byte, 16)
	rand.Read(salt)
	h := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, 32)
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("{ARGON2}$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads, b64(salt), b64(h))
}

// newSecret is a password for a service of ours: 256 bits.
func newSecret() string {
	b := make([]byte, 32)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// ServiceAccount gives the add request of an account by which a program, such as
// another machine's sekishod, reads what is not secret, and its random password.
// The connection that adds it must be sealed. Failed sign-ins do not lock it.
func (l Layout) ServiceAccount(name, description string) (req *ldap.AddRequest, password string) {
	password = newSecret()
	req = ldap.NewAddRequest(l.ServiceDN(name), nil)
	req.Attributes = []ldap.Attribute{attr("objectClass", "applicationProcess", "simpleSecurityObject"), attr("cn", name),
		attr("userPassword", password), attr("pwdPolicySubentry", l.servicePolicy())}
	if description != "" {
		req.Attributes = append(req.Attributes, attr("description", description))
	}
	return req, password
}

// entry is one LDIF record.
type entry struct {
	dn    string
	attrs []ldap.Attribute
}

func attr(name string, values ...string) ldap.Attribute {
	return ldap.Attribute{Type: name, Vals: values}
}

// ldif prints records with all values in base64, so that no value is syntax (RFC 2849).
func ldif(entries []entry) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "dn:: %s\n", base64.StdEncoding.EncodeToString([]byte(e.dn)))
		for _, a := range e.attrs {
			for _, v := range a.Vals {
				fmt.Fprintf(&b, "%s:: %s\n", a.Type, base64.StdEncoding.EncodeToString([]byte(v)))
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

// Flags of krbTicketFlags (kadmin's attributes).
const (
	flagNoTGTBased     = 0x4
	flagNoTickets      = 0x40
	flagNeedsPreauth   = 0x80
	flagNoService      = 0x1000
	flagPasswordChange = 0x2000
	flagLockedDown     = 0x800000
)

// seed is the tree of a new realm.
func seed(l Layout, m krb.MasterKey, kdcSecret, passwdSecret string, now time.Time) ([]entry, error) {
	dc, _, _ := strings.Cut(strings.TrimPrefix(l.Base, "dc="), ",")
	es := []entry{{l.Base, []ldap.Attribute{
		attr("objectClass", "dcObject", "organization"), attr("dc", dc), attr("o", l.Realm)}}}
	for _, ou := range []string{"people", "groups", "hosts", "access", "services", "policies", "otp"} {
		es = append(es, entry{"ou=" + ou + "," + l.Base, []ldap.Attribute{
			attr("objectClass", "organizationalUnit"), attr("ou", ou)}})
	}
	service := func(dn, cn, what, secret string) {
		a := []ldap.Attribute{attr("objectClass", "applicationProcess"), attr("cn", cn), attr("description", what)}
		if secret != "" {
			a[0].Vals = append(a[0].Vals, "simpleSecurityObject")
			a = append(a, attr("userPassword", hashPassword(secret)), attr("pwdPolicySubentry", l.servicePolicy()))
		}
		es = append(es, entry{dn, a})
	}
	service(l.Sekishod(), "sekishod", sekishodIs, "")
	service(l.kdc(), "kdc", "the Kerberos KDC", kdcSecret)
	service(l.passwd(), "passwd", "changes people's passwords for them", passwdSecret)

	es = append(es, entry{"cn=default," + l.Policies(), []ldap.Attribute{
		attr("objectClass", "device", "pwdPolicy"), attr("cn", "default"), attr("pwdAttribute", "userPassword"),
		attr("description", "fifty failures in ten minutes lock an account for ten minutes"),
		attr("pwdLockout", "TRUE"), attr("pwdMaxFailure", strconv.Itoa(maxFailures)), attr("pwdFailureCountInterval", "600"), attr("pwdLockoutDuration", "600"),
		attr("pwdMinLength", "8"), attr("pwdCheckQuality", "1"), attr("pwdMustChange", "FALSE"), attr("pwdAllowUserChange", "FALSE"),
	}}, entry{l.servicePolicy(), []ldap.Attribute{
		attr("objectClass", "device", "pwdPolicy"), attr("cn", "services"), attr("pwdAttribute", "userPassword"),
		attr("description", "failures lock no service out: its password is random, and others must not be able to stop it"),
		attr("pwdLockout", "FALSE"), attr("pwdMustChange", "FALSE"), attr("pwdAllowUserChange", "FALSE"),
	}})

	es = append(es,
		entry{l.Kerberos(), []ldap.Attribute{attr("objectClass", "krbContainer"), attr("cn", "kerberos")}},
		entry{l.KerberosRealm(), []ldap.Attribute{
			attr("objectClass", "krbRealmContainer", "krbTicketPolicyAux"), attr("cn", l.Realm),
			attr("krbSubTrees", l.People(), l.Hosts()), attr("krbSearchScope", "2")}})
	principals, err := kdcPrincipals(l, m, now)
	if err != nil {
		return nil, err
	}
	return append(es, principals...), nil
}

// kdcPrincipals are the principals that MIT's tools and the KDC expect in a realm,
// with the flags that kdb5_ldap_util gives them.
func kdcPrincipals(l Layout, m krb.MasterKey, now time.Time) ([]entry, error) {
	is := Issuer{Layout: l, Master: m, Now: func() time.Time { return now }}
	var es []entry
	for _, p := range []struct {
		name        string
		flags, life int
	}{
		{"K/M", flagNoTickets | flagNeedsPreauth | flagLockedDown, 0},
		{"krbtgt/" + l.Realm, flagLockedDown, 0},
		{"kadmin/admin", flagNoTGTBased | flagLockedDown, 3 * 3600},
		{"kadmin/changepw", flagNoTGTBased | flagPasswordChange | flagLockedDown, 300},
		{"kadmin/history", flagLockedDown, 0},
	} {
		e, err := is.special(p.name, p.flags, p.life)
		if err != nil {
			return nil, err
		}
		es = append(es, e)
	}
	return append(es, anonymous(l, now)), nil
}

// anonymousName is whose tickets are of nobody (RFC 8062 §3).
const anonymousName = "WELLKNOWN/ANONYMOUS"

// anonymous is that principal. It has no keys: such a ticket comes of Diffie-Hellman
// with the KDC and its certificate (PKINIT) alone, and the KDC gives no other for it
// (restrict_anonymous_to_tgt). It serves to armour a sign-in, so it lives an hour.
func anonymous(l Layout, now time.Time) entry {
	p := krb.Principal{Components: strings.Split(anonymousName, "/"), Realm: l.Realm}
	by := krb.Principal{Components: []string{"sekisho"}, Realm: l.Realm}
	return entry{l.ServicePrincipalDN(p), []ldap.Attribute{
		attr("objectClass", "krbPrincipalAux", "krbTicketPolicyAux", "krbPrincipal"), attr("krbPrincipalName", p.String()),
		attr("krbTicketFlags", strconv.Itoa(flagNeedsPreauth|flagNoService|flagLockedDown)), attr("krbMaxTicketLife", "3600"),
		attr("krbExtraData", string(krb.ModifiedBy(by, now)))}}
}
