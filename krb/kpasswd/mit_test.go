package kpasswd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/client"
)

// TestOurClientAtKadmind: our client changes passwords at MIT's own server.
func TestOurClientAtKadmind(t *testing.T) {
	w := startWorld(t)
	c, ctx := w.client(w.kadmind), t.Context()
	if err := c.Change(ctx, alice, "first password", "pässwörd 関所"); err != nil {
		t.Fatal(err)
	}
	if !w.kinit("alice", "pässwörd 関所") || w.kinit("alice", "first password") {
		t.Error("the password was not changed")
	}
	w.run("kadmin.local", "modprinc", "-pwexpire", "yesterday", "alice")
	if err := c.Change(ctx, alice, "pässwörd 関所", "second password"); err != nil {
		t.Fatalf("with an expired one: %v", err)
	}
	if !w.kinit("alice", "second password") {
		t.Error("the expired password was not changed")
	}
	var refused *Refused
	if err := c.Change(ctx, alice, "second password", "short"); !errors.As(err, &refused) || !strings.Contains(refused.Words, "8") {
		t.Errorf("a short one: %v", err)
	}
	if err := c.Change(ctx, alice, "second password", "pässwörd 関所"); !errors.As(err, &refused) || !strings.Contains(refused.Words, "previously") {
		t.Errorf("one of before: %v", err)
	}
	var ce *client.Error
	if err := c.Change(ctx, alice, "wrong password", "third password"); !errors.As(err, &ce) || ce.Kind != client.WrongPassword {
		t.Errorf("a wrong one: %v", err)
	}
	for _, bad := range []string{"", "nul\x00nul", strings.Repeat("x", 4097)} {
		if err := c.Change(ctx, alice, "second password", bad); !errors.As(err, &refused) {
			t.Errorf("%.10q: %v", bad, err)
		}
	}
	// Every session key type has its way of sealing.
	for i, etype := range []string{"aes256-cts-hmac-sha384-192", "aes256-cts-hmac-sha1-96", "aes128-cts-hmac-sha256-128", "aes128-cts-hmac-sha1-96"} {
		w.run("kadmin.local", "setstr", "kadmin/changepw", "session_enctypes", etype)
		cred := w.ticket([]string{"second password", "password 0", "password 1", "password 2"}[i])
		if want := []int32{20, 18, 19, 17}[i]; cred.Key.EType != want {
			t.Fatalf("a session key of type %d, not %d", cred.Key.EType, want)
		}
		if err := c.ChangeWith(ctx, cred, "password "+string(rune('0'+i))); err != nil {
			t.Errorf("%s: %v", etype, err)
		}
	}
	if !w.kinit("alice", "password 3") {
		t.Error("the last password was not set")
	}
	// A ticket that was not got with the password.
	w.run("kadmin.local", "modprinc", "+allow_tgs_req", "kadmin/changepw")
	tgt, err := c.KDC.Login(ctx, alice, "password 3", client.LoginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cred, err := c.KDC.Service(ctx, tgt, Service(testRealm))
	if err != nil {
		t.Fatal(err)
	}
	var denied *Denied
	if err := c.ChangeWith(ctx, cred, "password 4"); !errors.As(err, &denied) {
		t.Errorf("by TGT at kadmind: %v", err)
	}
	s := w.serve(nil)
	var unsealed *ServerError
	if err := w.client(s.addr).ChangeWith(ctx, cred, "password 4"); !errors.As(err, &unsealed) || len(s.made()) != 0 {
		t.Errorf("by TGT at our server: %v", err)
	}
}

// TestStockClientAtOurs: MIT's kpasswd and kinit at our server.
func TestStockClientAtOurs(t *testing.T) {
	w := startWorld(t)
	s := w.serve(nil)
	v := w.with(w.conf("ours.conf", s.addr))
	typed := "first password\nsecond password\nsecond password\n"
	out, err := v.try(typed, "kpasswd", "alice")
	if err != nil || !strings.Contains(out, "Password changed.") || !slices.Equal(s.made(), []string{"alice@EXAMPLE.ORG second password"}) {
		t.Fatalf("kpasswd: %v, %q\n%s", err, s.made(), out)
	}
	for _, c := range []struct {
		say  error
		want []string
	}{
		{&Refused{"the policy's own words: \x1b[31mred"}, []string{"Password change rejected", "the policy's own words: [31mred"}},
		{&Refused{}, []string{"Password change rejected"}},
		{&Denied{"not this one"}, []string{"not this one"}},
		{errors.New("the inside of the server"), []string{"try again later"}},
	} {
		s.set(c.say, 0)
		out, err := v.try(typed, "kpasswd", "alice")
		if err == nil {
			t.Errorf("%v: changed\n%s", c.say, out)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%v: no %q\n%s", c.say, want, out)
			}
		}
		if strings.Contains(out, "inside") {
			t.Errorf("the cause was told:\n%s", out)
		}
	}
	w.run("kadmin.local", "modprinc", "-pwexpire", "yesterday", "alice")
	s.set(nil, 0)
	out, _ = v.try(typed, "kinit", "alice")
	if !slices.Equal(s.made(), []string{"alice@EXAMPLE.ORG second password"}) || !strings.Contains(out, "Password expired") {
		t.Errorf("kinit with an expired password: %q\n%s", s.made(), out)
	}
	if log := s.log.String(); strings.Contains(log, "second password") || strings.Contains(log, "first password") {
		t.Error("the log tells a password")
	}
}

// TestSlowServer: MIT's client sends the request again, and tries TCP, while the
// server is at work: it is done once, and the client is told so.
func TestSlowServer(t *testing.T) {
	w := startWorld(t)
	s := w.serve(nil)
	v := w.with(w.conf("ours.conf", s.addr))
	for _, slow := range []time.Duration{1500 * time.Millisecond, 4 * time.Second} {
		s.set(nil, slow)
		out, err := v.try("first password\nsecond password\nsecond password\n", "kpasswd", "alice")
		if err != nil || !strings.Contains(out, "Password changed.") || len(s.made()) != 1 {
			t.Errorf("after %s: %v, %q\n%s", slow, err, s.made(), out)
		}
	}
}

// TestAddresses: a server on all addresses answers from the one that it was asked
// at, which MIT's client insists on; and several servers are tried.
func TestAddresses(t *testing.T) {
	w := startWorld(t)
	four, six := freeAddr(t, "0.0.0.0"), freeAddr(t, "::")
	s := w.serve(func(c *Config) { c.Listen = []string{four, six} })
	_, port4, _ := strings.Cut(four, ":")
	port6 := six[strings.LastIndexByte(six, ':')+1:]
	dead := freeAddr(t, "127.0.0.1")
	if out, err := exec.Command("ip", "addr", "add", "127.0.0.9/8", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	for _, servers := range [][]string{{"127.0.0.1:" + port4}, {"127.0.0.9:" + port4}, {"[::1]:" + port6}, {"[2001:db8::1]:" + port6},
		{"203.0.113.1:" + port4}, {dead, "203.0.113.1:" + port4}} {
		s.set(nil, 0)
		out, err := w.with(w.conf("ours.conf", servers...)).try("first password\nsecond password\nsecond password\n", "kpasswd", "alice")
		if err != nil || len(s.made()) != 1 {
			t.Errorf("kpasswd at %v: %v, %q\n%s", servers, err, s.made(), out)
		}
		s.set(nil, 0)
		if err := w.client(servers...).Change(t.Context(), alice, "first password", "second password"); err != nil || len(s.made()) != 1 {
			t.Errorf("our client at %v: %v, %q", servers, err, s.made())
		}
	}
	var ce *client.Error
	if err := w.client(dead).Change(t.Context(), alice, "first password", "second password"); !errors.As(err, &ce) || ce.Kind != client.Unreachable {
		t.Errorf("nobody there: %v", err)
	}
}

// TestOurClientUnsure: a server that was reached and says nothing may have done it;
// it is asked no second time, nor is another one.
func TestOurClientUnsure(t *testing.T) {
	w := startWorld(t)
	s, other := w.serve(func(c *Config) { c.Timeout = 5 * time.Second }), w.serve(nil)
	s.set(nil, time.Minute)
	err := w.client(s.addr, other.addr).Change(t.Context(), alice, "first password", "second password")
	if !errors.Is(err, ErrFailed) { // its own limit has passed
		t.Errorf("a server that gives up: %v", err)
	}
	s.stop()
	mute := testListener(t, func([]byte) []byte { return nil })
	if err := w.client(mute, other.addr).Change(t.Context(), alice, "first password", "second password"); !errors.Is(err, ErrUnsure) {
		t.Errorf("a mute server: %v", err)
	}
	// What is not sealed changes nothing: neither a made-up success nor another's reply.
	var replies [][]byte
	relay := testListener(t, func(req []byte) []byte {
		reply := other.answer(context.Background(), req, testAddr, testAddr, false)
		replies = append(replies, reply)
		return replies[0]
	})
	if err := w.client(relay).Change(t.Context(), alice, "first password", "second password"); err != nil {
		t.Errorf("through a relay: %v", err)
	}
	if err := w.client(relay).Change(t.Context(), alice, "first password", "third password"); !errors.Is(err, ErrUnsure) {
		t.Errorf("another's reply: %v", err)
	}
	cred := w.ticket("first password")
	for name, f := range map[string]func(req []byte) []byte{
		"echo":  func(req []byte) []byte { return req },
		"empty": func([]byte) []byte { return []byte{} },
		"made up": func([]byte) []byte {
			r, _ := frame(versionChange, nil, result(resultSuccess, ""))
			return r
		},
		"flipped": func(req []byte) []byte {
			r := other.answer(context.Background(), req, testAddr, testAddr, false)
			r[len(r)-3] ^= 1
			return r
		},
		"swapped parts": func(req []byte) []byte {
			r := other.answer(context.Background(), req, testAddr, testAddr, false)
			q, _ := parseRequest(req)
			rep, _, _, _ := parseFrame(r)
			out, _ := frame(versionChange, rep, q.priv)
			return out
		},
	} {
		if err := w.client(testListener(t, f)).ChangeWith(t.Context(), cred, "third password"); !errors.Is(err, ErrUnsure) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// An error that is not sealed is told as one, and is no verdict on the password.
	said := testListener(t, func([]byte) []byte { return other.refuse(resultSoftError, "do not believe me") })
	var unsealed *ServerError
	var refused *Refused
	if err := w.client(said).ChangeWith(t.Context(), cred, "third password"); !errors.As(err, &unsealed) || errors.As(err, &refused) {
		t.Errorf("an unsealed refusal: %v", err)
	}
}

// TestKeysOfOthers: a ticket of another key or for another service is refused.
func TestKeysOfOthers(t *testing.T) {
	w := startWorld(t)
	w.run("kadmin.local", "addprinc", "-randkey", "host/web1.example.org")
	cred, err := w.client().KDC.Login(t.Context(), alice, "first password",
		client.LoginOptions{Service: krb.Principal{Components: []string{"host", "web1.example.org"}, Realm: testRealm}})
	if err != nil {
		t.Fatal(err)
	}
	keytab := t.TempDir() + "/keytab"
	w.run("kadmin.local", "ktadd", "-norandkey", "-k", keytab, "kadmin/changepw", "host/web1.example.org")
	entries, err := krb.ReadKeytab(keytab)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, entries, nil)
	var unsealed *ServerError
	if err := w.client(s.addr).ChangeWith(t.Context(), cred, "second password"); !errors.As(err, &unsealed) || len(s.made()) != 0 {
		t.Errorf("a host's ticket: %v, %q", err, s.made())
	}
	good := w.ticket("first password")
	w.run("kadmin.local", "cpw", "-randkey", "kadmin/changepw")
	fresh := w.ticket("first password")
	if err := w.client(s.addr).ChangeWith(t.Context(), fresh, "second password"); !errors.As(err, &unsealed) || len(s.made()) != 0 {
		t.Errorf("another key: %v, %q", err, s.made())
	}
	if err := w.client(s.addr).ChangeWith(t.Context(), good, "second password"); err != nil || len(s.made()) != 1 {
		t.Errorf("the right key: %v, %q", err, s.made())
	}
}

// TestDatagrams: where TCP does not get through, MIT's client is served over UDP, at
// every address; and a datagram that comes again is answered again.
func TestDatagrams(t *testing.T) {
	w := startWorld(t)
	s := w.serve(nil) // for its parts; its own sockets are not used
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var addrs []string
	for _, at := range []string{freeAddr(t, "0.0.0.0"), freeAddr(t, "::"), freeAddr(t, "127.0.0.1")} {
		u, err := listenUDP(netip.MustParseAddrPort(at))
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() { s.serveUDP(ctx, ctx, u, &all) })
		context.AfterFunc(ctx, func() { u.conn.Close() })
		port := u.local.Port()
		switch {
		case !u.any:
			addrs = append(addrs, at)
		case u.local.Addr().Is4():
			addrs = append(addrs, fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("203.0.113.1:%d", port))
		default:
			addrs = append(addrs, fmt.Sprintf("[::1]:%d", port), fmt.Sprintf("[2001:db8::1]:%d", port))
		}
	}
	defer all.Wait()
	defer cancel()
	for _, addr := range addrs {
		s.set(nil, 0)
		v := w.with(w.conf("ours.conf", addr))
		v.env = append(v.env, "KRB5_TRACE=/dev/stdout")
		out, err := v.try("first password\nsecond password\nsecond password\n", "kpasswd", "alice")
		if err != nil || !strings.Contains(out, "from dgram "+strings.NewReplacer("[", "", "]", "").Replace(addr)) || !strings.Contains(out, "Password changed.") {
			t.Errorf("%s: %v\n%s", addr, err, out)
		}
		x, req := raw(t, w.ticket("first password"), versionChange, func(_ *exchange, p *private) { p.data = []byte("third password") })
		c, err := net.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(time.Minute))
		for range 3 {
			buf := make([]byte, 4096)
			c.Write(req)
			n, err := c.Read(buf)
			if err != nil {
				t.Errorf("%s: %v", addr, err)
				break
			}
			if code, _, err := x.parse(buf[:n]); code != 0 || err != nil {
				t.Errorf("%s: %d, %v", addr, code, err)
			}
		}
		c.Close()
		if len(s.made()) != 2 {
			t.Errorf("%s: %q", addr, s.made())
		}
	}
}
