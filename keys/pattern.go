package keys

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// maxPattern is the longest member of from="…"; no host name is longer. sshd
// stops to look at members over 1023 bytes, and at all after them.
const maxPattern = 255

// Pattern is one member of from="…" (ssh_config(5) PATTERNS): an address block,
// or a pattern over names and addresses in text form. sshd lets the caller in
// if some member fits and no negated one does.
type Pattern struct {
	Negate bool
	// Net is a block of addresses, its host bits zero; a single address has
	// all bits. Not valid if Glob is set.
	Net netip.Prefix
	// Glob holds letters, digits, ".", "-", "_", ":" and the wildcards * and ?.
	Glob string
}

// String is the pattern as it stands in from="…".
func (p Pattern) String() string {
	s := p.Glob
	switch {
	case p.Net.IsValid() && p.Net.IsSingleIP():
		s += p.Net.Addr().String()
	case p.Net.IsValid():
		s += p.Net.String()
	}
	if p.Negate {
		return "!" + s
	}
	return s
}

func parsePattern(s string) (Pattern, error) {
	var p Pattern
	body, negate := strings.CutPrefix(s, "!")
	p.Negate = negate
	if body == "" {
		return Pattern{}, errors.New("an empty pattern")
	}
	if len(body) > maxPattern {
		return Pattern{}, fmt.Errorf("pattern %s: longer than %d bytes", short(s), maxPattern)
	}
	for i := 0; i < len(body); i++ {
		if c := body[i]; !hostByte(c) && strings.IndexByte(":*?/", c) < 0 {
			return Pattern{}, fmt.Errorf("pattern %s: %s has no place in it", short(s), short(body[i:i+1]))
		}
	}
	switch {
	case strings.Contains(body, "/"):
		n, err := netip.ParsePrefix(body)
		if err != nil {
			return Pattern{}, fmt.Errorf("pattern %s: not an address block such as 192.0.2.0/24", short(s))
		}
		if n != n.Masked() {
			return Pattern{}, fmt.Errorf("pattern %s: host bits are not zero: write %s", short(s), n.Masked())
		}
		p.Net = n
	case strings.ContainsAny(body, "*?"):
		p.Glob = body
	default:
		a, err := netip.ParseAddr(body)
		if err == nil {
			p.Net = netip.PrefixFrom(a, a.BitLen())
		} else if strings.Contains(body, ":") || numbers(body) {
			// The C library reads 10.1 as 10.0.0.1, and 010 as octal.
			return Pattern{}, fmt.Errorf("pattern %s: neither a full address nor a name", short(s))
		} else {
			p.Glob = body
		}
	}
	if p.Net.Addr().Is4In6() {
		return Pattern{}, fmt.Errorf("pattern %s: IPv4 inside IPv6 never fits: write the IPv4 address", short(s))
	}
	return p, nil
}

// hostByte tells whether c can be in a host name; _ is not correct, but in use.
func hostByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '.' || c == '-' || c == '_'
}

// numbers tells whether the last label of a name is a number to inet_aton(3):
// no name ends so, and such an address is not in its plain form.
func numbers(s string) bool {
	s = strings.ToLower(s[strings.LastIndexByte(s, '.')+1:])
	digits := "0123456789"
	if h, ok := strings.CutPrefix(s, "0x"); ok {
		s, digits = h, "0123456789abcdef"
	}
	return strings.Trim(s, digits) == ""
}

// HostPort is the value of permitopen and permitlisten.
type HostPort struct {
	// Host is a name or an address, without brackets, or "*" for any. sshd
	// compares it as text with what the client asks for.
	Host string
	// Port, or zero for any, written "*".
	Port uint16
}

// String is "host:port", an IPv6 address in brackets.
func (h HostPort) String() string {
	host, port := h.Host, "*"
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if h.Port != 0 {
		port = fmt.Sprint(h.Port)
	}
	return host + ":" + port
}

// validate with listen set is for permitlisten: wildcards are allowed.
func (h HostPort) validate(listen bool) error {
	if g, err := parseHostPort(h.String(), listen); err != nil {
		return err
	} else if g != h {
		return fmt.Errorf("%s is not in its plain form", short(h.String()))
	}
	return nil
}

// parseHostPort reads host:port; with listen set also port alone, for any host,
// and wildcards in the host. Ports are numbers: what a service name means would
// depend on the machine.
func parseHostPort(s string, listen bool) (HostPort, error) {
	host, port, bracketed := "*", s, false
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i+1:]
		if h, ok := strings.CutPrefix(host, "["); ok {
			if host, ok = strings.CutSuffix(h, "]"); !ok {
				return HostPort{}, fmt.Errorf("%s: no closing bracket", short(s))
			}
			bracketed = true
		}
	} else if !listen {
		return HostPort{}, fmt.Errorf("%s: must be host:port", short(s))
	}
	h := HostPort{Host: host}
	if err := checkForwardHost(host, bracketed, listen); err != nil {
		return HostPort{}, fmt.Errorf("%s: %w", short(s), err)
	}
	if port != "*" {
		n, err := parseDecimal(port, 65535)
		if err != nil || n == 0 {
			return HostPort{}, fmt.Errorf("%s: port must be 1 to 65535, or *", short(s))
		}
		h.Port = uint16(n)
	}
	return h, nil
}

func checkForwardHost(host string, bracketed, listen bool) error {
	wild := strings.ContainsAny(host, "*?")
	switch {
	case host == "":
		return errors.New("no host")
	case len(host) > maxPattern:
		return fmt.Errorf("host is longer than %d bytes", maxPattern)
	case wild && !listen && host != "*":
		return errors.New("sshd takes no wildcards in this host, but * alone")
	case strings.Contains(host, ":") && !bracketed:
		return errors.New("IPv6 addresses stand in brackets")
	case strings.Contains(host, ":") && !wild:
		if a, err := netip.ParseAddr(host); err != nil || a.Zone() != "" {
			return errors.New("not an IPv6 address")
		}
	}
	for i := 0; i < len(host); i++ {
		if c := host[i]; !hostByte(c) && strings.IndexByte(":*?", c) < 0 {
			return fmt.Errorf("%s has no place in a host", short(host[i:i+1]))
		}
	}
	return nil
}
