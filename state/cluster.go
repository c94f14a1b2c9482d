package state

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

// connect opens the connection to a cluster. The servers need not be there yet;
// our own files must.
func (c *Config) connect() (*engine, error) {
	certificate := func() (tls.Certificate, error) {
		fi, err := os.Stat(c.KeyFile)
		if err != nil {
			return tls.Certificate{}, err
		}
		if fi.Mode().Perm()&0o077 != 0 {
			return tls.Certificate{}, fmt.Errorf("%s may be read by others: chmod 0600 it", c.KeyFile)
		}
		return tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	}
	authorities := func() (*x509.CertPool, error) {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("there is no PEM certificate in %s", c.CAFile)
		}
		return pool, nil
	}
	log := c.Log
	nc, err := nats.Connect("",
		func(o *nats.Options) error { o.Servers = c.Servers; return nil },
		nats.Name("sekishod"),
		nats.Secure(&tls.Config{MinVersion: tls.VersionTLS13}),
		nats.ClientTLSConfig(certificate, authorities),
		nats.IgnoreDiscoveredServers(), // the file says whom we trust
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(200*time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 300*time.Millisecond),
		nats.ReconnectBufSize(-1), // what could not be sent is not sent later, when nobody waits for it
		nats.Timeout(2*time.Second),
		nats.PingInterval(2*time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(func(nc *nats.Conn) { log.WithField("server", nc.ConnectedAddr()).Info("the state store is reached") }),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.WithField("server", nc.ConnectedAddr()).Info("the state store is reached again")
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.WithError(err).Warn("the state store is lost; trying to reach it")
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) { // its text has a key
				log.Warn("the servers do not permit all that the state store needs: $JS.API.>, $KV.> and _INBOX.>")
			}
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("connecting to the state store: %w", err)
	}
	return newEngine(c, nc, nil)
}
