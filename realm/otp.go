package realm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/krb"
)

// The KDC's plugin for one-time codes takes a principal's string attribute "otp" for
// its order to ask for one, and for the name of the section [otp] of kdc.conf that
// says where (MIT's "OTP Preauthentication").
const (
	otpAttribute = "otp"
	otpSection   = "sekisho"
	otpValue     = `[{"type":"` + otpSection + `"}]`
)

// CodesAtKDC says whether the KDC asks the principal of e, a user's entry read with
// KeyAttributes, for a one-time code. The error says that it was meant to and does
// not: somebody set the password with MIT's tools, which gave the KDC keys that it
// takes alone. SetCodesAtKDC mends that.
func CodesAtKDC(e *ldap.Entry) (bool, error) {
	x, err := krb.ParseExtra(e.GetRawAttributeValues("krbExtraData"))
	if err != nil {
		return false, err
	}
	_, on := x.Get(otpAttribute)
	if on && len(e.GetRawAttributeValues("krbPrincipalKey")) > 0 {
		return on, errors.New("the KDC has keys of the password and takes it without a code: it was set by kadmin")
	}
	return on, nil
}

// SetCodesAtKDC builds the one modify that has the KDC ask the principal of e, a
// user's entry read with KeyAttributes, for his password and a one-time code, or no
// longer. Nil: it is so already. Like ChangePassword it fails when somebody else was
// faster.
//
// With codes the KDC loses the keys of the password, for it would take them alone:
// krbPrincipalKey becomes a value of krbExtraData that it does not understand. (The
// flag requires_hwauth would shut the plugin for codes out too, which never says
// that a ticket came of hardware.) The realm checks the password by them, and
// without codes the KDC gets them back.
func (is Issuer) SetCodesAtKDC(e *ldap.Entry, on bool) (*ldap.ModifyRequest, error) {
	if _, err := is.principalOf(e); err != nil {
		return nil, err
	}
	x, err := krb.ParseExtra(e.GetRawAttributeValues("krbExtraData"))
	if err != nil {
		return nil, err
	}
	has, faulty := CodesAtKDC(e)
	if has == on && faulty == nil {
		return nil, nil
	}
	keys := e.GetRawAttributeValues("krbPrincipalKey")
	var give []byte
	switch {
	case on && len(keys) > 0:
		if x.Kept, err = newestOf(keys); err != nil {
			return nil, err
		}
	case !on:
		if len(keys) == 0 {
			give = x.Kept
		}
		x.Kept = nil
	}
	x = x.Set(otpAttribute, otpValue, on)
	m := ldap.NewModifyRequest(e.DN, nil)
	if err := is.replaceExtra(m, e, x); err != nil {
		return nil, err
	}
	if on && len(keys) > 0 {
		m.Delete("krbPrincipalKey", texts(keys))
	}
	if give != nil {
		m.Add("krbPrincipalKey", []string{string(give)})
	}
	return m, nil
}

// newestOf is the value of the highest version.
func newestOf(values [][]byte) (newest []byte, err error) {
	high := -1
	for _, v := range values {
		set, err := krb.DecodeKeySet(v)
		if err != nil {
			return nil, err
		}
		if set.KVNO > high {
			newest, high = v, set.KVNO
		}
	}
	return newest, nil
}

// replaceExtra writes x in the place of e's krbExtraData, and who did it. It names
// the exact old values, so that of two changes at once one fails.
func (is Issuer) replaceExtra(m *ldap.ModifyRequest, e *ldap.Entry, x krb.Extra) error {
	values, err := x.Values()
	if err != nil {
		return err
	}
	if values, err = is.Master.ReplaceExtra(values, is.by(), is.now()); err != nil {
		return err
	}
	if old := e.GetRawAttributeValues("krbExtraData"); len(old) > 0 {
		m.Delete("krbExtraData", texts(old))
	}
	m.Add("krbExtraData", texts(values))
	return nil
}

// CheckPassword says whether a password is the user's, by the keys that the KDC
// would know him by: those that the KDC has, or those that are kept from it
// (Issuer.SetCodesAtKDC). It proves nothing else: not that the account is open, nor
// that the password has not expired. slapd's password policy does not count it, so
// whoever guesses locks nobody out; its caller limits how often one may try.
//
// It reads the keys as the identity that changes passwords, which reads them
// anyway. The error is ErrWrongPassword when the password is wrong, or there is no
// such user, or he has none, after the same work; anything else means that it could
// not be found out.
func (r *Realm) CheckPassword(ctx context.Context, user, password string) error {
	if err := r.fits(ctx, user, password); err != nil && !errors.Is(err, ErrWrongPassword) {
		return fmt.Errorf("checking a password: %w", err)
	} else if err != nil {
		return ErrWrongPassword
	}
	return nil
}

// checksAtOnce bounds the keys that are made of passwords at once: more than there
// are processors would be no faster.
func checksAtOnce() chan struct{} { return make(chan struct{}, runtime.GOMAXPROCS(0)) }

func (r *Realm) fits(ctx context.Context, user, password string) error {
	is, err := LoadIssuer(r.Info())
	if err != nil {
		return err
	}
	p, err := krb.NewPrincipal(user, r.maker.layout.Realm)
	possible := err == nil && len(p.Components) == 1 && krb.CheckPassword(password) == nil
	var record []byte
	if possible {
		if record, err = r.recordOf(ctx, is, user); err != nil {
			return err
		}
	}
	select {
	case r.checks <- struct{}{}:
		defer func() { <-r.checks }()
	case <-ctx.Done():
		return fmt.Errorf("waiting for others: %w", ctx.Err())
	}
	if record == nil { // as much work for nobody
		p, password = krb.Principal{Components: []string{"nobody"}, Realm: r.maker.layout.Realm}, "nobody's"
	}
	if ok, err := is.Master.PasswordFits(p, password, record); err != nil {
		return err
	} else if !ok {
		return ErrWrongPassword
	}
	return nil
}

// recordOf is the user's newest key record; nil without an error when there is no
// such user, or he has no password.
func (r *Realm) recordOf(ctx context.Context, is Issuer, user string) ([]byte, error) {
	secret, err := os.ReadFile(r.maker.c.files().passwd)
	if err != nil {
		return nil, err
	}
	l, err := r.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	if err := l.Bind(r.maker.layout.passwd(), string(secret)); err != nil {
		return nil, err
	}
	e, err := read(l, r.maker.layout.UserDN(user), KeyAttributes...)
	if ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := is.principalOf(e)
	if errors.Is(err, ErrNoPrincipal) || err == nil && p.Components[0] != user {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	x, err := krb.ParseExtra(e.GetRawAttributeValues("krbExtraData"))
	if err != nil {
		return nil, err
	}
	if keys := e.GetRawAttributeValues("krbPrincipalKey"); len(keys) > 0 {
		return newestOf(keys)
	}
	return bytes.Clone(x.Kept), nil
}
