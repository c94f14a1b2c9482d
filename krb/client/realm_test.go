package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/client"
	"github.com/sekisho/sekisho/realm"
)

// world is an embedded realm with a user and our own service.
type world struct {
	*realm.Realm
	is   realm.Issuer
	keys []krb.KeytabEntry
	ldap *ldap.Conn
}

func newWorld(t testing.TB) world {
	t.Helper()
	dir, err := os.MkdirTemp("", "r")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	u, err := user.Lookup("sekisho")
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2, os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	log, _ := logged()
	r, err := realm.Open(within(t, time.Minute), realm.Config{Dir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"), Domain: "example.org",
		LDAP: []string{freePort()}, LDAPS: []string{freePort()}, KDC: []string{freePort()}, UID: uid, GID: gid, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Run(context.Background()) }()
	t.Cleanup(func() {
		if err := errors.Join(r.Close(), <-done); err != nil {
			t.Error(err)
		}
	})
	if err := r.Ready(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	w := world{Realm: r}
	if w.is, err = realm.LoadIssuer(r.Info()); err != nil {
		t.Fatal(err)
	}
	if w.ldap, err = ldap.DialURL(r.Info().LDAPI); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.ldap.Close() })
	if err := w.ldap.ExternalBind(); err != nil {
		t.Fatal(err)
	}
	req, keys, err := w.is.Service("sekisho/web1.example.org")
	if err != nil {
		t.Fatal(err)
	}
	w.keys = keys
	attrs, err := w.is.User("alice", "first password")
	if err != nil {
		t.Fatal(err)
	}
	alice := ldap.NewAddRequest(r.Info().Layout.UserDN("alice"), nil)
	alice.Attributes = attrs
	alice.Attributes[0].Vals = append(alice.Attributes[0].Vals, "inetOrgPerson")
	for _, a := range []string{"uid", "cn", "sn"} {
		alice.Attribute(a, []string{"alice"})
	}
	for _, a := range []*ldap.AddRequest{req, alice} {
		if err := w.ldap.Add(a); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// set replaces an attribute of alice's; no value removes it.
func (w world) set(t testing.TB, name string, values ...string) {
	t.Helper()
	req := ldap.NewModifyRequest(w.Info().Layout.UserDN("alice"), nil)
	req.Replace(name, values)
	if err := w.ldap.Modify(req); err != nil {
		t.Fatal(err)
	}
}

// TestEmbeddedRealm: a sign-in at the realm that sekishod keeps, with what its
// directory says of a user, and a forced change that the directory and the KDC see.
func TestEmbeddedRealm(t *testing.T) {
	w := newWorld(t)
	log, text := logged()
	c := newClient(t, nil, w.Info().KDC...)
	p, err := client.NewProver(client.ProverConfig{Client: c, Service: w.keys[0].Principal, Log: log,
		Keys: func() ([]krb.KeytabEntry, error) { return w.keys, nil },
		Pack: func(c krb.Credential) ([]byte, error) { return []byte(c.Client.String()), nil },
		Change: func(ctx context.Context, claim broker.Claim, old, new string) broker.Proven {
			var refused *realm.PasswordRefused
			switch err := w.ChangePassword(ctx, string(claim.User), old, new); {
			case err == nil:
				return broker.Proven{Outcome: broker.Allow}
			case errors.As(err, &refused):
				return broker.Proven{Reason: broker.ReasonPasswordRefused, Text: err.Error()}
			default:
				t.Error(err)
				return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonProver}
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, c *conversation, want broker.Reason) {
		t.Helper()
		if got := prove(t, p, "alice", c); got.Reason != want || (got.Outcome == broker.Allow) != (want == "") || (string(got.Tickets) == "alice@EXAMPLE.ORG") != (want == "") {
			t.Errorf("%s: %v %q, told %q\n%s", when, got.Outcome, got.Reason, c.told(), text)
		}
	}
	right := func() *conversation { return &conversation{password: "first password"} }
	past := time.Now().Add(-time.Hour).UTC().Format("20060102150405Z")
	check("at first", right(), "")
	check("wrong", &conversation{password: "first passwort"}, broker.ReasonWrongPassword)
	w.set(t, "krbTicketFlags", fmt.Sprint(0x40|0x80|0x1000))
	check("locked", right(), broker.ReasonLocked)
	w.set(t, "krbTicketFlags", fmt.Sprint(0x80|0x1000))
	w.set(t, "krbPrincipalExpiration", past)
	check("expired", right(), broker.ReasonKerberosExpired)
	w.set(t, "krbPrincipalExpiration")
	w.set(t, "krbPasswordExpiration", past)
	check("password expired, wrong", &conversation{password: "first passwort"}, broker.ReasonWrongPassword)
	check("password expired, no new one", right(), broker.ReasonConversation)
	check("password expired", &conversation{password: "first password", new: [][2]string{{"short", "short"}, {"second password", "second password"}}}, "")
	check("the old one", right(), broker.ReasonWrongPassword)
	check("the new one", &conversation{password: "second password"}, "")
	l, err := ldap.DialURL(w.Info().LDAPI)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Bind(w.Info().Layout.UserDN("alice"), "second password"); err != nil {
		t.Errorf("the directory does not know the new password: %v", err)
	}
}
