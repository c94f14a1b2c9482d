package roster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/state"
)

// servers is a cluster of three nats-servers in this process.
type servers struct {
	t       *testing.T
	dir     string
	options []*server.Options
	all     []*server.Server // nil: stopped
}

func newServers(t *testing.T) *servers {
	s := &servers{t: t, dir: inMemory(t), all: make([]*server.Server, 3)}
	conf := s.certificate()
	var routes []*url.URL
	var ports []int
	for try := 0; len(ports) < 6; try++ { // below those that the kernel gives to others meanwhile
		port := 12000 + mathrand.IntN(20000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			defer l.Close()
			ports = append(ports, port)
		} else if try > 1000 {
			t.Fatal(err)
		}
	}
	for _, p := range ports[3:] {
		routes = append(routes, &url.URL{Scheme: "tls", Host: fmt.Sprintf("127.0.0.1:%d", p)})
	}
	for i := range 3 {
		s.options = append(s.options, &server.Options{ServerName: fmt.Sprint("nats", i+1), Host: "127.0.0.1", Port: ports[i], NoSigs: true, NoLog: true,
			TLS: true, TLSVerify: true, TLSConfig: conf.Clone(), TLSTimeout: 20, JetStream: true, StoreDir: filepath.Join(s.dir, fmt.Sprint("store", i)),
			SyncAlways: true, JetStreamMaxStore: 4 << 30, JetStreamMaxMemory: 64 << 20, Routes: routes,
			Cluster: server.ClusterOpts{Name: "sekisho", Host: "127.0.0.1", Port: ports[3+i], TLSConfig: conf.Clone(), TLSTimeout: 20}})
	}
	t.Cleanup(func() {
		for i := range 3 {
			s.kill(i)
		}
	})
	return s
}

func (s *servers) start(i int) {
	s.t.Helper()
	x, err := server.NewServer(s.options[i].Clone())
	if err != nil {
		s.t.Fatal(err)
	}
	x.Start()
	s.all[i] = x
}

func (s *servers) kill(i int) {
	if s.all[i] != nil {
		s.all[i].Shutdown()
		s.all[i].WaitForShutdown()
		s.all[i] = nil
	}
}

// certificate makes one, for servers and brokers alike, that is its own authority.
func (s *servers) certificate() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nats"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		s.t.Fatal(err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	for name, b := range map[string]*pem.Block{"crt": {Type: "CERTIFICATE", Bytes: der}, "key": {Type: "PRIVATE KEY", Bytes: k}} {
		if err := os.WriteFile(filepath.Join(s.dir, name), pem.EncodeToMemory(b), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(s.dir, "crt"), filepath.Join(s.dir, "key"))
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		s.t.Fatal(err)
	}
	pool.AddCert(parsed)
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

// open is one broker's connection to them.
func (s *servers) open() state.Store {
	s.t.Helper()
	c := state.Config{Replicas: 3, CAFile: filepath.Join(s.dir, "crt"), CertFile: filepath.Join(s.dir, "crt"), KeyFile: filepath.Join(s.dir, "key"), Log: testLog(s.t)}
	for _, o := range s.options {
		c.Servers = append(c.Servers, fmt.Sprintf("tls://127.0.0.1:%d", o.Port))
	}
	st, err := state.Open(s.t.Context(), c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { st.Close() })
	return st
}

// TestCluster: two brokers on three servers, through the loss of their quorum and a
// restart of a broker within it.
func TestCluster(t *testing.T) {
	s := newServers(t)
	for i := range 3 {
		s.start(i)
	}
	a, b := newNode(t, "a.example.org", s.open()), newNode(t, "b.example.org", s.open())
	a.joins("web1", sid("x"), sid("y"))
	b.joins("web2", sid("z"))
	eventually(t, "they see each other", func() bool { return b.sees() == "x@a.example.org y@a.example.org" && a.sees() == "z@b.example.org" })
	found, err := b.Find(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}

	s.kill(0)
	s.kill(1)
	eventually(t, "they cannot tell", func() bool { return a.sees() == "error" && b.sees() == "error" })
	if n, err := b.Order(t.Context(), found, "root", broker.ReasonKilled); n != 0 || err == nil {
		t.Errorf("without a quorum %d are ordered, %v", n, err)
	}
	if x, open := a.broker.Session(sid("x")); !open || !x.Ending.IsZero() {
		t.Error("it is ended all the same")
	}
	a.stop()
	again := newNode(t, "a.example.org", s.open())
	again.joins("web1", sid("w"), sid("v")) // x and y have ended meanwhile; orders for them may be written yet
	s.start(0)
	s.start(1)
	eventually(t, "all is made good", func() bool { return b.sees() == "v@a.example.org w@a.example.org" && again.sees() == "z@b.example.org" })
	if found, err = b.Find(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	eventually(t, "their ends can be ordered", func() bool { // the other bucket's leader may take longer to be found
		n, err := b.Order(t.Context(), found, "root", broker.ReasonKilled)
		return n == len(found) && err == nil
	})
	eventually(t, "both are confirmed", func() bool { return !b.Pending(string(sid("w"))) && !b.Pending(string(sid("v"))) })
	for _, id := range []broker.SessionID{sid("w"), sid("v")} {
		if _, open := again.broker.Session(id); open {
			t.Errorf("%s is confirmed, and open", id)
		}
	}
}
