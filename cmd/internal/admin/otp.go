package admin

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/ldapsync"
	"github.com/sekisho/sekisho/otp"
	"github.com/sekisho/sekisho/realm"
)

// NewToken is a token to be.
type NewToken struct {
	Secret []byte
	Params otp.Params
	// Drift is oathTOTPTimeStepWindow: how many steps slapo-otp looks to either side.
	Drift int
	// Used is the step of a code that was shown already; -1 for none.
	Used int64
	// Recovery are the values of recovery codes (otp.HashRecovery).
	Recovery []string
}

// Token is what may be shown of one.
type Token struct {
	User      string     `json:"user"`
	Algorithm string     `json:"algorithm"`
	Digits    int        `json:"digits"`
	Period    int        `json:"period_seconds"`
	Used      *time.Time `json:"last_code,omitempty"` // the beginning of its step
	Recovery  int        `json:"recovery_codes"`      // left
	DN        string     `json:"dn"`
	Fault     string     `json:"fault,omitempty"` // why it cannot be used
}

// Enrolled tells whether a user has a token.
func (d *Directory) Enrolled(ctx context.Context, user string) (bool, error) {
	e, err := d.find(ctx, d.users(), user, ldapsync.AttrToken)
	if err != nil {
		return false, err
	}
	return e.GetEqualFoldAttributeValue(ldapsync.AttrToken) != "", nil
}

// Enrol makes a token and gives it to a user, in the place of one that he has. His
// entry changes in one step from the old token to the new one.
func (d *Directory) Enrol(ctx context.Context, user string, t NewToken) error {
	if err := errors.Join(t.Params.Check(), otp.CheckSecret(t.Secret)); err != nil {
		return refuse("%s", err)
	}
	if _, err := d.find(ctx, d.users(), user, "1.1"); err != nil {
		return err
	}
	params, err := d.tokenParams(ctx, t.Params, t.Drift)
	if err != nil {
		return d.explainOTP(err)
	}
	b := make([]byte, 6)
	rand.Read(b)
	name := user + "-" + hex.EncodeToString(b)
	add := ldap.NewAddRequest("cn="+ldap.EscapeDN(name)+","+d.c.Layout.OTP(), nil)
	classes := []string{"device", ldapsync.ClassTOTPToken}
	if len(t.Recovery) > 0 {
		classes = append(classes, ldapsync.ClassRecovery)
		add.Attribute(ldapsync.AttrRecovery, t.Recovery)
	}
	add.Attribute("objectClass", classes)
	add.Attribute("cn", []string{name})
	add.Attribute(ldapsync.AttrSecret, []string{string(t.Secret)})
	add.Attribute(ldapsync.AttrParams, []string{params})
	if t.Used >= 0 {
		add.Attribute(ldapsync.AttrLastStep, []string{strconv.FormatInt(t.Used, 10)})
	}
	if err := d.c.Client.Add(ctx, add); err != nil {
		return d.explainOTP(err)
	}
	old, err := d.setToken(ctx, user, add.DN)
	if err != nil {
		return errors.Join(d.explainOTP(err), d.dropToken(context.WithoutCancel(ctx), add.DN))
	}
	return d.dropToken(ctx, old)
}

// setToken has a user's entry name a token, or none, and returns the one that it
// named before. Of somebody without a token the KDC asks no codes: that goes by the
// same modify.
func (d *Directory) setToken(ctx context.Context, user, token string) (old string, err error) {
	for try := 1; ; try++ {
		e, err := d.find(ctx, d.users(), user, append([]string{"objectClass", ldapsync.AttrToken}, realm.KeyAttributes...)...)
		if err != nil {
			return "", err
		}
		old = e.GetEqualFoldAttributeValue(ldapsync.AttrToken)
		if old == "" && token == "" {
			return "", refuse("user %s has no token", user)
		}
		m := ldap.NewModifyRequest(e.DN, nil)
		if d.c.Issuer != nil && token == "" {
			switch at, err := d.c.Issuer.SetCodesAtKDC(e, false); {
			case errors.Is(err, realm.ErrNoPrincipal):
			case err != nil:
				return "", err
			case at != nil:
				m = at
			}
		}
		class := e.GetEqualFoldAttributeValues("objectClass")
		at := slices.IndexFunc(class, func(c string) bool { return strings.EqualFold(c, ldapsync.ClassTOTPUser) })
		if token != "" && at < 0 {
			m.Add("objectClass", []string{ldapsync.ClassTOTPUser})
		}
		if old != "" {
			m.Delete(ldapsync.AttrToken, []string{old})
		}
		switch {
		case token != "":
			m.Add(ldapsync.AttrToken, []string{token})
		case at >= 0:
			m.Delete("objectClass", []string{class[at]})
		}
		err = d.c.Client.Modify(ctx, m)
		if try < tries && ldapsync.IsCode(err, ldap.LDAPResultNoSuchAttribute, ldap.LDAPResultAttributeOrValueExists) {
			continue // somebody changed it meanwhile
		}
		return old, err
	}
}

// dropToken deletes a token's entry, if it is one of ours: nothing else in the tree
// goes because some entry names it.
func (d *Directory) dropToken(ctx context.Context, dn string) error {
	if dn == "" || !strings.HasSuffix(strings.ToLower(dn), ","+strings.ToLower(d.c.Layout.OTP())) {
		return nil
	}
	err := d.c.Client.Delete(ctx, dn)
	if ldapsync.IsCode(err, ldap.LDAPResultNoSuchObject) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the token %s is nobody's any more, but is still there: %w", dn, err)
	}
	return nil
}

// tokenParams is the entry with these parameters, which all such tokens share.
func (d *Directory) tokenParams(ctx context.Context, p otp.Params, drift int) (string, error) {
	name := fmt.Sprintf("totp-%s-%d-%d-%d", strings.ToLower(string(p.Algorithm)), p.Digits, p.Period/time.Second, drift)
	add := ldap.NewAddRequest("cn="+name+","+d.c.Layout.OTP(), nil)
	add.Attribute("objectClass", []string{"device", ldapsync.ClassTOTPParams})
	add.Attribute("cn", []string{name})
	add.Attribute(ldapsync.AttrLength, []string{strconv.Itoa(p.Digits)})
	add.Attribute(ldapsync.AttrHMAC, []string{ldapsync.HMACs[p.Algorithm]})
	add.Attribute(ldapsync.AttrPeriod, []string{strconv.Itoa(int(p.Period / time.Second))})
	add.Attribute(ldapsync.AttrWindow, []string{strconv.Itoa(drift)})
	err := d.c.Client.Add(ctx, add)
	if ldapsync.IsCode(err, ldap.LDAPResultEntryAlreadyExists) {
		err = nil
	}
	return add.DN, err
}

// explainOTP says what the directory lacks.
func (d *Directory) explainOTP(err error) error {
	switch {
	case ldapsync.IsCode(err, ldap.LDAPResultNoSuchObject):
		return fmt.Errorf("%w: tokens are kept in %s: make it first (objectClass organizationalUnit), readable for otp.bind_dn alone", err, d.c.Layout.OTP())
	case ldapsync.IsCode(err, ldap.LDAPResultUndefinedAttributeType, ldap.LDAPResultInvalidAttributeSyntax, ldap.LDAPResultObjectClassViolation):
		return fmt.Errorf("%w: the directory needs the schema of slapo-otp(5) (load its module) and realm/schema/sekisho.ldif", err)
	}
	return err
}

// RemoveToken takes a user's token away, and its recovery codes.
func (d *Directory) RemoveToken(ctx context.Context, user string) error {
	old, err := d.setToken(ctx, user, "")
	if err != nil {
		return err
	}
	return d.dropToken(ctx, old)
}

// SetRecovery gives a user's token these recovery codes in the place of all others.
func (d *Directory) SetRecovery(ctx context.Context, user string, values []string) error {
	e, err := d.find(ctx, d.users(), user, ldapsync.AttrToken)
	if err != nil {
		return err
	}
	dn := e.GetEqualFoldAttributeValue(ldapsync.AttrToken)
	if dn == "" {
		return refuse("user %s has no token: sekisho otp enrol %s", user, user)
	}
	token, err := d.c.Client.Get(ctx, dn, "objectClass")
	if err != nil {
		return err
	}
	m := ldap.NewModifyRequest(dn, nil)
	if !slices.ContainsFunc(token.GetEqualFoldAttributeValues("objectClass"), func(c string) bool { return strings.EqualFold(c, ldapsync.ClassRecovery) }) {
		m.Add("objectClass", []string{ldapsync.ClassRecovery})
	}
	m.Replace(ldapsync.AttrRecovery, values)
	return d.explainOTP(d.c.Client.Modify(ctx, m))
}

// Tokens shows the tokens of all users whose names fit pattern.
func (d *Directory) Tokens(ctx context.Context, pattern string) ([]Token, error) {
	k := d.users()
	es, err := d.search(ctx, k.base, "(&"+k.filter(or(pattern, "*"))+"("+ldapsync.AttrToken+"=*))", 0, k.attr, ldapsync.AttrToken)
	if err != nil && !ldapsync.IsCode(err, ldap.LDAPResultNoSuchObject) {
		return nil, err
	}
	out := []Token{}
	for _, e := range es {
		t := Token{User: e.GetAttributeValue(k.attr), DN: e.GetEqualFoldAttributeValue(ldapsync.AttrToken)}
		if err := d.showToken(ctx, &t); err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	sortBy(out, func(t Token) string { return t.User })
	return out, nil
}

// showToken reads what may be shown: never the secret.
func (d *Directory) showToken(ctx context.Context, t *Token) error {
	token, err := d.c.Client.Get(ctx, t.DN, ldapsync.AttrParams, ldapsync.AttrLastStep, ldapsync.AttrRecovery)
	if ldapsync.IsCode(err, ldap.LDAPResultNoSuchObject) {
		t.Fault = "the token's entry is not there, or you may not see it"
		return nil
	}
	if err != nil {
		return err
	}
	t.Recovery = len(token.GetEqualFoldAttributeValues(ldapsync.AttrRecovery))
	params, err := d.c.Client.Get(ctx, token.GetEqualFoldAttributeValue(ldapsync.AttrParams), ldapsync.AttrLength, ldapsync.AttrHMAC, ldapsync.AttrPeriod)
	if ldapsync.IsCode(err, ldap.LDAPResultNoSuchObject, ldap.LDAPResultInvalidDNSyntax) {
		t.Fault = "the parameters' entry is not there"
		return nil
	}
	if err != nil {
		return err
	}
	t.Digits, _ = strconv.Atoi(params.GetEqualFoldAttributeValue(ldapsync.AttrLength))
	t.Period, _ = strconv.Atoi(params.GetEqualFoldAttributeValue(ldapsync.AttrPeriod))
	for a, oid := range ldapsync.HMACs {
		if oid == params.GetEqualFoldAttributeValue(ldapsync.AttrHMAC) {
			t.Algorithm = string(a)
		}
	}
	if err := (otp.Params{Algorithm: otp.Algorithm(t.Algorithm), Digits: t.Digits, Period: time.Duration(t.Period) * time.Second}).Check(); err != nil {
		t.Fault = "its parameters are not usable: " + err.Error()
		return nil
	}
	if step, err := strconv.ParseInt(token.GetEqualFoldAttributeValue(ldapsync.AttrLastStep), 10, 40); err == nil && step >= 0 {
		at := time.Unix(step*int64(t.Period), 0).UTC()
		t.Used = &at
	}
	return nil
}
