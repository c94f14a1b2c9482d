package admin

import (
	"context"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/ldapsync"
	"github.com/sekisho/sekisho/realm"
)

// HostKeys are the keys of a host's two principals, the newest version first.
type HostKeys struct {
	// SSHD are those of host/FQDN, which sshd accepts tickets with.
	SSHD []krb.KeytabEntry
	// Sekishod are those of sekisho/FQDN, which the host's sekishod knows a false
	// KDC by.
	Sekishod []krb.KeytabEntry
}

// HostKeys reads the keys of a host, found by any of its names, and makes those
// that it lacks. rekey makes new ones; the version before stays good until the
// next time. The keys of the realm's own service stay what they are.
func (d *Directory) HostKeys(ctx context.Context, name string, rekey bool) (HostKeys, error) {
	if err := d.writable("host"); err != nil {
		return HostKeys{}, err
	}
	if d.c.Issuer == nil {
		return HostKeys{}, refuse("the keys of principals are sealed with the realm's master key: run it as root on the machine of the embedded realm")
	}
	h, err := d.Host(ctx, name)
	if err != nil {
		return HostKeys{}, err
	}
	fqdn := FQDN(h)
	var k HostKeys
	if k.SSHD, err = d.hostPrincipal(ctx, h.DN, fqdn, rekey); err != nil {
		return HostKeys{}, err
	}
	k.Sekishod, err = d.servicePrincipal(ctx, "sekisho/"+fqdn, rekey)
	return k, err
}

// FQDN is the name that a host's principals have: its first one with a dot, or
// its only one.
func FQDN(h Host) string {
	for _, n := range append([]string{h.Name}, h.Aliases...) {
		if strings.Contains(n, ".") {
			return n
		}
	}
	return h.Name
}

// hostPrincipal gives the keys that the host's own entry holds.
func (d *Directory) hostPrincipal(ctx context.Context, dn, fqdn string, rekey bool) ([]krb.KeytabEntry, error) {
	e, err := d.c.Client.Get(ctx, dn, append([]string{"objectClass"}, realm.KeyAttributes...)...)
	if err != nil {
		return nil, err
	}
	if len(e.GetAttributeValues("krbPrincipalName")) > 0 {
		return d.keysOf(ctx, e, rekey)
	}
	attrs, keys, err := d.c.Issuer.Host(fqdn)
	if err != nil {
		return nil, err
	}
	m := ldap.NewModifyRequest(dn, nil)
	for _, a := range attrs {
		if a.Type == "objectClass" {
			has := e.GetAttributeValues("objectClass")
			a.Vals = slices.DeleteFunc(slices.Clone(a.Vals), func(c string) bool {
				return slices.ContainsFunc(has, func(h string) bool { return strings.EqualFold(h, c) })
			})
		}
		if len(a.Vals) > 0 {
			m.Add(a.Type, a.Vals)
		}
	}
	return keys, d.c.Client.Modify(ctx, m)
}

// servicePrincipal gives the keys of a principal with an entry of its own.
func (d *Directory) servicePrincipal(ctx context.Context, name string, rekey bool) ([]krb.KeytabEntry, error) {
	add, keys, err := d.c.Issuer.Service(name)
	if err != nil {
		return nil, err
	}
	e, err := d.c.Client.Get(ctx, add.DN, realm.KeyAttributes...)
	if ldapsync.IsCode(err, ldap.LDAPResultNoSuchObject) {
		return keys, d.c.Client.Add(ctx, add)
	}
	if err != nil {
		return nil, err
	}
	return d.keysOf(ctx, e, rekey && !keys[0].Principal.Equal(d.c.Issuer.Own))
}

func (d *Directory) keysOf(ctx context.Context, e *ldap.Entry, rekey bool) ([]krb.KeytabEntry, error) {
	if !rekey {
		return d.c.Issuer.Keytab(e)
	}
	m, keys, err := d.c.Issuer.Rekey(e)
	if err != nil {
		return nil, err
	}
	return keys, d.c.Client.Modify(ctx, m)
}

// removePrincipal removes the principal of a host's sekishod, if there is one.
func (d *Directory) removePrincipal(ctx context.Context, h Host) error {
	if d.c.Issuer == nil {
		return nil
	}
	p, err := krb.NewPrincipal("sekisho/"+FQDN(h), d.c.Layout.Realm)
	if err != nil || p.Equal(d.c.Issuer.Own) {
		return nil // it has none, or the realm itself needs it
	}
	err = d.c.Client.Delete(ctx, d.c.Layout.ServicePrincipalDN(p))
	if ldapsync.IsCode(err, ldap.LDAPResultNoSuchObject) {
		return nil
	}
	return err
}
