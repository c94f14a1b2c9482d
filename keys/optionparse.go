package keys

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// parseOptions reads the options at the start of s, up to the first space or
// tab outside quotes, and gives what follows. Options without effect give nil.
func parseOptions(s string) (*Options, string, error) {
	o := &Options{}
	seen := map[string]bool{}
	for {
		word, value, rest, err := splitOption(s)
		if err != nil {
			return nil, "", err
		}
		if err := o.set(word, value, seen); err != nil {
			return nil, "", err
		}
		s = rest
		if s == "" || s[0] == ' ' || s[0] == '\t' {
			break
		}
		if s[0] != ',' {
			return nil, "", fmt.Errorf("option %s: %s after its value", short(word), short(s[:1]))
		}
		s = s[1:]
	}
	if err := o.Validate(); err != nil {
		return nil, "", err
	}
	if o.empty() {
		return nil, s, nil
	}
	return o, s, nil
}

// splitOption takes one option off s. value is nil where there is no "=". The
// quoting is that of sshd: \" is a quote, any other backslash is itself.
func splitOption(s string) (word string, value *string, rest string, err error) {
	end := strings.IndexAny(s, ",= \t\"")
	if end < 0 {
		end = len(s)
	}
	word = s[:end]
	if word == "" {
		return "", nil, "", errors.New("options: an empty one, or a comma too many")
	}
	if end == len(s) || s[end] != '=' {
		return word, nil, s[end:], nil
	}
	s = s[end+1:]
	if s == "" || s[0] != '"' {
		return "", nil, "", fmt.Errorf("option %s: value must be in double quotes", short(word))
	}
	s = s[1:]
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			v := b.String()
			return word, &v, s[i+1:], nil
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"':
			i++
		}
		b.WriteByte(s[i])
	}
	return "", nil, "", fmt.Errorf("option %s: no closing quote", short(word))
}

// set applies one option, its name in any case. seen holds the options that may
// stand only once. sshd lets the last tunnel, the first environment of a name
// and the earliest expiry-time win; here a second one is refused, as sshd does
// for command, from and principals.
func (o *Options) set(word string, value *string, seen map[string]bool) error {
	name := strings.ToLower(word)
	if strings.Trim(word, optionLetters) != "" {
		return unknownOption(word, value != nil)
	}
	if value == nil {
		if !o.setFlag(name) {
			return unknownOption(word, false)
		}
		return nil
	}
	switch name {
	case "command", "from", "principals", "expiry-time", "tunnel":
		if seen[name] {
			return fmt.Errorf("option %s: given twice", name)
		}
		seen[name] = true
	}
	if err := o.setValue(name, *value); err == errUnknownOption {
		return unknownOption(word, true)
	} else if err != nil {
		return fmt.Errorf("option %s: %w", name, err)
	}
	return nil
}

// optionLetters are all that names of options are made of.
const optionLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"

// unknownOption is the refusal of a word. That matters more than it looks: what
// we do not know may be a restriction.
func unknownOption(word string, hasValue bool) error {
	with := ""
	if hasValue {
		with = " with a value"
	}
	return fmt.Errorf("option or key type %s%s: unknown", short(word), with)
}

// setFlag applies an option without value and tells whether there is such one.
func (o *Options) setFlag(name string) bool {
	plain, negated := strings.CutPrefix(name, "no-")
	switch plain {
	case "restrict":
		if negated {
			return false
		}
		o.Restrict = true
		for _, f := range o.flags() {
			*f.value = Unset
		}
		return true
	case "cert-authority":
		if negated {
			return false
		}
		o.CertAuthority = true
		return true
	case "touch-required":
		o.NoTouchRequired = negated
		return true
	case "verify-required":
		o.VerifyRequired = !negated
		return true
	}
	for _, f := range o.flags() {
		if strings.ToLower(f.name) == plain {
			*f.value = Allow
			if negated {
				*f.value = Deny
			}
			return true
		}
	}
	return false
}

var errUnknownOption = errors.New("unknown option")

// setValue applies an option with a value.
func (o *Options) setValue(name, v string) (err error) {
	switch name {
	case "command":
		if v == "" {
			return errors.New(`empty: to run nothing, write command="/bin/true"`)
		}
		o.Command = v
	case "principals":
		o.Principals = strings.Split(v, ",")
	case "from":
		if n := strings.Count(v, ",") + 1; n > maxListed {
			return fmt.Errorf("%d members: at most %d are allowed", n, maxListed)
		}
		for s := range strings.SplitSeq(v, ",") {
			p, err := parsePattern(s)
			if err != nil {
				return err
			}
			o.From = append(o.From, p)
		}
	case "expiry-time":
		o.Expiry, err = parseExpiry(v)
	case "environment":
		key, val, ok := strings.Cut(v, "=")
		if !ok {
			return errors.New("must be NAME=value")
		}
		o.Environment = append(o.Environment, EnvVar{Name: key, Value: val})
	case "permitopen", "permitlisten":
		var h HostPort
		if h, err = parseHostPort(v, name == "permitlisten"); err != nil {
			return err
		}
		if name == "permitopen" {
			o.PermitOpen = append(o.PermitOpen, h)
		} else {
			o.PermitListen = append(o.PermitListen, h)
		}
	case "tunnel":
		o.Tunnel, err = parseTunnel(v)
	default:
		return errUnknownOption
	}
	return err
}

func parseTunnel(s string) (Tunnel, error) {
	if strings.EqualFold(s, "any") {
		return Tunnel{Set: true, Any: true}, nil
	}
	n, err := parseDecimal(s, maxTunnel)
	if err != nil {
		return Tunnel{}, fmt.Errorf("%s: must be any, or a number up to %d", short(s), maxTunnel)
	}
	return Tunnel{Set: true, N: n}, nil
}

// parseDecimal reads digits without sign or leading zeros.
func parseDecimal(s string, most uint32) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || uint32(n) > most || strconv.FormatUint(n, 10) != s {
		return 0, errors.New("not a number in range")
	}
	return uint32(n), nil
}

// empty tells whether o prints as nothing.
func (o *Options) empty() bool { return len(o.append(nil)) == 0 }
