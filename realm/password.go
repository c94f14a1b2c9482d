package realm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sekisho/sekisho/krb"
)

// ErrWrongPassword says that the directory refused the old password, or that the
// account is locked, or that there is no such user: not told apart.
var ErrWrongPassword = errors.New("wrong password, or the account is locked")

// PasswordRefused says that the directory's password policy refused a new password,
// in the directory's words.
type PasswordRefused struct{ Reason string }

func (e *PasswordRefused) Error() string { return "the new password is refused: " + e.Reason }

const ldapLimit = 10 * time.Second // for one conversation with slapd

// dial opens a connection to slapd whose every read and write ends by a deadline.
func (r *Realm) dial(ctx context.Context) (*ldap.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, ldapLimit)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", r.maker.c.files().socket)
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

func (r *Realm) probeSlapd(ctx context.Context) error {
	l, err := r.dial(ctx)
	if err != nil {
		return err
	}
	defer l.Close()
	return l.ExternalBind()
}

// ChangePassword changes a user's own password: it checks old by a bind as the user
// (the lock-out rules count it), then sets userPassword and the Kerberos keys by one
// guarded modify. Users have no right to write either themselves, for the keys need
// the realm's master key; so sekishod does it for them, as a directory identity that
// can do this and no more.
//
// The error is ErrWrongPassword when the directory says no to old, *PasswordRefused
// when it says no to new; anything else means that it could not be done or found out.
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
	dn := r.maker.layout.UserDN(user)
	if err := r.checkPassword(ctx, dn, old); err != nil {
		return err
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
	res, err := l.Search(ldap.NewSearchRequest(dn, ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, int(ldapLimit/time.Second), false,
		"(objectClass=*)", KeyAttributes, nil))
	if err != nil {
		return fmt.Errorf("changing a password: %w", err)
	}
	if len(res.Entries) != 1 {
		return errors.New("changing a password: the entry has gone")
	}
	req, err := is.ChangePassword(res.Entries[0], new)
	if err != nil {
		return fmt.Errorf("changing a password: %w", err)
	}
	switch err := l.Modify(req); {
	case err == nil:
		return nil
	case ldap.IsErrorWithCode(err, ldap.LDAPResultConstraintViolation):
		return &PasswordRefused{reason(err)}
	default:
		return fmt.Errorf("changing a password: %w", err)
	}
}

func (r *Realm) checkPassword(ctx context.Context, dn, password string) error {
	l, err := r.dial(ctx)
	if err != nil {
		return fmt.Errorf("checking the old password: %w", err)
	}
	defer l.Close()
	switch err := l.Bind(dn, password); {
	case err == nil:
		return nil
	case ldap.IsErrorWithCode(err, ldap.LDAPResultInvalidCredentials):
		return ErrWrongPassword
	default:
		return fmt.Errorf("checking the old password: %w", err)
	}
}

func reason(err error) string {
	var le *ldap.Error
	if errors.As(err, &le) && le.Err != nil {
		return le.Err.Error()
	}
	return "the policy does not allow it"
}

// socketURL is the ldapi URL of a socket path.
func socketURL(path string) string { return "ldapi://" + url.QueryEscape(path) }
