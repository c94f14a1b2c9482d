package keys

import "strconv"

// append prints o, which Validate has passed, as one options field without the
// space after it. A list is one option per member, but for from and principals.
func (o *Options) append(b []byte) []byte {
	start := len(b)
	word := func(s string) {
		if len(b) > start {
			b = append(b, ',')
		}
		b = append(b, s...)
	}
	value := func(name, v string) {
		word(name)
		b = append(b, '=')
		b = appendQuoted(b, v)
	}
	if o.Restrict {
		word("restrict")
	}
	for _, f := range o.flags() {
		switch *f.value {
		case Allow:
			word(f.name)
		case Deny:
			word("no-" + f.name)
		}
	}
	if o.CertAuthority {
		word("cert-authority")
	}
	if len(o.Principals) > 0 {
		value("principals", joined(o.Principals, func(s string) string { return s }))
	}
	if o.NoTouchRequired {
		word("no-touch-required")
	}
	if o.VerifyRequired {
		word("verify-required")
	}
	if len(o.From) > 0 {
		value("from", joined(o.From, Pattern.String))
	}
	if o.Expiry != (Expiry{}) {
		value("expiry-time", o.Expiry.String())
	}
	if o.Command != "" {
		value("command", o.Command)
	}
	for _, e := range o.Environment {
		value("environment", e.Name+"="+e.Value)
	}
	for _, h := range o.PermitOpen {
		value("permitopen", h.String())
	}
	for _, h := range o.PermitListen {
		value("permitlisten", h.String())
	}
	if t := o.Tunnel; t.Any {
		value("tunnel", "any")
	} else if t.Set {
		value("tunnel", strconv.FormatUint(uint64(t.N), 10))
	}
	return b
}

// appendQuoted puts v between quotes, as sshd's opt_dequote takes them off.
func appendQuoted(b []byte, v string) []byte {
	b = append(b, '"')
	for i := 0; i < len(v); i++ {
		if v[i] == '"' {
			b = append(b, '\\')
		}
		b = append(b, v[i])
	}
	return append(b, '"')
}

// joined is the comma-separated list of the members' texts.
func joined[T any](list []T, text func(T) string) string {
	var b []byte
	for i, v := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, text(v)...)
	}
	return string(b)
}
