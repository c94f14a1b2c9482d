// Package mit is MIT Kerberos for tests: a realm with a KDC, and a program over its
// GSS-API library to speak with, as initiator and as acceptor. Its functions end the
// test when something fails that is not tested.
package mit

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/accept"
	"github.com/sekisho/sekisho/krb/client"
	"github.com/sekisho/sekisho/krb/gss"
	"github.com/sekisho/sekisho/testenv"
)

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// Realm is a KDC with the user alice and a service of each encryption type.
type Realm struct {
	*testenv.KDC
	// Keytab has the keys of all services.
	Keytab string
	Client *client.Client
}

// Services have keys of one type each, so that the session keys are of it too.
var Services = []struct {
	EType int32
	// MIT is the encryption type's name, Name the service's.
	MIT, Name string
}{
	{krb.AES128SHA1, "aes128-cts-hmac-sha1-96", "host/e17.example.org"},
	{krb.AES256SHA1, "aes256-cts-hmac-sha1-96", "host/e18.example.org"},
	{krb.AES128SHA2, "aes128-cts-hmac-sha256-128", "host/e19.example.org"},
	{krb.AES256SHA2, "aes256-cts-hmac-sha384-192", "host/e20.example.org"},
}

// Password is alice's.
const Password = "correct horse"

// NewRealm makes the realm EXAMPLE.ORG and starts its KDC; more are further services,
// with keys of all types.
func NewRealm(t testing.TB, more ...string) *Realm {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 2*time.Minute)
	k, err := testenv.StartKDC(ctx, testenv.KDCConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the KDC's log:\n%s", k.Log())
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &Realm{KDC: k, Keytab: filepath.Join(dir, "keytab")}
	if err := k.AddUser(ctx, "alice", Password); err != nil {
		t.Fatal(err)
	}
	for _, s := range Services {
		if err := k.AddService(ctx, s.Name, r.Keytab, s.MIT); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range more {
		if err := k.AddService(ctx, name, r.Keytab); err != nil {
			t.Fatal(err)
		}
	}
	if r.Client, err = client.New(client.Config{Realm: k.Realm, KDCs: []string{k.Addr}}); err != nil {
		t.Fatal(err)
	}
	return r
}

// Principal is a name of the realm.
func (r *Realm) Principal(t testing.TB, name string) krb.Principal {
	t.Helper()
	p, err := krb.NewPrincipal(name, r.Realm)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TGT signs alice in.
func (r *Realm) TGT(t testing.TB) krb.Credential {
	t.Helper()
	c, err := r.Client.Login(within(t, time.Minute), r.Principal(t, "alice"), Password, client.LoginOptions{Forwardable: true})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Ticket gets a service ticket.
func (r *Realm) Ticket(t testing.TB, tgt krb.Credential, service string) krb.Credential {
	t.Helper()
	c, err := r.Client.Service(within(t, time.Minute), tgt, r.Principal(t, service))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Forward gets a ticket to delegate.
func (r *Realm) Forward(t testing.TB, tgt krb.Credential) *krb.Credential {
	t.Helper()
	c, err := r.Client.Forward(within(t, time.Minute), tgt, client.ForwardOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return &c
}

// Acceptor is one with the realm's keytab and a replay cache of its own; change, if
// not nil, alters its configuration.
func (r *Realm) Acceptor(t testing.TB, change func(*gss.Config, *accept.Config)) *gss.Acceptor {
	t.Helper()
	keytab, err := accept.OpenKeytab(r.Keytab)
	if err != nil {
		t.Fatal(err)
	}
	replay, err := accept.OpenReplay(accept.ReplayConfig{Path: filepath.Join(t.TempDir(), "replay")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { replay.Close() })
	ac := accept.Config{Keytab: keytab, Replay: replay}
	var gc gss.Config
	if change != nil {
		change(&gc, &ac)
	}
	if gc.Tickets, err = accept.New(ac); err != nil {
		t.Fatal(err)
	}
	a, err := gss.NewAcceptor(gc)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Env is the environment of MIT's programs.
func (r *Realm) Env(ccache string) []string {
	return []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "KRB5_CONFIG=" + r.KRB5Conf, "KRB5_KTNAME=FILE:" + r.Keytab,
		"KRB5CCNAME=FILE:" + ccache, "KRB5RCACHENAME=none:"}
}

// Kinit signs alice in with MIT's program and gives the cache.
func (r *Realm) Kinit(t testing.TB) string {
	t.Helper()
	cc := filepath.Join(t.TempDir(), "cc")
	cmd := exec.CommandContext(within(t, time.Minute), "kinit", "-f", "alice")
	cmd.Env = r.Env(cc)
	cmd.Stdin = strings.NewReader(Password + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("kinit: %v\n%s", err, out)
	}
	return cc
}
