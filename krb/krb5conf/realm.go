package krb5conf

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// The ports of RFC 4120 §7.2.1, RFC 3244 §2, and of MIT's administration server.
const (
	portKDC    = 88
	portPasswd = 464
	portAdmin  = 749
)

// KDCs are the KDCs of a realm as host:port, in order; none when the
// configuration names none, and DNS may be asked. A KDC behind an HTTPS proxy
// (MS-KKDCP) is passed over; when there are only such ones, that is an error.
func (c *Config) KDCs(realm string) ([]string, error) { return c.servers(realm, "kdc", portKDC) }

// KpasswdServers are the servers that change passwords (RFC 3244), as KDCs; where
// none are named, those of AdminServers at their port for it.
func (c *Config) KpasswdServers(realm string) ([]string, error) {
	out, err := c.servers(realm, "kpasswd_server", portPasswd)
	if err != nil || len(out) > 0 {
		return out, err
	}
	admin, err := c.AdminServers(realm)
	if err != nil {
		return nil, err
	}
	for _, a := range admin {
		host, _, err := net.SplitHostPort(a)
		if err != nil {
			return nil, err
		}
		out = append(out, net.JoinHostPort(host, strconv.Itoa(portPasswd)))
	}
	return out, nil
}

// AdminServers are MIT's administration servers, as KDCs.
func (c *Config) AdminServers(realm string) ([]string, error) {
	return c.servers(realm, "admin_server", portAdmin)
}

func (c *Config) servers(realm, tag string, port int) ([]string, error) {
	var out []string
	var proxy *value
	for _, v := range c.values("realms", realm, tag) {
		if strings.HasPrefix(v.text, "https://") {
			proxy = &v
			continue
		}
		s, err := hostPort(v.text, port)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %s: %w", v.at.file, v.at.line, tag, err)
		}
		out = append(out, s)
	}
	if len(out) == 0 && proxy != nil {
		return nil, fmt.Errorf("%s:%d: %s: servers behind an HTTPS proxy are not supported: name one that can be reached directly", proxy.at.file, proxy.at.line, tag)
	}
	return out, nil
}

// hostPort reads host, host:port, [address] and [address]:port.
func hostPort(s string, port int) (string, error) {
	host, rest := s, ""
	if h, r, ok := strings.Cut(strings.TrimPrefix(s, "["), "]"); ok && s[0] == '[' {
		host, rest = h, r
		if _, err := netip.ParseAddr(host); err != nil {
			return "", fmt.Errorf("%.80q: in brackets there must be an IP address", s)
		}
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		host, rest = s[:i], s[i:]
	}
	if rest != "" {
		n, err := strconv.ParseUint(strings.TrimPrefix(rest, ":"), 10, 16)
		if err != nil || rest[0] != ':' || n == 0 {
			return "", fmt.Errorf("%.80q: write host, host:port or [address]:port", s)
		}
		port = int(n)
	}
	ok := host != "" && len(host) <= 255 && strings.IndexFunc(host, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._:%", r))
	}) < 0
	// MIT takes a number for a port without a host.
	if _, err := strconv.ParseUint(host, 10, 64); !ok || err == nil {
		return "", fmt.Errorf("%.80q: this is no name of a host", s)
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}

// HostRealm is the realm of a host by [domain_realm]: that of its name, else of
// the nearest domain above it. It is false when nothing there fits; the KDC of the
// user's own realm may then know (MIT's referrals), or the default realm is it.
func (c *Config) HostRealm(host string) (string, bool) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if _, err := netip.ParseAddr(host); err == nil || host == "" {
		return "", false
	}
	for {
		if v := c.Values("domain_realm", host); len(v) > 0 {
			return v[0], true
		}
		if host[0] == '.' {
			host = host[1:]
		} else if i := strings.IndexByte(host, '.'); i >= 0 {
			host = host[i:]
		} else {
			return "", false
		}
		if host == "" {
			return "", false
		}
	}
}
