package ldapsync

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/testenv"
)

// entryOf makes an entry of attribute, value pairs.
func entryOf(p *plan, dn string, pairs ...string) *entry {
	e := p.newEntry()
	e.dn = []byte(dn)
	for i := 0; i < len(pairs); i += 2 {
		if n := p.lookup([]byte(pairs[i])); n >= 0 {
			e.attrs[n] = append(e.attrs[n], []byte(pairs[i+1]))
		}
	}
	return e
}

func TestAccountState(t *testing.T) {
	p, err := newPlan(RFC2307bis())
	if err != nil {
		t.Fatal(err)
	}
	ad, err := newPlan(ActiveDirectory())
	if err != nil {
		t.Fatal(err)
	}
	unix := func(s string) int64 {
		at, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return at.Unix()
	}
	locked := broker.AccountState{Locked: true}
	for _, c := range []struct {
		p          *plan
		attr, v    string
		want       broker.AccountState
		lockedAt   int64
		unreadable bool
	}{
		{p: p, attr: "sn", v: "x"},
		{p: p, attr: "shadowExpire", v: "-1"},
		{p: p, attr: "shadowExpire", v: "0", want: broker.AccountState{ShadowExpires: 1}},
		{p: p, attr: "shadowExpire", v: "20000", want: broker.AccountState{ShadowExpires: 20000 * 86400}},
		{p: p, attr: "shadowExpire", v: "soon", want: locked, unreadable: true},
		{p: p, attr: "shadowExpire", v: "9223372036854775807", want: locked, unreadable: true},
		{p: p, attr: "krbPrincipalExpiration", v: "20300131235959Z", want: broker.AccountState{KerberosExpires: unix("2030-01-31T23:59:59Z")}},
		{p: p, attr: "krbPrincipalExpiration", v: "203001312359.5Z", want: broker.AccountState{KerberosExpires: unix("2030-01-31T23:59:00Z")}},
		{p: p, attr: "krbPrincipalExpiration", v: "19700101000000Z", want: broker.AccountState{KerberosExpires: 1}},
		{p: p, attr: "krbPrincipalExpiration", v: "20300131235959", want: locked, unreadable: true},
		{p: p, attr: "krbPrincipalExpiration", v: "20300231000000Z", want: locked, unreadable: true},
		{p: p, attr: "krbTicketFlags", v: "64", want: locked},
		{p: p, attr: "krbTicketFlags", v: "191"},
		{p: p, attr: "krbTicketFlags", v: "255", want: locked},
		{p: p, attr: "krbTicketFlags", v: "x", want: locked, unreadable: true},
		{p: p, attr: "nsAccountLock", v: "TRUE", want: locked},
		{p: p, attr: "nsAccountLock", v: "false"},
		{p: p, attr: "nsAccountLock", v: "maybe", want: locked},
		{p: p, attr: "pwdAccountLockedTime", v: "000001010000Z", want: locked},
		{p: p, attr: "pwdAccountLockedTime", v: "20260101000000Z", lockedAt: unix("2026-01-01T00:00:00Z")},
		{p: p, attr: "pwdAccountLockedTime", v: "20260101000000.123456Z", lockedAt: unix("2026-01-01T00:00:00Z")},
		{p: p, attr: "pwdAccountLockedTime", v: "never", want: locked, unreadable: true},
		{p: ad, attr: "userAccountControl", v: "514", want: locked},
		{p: ad, attr: "userAccountControl", v: "512"},
		{p: ad, attr: "accountExpires", v: "0"},
		{p: ad, attr: "accountExpires", v: fmt.Sprint(int64(math.MaxInt64))},
		{p: ad, attr: "accountExpires", v: "133801632000000000", want: broker.AccountState{ShadowExpires: unix("2025-01-01T00:00:00Z")}},
	} {
		s, l, err := c.p.account(entryOf(c.p, "", c.attr, c.v))
		if s != c.want || (err != nil) != c.unreadable || (l == nil) != (c.lockedAt == 0) || l != nil && l.at != c.lockedAt {
			t.Errorf("%s %s: %+v %+v %v", c.attr, c.v, s, l, err)
		}
	}
}

const ppolicyConfig = `dn: olcOverlay=ppolicy,olcDatabase={1}mdb,cn=config
objectClass: olcOverlayConfig
objectClass: olcPPolicyConfig
olcOverlay: ppolicy
olcPPolicyDefault: cn=default,ou=policies,` + testBase + `
`

// TestPasswordLock: a lock-out by slapo-ppolicy shuts the account at once, for
// as long as its policy says, and an administrator's lock and unlock do. (The
// overlay's own writes are replicated by syncprov like any other.)
func TestPasswordLock(t *testing.T) {
	d := startDirectory(t, testenv.SlapdConfig{Config: ppolicyConfig})
	d.add("cn=default,ou=policies,"+testBase, "objectClass", "organizationalRole", "objectClass", "pwdPolicy", "cn", "default",
		"pwdAttribute", "userPassword", "pwdLockout", "TRUE", "pwdMaxFailure", "2", "pwdLockoutDuration", "600")
	d.add("cn=strict,ou=policies,"+testBase, "objectClass", "organizationalRole", "objectClass", "pwdPolicy", "cn", "strict",
		"pwdAttribute", "userPassword", "pwdLockout", "TRUE", "pwdMaxFailure", "2", "pwdLockoutDuration", "0")
	d.user("alice", 2001, "userPassword", "right")
	d.user("bob", 2002, "userPassword", "right", "pwdPolicySubentry", "cn=strict,ou=policies,"+testBase)
	c := d.config(t)
	c.Schema = RFC2307bis()
	c.Schema.PolicyDefaultDN = "cn=default,ou=policies," + testBase
	r := startSync(t, c)
	state := func(v broker.View, name string) broker.AccountState {
		u, _ := v.User(broker.UserName(name))
		if u == nil {
			return broker.AccountState{}
		}
		return u.State
	}
	r.until("bob is there", hasUser("bob"))
	r.live()
	fail := func(name string) {
		for range 2 {
			_, err := Dial(t.Context(), ClientConfig{Provider: Provider{URLs: []string{d.LDAPI}, BindDN: userDN(name),
				Password: func() ([]byte, error) { return []byte("wrong"), nil }}})
			if !IsCode(err, ldap.LDAPResultInvalidCredentials) {
				t.Fatalf("a wrong password: %v", err)
			}
		}
	}
	began := time.Now()
	fail("alice")
	v := r.until("alice is locked out", func(v broker.View) bool { return state(v, "alice").PolicyLockedUntil != 0 })
	if got := time.Unix(state(v, "alice").PolicyLockedUntil, 0).Sub(began); got < 595*time.Second || got > 660*time.Second {
		t.Errorf("alice is locked out for %s", got)
	}
	fail("bob")
	r.until("bob is locked out for good", func(v broker.View) bool { return state(v, "bob").Locked })
	d.modify("cn=default,ou=policies,"+testBase, "replace", "pwdLockoutDuration", "3600")
	r.until("the policy's change reaches alice", func(v broker.View) bool {
		return state(v, "alice").PolicyLockedUntil-began.Unix() > 3500
	})
	if r.stop(); true { // the same from disk
		r = startSync(t, c)
		v = r.until("the snapshot is loaded", hasUser("bob"))
		if !state(v, "bob").Locked || state(v, "alice").PolicyLockedUntil-began.Unix() < 3500 {
			t.Errorf("from disk: %+v %+v", state(v, "alice"), state(v, "bob"))
		}
		r.live()
	}
	relax := func(name string, m *ldap.ModifyRequest) {
		m.Controls = []ldap.Control{ldap.NewControlString("1.3.6.1.4.1.4203.666.5.12", true, "")}
		if err := d.admin.Modify(context.Background(), m); err != nil {
			t.Fatal(err)
		}
	}
	m := ldap.NewModifyRequest(userDN("alice"), nil)
	m.Delete("pwdAccountLockedTime", nil)
	relax("alice", m)
	r.until("alice is free", func(v broker.View) bool { return state(v, "alice") == broker.AccountState{} })
	m = ldap.NewModifyRequest(userDN("alice"), nil)
	m.Replace("pwdAccountLockedTime", []string{"000001010000Z"})
	relax("alice", m)
	r.until("alice is locked by an administrator", func(v broker.View) bool { return state(v, "alice").Locked })
}
