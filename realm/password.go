package realm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/krb"
)

// ErrWrongPassword says that the directory refused the old password, or that the
// account is locked, or that there is no such user: not told apart.
var ErrWrongPassword = errors.New("wrong password, or the account is locked")

// ErrLocked says that the account is locked or has expired: its password is not
// changed, for that would open it.
var ErrLocked = errors.New("the account is locked or has expired")

// PasswordRefused says that the directory's password policy refused a new password,
// in the directory's words.
type PasswordRefused struct{ Reason string }

func (e *PasswordRefused) Error() string { return "the new password is refused: " + e.Reason }

const (
	ldapLimit = 10 * time.Second // for one conversation with slapd
	tries     = 8                // when others change the same entry
)

// dial opens a connection to slapd whose every read and write ends by a deadline.
func (r *Realm) dial(ctx context.Context) (*ldap.Conn, error) {
	return dialSocket(ctx, r.maker.c.files().socket)
}

func dialSocket(ctx context.Context, socket string) (*ldap.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, ldapLimit)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		conn.Close()
		return nil, err
	}
	l := ldap.NewConn(conn, false)
	l.Start()
	return l, nil
}

// ChangePassword changes a user's own password: it checks old by a bind as the user
// (the lock-out rules count it) or, for a user with a token, who cannot bind with the
// password alone, by his Kerberos keys; then it sets userPassword and the Kerberos keys by one
// guarded modify. Users have no right to write either themselves, for the keys need
// the realm's master key; so sekishod does it for them, as a directory identity that
// can do this and no more.
//
// The error is ErrWrongPassword when the directory says no to old, *PasswordRefused
// when it says no to new, ErrLocked for an account that was shut while it was
// changed; anything else means that it could not be done or found out.
func (r *Realm) ChangePassword(ctx context.Context, user, old, new string) error {
	if _, err := krb.NewPrincipal(user, r.maker.layout.Realm); err != nil || strings.Contains(user, "/") {
		return ErrWrongPassword
	}
	if krb.CheckPassword(old) != nil {
		return ErrWrongPassword // and an empty one must never become an anonymous bind
	}
	if err := krb.CheckPassword(new); err != nil {
		return &PasswordRefused{err.Error()}
	}
	if err := r.checkOld(ctx, user, old); err != nil {
		return err
	}
	return r.setPassword(ctx, user, new)
}

func (r *Realm) checkOld(ctx context.Context, user, password string) error {
	l, err := r.dial(ctx)
	if err != nil {
		return fmt.Errorf("checking the old password: %w", err)
	}
	defer l.Close()
	// slapo-otp goes by the class. sekishod itself may read it.
	if err := l.ExternalBind(); err != nil {
		return fmt.Errorf("checking the old password: %w", err)
	}
	dn := r.maker.layout.UserDN(user)
	e, err := read(l, dn, "objectClass")
	if err != nil && !ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
		return fmt.Errorf("checking the old password: %w", err)
	}
	if e != nil && slices.ContainsFunc(e.GetAttributeValues("objectClass"), func(c string) bool {
		return strings.EqualFold(c, "oathTOTPUser") || strings.EqualFold(c, "oathHOTPUser")
	}) {
		return r.CheckPassword(ctx, user, password)
	}
	switch err := l.Bind(dn, password); {
	case err == nil:
		return nil
	case ldap.IsErrorWithCode(err, ldap.LDAPResultInvalidCredentials):
		return ErrWrongPassword
	default:
		return fmt.Errorf("checking the old password: %w", err)
	}
}

// setPassword sets the password of a user who has just proved the old one, in the
// directory and for Kerberos, by one modify. slapd's password policy judges it, and
// takes pwdReset away with it. It comes after a few others at most,
// since hashing is dear.
func (r *Realm) setPassword(ctx context.Context, user, new string) error {
	select {
	case r.turns <- struct{}{}:
		defer func() { <-r.turns }()
	case <-ctx.Done():
		return fmt.Errorf("waiting for other password changes: %w", ctx.Err())
	}
	is, err := LoadIssuer(r.Info())
	if err != nil {
		return err
	}
	is.Now = r.maker.c.Now
	secret, err := os.ReadFile(r.maker.c.files().passwd)
	if err != nil {
		return err
	}
	l, err := r.dial(ctx)
	if err != nil {
		return fmt.Errorf("changing a password: %w", err)
	}
	defer l.Close()
	if err := l.Bind(r.maker.layout.passwd(), string(secret)); err != nil {
		return fmt.Errorf("changing a password: %w", err)
	}
	dn := r.maker.layout.UserDN(user)
	for try := 1; ; try++ {
		e, err := read(l, dn, append(shutAttributes, KeyAttributes...)...)
		if err != nil {
			return fmt.Errorf("changing a password: %w", err)
		}
		p, err := r.policyOf(l, e)
		if err != nil {
			return fmt.Errorf("changing a password: %w", err)
		}
		if p.shut(e, is.now()) {
			return ErrLocked
		}
		req, err := is.ChangePassword(e, new)
		if err != nil {
			return fmt.Errorf("changing a password: %w", err)
		}
		control, err := unchanged(e)
		if err != nil {
			return fmt.Errorf("changing a password: %w", err)
		}
		req.Controls = append(req.Controls, control)
		switch err := l.Modify(req); {
		case err == nil:
			return nil
		case try < tries && ldap.IsErrorAnyOf(err, ldap.LDAPResultAssertionFailed, ldap.LDAPResultNoSuchAttribute, ldap.LDAPResultAttributeOrValueExists):
			continue // somebody changed the entry in between
		case ldap.IsErrorAnyOf(err, ldap.LDAPResultConstraintViolation, ldap.LDAPResultInsufficientAccessRights):
			return &PasswordRefused{p.words(err, new)}
		default:
			return fmt.Errorf("changing a password: %w", err)
		}
	}
}

func read(l *ldap.Conn, dn string, attributes ...string) (*ldap.Entry, error) {
	res, err := l.Search(ldap.NewSearchRequest(dn, ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, int(ldapLimit/time.Second), false,
		"(objectClass=*)", attributes, nil))
	if err != nil {
		return nil, err
	}
	if len(res.Entries) != 1 {
		return nil, fmt.Errorf("%s is not to be seen", dn)
	}
	return res.Entries[0], nil
}

// shutAttributes say whether an account is shut.
var shutAttributes = []string{"pwdAccountLockedTime", "krbTicketFlags", "krbPrincipalExpiration", "shadowExpire", "pwdPolicySubentry"}

// unchanged is an assertion control (RFC 4528): the modify fails when the account was
// shut since e was read. A new password would lift the policy's lock.
func unchanged(e *ldap.Entry) (ldap.Control, error) {
	var b strings.Builder
	b.WriteString("(&")
	for _, a := range shutAttributes[:4] {
		v := e.GetAttributeValue(a)
		if v == "" {
			fmt.Fprintf(&b, "(!(%s=*))", a)
		} else {
			fmt.Fprintf(&b, "(%s=%s)", a, ldap.EscapeFilter(v))
		}
	}
	b.WriteString(")")
	f, err := ldap.CompileFilter(b.String())
	if err != nil {
		return nil, err
	}
	return ldap.NewControlString("1.3.6.1.1.12", true, string(f.Bytes())), nil
}

// policy is what counts here of a user's password policy.
type policy struct {
	lockout time.Duration // how long a lock-out lasts; 0: until an administrator ends it
	least   int           // bytes of a password
}

func (r *Realm) policyOf(l *ldap.Conn, user *ldap.Entry) (policy, error) {
	dn := user.GetAttributeValue("pwdPolicySubentry")
	if dn == "" {
		dn = "cn=default," + r.maker.layout.Policies()
	}
	e, err := read(l, dn, "pwdLockoutDuration", "pwdMinLength")
	if ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
		return policy{}, nil
	}
	if err != nil {
		return policy{}, fmt.Errorf("the password policy %s: %w", dn, err)
	}
	seconds, _ := strconv.Atoi(e.GetAttributeValue("pwdLockoutDuration"))
	least, _ := strconv.Atoi(e.GetAttributeValue("pwdMinLength"))
	return policy{time.Duration(seconds) * time.Second, least}, nil
}

// shut reports whether an account is locked or has expired. What cannot be read
// shuts it.
func (p policy) shut(e *ldap.Entry, now time.Time) bool {
	if v := e.GetAttributeValue("krbTicketFlags"); v != "" {
		if flags, err := strconv.ParseInt(v, 10, 64); err != nil || flags&flagNoTickets != 0 {
			return true
		}
	}
	if v := e.GetAttributeValue("krbPrincipalExpiration"); v != "" {
		if t, err := time.Parse("20060102150405Z", v); err != nil || !now.Before(t) {
			return true
		}
	}
	if v := e.GetAttributeValue("shadowExpire"); v != "" {
		if days, err := strconv.ParseInt(v, 10, 64); err != nil || days >= 0 && now.Unix()/86400 >= days {
			return true
		}
	}
	v := e.GetAttributeValue("pwdAccountLockedTime")
	if v == "" {
		return false
	}
	t, err := time.Parse("20060102150405Z", v) // year 0, for a lock by an administrator, is none of time's
	return err != nil || p.lockout == 0 || now.Before(t.Add(p.lockout))
}

// words are why a password was refused: slapd's, which leave out the number when it
// is about the length.
func (p policy) words(err error, new string) string {
	said := "the policy does not allow it"
	var le *ldap.Error
	if errors.As(err, &le) && le.Err != nil && le.Err.Error() != "" {
		said = le.Err.Error()
	}
	if len(new) < p.least {
		return fmt.Sprintf("%s: write at least %d characters", said, p.least)
	}
	return said
}

// socketURL is the ldapi URL of a socket path.
func socketURL(path string) string { return "ldapi://" + url.QueryEscape(path) }
