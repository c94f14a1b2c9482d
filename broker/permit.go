package broker

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Permissions are what a grant lets a session do. The zero value is a session
// without a terminal and without any forwarding.
type Permissions struct {
	PTY, PortForwarding, AgentForwarding, X11Forwarding, UserRC bool
	// PermitOpen are the only HOST:PORT that port forwarding may open, and
	// PermitListen the only [HOST:]PORT it may listen on, when PortForwarding
	// is false; PORT may be *.
	PermitOpen, PermitListen []string
	// Environment are NAME=VALUE pairs for the session, sorted.
	Environment []string
	// Command, when not empty, is run in place of what the caller asks for.
	Command string
	// Tunnel is the tun device number that may be forwarded, or -1 for any;
	// it counts only when HasTunnel.
	Tunnel    int
	HasTunnel bool
	// Sessions is how many sessions a user may have open at once by the rule; 0:
	// it sets no limit of its own.
	Sessions int
}

// maxPermitSessions bounds Sessions.
const maxPermitSessions = 100_000

// ParsePermissions reads sekishoPermit values. None at all is a terminal and
// ~/.ssh/rc: pty, user-rc.
func ParsePermissions(values []string) (Permissions, error) {
	if len(values) == 0 {
		return Permissions{PTY: true, UserRC: true}, nil
	}
	if len(values) > maxValues {
		return Permissions{}, fmt.Errorf("%d values; at most %d are read", len(values), maxValues)
	}
	var p Permissions
	for _, v := range values {
		err := checkText(v)
		if err == nil {
			err = p.add(v)
		}
		if err != nil {
			return Permissions{}, fmt.Errorf("%q: %w", clip(v), err)
		}
	}
	p.normalize()
	return p, nil
}

func (p *Permissions) add(v string) error {
	name, arg, hasArg := strings.Cut(v, ":")
	if flag := p.flag(name); flag != nil && !hasArg {
		*flag = true
		return nil
	}
	switch {
	case v == "none":
	case name == "permitopen" && hasArg:
		if !hostPort(arg, true) {
			return fmt.Errorf("want permitopen:HOST:PORT")
		}
		p.PermitOpen = append(p.PermitOpen, arg)
	case name == "permitlisten" && hasArg:
		if !hostPort(arg, false) {
			return fmt.Errorf("want permitlisten:PORT or permitlisten:HOST:PORT")
		}
		p.PermitListen = append(p.PermitListen, arg)
	case name == "environment" && hasArg:
		if !envPair(arg) {
			return fmt.Errorf("want environment:NAME=VALUE")
		}
		name, _, _ := strings.Cut(arg, "=")
		if slices.ContainsFunc(p.Environment, func(e string) bool { return strings.HasPrefix(e, name+"=") }) {
			return fmt.Errorf("a rule can set %s only once", name)
		}
		p.Environment = append(p.Environment, arg)
	case name == "command" && arg != "":
		if p.Command != "" {
			return fmt.Errorf("a rule can force one command only")
		}
		p.Command = arg
	case name == "tunnel" && hasArg:
		if p.HasTunnel {
			return fmt.Errorf("a rule can name one tunnel device only")
		}
		n, err := strconv.ParseUint(arg, 10, 31)
		p.Tunnel, p.HasTunnel = int(n), true
		if arg == "any" {
			p.Tunnel, err = -1, nil
		}
		if err != nil || n > 0x7ffffffc {
			return fmt.Errorf("want tunnel:N or tunnel:any")
		}
	case name == "sessions" && hasArg:
		if p.Sessions != 0 {
			return fmt.Errorf("a rule can set one number of sessions only")
		}
		n, err := strconv.ParseUint(arg, 10, 31)
		if err != nil || n == 0 || n > maxPermitSessions || arg[0] == '0' {
			return fmt.Errorf("want sessions:N, from 1 to %d", maxPermitSessions)
		}
		p.Sessions = int(n)
	default:
		return fmt.Errorf("want pty, port-forwarding, agent-forwarding, x11-forwarding, user-rc, permitopen:HOST:PORT, permitlisten:[HOST:]PORT, environment:NAME=VALUE, command:LINE, tunnel:N, sessions:N or none")
	}
	return nil
}

func (p *Permissions) flag(name string) *bool {
	switch name {
	case "pty":
		return &p.PTY
	case "port-forwarding":
		return &p.PortForwarding
	case "agent-forwarding":
		return &p.AgentForwarding
	case "x11-forwarding":
		return &p.X11Forwarding
	case "user-rc":
		return &p.UserRC
	}
	return nil
}

// Values prints the permissions as sekishoPermit values.
func (p Permissions) Values() []string {
	var vs []string
	for _, n := range []string{"pty", "port-forwarding", "agent-forwarding", "x11-forwarding", "user-rc"} {
		if *p.flag(n) {
			vs = append(vs, n)
		}
	}
	for _, l := range []struct {
		name   string
		values []string
	}{{"permitopen", p.PermitOpen}, {"permitlisten", p.PermitListen}, {"environment", p.Environment}} {
		for _, v := range l.values {
			vs = append(vs, l.name+":"+v)
		}
	}
	if p.Command != "" {
		vs = append(vs, "command:"+p.Command)
	}
	switch {
	case p.HasTunnel && p.Tunnel < 0:
		vs = append(vs, "tunnel:any")
	case p.HasTunnel:
		vs = append(vs, "tunnel:"+strconv.Itoa(p.Tunnel))
	}
	if p.Sessions != 0 {
		vs = append(vs, "sessions:"+strconv.Itoa(p.Sessions))
	}
	if vs == nil {
		vs = []string{"none"}
	}
	return vs
}

// union is what either of two matching rules gives. A rule that forces a
// command gives less than one that does not; of several, all force the same
// one (see conflict). Of two values for one environment variable, or two
// tunnel devices, the first rule's stays: sshd takes one only. Of two numbers of
// sessions the greater counts, and none at all is the greatest.
func (p Permissions) union(q Permissions) Permissions {
	u := p
	for _, n := range []string{"pty", "port-forwarding", "agent-forwarding", "x11-forwarding", "user-rc"} {
		*u.flag(n) = *p.flag(n) || *q.flag(n)
	}
	u.PermitOpen = slices.Concat(p.PermitOpen, q.PermitOpen)
	u.PermitListen = slices.Concat(p.PermitListen, q.PermitListen)
	u.Environment = slices.Clone(p.Environment)
	for _, e := range q.Environment {
		name, _, _ := strings.Cut(e, "=")
		if !slices.ContainsFunc(p.Environment, func(x string) bool { return strings.HasPrefix(x, name+"=") }) {
			u.Environment = append(u.Environment, e)
		}
	}
	if q.Command == "" {
		u.Command = ""
	}
	switch {
	case !p.HasTunnel:
		u.Tunnel, u.HasTunnel = q.Tunnel, q.HasTunnel
	case q.HasTunnel && q.Tunnel < 0:
		u.Tunnel = -1
	}
	if u.Sessions = max(p.Sessions, q.Sessions); p.Sessions == 0 || q.Sessions == 0 {
		u.Sessions = 0
	}
	u.normalize()
	return u
}

func (p *Permissions) normalize() {
	for _, l := range []*[]string{&p.PermitOpen, &p.PermitListen, &p.Environment} {
		slices.Sort(*l)
		*l = slices.Compact(*l)
	}
	if p.PortForwarding {
		p.PermitOpen, p.PermitListen = nil, nil
	}
}

// hostPort checks HOST:PORT, or PORT alone when no host is needed. HOST is a
// name, an address ([v6] in brackets) or *; PORT is 1..65535 or *.
func hostPort(s string, needHost bool) bool {
	host, port := "", s
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i+1:]
		if host == "" {
			return false
		}
	} else if needHost {
		return false
	}
	if n, err := strconv.ParseUint(port, 10, 16); port != "*" && (err != nil || n == 0 || port[0] == '0') {
		return false
	}
	if v6, ok := strings.CutPrefix(host, "["); ok {
		a, err := netip.ParseAddr(strings.TrimSuffix(v6, "]"))
		return err == nil && a.Is6() && a.Zone() == "" && strings.HasSuffix(v6, "]")
	}
	for _, c := range host {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune(".-_*", c)) {
			return false
		}
	}
	return true
}

// envPair checks NAME=VALUE: sshd takes letters, digits and _ in a name.
func envPair(s string) bool {
	name, _, ok := strings.Cut(s, "=")
	if !ok || name == "" || name[0] >= '0' && name[0] <= '9' {
		return false
	}
	for _, c := range name {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_') {
			return false
		}
	}
	return true
}
