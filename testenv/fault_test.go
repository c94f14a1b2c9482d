package testenv

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
)

func needKey(t *testing.T, comment string) *Key {
	t.Helper()
	k, err := NewKey(comment)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// stderr is the standard error that Output kept.
func stderr(err error) string {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return string(e.Stderr)
	}
	return ""
}

func TestSlapd(t *testing.T) {
	ctx := testContext(t)
	w := ForTest(t)
	ca, err := NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	h := w.Need(t, "ldap1")
	start := time.Now()
	s, err := StartSlapd(ctx, SlapdConfig{Host: h, CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("slapd up in %v", time.Since(start))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.PEM)
	dial := func(url string) (*ldap.Conn, error) {
		c, err := ldap.DialURL(url, ldap.DialWithTLSConfig(&tls.Config{RootCAs: pool}))
		if err == nil {
			c.SetTimeout(time.Minute)
		}
		return c, err
	}
	c, err := dial(s.TLSURL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Bind(s.RootDN, s.RootPW); err != nil {
		t.Fatal(err)
	}
	add := ldap.NewAddRequest("ou=people,"+s.BaseDN, nil)
	add.Attribute("objectClass", []string{"organizationalUnit"})
	if err := c.Add(add); err != nil {
		t.Fatal(err)
	}
	if err := s.Hang(); err != nil {
		t.Fatal(err)
	}
	c.SetTimeout(500 * time.Millisecond)
	if err := c.Bind(s.RootDN, s.RootPW); err == nil {
		t.Error("a hung slapd answered")
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	dump, err := s.Dump(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if found := search(t, dial, s); found != 2 {
		t.Errorf("%d entries after a restart, want 2", found)
	}
	if err := s.Rebuild(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if found := search(t, dial, s); found != 1 {
		t.Errorf("%d entries after a rebuild, want the suffix alone", found)
	}
	if err := s.Rebuild(ctx, dump); err != nil {
		t.Fatal(err)
	}
	if found := search(t, dial, s); found != 2 {
		t.Errorf("%d entries after a rebuild from the dump, want 2", found)
	}
	out, err := h.Command(ctx, "ldapwhoami", "-Q", "-Y", "EXTERNAL", "-H", s.LDAPI).Output()
	if err != nil || !strings.Contains(string(out), "cn=peercred") {
		t.Errorf("ldapi: %s %v %s", out, err, stderr(err))
	}
}

func search(t *testing.T, dial func(string) (*ldap.Conn, error), s *Slapd) int {
	t.Helper()
	c, err := dial(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.Search(ldap.NewSearchRequest(s.BaseDN, ldap.ScopeWholeSubtree, 0, 0, 0, false, "(objectClass=*)", nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	return len(r.Entries)
}

func TestSlapdBadCertificates(t *testing.T) {
	ctx := testContext(t)
	ca, err := NewCA("right")
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := NewCA("wrong")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.PEM)
	here := []string{"127.0.0.1"}
	for _, tc := range []struct {
		name string
		ca   *CA
		cfg  CertConfig
		want string
	}{
		{"sound", ca, CertConfig{Names: here}, ""},
		{"expired", ca, CertConfig{Names: here, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-24 * time.Hour)}, "expired"},
		{"untrusted", wrong, CertConfig{Names: here}, "unknown authority"},
		{"other name", ca, CertConfig{Names: []string{"elsewhere.example.org"}}, "127.0.0.1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cert, err := tc.ca.Issue(tc.cfg)
			if err != nil {
				t.Fatal(err)
			}
			s, err := StartSlapd(ctx, SlapdConfig{CA: ca, Cert: cert, Schemas: PackagedSchemas("core")})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Stop()
			c, err := ldap.DialURL(s.TLSURL, ldap.DialWithTLSConfig(&tls.Config{RootCAs: pool}))
			if err == nil {
				c.Close()
			}
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestProxy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // echoes until l is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	p, err := NewProxy(bridgeAddr+":0", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", p.Addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	// echo is how long a round trip takes.
	echo := func(c net.Conn, within time.Duration) (time.Duration, error) {
		start := time.Now()
		c.SetDeadline(start.Add(within))
		if _, err := c.Write([]byte("x")); err != nil {
			return 0, err
		}
		_, err := io.ReadFull(c, make([]byte, 1))
		return time.Since(start), err
	}
	c := dial()
	if _, err := echo(c, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	p.Delay(50 * time.Millisecond)
	if d, err := echo(c, 30*time.Second); err != nil || d < 100*time.Millisecond {
		t.Errorf("round trip of %v (%v), want 100 ms and more", d, err)
	}
	p.Delay(0)
	p.Stall(true)
	if _, err := echo(c, 100*time.Millisecond); err == nil {
		t.Error("something passed a stalled proxy")
	}
	c2 := dial() // accepted all the same
	if _, err := echo(c2, 100*time.Millisecond); err == nil {
		t.Error("something passed a stalled proxy on a new connection")
	}
	p.Stall(false)
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("what was held did not come: %v", err)
	}
	// Much data, then the end of one direction, arrive whole.
	big := bytes.Repeat([]byte("0123456789"), 100_000)
	c3 := dial()
	c3.SetDeadline(time.Now().Add(time.Minute))
	go func() { c3.Write(big); c3.(*net.TCPConn).CloseWrite() }()
	if got, err := io.ReadAll(c3); err != nil || !bytes.Equal(got, big) {
		t.Errorf("%d of %d bytes came back: %v", len(got), len(big), err)
	}
	p.CutAll()
	if _, err := echo(c, 30*time.Second); err == nil {
		t.Error("a connection outlived CutAll")
	}
	p.Refuse(true)
	c4, err := net.Dial("tcp", p.Addr)
	if err == nil {
		_, err = echo(c4, 30*time.Second)
		c4.Close()
	}
	if err == nil {
		t.Error("a refused connection works")
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}
