package feed

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/sekisho/sekisho/broker"
)

// CAs are the authorities that may sign the other side's certificate.
type CAs = *x509.CertPool

// KeyPin is the value of sekishoHostKey for a certificate's key: SHA-256 of its
// SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
func KeyPin(c *x509.Certificate) [32]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// tlsConfig is the server's. Nothing is resumed: each connection shows its
// certificate, and is checked against it.
func (c *ServerConfig) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{Protocol}, SessionTicketsDisabled: true,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			cert, err := c.Certificate()
			if err != nil {
				return nil, fmt.Errorf("our certificate: %w", err)
			}
			cas, err := c.CAs()
			if err == nil && cas == nil {
				err = errors.New("there is none")
			}
			if err != nil {
				return nil, fmt.Errorf("the hosts' CA: %w", err)
			}
			return &tls.Config{
				MinVersion: tls.VersionTLS13, NextProtos: []string{Protocol}, SessionTicketsDisabled: true, Time: c.Now,
				Certificates: []tls.Certificate{*cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: cas,
				VerifyConnection: func(s tls.ConnectionState) error {
					_, err := hostOf(s)
					return err
				},
			}, nil
		},
	}
}

// hostOf is the name in a host's certificate.
func hostOf(s tls.ConnectionState) (broker.HostName, error) {
	switch {
	case s.NegotiatedProtocol != Protocol:
		return "", errors.New("the client does not ask for " + Protocol)
	case len(s.VerifiedChains) == 0 || len(s.PeerCertificates) == 0:
		return "", errors.New("the client shows no certificate")
	}
	leaf := s.PeerCertificates[0]
	switch {
	case leaf.IsCA, !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth):
		return "", errors.New("the certificate is not for a client")
	case len(leaf.DNSNames) != 1 || len(leaf.IPAddresses)+len(leaf.EmailAddresses)+len(leaf.URIs) > 0:
		return "", errors.New("the certificate must have one name, the host's")
	case texts(leaf.DNSNames[0]) != nil || len(leaf.DNSNames[0]) > 253 || leaf.DNSNames[0] == "":
		return "", errors.New("the certificate's name is no host name")
	}
	return broker.HostName(leaf.DNSNames[0]), nil
}

// tlsConfig is the client's, for a broker of this name.
func (c *ClientConfig) tlsConfig(name string) (*tls.Config, error) {
	cert, err := c.Certificate()
	if err != nil {
		return nil, fmt.Errorf("this host's certificate: %w", err)
	}
	cas, err := c.CAs()
	if err == nil && cas == nil {
		err = errors.New("there is none")
	}
	if err != nil {
		return nil, fmt.Errorf("the brokers' CA: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{Protocol}, SessionTicketsDisabled: true, Time: c.Now,
		ServerName: name, RootCAs: cas, Certificates: []tls.Certificate{*cert},
		VerifyConnection: func(s tls.ConnectionState) error {
			switch {
			case s.NegotiatedProtocol != Protocol:
				return errors.New("it does not speak " + Protocol)
			case len(s.PeerCertificates) == 0 || s.PeerCertificates[0].IsCA ||
				!slices.Contains(s.PeerCertificates[0].ExtKeyUsage, x509.ExtKeyUsageServerAuth):
				return errors.New("its certificate is not for a server")
			}
			return nil
		},
	}, nil
}

// admit says whether a host with this certificate may follow, and which it is.
func admit(s *broker.Snapshot, name broker.HostName, pin [32]byte, unpinned bool) (*broker.Host, error) {
	h := s.Host(name)
	switch {
	case h == nil:
		return nil, fmt.Errorf("the directory has no host %s, or several", name)
	case len(h.FeedKeys) == 0 && !unpinned:
		return nil, fmt.Errorf("the host %s has no sekishoHostKey: sekisho host bundle %s makes one", name, name)
	case len(h.FeedKeys) > 0 && !slices.Contains(h.FeedKeys, pin):
		return nil, fmt.Errorf("the host %s has another sekishoHostKey: it has a newer bundle, or its old key was stolen", name)
	}
	return h, nil
}
