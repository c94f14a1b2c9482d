package admin

import (
	"context"
	"errors"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/ldapsync"
	"github.com/sekisho/sekisho/realm"
)

// SetCodesAtKDC has the KDC ask a user for a one-time code behind his password, or
// no longer. He must have a token first, or he would get no ticket any more.
func (d *Directory) SetCodesAtKDC(ctx context.Context, user string, on bool) error {
	if d.c.Issuer == nil {
		return refuse("what the KDC asks for cannot be set here: run as root on the machine of the embedded realm")
	}
	if on {
		if err := realm.CodesFault(); err != nil {
			return refuse("%s", err)
		}
		has, err := d.Enrolled(ctx, user)
		if err != nil {
			return err
		}
		if !has {
			return refuse("user %s has no token: sekisho otp enrol %s", user, user)
		}
	}
	for try := 1; ; try++ {
		e, err := d.find(ctx, d.users(), user, realm.KeyAttributes...)
		if err != nil {
			return err
		}
		m, err := d.c.Issuer.SetCodesAtKDC(e, on)
		if errors.Is(err, realm.ErrNoPrincipal) {
			return refuse("user %s has no Kerberos principal", user)
		}
		if err != nil || m == nil {
			return err
		}
		err = d.c.Client.Modify(ctx, m)
		if try < tries && ldapsync.IsCode(err, ldap.LDAPResultNoSuchAttribute, ldap.LDAPResultAttributeOrValueExists) {
			continue // somebody changed it meanwhile
		}
		return err
	}
}

// codesAtKDC is User.KDCCodes of an entry that was read with the keys' attributes.
func codesAtKDC(e *ldap.Entry) string {
	switch on, err := realm.CodesAtKDC(e); {
	case err != nil:
		return err.Error()
	case on:
		return "on"
	}
	return ""
}
