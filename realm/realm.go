// Package realm makes and keeps an embedded realm: a private OpenLDAP server
// (slapd) and a private MIT Kerberos KDC over the same directory tree, both in
// one state directory and run as children of this process.
//
// Open makes the realm where there is none yet (a private CA, the directory,
// the Kerberos master key) and does nothing where there is one. Run starts the
// two servers, restarts them when they die and stops them when its context
// ends. Everything that a program needs to speak to the realm is in Info.
//
// The package also knows how an entry with a Kerberos key looks (Principal,
// ChangePassword), so that an account is one LDAP add and a password change one
// LDAP modify, with no kadmin.
package realm

import (
	"context"
	"errors"
	"time"
)

// Info is what clients of a realm need. It is the same from Open to Close.
type Info struct {
	// Layout is the tree: base DN, Kerberos realm and the containers.
	Layout Layout
	// LDAPI is the URL of the unix socket, where SASL EXTERNAL names the caller.
	LDAPI string
	// LDAPS holds an ldaps:// URL for each listen address.
	LDAPS []string
	// LDAP holds an ldap:// URL for each listen address; binds need StartTLS there.
	LDAP []string
	// KDC holds the host:port addresses of the KDC (UDP and TCP).
	KDC []string
	// CAFile is the PEM file of the private CA, readable by all.
	CAFile string
	// KRB5Conf is a krb5.conf for clients on this machine, readable by all.
	KRB5Conf string
	// Stash is the Kerberos master key's stash file, readable by root and the
	// service user alone.
	Stash string
}

// Status is the state of one child.
type Status struct {
	// Name is slapd or krb5kdc.
	Name string
	// PID is 0 while the child is not running.
	PID int
	// Ready says that the child was seen to answer since it last started.
	Ready bool
	// Restarts counts the starts after the first one.
	Restarts int
	// Since is when the child got into its present state.
	Since time.Time
	// LastError is why it last stopped or did not start; empty if never.
	LastError string
}

// Realm is an embedded realm. Its methods may be called from any goroutine.
type Realm struct{}

// Open prepares the realm in cfg.Dir, making it on first use, and starts nothing.
// An interrupted first Open is started over by the next one. A second Open
// changes no file, unless a certificate is due or the configuration differs.
func Open(ctx context.Context, cfg Config) (*Realm, error) { return nil, errors.New("not yet") }

// Info tells how to reach the realm.
func (r *Realm) Info() Info { return Info{} }

// Run starts slapd and the KDC, supervises them and returns when ctx ends and
// both have stopped. It returns an error when the first start of either fails;
// later deaths are mended by a restart and seen in Status. It may be called once.
func (r *Realm) Run(ctx context.Context) error { return nil }

// Ready waits until slapd has answered a bind and the KDC a request, and
// returns nil; or ctx's error, or Run's.
func (r *Realm) Ready(ctx context.Context) error { return nil }

// Status reports on slapd and krb5kdc, in that order.
func (r *Realm) Status() []Status { return nil }

// ChangePassword changes a user's own password: it checks old by a bind as the
// user (lockout rules count it), then sets userPassword and the Kerberos keys by
// one guarded LDAP modify. The error is ErrWrongPassword when the directory says
// no, and anything else means that it could not be found out or done.
func (r *Realm) ChangePassword(ctx context.Context, user, old, new string) error { return nil }

// ErrWrongPassword says that the directory refused the old password, or that
// the account is locked, or that there is no such user: not told apart.
var ErrWrongPassword = errors.New("wrong password or account locked")
