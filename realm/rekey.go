package realm

import (
	"fmt"
	"slices"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/krb"
)

// keytabOf opens the values of krbPrincipalKey, one a version.
func (is Issuer) keytabOf(p krb.Principal, values [][]byte) ([]krb.KeytabEntry, error) {
	var out []krb.KeytabEntry
	for _, v := range values {
		keys, kvno, err := is.Master.Open(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		out = append(out, is.keytab(p, kvno, keys)...)
	}
	slices.SortStableFunc(out, func(a, b krb.KeytabEntry) int { return b.KVNO - a.KVNO })
	return out, nil
}

// Keytab gives the keytab entries of the entry e, a host's or a service's read with
// KeyAttributes, the newest version first.
func (is Issuer) Keytab(e *ldap.Entry) ([]krb.KeytabEntry, error) {
	p, err := is.principalOf(e)
	if err != nil {
		return nil, err
	}
	return is.keytabOf(p, e.GetRawAttributeValues("krbPrincipalKey"))
}

// Rekey builds the one modify that gives the entry e, a host's or a service's read
// with KeyAttributes, new random keys, and its keytab entries. The version before
// is kept beside them, so that tickets that were given out go on to work, until the
// next Rekey or DropOldKeys; those before that are dropped. Like ChangePassword it
// fails when somebody else was faster.
//
// The KDC gives out tickets of the new version at once: who serves must have the
// keytab soon.
func (is Issuer) Rekey(e *ldap.Entry) (*ldap.ModifyRequest, []krb.KeytabEntry, error) {
	kvno, err := krb.NextKVNO(e.GetRawAttributeValues("krbPrincipalKey"))
	if err != nil {
		return nil, nil, err
	}
	value, _, err := krb.RandomKeys(kvno, is.Master)
	if err != nil {
		return nil, nil, err
	}
	return is.newKeys(e, value)
}

// DropOldKeys builds the modify that leaves e, read with KeyAttributes, the newest
// version of its keys alone; what is in the keytab then.
func (is Issuer) DropOldKeys(e *ldap.Entry) (*ldap.ModifyRequest, []krb.KeytabEntry, error) {
	return is.newKeys(e, nil)
}

// newKeys puts value, if any, before the newest version of e's keys, and drops all
// others. That version is sealed anew, so that every old value is named and gone:
// of two changes at once, one fails.
func (is Issuer) newKeys(e *ldap.Entry, value []byte) (*ldap.ModifyRequest, []krb.KeytabEntry, error) {
	p, err := is.principalOf(e)
	if err != nil {
		return nil, nil, err
	}
	old := e.GetRawAttributeValues("krbPrincipalKey")
	if len(old) == 0 && value == nil {
		return nil, nil, fmt.Errorf("%s has no keys", p)
	}
	var values [][]byte
	if value != nil {
		values = append(values, value)
	}
	var newest []krb.Key
	high := 0
	for _, v := range old {
		keys, kvno, err := is.Master.Open(v)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", p, err)
		}
		if kvno > high {
			newest, high = keys, kvno
		}
	}
	if high > 0 {
		v, err := is.Master.Seal(high, newest)
		if err != nil {
			return nil, nil, err
		}
		values = append(values, v)
	}
	extra, err := is.Master.ReplaceExtra(e.GetRawAttributeValues("krbExtraData"), is.by(), is.now())
	if err != nil {
		return nil, nil, err
	}
	m := ldap.NewModifyRequest(e.DN, nil)
	if len(old) > 0 {
		m.Delete("krbPrincipalKey", texts(old))
	}
	m.Add("krbPrincipalKey", texts(values))
	m.Replace("krbExtraData", texts(extra))
	m.Replace("krbLastPwdChange", []string{kerberosTime(is.now())})
	es, err := is.keytabOf(p, values)
	return m, es, err
}
