package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/client"
	"github.com/sekisho/sekisho/krb/kpasswd"
)

// expired is a sign-in whose password must be changed first.
type expired struct {
	cl  *client.Client
	who krb.Principal
	old string
	o   client.LoginOptions
}

// changeExpired asks for a new password, sets it, and signs in with it.
func (a *app) changeExpired(ctx context.Context, s *signIn, x expired) (krb.Credential, error) {
	none := krb.Credential{}
	if a.passwordFile != "" {
		return none, refusedError{fmt.Errorf("the password of %s has expired: run sekisho login %[1]s at a terminal without --password-file, it asks for a new one", x.who)}
	}
	servers, err := s.conf.KpasswdServers(x.who.Realm)
	if err != nil {
		return none, usageError{err}
	}
	if len(servers) == 0 {
		// Where the KDCs are named, the first of them changes passwords too.
		for _, k := range s.kdcs {
			host := k[:strings.LastIndexByte(k, ':')]
			servers = append(servers, fmt.Sprintf("%s:%d", host, kpasswd.Port))
		}
	}
	patient, err := s.client(x.who.Realm, true)
	if err != nil {
		return none, err
	}
	kp := kpasswd.Client{KDC: patient, Servers: servers}
	fmt.Fprintf(a.err, "The password of %s has expired: choose a new one.\n", x.who)
	for range 3 {
		pw, err := a.askNewSecret(x.who.String())
		if err != nil {
			return none, err
		}
		err = kp.Change(ctx, x.who, x.old, pw)
		var refused *kpasswd.Refused
		if errors.As(err, &refused) {
			fmt.Fprintf(a.err, "%s\n", clean(sentence(refused.Error())))
			continue
		}
		if err != nil {
			return none, changeError(err)
		}
		fmt.Fprintln(a.err, "The password is changed.")
		return x.cl.Login(ctx, x.who, pw, x.o)
	}
	return none, refusedError{errors.New("no new password was taken: the old one stays, and has expired")}
}

// changeError tells a no from what could not be found out.
func changeError(err error) error {
	var denied *kpasswd.Denied
	if errors.As(err, &denied) {
		return refusedError{err}
	}
	return fmt.Errorf("changing the password: %w", err)
}

func sentence(s string) string { return strings.ToUpper(s[:1]) + strings.TrimRight(s[1:], ".") + "." }
