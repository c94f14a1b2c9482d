package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sekisho/sekisho/krb/client"
	"go.uber.org/goleak"
)

// short makes attempts short enough for a test.
func short(c *client.Config) { c.Try, c.Total = 600*time.Millisecond, 3*time.Second }

// quick has steps of two seconds, for tests that take some of them and do not ask
// whether it were too many.
func quick(c *client.Config) { c.Try = 6 * time.Second }

// step is what the other clients wait before they try something else too, and atOnce
// what is less, on a busy machine too. far is when nobody waits any more.
const (
	step   = 5 * time.Second
	atOnce = 4500 * time.Millisecond
	far    = 3 * time.Minute
)

// login is one sign-in of somebody whose key is made quickly, and how long it took.
func login(t testing.TB, c *client.Client) (time.Duration, error) {
	t.Helper()
	began := time.Now()
	_, err := c.Login(within(t, time.Minute), principal(t, "old"), "right", client.LoginOptions{})
	return time.Since(began), err
}

// TestUnreachable: no KDC at all is known at once, and one that hangs in time; both
// are something else than a wrong password.
func TestUnreachable(t *testing.T) {
	leaks(t)
	shared(t)
	dead := freePort()
	took, err := login(t, newClient(t, nil, dead))
	if kindOf(t, err) != client.Unreachable || took > atOnce || !strings.Contains(err.Error(), dead) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("after %s: %v", took, err)
	}
	hung := own(t, kdcOptions{})
	hung.kadmin(t, "addprinc -pw right -e aes128-cts-hmac-sha1-96:normal +requires_preauth old")
	hung.signal(t, syscall.SIGSTOP)
	// Each limit alone, the others being far away.
	limits := func(try, total time.Duration) *client.Client {
		return newClient(t, func(c *client.Config) { c.Try, c.Total = try, total }, hung.addr)
	}
	took, err = login(t, limits(600*time.Millisecond, far))
	if kindOf(t, err) != client.Unreachable || took < 500*time.Millisecond || !strings.Contains(err.Error(), "no answer in 600ms") || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hung, after %s: %v", took, err)
	}
	took, err = login(t, limits(far, 600*time.Millisecond))
	if kindOf(t, err) != client.Unreachable || took < 500*time.Millisecond || took > 40*time.Second || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hung, in all %s: %v", took, err)
	}
	// The caller's own deadline, and his leaving.
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = limits(far, far).Login(ctx, principal(t, "old"), "right", client.LoginOptions{})
	if took := time.Since(began); kindOf(t, err) != client.Unreachable || !errors.Is(err, context.DeadlineExceeded) || took > far/3 {
		t.Errorf("deadline, after %s: %v", took, err)
	}
	ctx, leave := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, leave)
	began = time.Now()
	_, err = limits(far, far).Login(ctx, principal(t, "old"), "right", client.LoginOptions{})
	if took := time.Since(began); kindOf(t, err) != client.Unreachable || !errors.Is(err, context.Canceled) || took > far/3 {
		t.Errorf("left, after %s: %v", took, err)
	}
	hung.signal(t, syscall.SIGCONT)
	if _, err := login(t, newClient(t, nil, hung.addr)); err != nil {
		t.Errorf("once it goes on: %v", err)
	}
	hung.daemon.Kill()
	if took, err := login(t, newClient(t, nil, hung.addr)); kindOf(t, err) != client.Unreachable || took > atOnce {
		t.Errorf("killed, after %s: %v", took, err)
	}
	hung.start(t, 0)
	if _, err := login(t, newClient(t, nil, hung.addr)); err != nil {
		t.Errorf("back again: %v", err)
	}
}

// TestSeveralKDCs: a KDC that is dead costs nothing and one that hangs little, and
// only once.
func TestSeveralKDCs(t *testing.T) {
	leaks(t)
	k := shared(t)
	if took, err := login(t, newClient(t, nil, freePort(), freePort(), k.addr)); err != nil || took > atOnce {
		t.Errorf("dead first: %v after %s", err, took)
	}
	second := own(t, kdcOptions{kdcOf: k})
	second.signal(t, syscall.SIGSTOP)
	c := newClient(t, nil, second.addr, k.addr)
	if took, err := login(t, c); err != nil || took < step {
		t.Errorf("hung first: %v after %s", err, took)
	}
	if took, err := login(t, c); err != nil || took > atOnce {
		t.Errorf("hung first, once more: %v after %s", err, took)
	}
	// What was good first is forgotten as soon as it is not.
	second.signal(t, syscall.SIGCONT)
	c = newClient(t, nil, second.addr, k.addr)
	if took, err := login(t, c); err != nil || took > atOnce {
		t.Errorf("both well: %v after %s", err, took)
	}
	second.signal(t, syscall.SIGSTOP)
	if took, err := login(t, c); err != nil || took < step {
		t.Errorf("hung later: %v after %s", err, took)
	}
	second.signal(t, syscall.SIGCONT)
}

// TestNoUDP: where datagrams are dropped, TCP serves, and the next time at once.
func TestNoUDP(t *testing.T) {
	leaks(t)
	k := own(t, kdcOptions{noUDP: true, kdcOf: shared(t)})
	hole, err := net.ListenPacket("udp", k.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	c := newClient(t, nil, k.addr)
	if took, err := login(t, c); err != nil || took < step {
		t.Errorf("%v after %s", err, took)
	}
	if took, err := login(t, c); err != nil || took > atOnce {
		t.Errorf("once more: %v after %s", err, took)
	}
}

// TestLostDatagram: one that is lost is sent again.
func TestLostDatagram(t *testing.T) {
	leaks(t)
	k := shared(t)
	n := 0
	f := newFake(t, "udp", func(_ string, req []byte, send func([]byte)) {
		if n++; n%2 == 0 {
			send(roundTrip(t, k.addr, req))
		}
	})
	if took, err := login(t, newClient(t, quick, f.addr)); err != nil || took < 4*time.Second {
		t.Errorf("%v after %s", err, took)
	}
}

// TestTooBig: a real KDC that says that its answer is too long for a datagram.
func TestTooBig(t *testing.T) {
	leaks(t)
	k := own(t, kdcOptions{kdcOf: shared(t), silent: true})
	conf := k.read(t, "kdc.conf")
	k.write(t, "kdc.conf", strings.Replace(conf, "[kdcdefaults]", "[kdcdefaults]\n  kdc_max_dgram_reply_size = 400", 1))
	k.start(t, 0)
	if took, err := login(t, newClient(t, nil, k.addr)); err != nil || took > atOnce {
		t.Errorf("%v after %s", err, took)
	}
	if _, err := login(t, newClient(t, nil, shared(t).addr)); err != nil {
		t.Error(err)
	}
}

// TestSendLong: a long request goes over TCP at once, and a datagram that fills the
// buffer is fetched again over TCP.
func TestSendLong(t *testing.T) {
	leaks(t)
	f := newFake(t, "both", func(network string, req []byte, send func([]byte)) {
		b := bytes.Repeat([]byte("x"), 20<<10)
		if network == "tcp" {
			b = frame(b)
		}
		send(b)
	})
	c := newClient(t, nil, f.addr)
	judge := func(b []byte, from string) error {
		if len(b) != 20<<10 || from != f.addr {
			return fmt.Errorf("%d bytes of %s", len(b), from)
		}
		return nil
	}
	if _, err := c.Send(context.Background(), client.Request{Message: make([]byte, 1401), Judge: judge}); err != nil || f.count("udp") != 0 {
		t.Errorf("%v, %d datagrams", err, f.count("udp"))
	}
	c = newClient(t, nil, f.addr)
	began := time.Now()
	a, err := c.Send(context.Background(), client.Request{Message: make([]byte, 10), Judge: judge})
	if err != nil || f.count("udp") != 1 || len(a.Reply) != 20<<10 || time.Since(began) > atOnce {
		t.Errorf("%v, %d datagrams, %s", err, f.count("udp"), time.Since(began))
	}
}

// TestSend: other servers than the KDCs, and messages made for a connection.
func TestSend(t *testing.T) {
	leaks(t)
	var mu sync.Mutex
	f := newFake(t, "both", func(network string, req []byte, send func([]byte)) {
		if network == "tcp" {
			req = frame(req)
		}
		send(req)
	})
	c := newClient(t, nil, "203.0.113.77")
	for _, only := range []bool{false, true} {
		var locals []netip.AddrPort
		a, err := c.Send(context.Background(), client.Request{
			Hosts: []string{f.addr}, Port: 464, OnlyTCP: only,
			MessageFor: func(local netip.AddrPort) ([]byte, error) {
				mu.Lock()
				defer mu.Unlock()
				locals = append(locals, local)
				return []byte(local.String()), nil
			},
			Judge: func([]byte, string) error { return nil }})
		if err != nil || len(locals) != 1 || string(a.Reply) != locals[0].String() || !locals[0].Addr().IsLoopback() {
			t.Errorf("%q, %v: %v", a.Reply, locals, err)
		}
	}
	if f.count("udp") != 1 || f.count("tcp") != 1 {
		t.Errorf("%d over UDP, %d over TCP", f.count("udp"), f.count("tcp"))
	}
	if _, err := c.Send(context.Background(), client.Request{Hosts: []string{"a b"}, Judge: func([]byte, string) error { return nil }}); kindOf(t, err) != client.Unreachable {
		t.Errorf("an odd host: %v", err)
	}
}

// TestOnlyOnce: what must not happen twice is sent to one server, after those that
// cannot be reached.
func TestOnlyOnce(t *testing.T) {
	leaks(t)
	mute := func(string, []byte, func([]byte)) { time.Sleep(250 * time.Millisecond) }
	echo := func(_ string, req []byte, send func([]byte)) { send(frame(req)) }
	for name, x := range map[string]struct {
		first, second answerer
		good          bool
	}{"dead first": {nil, echo, true}, "mute first": {mute, echo, false}, "odd first": {func(_ string, _ []byte, send func([]byte)) { send([]byte("x")) }, echo, false}} {
		first := freePort()
		if x.first != nil {
			first = newFake(t, "tcp", x.first).addr
		}
		second := newFake(t, "both", x.second)
		c := newClient(t, nil, first, second.addr)
		_, err := c.Send(context.Background(), client.Request{Message: []byte("once"), OnlyTCP: true,
			Judge: func(b []byte, _ string) error { return nil }})
		if (err == nil) != x.good || (second.count("tcp") == 1) != x.good || second.count("udp") != 0 {
			t.Errorf("%s: %v, %d requests at the second", name, err, second.count("tcp"))
		}
	}
}

// resolver is a DNS of our own.
type resolver struct {
	srv   map[string][]*net.SRV
	hosts map[string][]netip.Addr
	hang  map[string]bool
}

func (r resolver) LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error) {
	key := "_" + service + "._" + proto + "." + name
	if r.hang[key] {
		<-ctx.Done()
		return "", nil, ctx.Err()
	}
	if l, ok := r.srv[key]; ok {
		return key, l, nil
	}
	return "", nil, &net.DNSError{Err: "no such host", Name: key, IsNotFound: true}
}

func (r resolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if r.hang[host] {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if l, ok := r.hosts[host]; ok {
		return l, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// TestDNS: the realm's KDCs by SRV records, and their names by addresses.
func TestDNS(t *testing.T) {
	leaks(t)
	k := shared(t)
	at := netip.MustParseAddrPort(k.addr)
	lo, nowhere := at.Addr(), netip.MustParseAddr("127.0.0.2")
	good := []*net.SRV{{Target: "kdc.example.org.", Port: at.Port()}}
	hosts := map[string][]netip.Addr{"kdc.example.org": {lo}, "both.example.org": {nowhere, lo}, "dead.example.org": {nowhere}}
	const udp, tcp = "_kerberos._udp.EXAMPLE.ORG.", "_kerberos._tcp.EXAMPLE.ORG."
	for name, x := range map[string]struct {
		r    resolver
		kdcs []string
		try  time.Duration // default that of newClient
		max  time.Duration
		want string // in the error; empty: it goes well
	}{
		"udp":            {r: resolver{srv: map[string][]*net.SRV{udp: good}}, max: atOnce},
		"tcp alone":      {r: resolver{srv: map[string][]*net.SRV{tcp: good}}, max: atOnce},
		"dead first":     {r: resolver{srv: map[string][]*net.SRV{udp: append([]*net.SRV{{Target: "dead.example.org.", Port: at.Port()}}, good...), tcp: good}}, max: atOnce},
		"unknown first":  {r: resolver{srv: map[string][]*net.SRV{udp: append([]*net.SRV{{Target: "x.example.org.", Port: at.Port()}}, good...)}}, max: atOnce},
		"two addresses":  {r: resolver{}, kdcs: []string{fmt.Sprint("both.example.org:", at.Port())}, max: atOnce},
		"hanging name":   {r: resolver{hang: map[string]bool{"hang.example.org": true}}, kdcs: []string{"hang.example.org", fmt.Sprint("kdc.example.org:", at.Port())}, max: 40 * time.Second},
		"none here":      {r: resolver{srv: map[string][]*net.SRV{udp: {{Target: "."}}}}, max: atOnce, want: "_kerberos._udp.EXAMPLE.ORG"},
		"odd target":     {r: resolver{srv: map[string][]*net.SRV{udp: {{Target: "a b", Port: 88}}}}, max: atOnce, want: "_kerberos._udp"},
		"no record":      {r: resolver{}, max: atOnce, want: "no such host"},
		"DNS hangs":      {r: resolver{hang: map[string]bool{udp: true, tcp: true}}, try: 600 * time.Millisecond, max: 40 * time.Second, want: "deadline exceeded"},
		"no such name":   {r: resolver{}, kdcs: []string{"x.example.org"}, max: atOnce, want: "no such host"},
		"hanging alone":  {r: resolver{hang: map[string]bool{"hang.example.org": true}}, kdcs: []string{"hang.example.org"}, try: 600 * time.Millisecond, max: 40 * time.Second, want: "deadline exceeded"},
		"one UDP hangs":  {r: resolver{srv: map[string][]*net.SRV{tcp: good}, hang: map[string]bool{udp: true}}, try: 6 * time.Second, max: 40 * time.Second},
		"far too many":   {r: resolver{srv: map[string][]*net.SRV{udp: many(100)}}, max: atOnce, want: "refused"},
		"many addresses": {r: resolver{}, kdcs: []string{"many.example.org:1"}, max: atOnce, want: "refused"},
	} {
		x.r.hosts = hosts
		hosts["many.example.org"] = manyAddrs(100)
		c := newClient(t, func(c *client.Config) {
			if c.Lookup = x.r; x.try != 0 {
				c.Try = x.try
			}
		}, x.kdcs...)
		took, err := login(t, c)
		switch {
		case took > x.max:
			t.Errorf("%s: it took %s", name, took)
		case x.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case x.want != "" && (kindOf(t, err) != client.Unreachable || !strings.Contains(err.Error(), x.want)):
			t.Errorf("%s: %v", name, err)
		}
	}
}

func many(n int) []*net.SRV {
	var out []*net.SRV
	for i := range n {
		out = append(out, &net.SRV{Target: "dead.example.org.", Port: uint16(i + 1)})
	}
	return out
}

func manyAddrs(n int) []netip.Addr {
	var out []netip.Addr
	for i := range n {
		out = append(out, netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}))
	}
	return out
}

func TestConfig(t *testing.T) {
	for name, c := range map[string]client.Config{
		"no realm":  {},
		"odd realm": {Realm: "A B"},
		"odd KDC":   {Realm: realmName, KDCs: []string{"kdc:0"}},
		"odd host":  {Realm: realmName, KDCs: []string{"user@kdc"}},
		"empty":     {Realm: realmName, KDCs: []string{""}},
		"many":      {Realm: realmName, KDCs: make([]string, 17)},
		"negative":  {Realm: realmName, Try: -1},
	} {
		if _, err := client.New(c); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	for _, k := range []string{"kdc", "kdc.example.org:750", "203.0.113.5", "203.0.113.5:88", "2001:db8::5", "[2001:db8::5]", "[2001:db8::5]:88"} {
		if _, err := client.New(client.Config{Realm: realmName, KDCs: []string{k}}); err != nil {
			t.Errorf("%s: %v", k, err)
		}
	}
}

// leaks fails the test when it leaves goroutines behind.
func leaks(t testing.TB) {
	t.Helper()
	shared(t) // its goroutines are there before
	opt := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, opt) })
}
