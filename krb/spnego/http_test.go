package spnego

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/accept"
	"github.com/sekisho/sekisho/krb/gss"
	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/mit"
)

const host = "web1.example.org"

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// logged is a log that a test reads.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newHTTP(t testing.TB, c Config) (http.Handler, *logged) {
	t.Helper()
	log := logrus.New()
	out := &logged{}
	log.SetOutput(out)
	c.Log = logrus.NewEntry(log)
	h, err := NewHTTP(c)
	if err != nil {
		t.Fatal(err)
	}
	return h.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g, ok := FromContext(r.Context())
		if !ok || r.Header.Get("Authorization") != "" {
			http.Error(w, "unreachable", http.StatusInternalServerError)
			return
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "you are %s, bound %v, delegated %d, %s\n", g.Client(), g.Bound(), len(g.Delegated()), body)
	})), out
}

func certificate(t testing.TB) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// serve listens on the host's port, with TLS if there is a certificate.
func serve(t testing.TB, h *testenv.Host, port uint16, handler http.Handler, cert *tls.Certificate) {
	t.Helper()
	var l net.Listener
	err := h.Inside(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(h.Addr, port).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if cert != nil {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{*cert}})
	}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// TestCurl: Debian's curl signs in.
func TestCurl(t *testing.T) {
	w := testenv.ForTest(t)
	web, cli := w.Need(t, "web1"), w.Need(t, "client")
	r := mit.NewRealm(t, "HTTP/"+host)
	conf, err := os.ReadFile(r.KRB5Conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := cli.WriteFile("/etc/krb5.conf", conf, 0o644); err != nil {
		t.Fatal(err)
	}
	a := r.Acceptor(t, func(c *gss.Config, _ *accept.Config) { c.TakeDelegated = true })
	cert, ca := certificate(t)
	if err := cli.WriteFile("/run/ca.pem", ca, 0o644); err != nil {
		t.Fatal(err)
	}
	handler, log := newHTTP(t, Config{Acceptor: a})
	plain, _ := newHTTP(t, Config{Acceptor: a, AllowPlain: true})
	serve(t, web, 443, handler, &cert)
	serve(t, web, 80, handler, nil)
	serve(t, web, 8080, plain, nil)

	curl := func(args ...string) (string, error) {
		t.Helper()
		cmd := cli.Command(within(t, time.Minute), "curl", append([]string{"-s", "-S", "-i", "--cacert", "/run/ca.pem"}, args...)...)
		cmd.Env = append(cmd.Env, "KRB5CCNAME=FILE:/run/cc")
		out, err := cmd.CombinedOutput()
		return strings.ReplaceAll(string(out), "\r", ""), err
	}
	url := "https://" + host + "/"
	if out, err := curl("--negotiate", "-u", ":", url); err != nil || !strings.Contains(out, "401 Unauthorized") || strings.Contains(out, "you are") {
		t.Fatalf("without a ticket: %v\n%s", err, out)
	}
	kinit := cli.Command(within(t, time.Minute), "kinit", "-f", "alice")
	kinit.Env = append(kinit.Env, "KRB5CCNAME=FILE:/run/cc")
	kinit.Stdin = strings.NewReader(mit.Password + "\n")
	if out, err := kinit.CombinedOutput(); err != nil {
		t.Fatalf("kinit: %v\n%s", err, out)
	}
	if out, err := curl(url); err != nil || !strings.Contains(out, "401 Unauthorized\n") || !strings.Contains(out, "\nWww-Authenticate: Negotiate\n") {
		t.Errorf("without --negotiate: %v\n%s", err, out)
	}
	out, err := curl("--negotiate", "-u", ":", url)
	if err != nil || !strings.Contains(out, "you are alice@EXAMPLE.ORG, bound false, delegated 0") || !strings.Contains(out, "\nWww-Authenticate: Negotiate ") {
		t.Errorf("%v\n%s\n%s", err, out, log)
	}
	if out, err = curl("--negotiate", "-u", ":", "--delegation", "always", "-d", "a body", url); err != nil || !strings.Contains(out, "delegated 1, a body") {
		t.Errorf("delegation: %v\n%s\n%s", err, out, log)
	}
	// One connection, three requests: each is asked for its own proof.
	if out, err = curl("--negotiate", "-u", ":", url, url, url); err != nil || strings.Count(out, "you are alice@EXAMPLE.ORG") != 3 ||
		strings.Count(out, "\nWww-Authenticate: Negotiate ") != 3 {
		t.Errorf("three requests: %v\n%s\n%s", err, out, log)
	}
	if out, err = curl("--negotiate", "-u", ":", "http://"+host+"/"); err != nil || !strings.Contains(out, "403 Forbidden") || strings.Contains(out, "Negotiate") {
		t.Errorf("plain HTTP: %v\n%s", err, out)
	}
	if out, err = curl("--negotiate", "-u", ":", "http://"+host+":8080/"); err != nil || !strings.Contains(out, "you are alice@EXAMPLE.ORG") {
		t.Errorf("plain HTTP, allowed: %v\n%s", err, out)
	}
	if strings.Contains(log.String(), "failed") {
		t.Errorf("the log has\n%s", log)
	}
}

// get sends one request with a token to a handler and gives what came.
func get(t testing.TB, h http.Handler, secure bool, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest("GET", "/", nil)
	if secure {
		r.TLS = &tls.ConnectionState{}
	}
	for _, v := range headers {
		r.Header.Add("Authorization", v)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func negotiate(token []byte) string { return "Negotiate " + base64.StdEncoding.EncodeToString(token) }

// lost is a replay cache that cannot tell.
type lost struct{}

func (lost) Spend(context.Context, [32]byte, time.Time, time.Time) (bool, error) {
	return false, accept.ErrReplayLost
}

// TestAnswers: each kind of request has its answer, and only a proof gets through.
func TestAnswers(t *testing.T) {
	r := mit.NewRealm(t)
	tgt := r.TGT(t)
	ticket := r.Ticket(t, tgt, service)
	h, log := newHTTP(t, Config{Acceptor: r.Acceptor(t, nil)})
	unknown, _ := newHTTP(t, Config{Acceptor: r.Acceptor(t, func(_ *gss.Config, c *accept.Config) { c.Replay = lost{} })})
	now := time.Now() // the replay cache refuses what was made before itself
	late, _ := newHTTP(t, Config{Acceptor: r.Acceptor(t, func(_ *gss.Config, c *accept.Config) {
		c.Now = func() time.Time { return now.Add(7*time.Minute + 12*time.Second) }
	})})
	token := func() []byte {
		i, err := Initiate(ticket, gss.Options{Flags: gss.Mutual, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Microsecond)
		return i.Token()
	}
	good := negotiate(token())
	for _, c := range []struct {
		name    string
		h       http.Handler
		plain   bool
		headers []string
		status  int
		says    string
	}{
		{"nothing", h, false, nil, 401, sayAsk},
		{"another scheme", h, false, []string{"Basic YTpi"}, 401, sayAsk},
		{"no token", h, false, []string{"Negotiate"}, 401, sayAsk},
		{"plain", h, true, []string{negotiate(token())}, 403, sayPlain},
		{"not base64", h, false, []string{"Negotiate !"}, 401, sayRefused},
		{"NTLM", h, false, []string{negotiate([]byte("NTLMSSP\x00\x01\x00\x00\x00\x00"))}, 401, sayRefused},
		{"two headers", h, false, []string{negotiate(token()), negotiate(token())}, 401, sayRefused},
		{"too long", h, false, []string{"Negotiate " + strings.Repeat("A", 100_000)}, 401, sayRefused},
		{"good", h, false, []string{good}, 200, "you are alice@EXAMPLE.ORG"},
		{"the same again", h, false, []string{good}, 401, sayRefused},
		{"could not find out", unknown, false, []string{negotiate(token())}, 503, sayUnknown},
		{"clock", late, false, []string{negotiate(token())}, 401, "Yours is 7m12s behind this server's."},
	} {
		w := get(t, c.h, !c.plain, c.headers...)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
		if ask := strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Negotiate"); ask != (c.status != 403) {
			t.Errorf("%s: WWW-Authenticate: %q", c.name, w.Header().Get("WWW-Authenticate"))
		}
	}
	if text := log.String(); strings.Contains(text, good[len("Negotiate "):][:40]) || !strings.Contains(text, "used before") {
		t.Errorf("the log has the token, or lacks the cause:\n%s", text)
	}
	for _, c := range []Config{{}, {Acceptor: r.Acceptor(t, nil)}, {Log: logrus.NewEntry(logrus.New())}} {
		if _, err := NewHTTP(c); err == nil {
			t.Errorf("%+v", c)
		}
	}
}

// TestTransport: our client against our server, over TLS.
func TestTransport(t *testing.T) {
	w := testenv.ForTest(t)
	web := w.Need(t, "web1")
	r := mit.NewRealm(t, "HTTP/"+host)
	cert, _ := certificate(t)
	handler, log := newHTTP(t, Config{Acceptor: r.Acceptor(t, func(c *gss.Config, _ *accept.Config) { c.TakeDelegated = true })})
	serve(t, web, 443, handler, &cert)
	liar := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/raw": // the client's own token back
			w.Header().Set("WWW-Authenticate", r.Header.Get("Authorization"))
		case "/401":
			http.Error(w, "no", http.StatusUnauthorized)
			return
		case "/junk":
			w.Header().Set("WWW-Authenticate", "Negotiate oRQwEqADCgEAoQsGCSqGSIb3EgECAg==") // accept-completed, no AP-REP
		}
		fmt.Fprintln(w, "you are the admin")
	})
	serve(t, web, 8443, liar, &cert)

	tgt := r.TGT(t)
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	base := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		_, port, _ := net.SplitHostPort(addr)
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(web.Addr.String(), port))
	}}
	t.Cleanup(base.CloseIdleConnections)
	tr := &Transport{Base: base, Ticket: func(ctx context.Context, h string) (krb.Credential, error) {
		return r.Client.Service(ctx, tgt, r.Principal(t, "HTTP/"+h))
	}}
	c := &http.Client{Transport: tr, Timeout: time.Minute}
	fetch := func(url string) (int, string, error) {
		resp, err := c.Post(url, "text/plain", strings.NewReader("a body"))
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b), err
	}
	for range 3 {
		if code, body, err := fetch("https://" + host + "/"); err != nil || code != 200 || !strings.Contains(body, "you are alice@EXAMPLE.ORG, bound false, delegated 0, a body") {
			t.Fatalf("%d %s %v\n%s", code, body, err, log)
		}
	}
	tr.Delegate = func(context.Context, string) (krb.Credential, error) { return *r.Forward(t, tgt), nil }
	if _, body, err := fetch("https://" + host + "/"); err != nil || !strings.Contains(body, "delegated 1") {
		t.Errorf("%s %v", body, err)
	}
	for _, path := range []string{"/", "/raw", "/junk"} {
		if code, body, err := fetch("https://" + host + ":8443" + path); err == nil {
			t.Errorf("%s: an unproved response was believed: %d %s", path, code, body)
		}
	}
	if code, _, err := fetch("https://" + host + ":8443/401"); err != nil || code != 401 {
		t.Errorf("%d %v", code, err)
	}
	if _, _, err := fetch("http://" + host + "/"); err == nil {
		t.Error("signed in without TLS")
	}
	tr.Ticket = nil
	if _, _, err := fetch("https://" + host + "/"); err == nil {
		t.Error("without a source of tickets")
	}
}

// TestTLSBindings: the ticket is good for the connection that it was made for.
func TestTLSBindings(t *testing.T) {
	w := testenv.ForTest(t)
	web := w.Need(t, "web1")
	r := mit.NewRealm(t)
	ticket := r.Ticket(t, r.TGT(t), service)
	cert, _ := certificate(t)
	other, _ := certificate(t)
	bindings, err := ServerBindings(cert.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ServerBindings(); err == nil {
		t.Error("bindings without a certificate")
	}
	strict, _ := newHTTP(t, Config{Bindings: bindings, AllowPlain: true,
		Acceptor: r.Acceptor(t, func(c *gss.Config, _ *accept.Config) { c.RequireBindings = true })})
	serve(t, web, 443, strict, &cert)
	serve(t, web, 80, strict, nil)
	open, _ := newHTTP(t, Config{Bindings: bindings, Acceptor: r.Acceptor(t, nil)})
	serve(t, web, 8443, open, &cert)

	endPoint := func(c *x509.Certificate) func(*tls.ConnectionState) []byte {
		return func(*tls.ConnectionState) []byte {
			b, err := EndPoint(c)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	exporter := func(cs *tls.ConnectionState) []byte {
		b, err := Exporter(cs)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	foreign := func(*tls.ConnectionState) []byte { return []byte("tls-unique:of another connection") }
	none := func(*tls.ConnectionState) []byte { return nil }
	for _, c := range []struct {
		name    string
		port    uint16
		version uint16
		b       func(*tls.ConnectionState) []byte
		says    string
	}{
		{"end point", 443, tls.VersionTLS13, endPoint(cert.Leaf), "bound true"},
		{"end point, 1.2", 443, tls.VersionTLS12, endPoint(cert.Leaf), "bound true"},
		{"unique", 443, tls.VersionTLS12, Unique, "bound true"},
		{"exporter", 443, tls.VersionTLS13, exporter, "bound true"},
		{"another certificate", 443, tls.VersionTLS13, endPoint(other.Leaf), sayRefused},
		{"another connection", 443, tls.VersionTLS12, foreign, sayRefused},
		{"none", 443, tls.VersionTLS13, none, sayRefused},
		{"unique, where there is none", 443, tls.VersionTLS13, Unique, sayRefused},
		{"none, not required", 8443, tls.VersionTLS13, none, "bound false"},
		{"end point, not required", 8443, tls.VersionTLS13, endPoint(cert.Leaf), "bound true"},
		{"another certificate, not required", 8443, tls.VersionTLS13, endPoint(other.Leaf), sayRefused},
		{"end point without TLS", 80, 0, endPoint(cert.Leaf), sayRefused},
	} {
		addr := netip.AddrPortFrom(web.Addr, c.port).String()
		var conn net.Conn
		var cs tls.ConnectionState
		if c.version != 0 {
			roots := x509.NewCertPool()
			roots.AddCert(cert.Leaf)
			tc, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, ServerName: host, MinVersion: c.version, MaxVersion: c.version})
			if err != nil {
				t.Fatal(err)
			}
			conn, cs = tc, tc.ConnectionState()
		} else if conn, err = net.Dial("tcp", addr); err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		i, err := Initiate(ticket, gss.Options{Flags: gss.Mutual, Bindings: c.b(&cs)})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: %s\r\nAuthorization: %s\r\n\r\n", host, negotiate(i.Token()))
		out, err := io.ReadAll(conn)
		conn.Close()
		if err != nil || !strings.Contains(string(out), c.says) {
			t.Errorf("%s: %v\n%s", c.name, err, out)
		}
	}
}
