package ldapsync

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// lock is a user's ppolicy lock-out, kept so that a change of the policy
// reaches those whom it locks.
type lock struct {
	at     int64     // pwdAccountLockedTime, seconds since the epoch
	policy broker.DN // the user's own policy; empty: the default one
}

// account reads an account's state. A value that cannot be read locks the
// account: it may have been meant to. problem names it.
func (p *plan) account(e *entry) (s broker.AccountState, l *lock, problem error) {
	bad := func(attr int, err error) {
		s.Locked = true
		problem = fmt.Errorf("%s: %w; the account counts as locked", p.names[attr], err)
	}
	expires := func(to *int64, at int64) { // the earliest counts, and 0 would mean none
		if at = max(at, 1); *to == 0 || at < *to {
			*to = at
		}
	}
	for _, v := range e.values(p.user.shadow) {
		days, err := strconv.ParseInt(str(v), 10, 64)
		switch {
		case err != nil || days > math.MaxInt64/86400:
			bad(p.user.shadow, fmt.Errorf("want days since 1970"))
		case days >= 0: // shadow(5): negative or empty is never
			expires(&s.ShadowExpires, days*86400)
		}
	}
	for _, v := range e.values(p.user.krbExpires) {
		t, err := parseTime(str(v))
		if err != nil {
			bad(p.user.krbExpires, err)
			continue
		}
		expires(&s.KerberosExpires, t.Unix())
	}
	for _, v := range e.values(p.user.krbFlags) {
		const disallowAllTix = 0x40
		f, err := strconv.ParseInt(str(v), 10, 64)
		if err != nil {
			bad(p.user.krbFlags, fmt.Errorf("want a number"))
		} else if f&disallowAllTix != 0 {
			s.Locked = true
		}
	}
	for _, v := range e.values(p.user.accountLock) {
		if !strings.EqualFold(str(v), "false") {
			s.Locked = true
		}
	}
	for _, v := range e.values(p.user.adUAC) {
		const accountDisable = 0x2
		f, err := strconv.ParseInt(str(v), 10, 64)
		if err != nil {
			bad(p.user.adUAC, fmt.Errorf("want a number"))
		} else if f&accountDisable != 0 {
			s.Locked = true
		}
	}
	for _, v := range e.values(p.user.adExpy) {
		const toUnix = 11644473600 // seconds from 1601 to 1970
		n, err := strconv.ParseInt(str(v), 10, 64)
		if err != nil {
			bad(p.user.adExpy, fmt.Errorf("want a number"))
		} else if n != 0 && n != math.MaxInt64 { // both mean never
			expires(&s.ShadowExpires, n/1e7-toUnix)
		}
	}
	for _, v := range e.values(p.user.locked) {
		if str(v) == "000001010000Z" { // draft-behera-ldap-password-policy: by an administrator
			s.Locked = true
			continue
		}
		t, err := parseTime(str(v))
		if err != nil {
			bad(p.user.locked, err)
			continue
		}
		l = &lock{at: t.Unix()}
		if dn := e.first(p.user.policy); dn != nil {
			if l.policy, err = NormalizeDN(string(dn)); err != nil {
				bad(p.user.policy, err)
			}
		}
	}
	return s, l, problem
}

// apply puts the lock-out into s, by how long the policy lets it last; 0 is
// until an administrator unlocks.
func (l *lock) apply(s *broker.AccountState, duration time.Duration) {
	if duration <= 0 {
		s.Locked = true
		return
	}
	s.PolicyLockedUntil = max(1, l.at+int64((duration+time.Second-1)/time.Second))
}

// parseTime reads generalizedTime (RFC 4517 §3.3.13) in UTC, a fraction of a
// second cut off.
func parseTime(v string) (time.Time, error) {
	s, ok := strings.CutSuffix(v, "Z")
	if i := strings.IndexAny(s, ".,"); i >= 0 {
		if strings.Trim(s[i+1:], "0123456789") != "" {
			ok = false
		}
		s = s[:i]
	}
	for _, layout := range []string{"20060102150405", "200601021504", "2006010215"} {
		if t, err := time.Parse(layout, s); ok && err == nil && len(s) == len(layout) {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("want a time like 20300131235959Z")
}
