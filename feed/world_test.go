package feed

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/sekisho/sekisho/broker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ca signs certificates of a small world.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newCA(t testing.TB) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &ca{cert, key, pool}
}

// sign makes a certificate; change may spoil it.
func (a *ca) sign(t testing.TB, name string, usage x509.ExtKeyUsage, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}}
	if ip := net.ParseIP(name); ip != nil {
		tmpl.IPAddresses = []net.IP{ip}
	} else {
		tmpl.DNSNames = []string{name}
	}
	if change != nil {
		change(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// source is a broker's view that a test changes.
type source struct {
	mu   sync.Mutex
	view broker.View
	news chan struct{}
	live bool // AsOf is always now
}

func newSource(s *broker.Snapshot) *source {
	return &source{view: broker.View{Snapshot: s, AsOf: time.Now(), MaxAge: time.Hour}, news: make(chan struct{}), live: true}
}

func (s *source) View() broker.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live && s.view.Snapshot != nil {
		s.view.AsOf = time.Now()
	}
	return s.view
}

func (s *source) Wait(ctx context.Context, after uint64) (broker.View, error) {
	for {
		s.mu.Lock()
		news := s.news
		s.mu.Unlock()
		if v := s.View(); v.Snapshot != nil && v.Generation() > after {
			return v, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return broker.View{}, ctx.Err()
		}
	}
}

// edit publishes a change and returns its generation.
func (s *source) edit(f func(*broker.Edit)) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.view.Snapshot.Edit()
	f(e)
	s.view.Snapshot = e.Commit()
	s.view.AsOf = time.Now()
	close(s.news)
	s.news = make(chan struct{})
	return s.view.Generation()
}

// site is a broker on loopback.
type site struct {
	t      testing.TB
	ca     *ca
	src    *source
	server *Server
	addr   string
	stop   func()
	notes  chan Note
	conf   ServerConfig
}

func quiet() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	if os.Getenv("FEED_LOG") != "" {
		l.SetOutput(os.Stderr)
		l.SetLevel(logrus.DebugLevel)
	}
	return logrus.NewEntry(l)
}

func newSite(t testing.TB, s *broker.Snapshot, change func(*ServerConfig)) *site {
	t.Helper()
	x := &site{t: t, ca: newCA(t), src: newSource(s), notes: make(chan Note, 10000)}
	cert := x.ca.sign(t, "127.0.0.1", x509.ExtKeyUsageServerAuth, nil)
	x.conf = ServerConfig{View: x.src.View, Wait: x.src.Wait, Now: time.Now, Log: quiet().WithField("side", "server"),
		Certificate: func() (*tls.Certificate, error) { return cert, nil }, CAs: func() (CAs, error) { return x.ca.pool, nil },
		Note: func(n Note) { x.notes <- n }, PerAddress: 20000}
	if change != nil {
		change(&x.conf)
	}
	x.start("")
	t.Cleanup(func() { x.stop() })
	return x
}

// start begins a server, at an address that the test knows already or, without one, at
// a port below those that the kernel gives: while a broker is away nobody gets its port,
// not even a host that tries to reach it.
func (x *site) start(addr string) {
	x.t.Helper()
	var err error
	if x.server, err = NewServer(x.conf); err != nil {
		x.t.Fatal(err)
	}
	var l net.Listener
	for try := 0; l == nil; try++ {
		at := addr
		if addr == "" {
			at = fmt.Sprintf("127.0.0.1:%d", 12000+mathrand.IntN(20000))
		}
		if l, err = net.Listen("tcp", at); err != nil && (addr != "" || try > 1000) {
			x.t.Fatal(err)
		}
	}
	x.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := x.server
	go func() { done <- server.Run(ctx, l) }()
	x.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			x.t.Errorf("the server: %v", err)
		}
	})
}

// noted waits for a note of a kind.
func (x *site) noted(kind NoteKind) Note {
	x.t.Helper()
	for end := time.After(time.Minute); ; {
		select {
		case n := <-x.notes:
			if n.Kind == kind {
				return n
			}
		case <-end:
			x.t.Fatalf("nothing is noted of kind %s", kind)
		}
	}
}

// join makes a host of the directory and gives its certificate.
func (x *site) join(name string) *tls.Certificate {
	x.t.Helper()
	cert := x.ca.sign(x.t, name, x509.ExtKeyUsageClientAuth, nil)
	h := x.src.View().Host(broker.HostName(name))
	if h == nil {
		x.t.Fatalf("no host %s", name)
	}
	n := *h
	n.FeedKeys = [][32]byte{KeyPin(cert.Leaf)}
	x.src.edit(func(e *broker.Edit) { e.PutHost(n) })
	return cert
}

// host is a client that runs.
type host struct {
	*Client
	t    testing.TB
	stop func()
	conf ClientConfig
}

func (x *site) host(name string, cert *tls.Certificate, change func(*ClientConfig)) *host {
	x.t.Helper()
	h := &host{t: x.t, conf: ClientConfig{Brokers: []string{x.addr}, Host: broker.HostName(name), StateDir: filepath.Join(x.t.TempDir(), name),
		Certificate: func() (*tls.Certificate, error) { return cert, nil }, CAs: func() (CAs, error) { return x.ca.pool, nil },
		Now: time.Now, Log: quiet().WithField("side", name), BackoffMin: 20 * time.Millisecond, BackoffMax: 200 * time.Millisecond}}
	if change != nil {
		change(&h.conf)
	}
	h.start()
	x.t.Cleanup(func() { h.stop() })
	return h
}

func (h *host) start() {
	h.t.Helper()
	var err error
	if h.Client, err = NewClient(h.conf); err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	c := h.Client
	go func() { done <- c.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Errorf("%s: %v", h.conf.Host, err)
		}
	})
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come about: %s", what)
		}
	}
}

// confirmed waits until all hosts have a generation.
func (x *site) confirmed(generation uint64) {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	x.server.Confirm(ctx, generation, func(c Confirmation) {
		if !c.OK {
			x.t.Fatalf("%s has not confirmed: %s", c.Host, c.Why)
		}
	})
}

func testID(kind string, n int) (id broker.EntryID) {
	copy(id[:], fmt.Sprintf("%-8s%08d", kind, n))
	return id
}

func testUser(n int) broker.User {
	name := fmt.Sprintf("user%d", n)
	return broker.User{ID: testID("user", n), DN: broker.DN("uid=" + name + ",ou=people"), Name: broker.UserName(name),
		UID: uint32(10000 + n), GID: 100, Gecos: "User " + name, Home: "/home/" + name, Shell: "/bin/bash"}
}

func testHost(n int) broker.Host {
	name := fmt.Sprintf("host%d.example.org", n)
	return broker.Host{ID: testID("host", n), DN: broker.DN("cn=" + name + ",ou=hosts"), Names: []broker.HostName{broker.HostName(name), broker.HostName(fmt.Sprintf("host%d", n))},
		Addrs: []netip.Addr{netip.AddrFrom4([4]byte{198, 18, byte(n / 250), byte(n%250 + 1)})}}
}

func testGroup(name string, n int, members ...broker.DN) broker.Group {
	return broker.Group{ID: testID("group", n), DN: broker.DN("cn=" + name + ",ou=groups"), Name: broker.GroupName(name), GID: uint32(20000 + n), Members: members}
}

func testRule(t testing.TB, n int, a broker.RuleAttributes) broker.Rule {
	t.Helper()
	a.Name = fmt.Sprintf("rule%d", n)
	if a.Door == nil {
		a.Door = []string{"*"}
	}
	r, err := broker.ParseRule(a)
	if err != nil {
		t.Fatal(err)
	}
	r.ID, r.DN = testID("rule", n), broker.DN("cn="+a.Name+",ou=access")
	return r
}
