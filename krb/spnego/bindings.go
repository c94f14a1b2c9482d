package spnego

import (
	"crypto"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
)

// EndPoint is the channel binding tls-server-end-point (RFC 5929 §4) of the server
// certificate. Signatures that name no hash, as Ed25519's, have none.
func EndPoint(cert *x509.Certificate) ([]byte, error) {
	var hash crypto.Hash
	switch cert.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1,
		x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256, x509.DSAWithSHA256:
		hash = crypto.SHA256
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		hash = crypto.SHA384
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		hash = crypto.SHA512
	default:
		return nil, fmt.Errorf("tls-server-end-point is not defined for a certificate signed with %s (RFC 5929 §4.1)", cert.SignatureAlgorithm)
	}
	h := hash.New()
	h.Write(cert.Raw)
	return h.Sum([]byte("tls-server-end-point:")), nil
}

// Unique is the channel binding tls-unique (RFC 5929 §3), nil where there is none: in
// TLS 1.3, and in a resumed session without extended master secret.
func Unique(cs *tls.ConnectionState) []byte {
	if len(cs.TLSUnique) == 0 {
		return nil
	}
	return append([]byte("tls-unique:"), cs.TLSUnique...)
}

// Exporter is the channel binding tls-exporter (RFC 9266), of TLS 1.3 and of TLS 1.2
// with extended master secret.
func Exporter(cs *tls.ConnectionState) ([]byte, error) {
	b, err := cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	if err != nil {
		return nil, fmt.Errorf("tls-exporter: %w", err)
	}
	return append([]byte("tls-exporter:"), b...), nil
}

// ServerBindings is a Config.Bindings for a server that shows these certificates: it
// takes tls-server-end-point of any of them, tls-unique and tls-exporter.
func ServerBindings(certs ...*x509.Certificate) (func(*http.Request) ([][]byte, error), error) {
	if len(certs) == 0 {
		return nil, errors.New("channel bindings need the server's certificate")
	}
	var fixed [][]byte
	for _, c := range certs {
		b, err := EndPoint(c)
		if err != nil {
			return nil, err
		}
		fixed = append(fixed, b)
	}
	return func(r *http.Request) ([][]byte, error) {
		if r.TLS == nil {
			return nil, nil
		}
		all := append([][]byte(nil), fixed...)
		if b := Unique(r.TLS); b != nil {
			all = append(all, b)
		}
		if b, err := Exporter(r.TLS); err == nil { // a connection that has none is bound otherwise
			all = append(all, b)
		}
		return all, nil
	}, nil
}
