package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/client"
	"github.com/sekisho/sekisho/krb/clock"
)

func is(err error, k client.Kind) bool {
	var e *client.Error
	return errors.As(err, &e) && e.Kind == k
}

// explain says what an exchange with the KDC came to, and what to do about it.
func (s *signIn) explain(err error, who krb.Principal) error {
	var e *client.Error
	if !errors.As(err, &e) {
		return err
	}
	no := func(format string, a ...any) error { return refusedError{fmt.Errorf(format, a...)} }
	asked := "those that DNS names"
	if len(s.kdcs) > 0 {
		asked = list(s.kdcs)
	}
	switch e.Kind {
	case client.WrongPassword:
		return no("the password of %s is wrong", who)
	case client.UnknownPrincipal:
		return no("the realm %s knows no %s: check the name, upper and lower case count", who.Realm, who)
	case client.PasswordExpired:
		return no("the password of %s has expired, and the KDC does not take the new one yet: try again in a moment", who)
	case client.Locked:
		return no("%s is locked: an administrator must unlock it, or it ends by itself after too many wrong passwords", who)
	case client.AccountExpired:
		return no("the account %s has expired: an administrator must prolong it", who)
	case client.Expired:
		return no("the ticket cannot be renewed: %w: log in again", e)
	case client.Skew:
		return errors.New(skewText(e, s.defaults.ClockSkew))
	case client.MoreThanPassword:
		return no("the KDC does not take the password of %[1]s alone: it wants a one-time code right behind it (or the account has no password). Use MIT's kinit: kinit -n -c FILE:armor @%[2]s && kinit -T FILE:armor %[1]s", who, who.Realm)
	case client.Refused, client.UnknownService:
		return no("no ticket for %s: %w", who, e)
	case client.Unreachable:
		return fmt.Errorf("no KDC of %s answers (asked: %s): %w", who.Realm, asked, e)
	}
	return fmt.Errorf("no ticket for %s: %w", who, e)
}

// skewText names the amount, how sure it is, and the mend.
func skewText(e *client.Error, allowed time.Duration) string {
	const mend = "set it right, for example with chronyd -q or timedatectl set-ntp true"
	if e.SkewBound == 0 {
		return fmt.Sprintf("this machine's clock and that of the KDC %s differ by more than %s: %s", e.KDC, clock.Span(allowed), mend)
	}
	way := "behind" // the KDC's minus ours
	if e.Skew < 0 {
		way = "ahead of"
	}
	return fmt.Sprintf("this machine's clock is %s %s the KDC's (%s, ± %s; %s is allowed): %s",
		clock.Span(e.Skew), way, e.KDC, clock.Span(e.SkewBound), clock.Span(allowed), mend)
}
