package realm

import (
	"fmt"
	"strings"

	"github.com/go-ldap/ldap/v3"
	"github.com/sekisho/sekisho/krb"
)

// Layout says where things are in an embedded realm's tree.
type Layout struct {
	// Base is the base DN, for example dc=sekisho,dc=internal.
	Base string
	// Realm is the Kerberos realm, for example SEKISHO.INTERNAL.
	Realm string
}

// NewLayout is the layout for a DNS domain of two to eight labels.
func NewLayout(domain string) (Layout, error) {
	labels := strings.Split(domain, ".")
	if len(labels) < 2 || len(labels) > 8 || len(domain) > 200 {
		return Layout{}, fmt.Errorf("domain %.80q: write a DNS name of two to eight parts, such as sekisho.internal", domain)
	}
	for _, l := range labels {
		if !validLabel(l) {
			return Layout{}, fmt.Errorf("domain %.80q: only lower-case letters, digits and inner hyphens may be in a part", domain)
		}
	}
	return Layout{Base: "dc=" + strings.Join(labels, ",dc="), Realm: strings.ToUpper(domain)}, nil
}

func validLabel(l string) bool {
	for i := 0; i < len(l); i++ {
		b := l[i]
		if !(b >= 'a' && b <= 'z' || b >= '0' && b <= '9' || b == '-' && i > 0 && i < len(l)-1) {
			return false
		}
	}
	return len(l) > 0 && len(l) <= 63
}

// The containers of the tree.

func (l Layout) People() string   { return "ou=people," + l.Base }
func (l Layout) Groups() string   { return "ou=groups," + l.Base }
func (l Layout) Hosts() string    { return "ou=hosts," + l.Base }
func (l Layout) Access() string   { return "ou=access," + l.Base }
func (l Layout) Services() string { return "ou=services," + l.Base }
func (l Layout) Policies() string { return "ou=policies," + l.Base }
func (l Layout) OTP() string      { return "ou=otp," + l.Base }
func (l Layout) Kerberos() string { return "cn=kerberos," + l.Base }

// KerberosRealm holds the principals that belong to no other entry.
func (l Layout) KerberosRealm() string { return "cn=" + l.Realm + "," + l.Kerberos() }

// UserDN and its kin name entries; the name is escaped as RFC 4514 §2.4 says.
func (l Layout) UserDN(name string) string  { return "uid=" + ldap.EscapeDN(name) + "," + l.People() }
func (l Layout) GroupDN(name string) string { return "cn=" + ldap.EscapeDN(name) + "," + l.Groups() }
func (l Layout) HostDN(name string) string  { return "cn=" + ldap.EscapeDN(name) + "," + l.Hosts() }
func (l Layout) RuleDN(name string) string  { return "cn=" + ldap.EscapeDN(name) + "," + l.Access() }
func (l Layout) ServiceDN(name string) string {
	return "cn=" + ldap.EscapeDN(name) + "," + l.Services()
}

// ServicePrincipalDN is where a principal that has no entry of its own is kept.
func (l Layout) ServicePrincipalDN(p krb.Principal) string {
	return "krbPrincipalName=" + ldap.EscapeDN(p.String()) + "," + l.KerberosRealm()
}

// Admin is the directory's administrator: what root is over ldapi.
func (l Layout) Admin() string { return "cn=admin," + l.Base }

// Sekishod is the broker's own identity: what Config.UID is over ldapi. It reads
// what is not secret.
func (l Layout) Sekishod() string { return l.ServiceDN("sekishod") }

// kdc reads Kerberos keys; passwd changes people's passwords.
func (l Layout) kdc() string    { return l.ServiceDN("kdc") }
func (l Layout) passwd() string { return l.ServiceDN("passwd") }

// Codes is the identity by which sekishod checks one-time codes: it alone reads
// their secrets. Its password is Realm.CodesPassword.
func (l Layout) Codes() string { return l.ServiceDN("codes") }

// servicePolicy is the password policy of service accounts.
func (l Layout) servicePolicy() string { return "cn=services," + l.Policies() }
