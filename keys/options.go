package keys

import (
	"errors"
	"fmt"
	"strings"
)

// Flag is an option that can be absent, granted ("pty") or taken away ("no-pty").
type Flag uint8

// The states of a Flag.
const (
	Unset Flag = iota
	Allow
	Deny
)

// Options are the options of one authorized_keys line, sshd(8) AUTHORIZED_KEYS
// FILE FORMAT. A nil *Options is a line without options: sshd allows everything.
//
// sshd reads options from left to right and the last word on a flag counts;
// "restrict" takes back every flag before it. Options holds the result: Restrict,
// and the flags that were set after it. It is printed in that order.
type Options struct {
	Restrict        bool
	PTY             Flag // pty, no-pty
	PortForwarding  Flag // port-forwarding, no-port-forwarding
	AgentForwarding Flag // agent-forwarding, no-agent-forwarding
	X11Forwarding   Flag // X11-forwarding, no-X11-forwarding
	UserRC          Flag // user-rc, no-user-rc

	CertAuthority   bool     // the key signs certificates and does not log in itself
	Principals      []string // only with CertAuthority: one of them must be in the certificate
	NoTouchRequired bool     // sk- keys: presence need not be shown
	VerifyRequired  bool     // sk- keys: the token must have verified its user

	Command      string     // forced command, for the user's shell; empty: none
	Environment  []EnvVar   // each name once
	Expiry       Expiry     // zero: never
	From         []Pattern  // empty: from anywhere
	PermitOpen   []HostPort // ssh -L; empty: to anywhere. Hosts are literal, or "*"
	PermitListen []HostPort // ssh -R; empty: anywhere. Hosts may hold wildcards
	Tunnel       Tunnel     // zero: none forced
}

// EnvVar is one environment="NAME=value". The name is of letters, digits and _.
type EnvVar struct{ Name, Value string }

// Tunnel is the tun device that tunnel= forces: if Set, number N, or the next
// free one if Any.
type Tunnel struct {
	Set bool
	Any bool
	N   uint32
}

// Effective is what a line lets a session do.
type Effective struct {
	PTY             bool
	PortForwarding  bool
	AgentForwarding bool
	X11Forwarding   bool
	UserRC          bool
}

// Effective tells what sshd would allow by these options alone. Where
// PortForwarding holds, PermitOpen and PermitListen narrow it further.
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

// flags are the names of the five flags, in the order of printing.
func (o *Options) flags() [5]flag {
	return [...]flag{
		{"pty", &o.PTY},
		{"port-forwarding", &o.PortForwarding},
		{"agent-forwarding", &o.AgentForwarding},
		{"X11-forwarding", &o.X11Forwarding},
		{"user-rc", &o.UserRC},
	}
}

type flag struct {
	name  string
	value *Flag
}

// maxListedPrincipals is how many members of principals= sshd looks at; it
// drops the others in silence (match.c, MAX_PROP).
const maxListedPrincipals = 40

// maxListed is how many members from=, environment=, permitopen= and
// permitlisten= may have each. sshd's own limits are higher.
const maxListed = 256

// maxTunnel is the highest tun device (OpenSSH's misc.h, SSH_TUNID_MAX).
const maxTunnel = 0x7fffffff - 2

// Validate tells what cannot be printed, or would mean another thing to sshd
// than it says. ParseLine and Line.Format call it.
func (o *Options) Validate() error {
	if o == nil {
		return nil
	}
	for _, f := range o.flags() {
		if *f.value > Deny {
			return fmt.Errorf("option %s: unknown state %d", f.name, *f.value)
		}
	}
	for _, l := range [...]struct {
		name string
		n    int
	}{
		{"from", len(o.From)}, {"environment", len(o.Environment)},
		{"permitopen", len(o.PermitOpen)}, {"permitlisten", len(o.PermitListen)},
	} {
		if l.n > maxListed {
			return fmt.Errorf("option %s: %d members: at most %d are allowed", l.name, l.n, maxListed)
		}
	}
	if err := o.validatePrincipals(); err != nil {
		return fmt.Errorf("option principals: %w", err)
	}
	if err := checkValue(o.Command); err != nil {
		return fmt.Errorf("option command: %w", err)
	}
	if err := validateEnvironment(o.Environment); err != nil {
		return fmt.Errorf("option environment: %w", err)
	}
	if err := o.Expiry.validate(); err != nil {
		return fmt.Errorf("option expiry-time: %w", err)
	}
	for _, p := range o.From {
		if q, err := parsePattern(p.String()); err != nil {
			return fmt.Errorf("option from: %w", err)
		} else if q != p {
			return fmt.Errorf("option from: %s is not in its plain form", short(p.String()))
		}
	}
	for _, h := range o.PermitOpen {
		if err := h.validate(false); err != nil {
			return fmt.Errorf("option permitopen: %w", err)
		}
	}
	for _, h := range o.PermitListen {
		if err := h.validate(true); err != nil {
			return fmt.Errorf("option permitlisten: %w", err)
		}
	}
	if t := o.Tunnel; t.N > maxTunnel || t.N != 0 && (t.Any || !t.Set) || t.Any && !t.Set {
		return errors.New("option tunnel: must be any, or a number up to 2147483645")
	}
	return nil
}

func (o *Options) validatePrincipals() error {
	if len(o.Principals) > 0 && !o.CertAuthority {
		return errors.New("sshd refuses a line that has it without cert-authority")
	}
	if len(o.Principals) > maxListedPrincipals {
		return fmt.Errorf("%d names: sshd looks at the first %d only", len(o.Principals), maxListedPrincipals)
	}
	for _, p := range o.Principals {
		if p == "" || strings.Contains(p, ",") {
			return errors.New("an empty name, or a comma in a name")
		}
		if err := checkValue(p); err != nil {
			return err
		}
	}
	return nil
}

func validateEnvironment(env []EnvVar) error {
	var seen map[string]bool
	if len(env) > 1 {
		seen = make(map[string]bool, len(env))
	}
	for _, e := range env {
		if !validEnvName(e.Name) {
			return fmt.Errorf("name %s: must be of letters, digits and _", short(e.Name))
		}
		if seen[e.Name] {
			return fmt.Errorf("name %s: given twice", short(e.Name))
		}
		if seen != nil {
			seen[e.Name] = true
		}
		if err := checkValue(e.Value); err != nil {
			return fmt.Errorf("value of %s %w", short(e.Name), err)
		}
	}
	return nil
}

func validEnvName(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_') {
			return false
		}
	}
	return s != ""
}

// checkValue tells why s cannot stand between quotes. A backslash before the
// closing quote would escape it, and sshd has no way to write that value.
func checkValue(s string) error {
	if err := checkText(s); err != nil {
		return err
	}
	if strings.HasSuffix(s, `\`) {
		return errors.New(`ends with a backslash, which sshd would take as \"`)
	}
	return nil
}
