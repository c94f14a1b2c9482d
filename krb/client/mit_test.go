package client_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/ccache"
	"github.com/sekisho/sekisho/krb/client"
)

// cacheFile writes a credential cache.
func cacheFile(t testing.TB, c krb.Credential, more ...krb.Credential) string {
	t.Helper()
	b, err := ccache.Format(ccache.New(c, more...))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cc")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMITUsesOurTickets: MIT's programs list, use, renew and forward what we got.
func TestMITUsesOurTickets(t *testing.T) {
	k := shared(t)
	c := newClient(t, nil, k.addr)
	ctx := within(t, time.Minute)
	tgt, err := c.Login(ctx, principal(t, "alice"), "right", client.LoginOptions{Life: time.Hour, Renew: 24 * time.Hour, Forwardable: true})
	if err != nil {
		t.Fatal(err)
	}
	service, err := c.Service(ctx, tgt, principal(t, "host/web1.example.org"))
	if err != nil {
		t.Fatal(err)
	}
	fwd, err := c.Forward(ctx, tgt, client.ForwardOptions{})
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := c.Renew(ctx, tgt)
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		path, flags string
	}{
		"a sign-in":   {cacheFile(t, tgt), "Flags: FRIA"},
		"forwarded":   {cacheFile(t, fwd), "Flags: FfRA"},
		"renewed":     {cacheFile(t, renewed), "Flags: FRIA"},
		"the service": {cacheFile(t, tgt, service), "host/web1.example.org@EXAMPLE.ORG"},
	} {
		out := k.tool(t, "klist", "-f", "-c", "FILE:"+x.path)
		if !strings.Contains(out, "Default principal: alice@EXAMPLE.ORG") || !strings.Contains(out, x.flags) {
			t.Errorf("%s: klist says\n%s", name, out)
		}
		out = k.tool(t, "kvno", "-c", "FILE:"+x.path, "-k", filepath.Join(k.dir, "host.keytab"), "host/web1.example.org")
		if !strings.Contains(out, "keytab entry valid") {
			t.Errorf("%s: kvno says\n%s", name, out)
		}
		k.tool(t, "kinit", "-R", "-c", "FILE:"+x.path)
	}
}

// TestWeUseMITsTickets: what kinit got serves us.
func TestWeUseMITsTickets(t *testing.T) {
	k := shared(t)
	path := filepath.Join(t.TempDir(), "cc")
	if out, err := k.try(t, "right\n", "kinit", "-f", "-l", "1h", "-r", "1d", "-c", "FILE:"+path, "alice"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := ccache.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	tgt, err := cache.TGT()
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, nil, k.addr)
	ctx := within(t, time.Minute)
	var keys []krb.Key
	for _, e := range k.keytab(t, "keytab") {
		keys = append(keys, e.Key)
	}
	if err := c.Verify(ctx, tgt, principal(t, "sekisho/web1.example.org"), keys); err != nil {
		t.Error(err)
	}
	if _, err := c.Renew(ctx, tgt); err != nil {
		t.Error(err)
	}
	if _, err := c.Forward(ctx, tgt, client.ForwardOptions{}); err != nil {
		t.Error(err)
	}
}

// TestAddresses: a ticket bound to addresses, and what it is good for.
func TestAddresses(t *testing.T) {
	k := shared(t)
	c := newClient(t, nil, k.addr)
	ctx := within(t, time.Minute)
	here, there := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("203.0.113.250")
	for _, x := range []struct {
		addrs []netip.Addr
		good  bool
	}{{[]netip.Addr{here}, true}, {[]netip.Addr{there, here}, true}, {[]netip.Addr{netip.MustParseAddr("::ffff:127.0.0.1")}, true}, {[]netip.Addr{there}, false}} {
		tgt, err := c.Login(ctx, principal(t, "alice"), "right", client.LoginOptions{Forwardable: true, Addresses: x.addrs})
		if err != nil {
			t.Errorf("%v: %v", x.addrs, err)
			continue
		}
		if out := k.tool(t, "klist", "-a", "-n", "-c", "FILE:"+cacheFile(t, tgt)); !strings.Contains(out, "alice@EXAMPLE.ORG") {
			t.Errorf("%v:\n%s", x.addrs, out)
		}
		_, err = c.Service(ctx, tgt, principal(t, "host/web1.example.org"))
		if x.good && err != nil || !x.good && kindOf(t, err) != client.Refused {
			t.Errorf("%v: %v", x.addrs, err)
		}
		fwd, err := c.Forward(ctx, tgt, client.ForwardOptions{Addresses: []netip.Addr{there}})
		if x.good && (err != nil || fwd.Key.Value == nil) {
			t.Errorf("%v, forwarded: %v", x.addrs, err)
		}
	}
	if _, err := c.Login(ctx, principal(t, "alice"), "right", client.LoginOptions{Addresses: make([]netip.Addr, 1)}); kindOf(t, err) != client.Refused {
		t.Errorf("no address at all: %v", err)
	}
}

// BenchmarkLogin is one sign-in by password with pre-authentication, and how much of
// it is string-to-key.
func BenchmarkLogin(b *testing.B) {
	k := shared(b)
	c := newClient(b, nil, k.addr)
	for _, x := range []struct{ name, user string }{{"AES256SHA2", "alice"}, {"AES128SHA1", "old"}} {
		b.Run(x.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := c.Login(b.Context(), principal(b, x.user), "right", client.LoginOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("Key", func(b *testing.B) {
		var keys []krb.Key
		for _, e := range k.keytab(b, "host.keytab") {
			keys = append(keys, e.Key)
		}
		for b.Loop() {
			if _, err := c.LoginKey(b.Context(), principal(b, "host/web1.example.org"), keys, client.LoginOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkService is one TGS exchange.
func BenchmarkService(b *testing.B) {
	k := shared(b)
	c := newClient(b, nil, k.addr)
	tgt, err := c.Login(b.Context(), principal(b, "old"), "right", client.LoginOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := c.Service(b.Context(), tgt, principal(b, "host/web1.example.org")); err != nil {
			b.Fatal(err)
		}
	}
}

// TestManyAtOnce: sign-ins do not get in each other's way.
func TestManyAtOnce(t *testing.T) {
	leaks(t)
	k := shared(t)
	c := newClient(t, func(c *client.Config) { c.Try, c.Total = 20*time.Second, time.Minute }, freePort(), k.addr)
	const n = 200
	errs := make(chan error, n)
	for i := range n {
		go func() {
			user, password := "old", "right"
			if i%2 == 1 {
				password = "wrong"
			}
			_, err := c.Login(within(t, time.Minute), principal(t, user), password, client.LoginOptions{})
			if i%2 == 1 && err != nil && kindOf(t, err) == client.WrongPassword {
				err = nil
			} else if i%2 == 1 {
				err = fmt.Errorf("a wrong password: %v", err)
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
