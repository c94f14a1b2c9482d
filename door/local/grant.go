package local

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/keys"
)

// errApart: the key's own from= and the grant's network have no address in
// common, so the key gets no line for this grant.
var errApart = errors.New("the key's from= leaves nothing of the grant's network")

// nowhere is the one member of a permitopen or permitlisten list that opens
// nothing, for a grant of one direction of forwarding and not the other:
// sshd's options have no word for none there. No name under .invalid resolves
// (RFC 6761 §6.4), and to listen on port 1 takes root.
var nowhere = []keys.HostPort{{Host: "none.invalid", Port: 1}}

// noTunnel is a device that nobody has set up, for a grant without tunnels.
// "restrict" does not shut them: where sshd_config sets PermitTunnel, a line
// without tunnel= opens any device. Whoever is not root can make none of this
// number, and root one that leads nowhere.
var noTunnel = keys.Tunnel{Set: true, N: 0x7fffffff - 2} // SSH_TUNID_MAX

// limited prints a key's line with what the grant allows: "restrict", then
// what both the grant and the key's own options let through. The key's own
// environment= is dropped: it belongs to whoever edits the key, and must not
// reach an account that others share.
func limited(l keys.Line, g broker.Grant) (string, error) {
	own := l.Options
	if own == nil {
		own = &keys.Options{}
	}
	p, may := g.Permit, l.Options.Effective()
	o := keys.Options{
		Restrict:        true,
		PTY:             flag(p.PTY && may.PTY),
		AgentForwarding: flag(p.AgentForwarding && may.AgentForwarding),
		X11Forwarding:   flag(p.X11Forwarding && may.X11Forwarding),
		UserRC:          flag(p.UserRC && may.UserRC),
		NoTouchRequired: own.NoTouchRequired,
		VerifyRequired:  own.VerifyRequired,
		Expiry:          expiry(own.Expiry, g.Until),
	}
	var err error
	if o.Command, err = command(own.Command, p.Command); err != nil {
		return "", err
	}
	if o.Tunnel, err = tunnel(own.Tunnel, p); err != nil {
		return "", err
	}
	if o.From, err = from(own.From, g.From); err != nil {
		return "", err
	}
	if may.PortForwarding {
		if err := forward(&o, own, p); err != nil {
			return "", err
		}
	}
	for _, e := range p.Environment {
		name, value, _ := strings.Cut(e, "=")
		o.Environment = append(o.Environment, keys.EnvVar{Name: name, Value: value})
	}
	return keys.Line{Options: &o, Key: l.Key, Comment: l.Comment}.Format()
}

func flag(on bool) keys.Flag {
	if on {
		return keys.Allow
	}
	return keys.Unset // restrict has taken it back
}

// expiry is the earlier of the two ends. A local time is one of this machine,
// since its sshd reads it.
func expiry(own keys.Expiry, until time.Time) keys.Expiry {
	if until.IsZero() || own != (keys.Expiry{}) && own.At(time.Local).Before(until) {
		return own
	}
	return keys.ExpiryAt(until)
}

// command: a key that its owner keeps for one command, and a grant that forces
// another, allow nothing together.
func command(own, granted string) (string, error) {
	switch {
	case own == "" || own == granted:
		return granted, nil
	case granted == "":
		return own, nil
	}
	return "", errors.New("the key and the grant force different commands: drop command= from the key")
}

func tunnel(own keys.Tunnel, p broker.Permissions) (keys.Tunnel, error) {
	if !p.HasTunnel {
		return noTunnel, nil
	}
	granted := keys.Tunnel{Set: true, Any: p.Tunnel < 0}
	if !granted.Any {
		granted.N = uint32(p.Tunnel)
	}
	switch {
	case !own.Set || own.Any || own == granted:
		return granted, nil
	case granted.Any:
		return own, nil
	}
	return keys.Tunnel{}, errors.New("the key and the grant force different tunnel devices: drop tunnel= from the key")
}

// from is the key's own from= within the grant's network. Of the key's own
// members that let in, one that is a pattern cannot be cut to a network and is
// dropped, which only narrows; those that keep out all stay.
func from(own []keys.Pattern, net netip.Prefix) ([]keys.Pattern, error) {
	if !net.IsValid() {
		return own, nil
	}
	net = net.Masked()
	if len(own) == 0 {
		return []keys.Pattern{{Net: net}}, nil
	}
	var out []keys.Pattern
	some := false
	for _, p := range own {
		switch {
		case p.Negate:
		case p.Glob == "*":
			p = keys.Pattern{Net: net}
		case p.Glob != "" || !p.Net.Overlaps(net):
			continue
		case p.Net.Bits() < net.Bits():
			p.Net = net
		}
		some = some || !p.Negate
		out = append(out, p)
	}
	if !some {
		return nil, errApart
	}
	return out, nil
}

// forward sets the forwarding of ports. Under "restrict" it takes
// port-forwarding, which opens both directions; the lists narrow it again.
func forward(o, own *keys.Options, p broker.Permissions) error {
	open, listen := own.PermitOpen, own.PermitListen
	if !p.PortForwarding {
		if len(p.PermitOpen) == 0 && len(p.PermitListen) == 0 {
			return nil
		}
		grantedOpen, err := hostPorts(p.PermitOpen)
		if err != nil {
			return err
		}
		grantedListen, err := hostPorts(p.PermitListen)
		if err != nil {
			return err
		}
		open, listen = both(open, grantedOpen), both(listen, grantedListen)
	}
	o.PortForwarding, o.PermitOpen, o.PermitListen = keys.Allow, open, listen
	return nil
}

// both is what two lists have in common. own is the key's, where empty means
// anywhere; granted is the grant's, where empty means nowhere. The result is
// for a line, and never empty.
func both(own, granted []keys.HostPort) []keys.HostPort {
	out := granted
	if len(own) > 0 {
		out = nil
		for _, a := range own {
			for _, b := range granted {
				if hp, ok := meet(a, b); ok {
					out = append(out, hp)
				}
			}
		}
	}
	if len(out) == 0 {
		return nowhere
	}
	return out
}

// meet is the narrower of two members, if one is within the other by equal
// text or "*"; of hosts with other wildcards only equal ones meet.
func meet(a, b keys.HostPort) (hp keys.HostPort, ok bool) {
	switch {
	case a.Host == b.Host || b.Host == "*":
		hp.Host = a.Host
	case a.Host == "*":
		hp.Host = b.Host
	default:
		return keys.HostPort{}, false
	}
	switch {
	case a.Port == b.Port || b.Port == 0:
		hp.Port = a.Port
	case a.Port == 0:
		hp.Port = b.Port
	default:
		return keys.HostPort{}, false
	}
	return hp, true
}

// hostPorts reads a grant's HOST:PORT or PORT, which the broker has checked.
func hostPorts(texts []string) ([]keys.HostPort, error) {
	out := make([]keys.HostPort, 0, len(texts))
	for _, t := range texts {
		host, port := "*", t // PORT alone listens on any host (sshd(8), permitlisten)
		if i := strings.LastIndexByte(t, ':'); i >= 0 {
			host, port = strings.TrimSuffix(strings.TrimPrefix(t[:i], "["), "]"), t[i+1:]
		}
		n := uint64(0)
		if port != "*" {
			var err error
			if n, err = strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
				return nil, fmt.Errorf("the grant's %q is no HOST:PORT: mend sekishoPermit in the rule", t)
			}
		}
		out = append(out, keys.HostPort{Host: host, Port: uint16(n)})
	}
	return out, nil
}
