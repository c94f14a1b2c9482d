package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	kdcPort = 88
	// maxAddrs bounds the addresses of one server.
	maxAddrs = 4
	// locateFor is how long what DNS said of a realm's servers is used.
	locateFor = 30 * time.Second
)

// server is one server of a realm.
type server struct {
	host    string
	port    uint16
	onlyTCP bool
}

// located is what DNS said.
type located struct {
	servers []server
	at      time.Time
}

// splitHost reads host, host:port, an IP address, or [IPv6]:port.
func splitHost(s string, port uint16) (string, uint16, error) {
	bad := fmt.Errorf("server %.80q: write HOST or HOST:PORT", s)
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return a.String(), port, nil
	}
	host := s
	if strings.Contains(s, ":") {
		h, p, err := net.SplitHostPort(s)
		if err != nil {
			return "", 0, bad
		}
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return "", 0, bad
		}
		host, port = h, uint16(n)
	}
	if host == "" || len(host) > 253 || strings.ContainsAny(host, " /@\x00") {
		return "", 0, bad
	}
	return host, port, nil
}

// locate lists the servers for a request, the one that answered last first.
func (c *Client) locate(ctx context.Context, r Request) ([]server, error) {
	hosts, srv, port := r.Hosts, r.SRV, r.Port
	if len(hosts) == 0 && srv == "" {
		hosts, srv, port = c.c.KDCs, "kerberos", kdcPort
	}
	var out []server
	if len(hosts) == 0 {
		found, err := c.lookupSRV(ctx, srv)
		if err != nil {
			return nil, err
		}
		out = slices.Clone(found)
	}
	for _, h := range hosts {
		host, p, err := splitHost(h, port)
		if err != nil {
			return nil, err
		}
		out = append(out, server{host: host, port: p})
	}
	out = out[:min(len(out), maxKDCs)]
	// Stable: only what answered last goes before the others.
	last := c.lastAnswered()
	slices.SortStableFunc(out, func(a, b server) int { return c.rank(a, last) - c.rank(b, last) })
	return out, nil
}

func (c *Client) rank(s server, last answered) int {
	if last.addr.IsValid() && s.host == last.host && s.port == last.addr.Port() {
		return 0
	}
	return 1
}

// lookupSRV asks DNS for the realm's servers (RFC 4120 §7.2.3.2).
func (c *Client) lookupSRV(ctx context.Context, service string) ([]server, error) {
	c.mu.Lock()
	known, ok := c.located[service]
	c.mu.Unlock()
	if ok && c.c.Now().Sub(known.at) < locateFor {
		return known.servers, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.c.Try)
	defer cancel()
	protos := [...]string{"udp", "tcp"}
	var lists [len(protos)][]*net.SRV
	var errs [len(protos)]error
	var wg sync.WaitGroup
	for i, proto := range protos {
		wg.Go(func() { _, lists[i], errs[i] = c.c.Lookup.LookupSRV(ctx, service, proto, c.c.Realm+".") })
	}
	wg.Wait()
	var out []server
	for i, list := range lists {
		for _, r := range list {
			s := server{host: strings.TrimSuffix(r.Target, "."), port: r.Port, onlyTCP: protos[i] == "tcp"}
			if _, _, err := splitHost(s.host, s.port); err != nil || s.port == 0 || len(out) == maxKDCs { // "." is "none here"
				continue
			}
			if !slices.ContainsFunc(out, func(o server) bool { return o.host == s.host && o.port == s.port }) {
				out = append(out, s)
			}
		}
	}
	if len(out) == 0 {
		err := errors.Join(errs[:]...)
		if err == nil {
			err = errors.New("there is none")
		} else if errs[0] != nil {
			err = errs[0]
		}
		return nil, fmt.Errorf("finding the servers of the realm by DNS (_%s._udp.%s): %w", service, c.c.Realm, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.located == nil {
		c.located = map[string]located{}
	}
	c.located[service] = located{out, c.c.Now()}
	return out, nil
}

// resolve gives the addresses of a server.
func (c *Client) resolve(ctx context.Context, s server) ([]netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s.host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a.Unmap(), s.port)}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.c.Try)
	defer cancel()
	addrs, err := c.c.Lookup.LookupNetIP(ctx, "ip", s.host)
	if err != nil {
		return nil, fmt.Errorf("finding the address of %s: %w", s.host, err)
	}
	var out []netip.AddrPort
	for _, a := range addrs[:min(len(addrs), maxAddrs)] {
		out = append(out, netip.AddrPortFrom(a.Unmap(), s.port))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("finding the address of %s: it has none", s.host)
	}
	return out, nil
}
