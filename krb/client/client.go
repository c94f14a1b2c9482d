package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/sekisho/sekisho/krb"
)

// Resolver are the methods of net.Resolver that are used.
type Resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (cname string, addrs []*net.SRV, err error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Config is what a Client is made of.
type Config struct {
	// Realm is the Kerberos realm.
	Realm string
	// KDCs are host or host:port (default port 88), in the order in which they are
	// asked. Empty: DNS SRV _kerberos._udp and _kerberos._tcp of the realm (RFC 4120
	// §7.2.3.2).
	KDCs []string
	// Lookup resolves names; default net.DefaultResolver.
	Lookup Resolver
	// Dial opens a connection to an IP:port, network udp or tcp; default net.Dialer's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Try bounds one attempt at one KDC (default 3 s); Total a whole call (default
	// 8 s). The context's deadline cuts both.
	Try, Total time.Duration
	// MaxSkew is how far apart the clocks may be; default 5 min, as MIT's.
	MaxSkew time.Duration
	// Now is our clock; default time.Now.
	Now func() time.Time
	// Observe hears a KDC's clock as its answers show it: offset is theirs minus
	// ours, bound how far that can be from the truth (half the round trip and the
	// answer's resolution). Error answers are not authenticated: whoever can answer
	// in the KDC's place can lie here too. It must not block. May be nil.
	Observe func(kdc string, offset, bound time.Duration)
}

const maxKDCs = 16

func (c Config) validate() (Config, error) {
	// krb has the rules for names.
	if _, err := krb.NewPrincipal("krbtgt/"+c.Realm, c.Realm); err != nil {
		return c, fmt.Errorf("realm %.80q: %w", c.Realm, err)
	}
	if len(c.KDCs) > maxKDCs {
		return c, fmt.Errorf("%d KDCs: at most %d are tried", len(c.KDCs), maxKDCs)
	}
	for _, k := range c.KDCs {
		if _, _, err := splitHost(k, kdcPort); err != nil {
			return c, err
		}
	}
	if c.Try < 0 || c.Total < 0 || c.MaxSkew < 0 {
		return c, errors.New("a negative time")
	}
	if c.Try == 0 {
		c.Try = 3 * time.Second
	}
	if c.Total == 0 {
		c.Total = 8 * time.Second
	}
	if c.MaxSkew == 0 {
		c.MaxSkew = 5 * time.Minute
	}
	if c.Lookup == nil {
		c.Lookup = net.DefaultResolver
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Observe == nil {
		c.Observe = func(string, time.Duration, time.Duration) {}
	}
	return c, nil
}

// Client speaks to the KDCs of one realm. Its methods may be called from any
// goroutine; it holds no connection between calls.
type Client struct {
	c Config // immutable after New
	// turns bounds the keys that are made of passwords at once: more than there are
	// processors would be no faster, and replies would wait behind them.
	turns chan struct{}

	mu      sync.Mutex // guards all below
	last    answered
	located map[string]located // by service
	habit   etypeInfo          // how the last password became a key
}

// New makes a Client and asks nobody; the error names what is wrong in cfg.
func New(cfg Config) (*Client, error) {
	c, err := cfg.validate()
	if err != nil {
		return nil, fmt.Errorf("a Kerberos client: %w", err)
	}
	return &Client{c: c, turns: make(chan struct{}, runtime.GOMAXPROCS(0))}, nil
}

// LoginOptions say what ticket is wanted. The zero value: a ticket-granting ticket
// as long as the KDC gives one, neither renewable nor forwardable.
type LoginOptions struct {
	// Service is whom the ticket is for; the zero Principal is krbtgt/REALM.
	Service krb.Principal
	// Life is how long the ticket shall be good for; 0 is as long as the KDC gives.
	Life time.Duration
	// Renew is how long it shall be renewable for; 0 is not at all.
	Renew time.Duration
	// Forwardable asks for a ticket that Forward works with.
	Forwardable bool
	// Addresses bind the ticket to these client addresses; empty: to none.
	Addresses []netip.Addr
}

// ForwardOptions say what Forward asks for. The zero value: bound to no address,
// forwardable and renewable as the ticket it is made from.
type ForwardOptions struct {
	// Addresses bind the ticket to the addresses of the host that it goes to.
	Addresses []netip.Addr
	// Once makes the forwarded ticket not forwardable any further.
	Once bool
}
