package ldapsync

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// endpoint is one parsed provider URL.
type endpoint struct {
	url     string
	network string // tcp or unix
	addr    string // host:port or a path
	host    string // for TLS
	tls     bool   // ldaps
}

// parseURL reads an LDAP URL (RFC 4516) without DN, attributes or filter.
func parseURL(s string) (endpoint, error) {
	bad := func(why string) (endpoint, error) {
		return endpoint{}, fmt.Errorf("directory URL %q: %s; want ldaps://host[:port], ldap://host[:port] or ldapi:///path", s, why)
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return bad("no scheme")
	}
	e := endpoint{url: s, network: "tcp"}
	port := "389"
	switch strings.ToLower(scheme) {
	case "ldapi":
		// The socket's path stands percent-encoded in the host's place
		// (draft-chu-ldap-ldapi); a plain path is taken too.
		path := rest
		if !strings.HasPrefix(rest, "/") {
			var err error
			if path, err = url.PathUnescape(strings.TrimSuffix(rest, "/")); err != nil {
				return bad("wrong percent encoding")
			}
		}
		if path == "" || path == "/" {
			path = "/run/slapd/ldapi"
		}
		if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
			return bad("the socket's path is not absolute")
		}
		e.network, e.addr, e.host = "unix", filepath.Clean(path), "localhost"
		return e, nil
	case "ldaps":
		e.tls, port = true, "636"
	case "ldap":
	default:
		return bad("unknown scheme")
	}
	u, err := url.Parse(s)
	if err != nil || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return bad("only a host and a port may stand here")
	}
	if e.host = u.Hostname(); e.host == "" {
		return bad("no host")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	e.addr = net.JoinHostPort(e.host, port)
	return e, nil
}

// loopback reports whether packets stay on this machine, by the URL alone.
func (e endpoint) loopback() bool {
	if e.network == "unix" || e.host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(e.host)
	return err == nil && a.IsLoopback()
}

// tlsConfig reads the trusted CAs anew at each use, so that a renewed CA file
// needs no restart.
func (p *Provider) tlsConfig(e endpoint) (*tls.Config, error) {
	c := &tls.Config{ServerName: e.host, MinVersion: tls.VersionTLS12}
	if p.CAFile != "" {
		pem, err := os.ReadFile(p.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading the CA file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %s: no PEM certificate in it", p.CAFile)
		}
	}
	return c, nil
}

// secure runs the TLS handshake over raw.
func (p *Provider) secure(ctx context.Context, e endpoint, raw net.Conn) (net.Conn, error) {
	c, err := p.tlsConfig(e)
	if err != nil {
		return nil, err
	}
	t := tls.Client(raw, c)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, tlsMend(p, e, err)
	}
	return t, nil
}

// tlsMend says what to do about a failed handshake.
func tlsMend(p *Provider, e endpoint, err error) error {
	from := "the system's CAs"
	if p.CAFile != "" {
		from = p.CAFile
	}
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("TLS with %s: %w; renew the server's certificate, or set this machine's clock (it says %s)",
			e.url, err, time.Now().UTC().Format(time.RFC3339))
	case errors.As(err, &unknown):
		return fmt.Errorf("TLS with %s: %w; its CA is not in %s: set the CA file to the directory's CA", e.url, err, from)
	case errors.As(err, &host):
		return fmt.Errorf("TLS with %s: %w; use a name that is in the server's certificate", e.url, err)
	}
	return fmt.Errorf("TLS with %s: %w", e.url, err)
}

// dial connects and, for ldaps, secures. Password binds are checked against
// the address that was really reached.
func (p *Provider) dial(ctx context.Context, e endpoint) (net.Conn, error) {
	d := net.Dialer{KeepAlive: 15 * time.Second}
	sock, err := d.DialContext(ctx, e.network, e.addr)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", e.url, err)
	}
	raw := &gather{Conn: sock}
	if !e.tls {
		if a, ok := raw.RemoteAddr().(*net.TCPAddr); ok && p.BindDN != "" && !p.StartTLS && !a.IP.IsLoopback() {
			raw.Close()
			return nil, fmt.Errorf("%s leads to %s: a password would cross the network in the clear; use ldaps:// or StartTLS", e.url, a)
		}
		return raw, nil
	}
	c, err := p.secure(ctx, e, raw)
	if err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}

// PasswordFile reads a bind password from a file that only its owner can read;
// line breaks at its end are not part of it.
func PasswordFile(path string) func() ([]byte, error) {
	return func() ([]byte, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading the bind password: %w", err)
		}
		defer f.Close()
		st, err := f.Stat()
		switch {
		case err != nil:
			return nil, fmt.Errorf("reading the bind password: %w", err)
		case !st.Mode().IsRegular() || st.Mode().Perm()&0o077 != 0:
			return nil, fmt.Errorf("bind password file %s: others may read it; chmod 600 it", path)
		}
		b := make([]byte, 1025)
		n := 0
		for n < len(b) {
			k, err := f.Read(b[n:])
			n += k
			if err != nil || k == 0 {
				break
			}
		}
		for n > 0 && (b[n-1] == '\n' || b[n-1] == '\r') {
			n--
		}
		if n == 0 || n > 1024 {
			clear(b)
			return nil, fmt.Errorf("bind password file %s: must hold 1 to 1024 bytes", path)
		}
		return b[:n], nil
	}
}

// startTLS asks for TLS on a connection (RFC 4511 §4.14) on which nothing else
// was sent, and secures it.
func (p *Provider) startTLS(ctx context.Context, e endpoint, raw net.Conn) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := raw.Write(request(1, tlv(opExtendedRequest, tlv(0x80, []byte(oidStartTLS))))); err != nil {
		return nil, fmt.Errorf("asking %s for StartTLS: %w", e.url, err)
	}
	// Byte by byte, so that nothing after the answer is read: it would be
	// somebody's plain text slipped in before TLS.
	b := make([]byte, 0, 256)
	for {
		n, err := frame(b, 4096)
		if err != nil {
			return nil, fmt.Errorf("asking %s for StartTLS: %w", e.url, err)
		}
		if n > 0 && len(b) == n {
			break
		}
		b = append(b, 0)
		if _, err := raw.Read(b[len(b)-1:]); err != nil {
			return nil, fmt.Errorf("asking %s for StartTLS: %w", e.url, err)
		}
	}
	m, err := parseMessage(b)
	if err == nil && (m.id != 1 || m.op != opExtendedResponse) {
		err = errors.New("the answer is about something else")
	}
	if err == nil {
		err = m.result()
	}
	if err != nil {
		return nil, fmt.Errorf("asking %s for StartTLS: %w; give the server a certificate or use ldaps://", e.url, err)
	}
	return p.secure(ctx, e, raw)
}
