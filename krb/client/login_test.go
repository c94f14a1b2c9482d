package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/client"
)

// TestLogin: tickets as they were asked for, with each type of key.
func TestLogin(t *testing.T) {
	k := shared(t)
	c := newClient(t, nil, k.addr)
	for _, name := range []string{"alice", "open", "old", "salted"} {
		cred, err := c.Login(within(t, time.Minute), principal(t, name), "right", client.LoginOptions{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if cred.Client.String() != name+"@EXAMPLE.ORG" || cred.Server.String() != "krbtgt/EXAMPLE.ORG@EXAMPLE.ORG" ||
			cred.Key.EType != krb.AES256SHA2 || len(cred.Ticket) == 0 || cred.Flags&krb.FlagInitial == 0 ||
			(cred.Flags&krb.FlagPreAuthent != 0) != (name != "open") || cred.Flags&(krb.FlagRenewable|krb.FlagForwardable) != 0 {
			t.Errorf("%s: %v with a %v, flags %x", name, cred, cred.Key, cred.Flags)
		}
		if life := cred.EndTime.Sub(cred.StartTime); life != 10*time.Hour {
			t.Errorf("%s: it lasts %s", name, life)
		}
		if d := time.Since(cred.AuthTime); d < -time.Second || d > time.Minute {
			t.Errorf("%s: its sign-in was %s ago", name, d)
		}
	}
	cred, err := c.Login(within(t, time.Minute), principal(t, "carol"), "pässwörd-関所", client.LoginOptions{
		Service: principal(t, "host/web1.example.org"), Life: time.Hour, Renew: 24 * time.Hour, Forwardable: true})
	if err != nil {
		t.Fatal(err)
	}
	if cred.Server.String() != "host/web1.example.org@EXAMPLE.ORG" || cred.Flags&krb.FlagRenewable == 0 || cred.Flags&krb.FlagForwardable == 0 {
		t.Errorf("%v, flags %x", cred, cred.Flags)
	}
	if life := cred.EndTime.Sub(cred.StartTime); life < time.Hour-time.Minute || life > time.Hour {
		t.Errorf("it lasts %s", life)
	}
	if life := cred.RenewTill.Sub(cred.StartTime); life < 24*time.Hour-time.Minute || life > 24*time.Hour {
		t.Errorf("it is renewable for %s", life)
	}
}

// TestLoginErrors: what a KDC says no to, told apart.
func TestLoginErrors(t *testing.T) {
	k := shared(t)
	c := newClient(t, nil, k.addr)
	for _, x := range []struct {
		user, password string
		o              client.LoginOptions
		want           client.Kind
		code           int32
	}{
		{"alice", "wrong", client.LoginOptions{}, client.WrongPassword, 24},
		{"alice", "right right right", client.LoginOptions{}, client.WrongPassword, 24},
		{"open", "wrong", client.LoginOptions{}, client.WrongPassword, 0},
		{"salted", "wrong", client.LoginOptions{}, client.WrongPassword, 24},
		{"nobody", "right", client.LoginOptions{}, client.UnknownPrincipal, 6},
		{"alice/admin", "right", client.LoginOptions{}, client.UnknownPrincipal, 6},
		{"locked", "right", client.LoginOptions{}, client.Locked, 18},
		{"locked", "wrong", client.LoginOptions{}, client.Locked, 18},
		{"stale", "right", client.LoginOptions{}, client.PasswordExpired, 23},
		{"must", "right", client.LoginOptions{}, client.PasswordExpired, 23},
		{"gone", "right", client.LoginOptions{}, client.AccountExpired, 1},
		{"alice", "right", client.LoginOptions{Service: principal(t, "host/nowhere")}, client.UnknownService, 7},
		{"alice", "right", client.LoginOptions{Service: principal(t, "host/none.example.org")}, client.Refused, 27},
		{"alice", "", client.LoginOptions{}, client.WrongPassword, 0},
		{"alice", "ri\x00ght", client.LoginOptions{}, client.WrongPassword, 0},
		{"alice", strings.Repeat("x", 4097), client.LoginOptions{}, client.WrongPassword, 0},
		{"alice", "\xff", client.LoginOptions{}, client.WrongPassword, 0},
		{"alice", strings.Repeat("x", 4096), client.LoginOptions{}, client.WrongPassword, 24},
		{"alice", "right", client.LoginOptions{Life: -1}, client.Refused, 0},
		{"token", "right", client.LoginOptions{}, client.MoreThanPassword, 25},
	} {
		cred, err := c.Login(within(t, time.Minute), principal(t, x.user), x.password, x.o)
		var e *client.Error
		if !errors.As(err, &e) || e.Kind != x.want || e.Code != x.code || cred.Key.Value != nil {
			t.Errorf("%s with %.10q: %v; want %v (%d)", x.user, x.password, err, x.want, x.code)
			continue
		}
		if x.code != 0 && (e.KDC != k.addr || e.SkewBound == 0 || e.Skew.Abs() > time.Second+e.SkewBound) {
			t.Errorf("%s: of %q, skew %s ± %s", x.user, e.KDC, e.Skew, e.SkewBound)
		}
		if len(x.password) > 10 && strings.Contains(err.Error(), x.password) {
			t.Errorf("the error tells the password: %v", err)
		}
	}
	other, err := krb.ParsePrincipal("alice@ELSEWHERE.ORG")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Login(context.Background(), other, "right", client.LoginOptions{}); kindOf(t, err) != client.Refused {
		t.Errorf("another realm: %v", err)
	}
	if _, err := c.Login(context.Background(), krb.Principal{Components: []string{"a b"}, Realm: realmName}, "right", client.LoginOptions{}); kindOf(t, err) != client.Refused {
		t.Errorf("an odd name: %v", err)
	}
}

// TestExpiredPasswordService: an expired password opens the service to change it.
func TestExpiredPasswordService(t *testing.T) {
	k := shared(t)
	c := newClient(t, nil, k.addr)
	o := client.LoginOptions{Service: principal(t, "kadmin/changepw")}
	for _, name := range []string{"stale", "must"} {
		if _, err := c.Login(within(t, time.Minute), principal(t, name), "right", o); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.Login(within(t, time.Minute), principal(t, name), "wrong", o); kindOf(t, err) != client.WrongPassword {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLoginKey: a ticket by keytab, also with only some of the types.
func TestLoginKey(t *testing.T) {
	k := shared(t)
	c := newClient(t, nil, k.addr)
	p := principal(t, "host/web1.example.org")
	var keys []krb.Key
	for _, e := range k.keytab(t, "host.keytab") {
		keys = append(keys, e.Key)
	}
	if len(keys) != 4 {
		t.Fatalf("%d keys", len(keys))
	}
	if _, err := c.LoginKey(within(t, time.Minute), p, keys, client.LoginOptions{}); err != nil {
		t.Errorf("all keys: %v", err)
	}
	for _, key := range keys {
		if _, err := c.LoginKey(within(t, time.Minute), p, []krb.Key{key}, client.LoginOptions{}); err != nil {
			t.Errorf("%v: %v", key, err)
		}
		key.Value = append([]byte(nil), key.Value...)
		key.Value[0]++
		if _, err := c.LoginKey(within(t, time.Minute), p, []krb.Key{key}, client.LoginOptions{}); kindOf(t, err) != client.WrongPassword {
			t.Errorf("a wrong %v: %v", key, err)
		}
	}
	if _, err := c.LoginKey(context.Background(), p, nil, client.LoginOptions{}); kindOf(t, err) != client.WrongPassword {
		t.Errorf("no key: %v", err)
	}
}

// TestTGS: service tickets, renewal and forwarding.
func TestTGS(t *testing.T) {
	k := shared(t)
	c := newClient(t, nil, k.addr)
	ctx := within(t, time.Minute)
	tgt, err := c.Login(ctx, principal(t, "alice"), "right", client.LoginOptions{Life: time.Hour, Renew: 24 * time.Hour, Forwardable: true})
	if err != nil {
		t.Fatal(err)
	}
	service := principal(t, "sekisho/web1.example.org")
	cred, err := c.Service(ctx, tgt, service)
	if err != nil {
		t.Fatal(err)
	}
	if !cred.Server.Equal(service) || !cred.Client.Equal(tgt.Client) || !cred.AuthTime.Equal(tgt.AuthTime) || cred.EndTime.After(tgt.EndTime) {
		t.Errorf("%v", cred)
	}
	var keys []krb.Key
	for _, e := range k.keytab(t, "keytab") {
		keys = append(keys, e.Key)
	}
	if err := c.Verify(ctx, tgt, service, keys); err != nil {
		t.Error(err)
	}
	if err := c.Verify(ctx, tgt, principal(t, "host/web1.example.org"), keys); kindOf(t, err) != client.FalseKDC {
		t.Errorf("another's keys: %v", err)
	}
	renewed, err := c.Renew(ctx, tgt)
	if err != nil {
		t.Fatal(err)
	}
	if renewed.StartTime.Before(tgt.StartTime) || renewed.EndTime.Before(tgt.EndTime) || !renewed.RenewTill.Equal(tgt.RenewTill) || renewed.Flags&krb.FlagRenewable == 0 {
		t.Errorf("renewed: %v, renewable until %s", renewed, renewed.RenewTill)
	}
	if _, err := c.Service(ctx, renewed, service); err != nil {
		t.Errorf("with the renewed ticket: %v", err)
	}
	fwd, err := c.Forward(ctx, tgt, client.ForwardOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if fwd.Flags&krb.FlagForwarded == 0 || fwd.Flags&krb.FlagForwardable == 0 || fwd.Flags&krb.FlagRenewable == 0 || fwd.EndTime.After(tgt.EndTime) {
		t.Errorf("forwarded: %v, flags %x", fwd, fwd.Flags)
	}
	if _, err := c.Service(ctx, fwd, service); err != nil {
		t.Errorf("with the forwarded ticket: %v", err)
	}
	once, err := c.Forward(ctx, tgt, client.ForwardOptions{Once: true})
	if err != nil || once.Flags&krb.FlagForwardable != 0 {
		t.Errorf("forwarded once: %v, flags %x", err, once.Flags)
	}
	if _, err := c.Forward(ctx, once, client.ForwardOptions{}); kindOf(t, err) != client.Refused {
		t.Errorf("forwarded again: %v", err)
	}
	plain, err := c.Login(ctx, principal(t, "alice"), "right", client.LoginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Renew(ctx, plain); kindOf(t, err) != client.Expired {
		t.Errorf("renewing what cannot be: %v", err)
	}
	elsewhere, err := krb.ParsePrincipal("host/web1@ELSEWHERE.ORG")
	if err != nil {
		t.Fatal(err)
	}
	ended := tgt
	ended.EndTime = time.Now().Add(-time.Minute)
	broken := tgt
	broken.Ticket = append([]byte(nil), tgt.Ticket...)
	broken.Ticket[len(broken.Ticket)-1]++
	stranger := tgt
	stranger.Key = krb.Key{EType: tgt.Key.EType, Value: make([]byte, len(tgt.Key.Value))}
	for name, x := range map[string]struct {
		tgt    krb.Credential
		server krb.Principal
		want   client.Kind
	}{
		"unknown service": {tgt, principal(t, "host/nowhere"), client.UnknownService},
		"no server":       {tgt, principal(t, "host/none.example.org"), client.Refused},
		"other realm":     {tgt, elsewhere, client.Refused},
		"no TGT":          {cred, service, client.Refused},
		"ended":           {ended, service, client.Expired},
		"broken ticket":   {broken, service, client.Refused},
		"other key":       {stranger, service, client.Refused},
	} {
		got, err := c.Service(ctx, x.tgt, x.server)
		if kindOf(t, err) != x.want || got.Key.Value != nil {
			t.Errorf("%s: %v; want %v", name, err, x.want)
		}
	}
}
