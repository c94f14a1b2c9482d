package admin

import (
	"context"
	"errors"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/ldapsync"
	"github.com/sekisho/sekisho/realm"
)

// SetPassword sets userPassword and the Kerberos keys in one modify, without
// the old password: for administrators. It does not lift a lock.
func (d *Directory) SetPassword(ctx context.Context, user, password string) error {
	if d.c.Issuer == nil {
		return refuse("a password cannot be set here: run as root on the machine of the embedded realm, or set it with the directory's own tools")
	}
	for try := 1; ; try++ {
		e, err := d.find(ctx, d.users(), user, append([]string{"objectClass"}, realm.KeyAttributes...)...)
		if err != nil {
			return err
		}
		m, err := d.c.Issuer.ChangePassword(e, password)
		if errors.Is(err, realm.ErrNoPrincipal) {
			return refuse("user %s has no Kerberos principal: take him out and add him again with sekisho user add", user)
		}
		if err != nil {
			return err
		}
		err = d.c.Client.Modify(ctx, m)
		if try < tries && ldapsync.IsCode(err, ldap.LDAPResultNoSuchAttribute, ldap.LDAPResultAttributeOrValueExists) {
			continue // somebody changed it meanwhile
		}
		return err
	}
}
