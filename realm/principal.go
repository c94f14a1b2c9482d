package realm

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sekisho/sekisho/krb"
)

// Issuer makes the Kerberos part of entries for a realm whose master key it has.
// It speaks to no server: it builds what is then sent in one add or modify.
type Issuer struct {
	Layout Layout
	Master krb.MasterKey
	// Own is the realm's own service (Info.Service). Its keys are in a file of the
	// realm's too: whoever makes them anew or removes them in the directory alone has
	// the realm take its KDC for a false one.
	Own krb.Principal
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

// LoadIssuer reads the master key of a realm, which root and the service user can.
func LoadIssuer(i Info) (Issuer, error) {
	m, err := krb.LoadMasterKey(i.Stash, i.Layout.Realm)
	if err != nil {
		return Issuer{}, fmt.Errorf("the realm's master key: %w", err)
	}
	return Issuer{Layout: i.Layout, Master: m, Own: i.Service}, nil
}

// by is who MIT's tools show as the last to have changed a principal.
func (is Issuer) by() krb.Principal {
	return krb.Principal{Components: []string{"sekisho"}, Realm: is.Layout.Realm}
}

func (is Issuer) now() time.Time {
	if is.Now == nil {
		return time.Now()
	}
	return is.Now()
}

// kerberosTime is generalizedTime as MIT writes it (RFC 4517 §3.3.13).
func kerberosTime(t time.Time) string { return t.UTC().Format("20060102150405Z") }

// User gives the attributes that make a user's entry (at Layout.UserDN) a
// principal of the same name: userPassword in the clear, for slapd to hash, and
// the Kerberos keys of the same password. objectClass holds the two auxiliary
// classes only; add yours to it. With password "" there is no way in by password:
// no userPassword, and no keys.
//
// A ticket for the user needs pre-authentication, and nobody gets a service ticket
// in his name: either would let others guess his password offline.
func (is Issuer) User(name, password string) ([]ldap.Attribute, error) {
	p, err := krb.NewPrincipal(name, is.Layout.Realm)
	if err != nil {
		return nil, err
	}
	if len(p.Components) != 1 {
		return nil, fmt.Errorf("user name %.80q holds a slash", name)
	}
	a := []ldap.Attribute{attr("objectClass", "krbPrincipalAux", "krbTicketPolicyAux"),
		attr("krbPrincipalName", p.String()), attr("krbTicketFlags", strconv.Itoa(flagNeedsPreauth|flagNoService))}
	if password == "" {
		return a, nil
	}
	value, err := krb.NewKeys(p, password, 1, is.Master)
	if err != nil {
		return nil, err
	}
	return append(append(a, attr("userPassword", password)), is.keyAttributes(value)...), nil
}

// Host gives the attributes that make a host's entry (at Layout.HostDN) the
// principal host/FQDN, and its keytab entries.
func (is Issuer) Host(fqdn string) ([]ldap.Attribute, []krb.KeytabEntry, error) {
	if !validHost(fqdn) {
		return nil, nil, fmt.Errorf("host name %.80q is not valid", fqdn)
	}
	return is.random("host/"+fqdn, flagNeedsPreauth)
}

// Service gives the add request of a principal with random keys that has no other
// entry, such as ldap/FQDN, and its keytab entries.
func (is Issuer) Service(name string) (*ldap.AddRequest, []krb.KeytabEntry, error) {
	a, keys, err := is.random(name, flagNeedsPreauth)
	if err != nil {
		return nil, nil, err
	}
	a[0].Vals = append(a[0].Vals, "krbPrincipal")
	return &ldap.AddRequest{DN: is.Layout.ServicePrincipalDN(keys[0].Principal), Attributes: a}, keys, nil
}

func (is Issuer) random(name string, flags int) ([]ldap.Attribute, []krb.KeytabEntry, error) {
	p, err := krb.NewPrincipal(name, is.Layout.Realm)
	if err != nil {
		return nil, nil, err
	}
	value, keys, err := krb.RandomKeys(1, is.Master)
	if err != nil {
		return nil, nil, err
	}
	a := []ldap.Attribute{attr("objectClass", "krbPrincipalAux", "krbTicketPolicyAux"),
		attr("krbPrincipalName", p.String()), attr("krbTicketFlags", strconv.Itoa(flags))}
	return append(a, is.keyAttributes(value)...), is.keytab(p, 1, keys), nil
}

func (is Issuer) keytab(p krb.Principal, kvno int, keys []krb.Key) []krb.KeytabEntry {
	var es []krb.KeytabEntry
	for _, k := range keys {
		es = append(es, krb.KeytabEntry{Principal: p, KVNO: kvno, Time: is.now(), Key: k})
	}
	return es
}

func (is Issuer) keyAttributes(value []byte) []ldap.Attribute {
	return []ldap.Attribute{
		attr("krbPrincipalKey", string(value)),
		attr("krbLastPwdChange", kerberosTime(is.now())),
		attr("krbExtraData", string(krb.ModifiedBy(is.by(), is.now())), string(is.Master.MasterKVNO())),
	}
}

// special is one of the KDC's own principals; life is in seconds, 0 for the KDC's
// configured one.
func (is Issuer) special(name string, flags, life int) (entry, error) {
	req, keys, err := is.Service(name)
	if err != nil {
		return entry{}, err
	}
	e := entry{dn: req.DN}
	for _, a := range req.Attributes {
		switch {
		case a.Type == "krbTicketFlags":
			a.Vals = []string{strconv.Itoa(flags)}
		case a.Type == "krbPrincipalKey" && name == "K/M":
			v, err := is.Master.Record()
			if err != nil {
				return entry{}, err
			}
			a.Vals = []string{string(v)}
		case a.Type == "krbPrincipalKey" && name == "kadmin/history":
			v, err := is.Master.Seal(1, keysOf(keys, krb.AES256SHA1))
			if err != nil {
				return entry{}, err
			}
			a.Vals = []string{string(v)}
		case a.Type == "krbExtraData" && name == "K/M":
			a.Vals = append(a.Vals, string(is.Master.ActiveKVNO(is.now())))
		}
		e.attrs = append(e.attrs, a)
	}
	if life > 0 {
		e.attrs = append(e.attrs, attr("krbMaxTicketLife", strconv.Itoa(life)))
	}
	return e, nil
}

// keysOf are the keys of one type.
func keysOf(es []krb.KeytabEntry, etype int32) []krb.Key {
	var out []krb.Key
	for _, e := range es {
		if e.Key.EType == etype {
			out = append(out, e.Key)
		}
	}
	return out
}

// KeyAttributes are what a search must ask for before ChangePassword, Keytab, Rekey
// and DropOldKeys.
var KeyAttributes = []string{"krbPrincipalName", "krbPrincipalKey", "krbExtraData"}

// ErrNoPrincipal says that an entry has no single Kerberos principal.
var ErrNoPrincipal = errors.New("the entry has no Kerberos principal of its own")

// ChangePassword builds the one modify that sets a new password for the entry e,
// read with KeyAttributes: userPassword in the clear for slapd to hash, and the
// Kerberos keys under the next version, which the KDC does not see where it asks for
// codes (SetCodesAtKDC). It names the exact old keys, so that it fails
// (noSuchAttribute or attributeOrValueExists) when somebody else changed them in
// between: read the entry again then. It lifts an expiry of the password.
func (is Issuer) ChangePassword(e *ldap.Entry, password string) (*ldap.ModifyRequest, error) {
	p, err := is.principalOf(e)
	if err != nil {
		return nil, err
	}
	old := e.GetRawAttributeValues("krbPrincipalKey")
	x, err := krb.ParseExtra(e.GetRawAttributeValues("krbExtraData"))
	if err != nil {
		return nil, err
	}
	versions := old
	if x.Kept != nil {
		versions = append(versions[:len(versions):len(versions)], x.Kept)
	}
	kvno, err := krb.NextKVNO(versions)
	if err != nil {
		return nil, err
	}
	m := ldap.NewModifyRequest(e.DN, nil)
	value, err := krb.NewKeys(p, password, kvno, is.Master)
	if err != nil {
		return nil, err
	}
	if len(old) > 0 {
		m.Delete("krbPrincipalKey", texts(old))
	}
	_, codes := x.Get(otpAttribute)
	x.Kept = nil
	switch {
	case codes:
		x.Kept = value // see SetCodesAtKDC
	case len(old) > 0:
		m.Add("krbPrincipalKey", []string{string(value)})
	default:
		m.Replace("krbPrincipalKey", []string{string(value)})
	}
	if err := is.replaceExtra(m, e, x); err != nil {
		return nil, err
	}
	m.Replace("krbLastPwdChange", []string{kerberosTime(is.now())})
	m.Replace("krbPasswordExpiration", nil)
	m.Replace("userPassword", []string{password})
	return m, nil
}

// principalOf is the one principal of an entry.
func (is Issuer) principalOf(e *ldap.Entry) (krb.Principal, error) {
	names := e.GetAttributeValues("krbPrincipalName")
	if len(names) != 1 {
		return krb.Principal{}, ErrNoPrincipal
	}
	p, err := krb.ParsePrincipal(names[0])
	if err != nil {
		return p, err
	}
	if p.Realm != is.Layout.Realm {
		return p, fmt.Errorf("%s is not of the realm %s", p, is.Layout.Realm)
	}
	return p, nil
}

func texts(values [][]byte) []string {
	out := make([]string, 0, len(values))
	for _, v := range values {
		out = append(out, string(v))
	}
	return out
}
