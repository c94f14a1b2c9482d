package keys

import (
	"net/netip"
	"time"
)

// Flag is an option that can be absent, granted ("pty") or denied ("no-pty").
type Flag uint8

// The states of a Flag.
const (
	Unset Flag = iota
	Allow
	Deny
)

// Options are the options of one authorized_keys line, sshd(8) AUTHORIZED_KEYS
// FILE FORMAT. A nil *Options is a line without options: everything is allowed.
//
// sshd reads options in order and the last word counts: "restrict" clears what
// stood before it. Options holds the result, so that the order is not needed:
// Restrict first, then the flags that came after it.
type Options struct {
	Restrict        bool
	PTY             Flag // pty, no-pty
	PortForwarding  Flag // port-forwarding, no-port-forwarding
	AgentForwarding Flag // agent-forwarding, no-agent-forwarding
	X11Forwarding   Flag // X11-forwarding, no-X11-forwarding
	UserRC          Flag // user-rc, no-user-rc

	CertAuthority   bool     // the key signs certificates; it does not log in itself
	Principals      []string // with CertAuthority only; one of them must be in the certificate
	NoTouchRequired bool     // sk- keys: presence need not be shown
	VerifyRequired  bool     // sk- keys: the user must have been verified, by PIN say

	Command      string     // forced command; empty: none
	Environment  []EnvVar   // in order, names unique
	Expiry       Expiry     // zero: never
	From         []Pattern  // empty: from anywhere
	PermitOpen   []HostPort // empty: any
	PermitListen []HostPort // empty: any; hosts may hold wildcards
	Tunnel       Tunnel     // zero: none forced
}

// EnvVar is one environment="NAME=value".
type EnvVar struct{ Name, Value string }

// Expiry is the value of expiry-time, to the second. The key is refused after it.
type Expiry struct {
	// Time has its fields (year to second) as written, in time.UTC.
	Time time.Time
	// Local: written without Z, so the fields are in the time zone of the
	// machine that runs sshd.
	Local bool
}

// Pattern is one member of from="…": either an address block or a pattern over
// host names and addresses in text form ("*.example.org", "192.0.2.*").
type Pattern struct {
	Negate bool
	Net    netip.Prefix // valid, or
	Glob   string       // not empty
}

// HostPort is the value of permitopen and permitlisten.
type HostPort struct {
	Host string // without brackets; "*" is any
	Port uint16 // 0 is any, written "*"
}

// Tunnel is the value of tunnel: the tun device that is forced.
type Tunnel struct {
	Set bool
	Any bool
	N   uint32
}

// Effective is what a line lets a session do.
type Effective struct {
	PTY, PortForwarding, AgentForwarding, X11Forwarding, UserRC bool
}

// Effective tells what sshd would allow by these options alone.
func (o *Options) Effective() Effective {
	if o == nil {
		return Effective{true, true, true, true, true}
	}
	on := func(f Flag) bool { return f == Allow || f == Unset && !o.Restrict }
	return Effective{
		PTY:             on(o.PTY),
		PortForwarding:  on(o.PortForwarding),
		AgentForwarding: on(o.AgentForwarding),
		X11Forwarding:   on(o.X11Forwarding),
		UserRC:          on(o.UserRC),
	}
}
