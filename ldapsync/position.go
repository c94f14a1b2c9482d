package ldapsync

import (
	"slices"
	"strings"
)

// position is how far we have followed: an OpenLDAP cookie is a set of change
// sequence numbers, one for each server id, of which a message may bring only
// the one that moved; another server's cookie is opaque (RFC 4533 §2.1.2) and
// only the last counts.
type position struct {
	csns   map[string]string // by server id
	opaque string
}

// csnSID is the server id in a CSN, time#count#sid#mod; empty for what is no CSN.
func csnSID(csn string) string {
	f := strings.Split(csn, "#")
	if len(f) != 4 || len(f[0]) < 15 || f[2] == "" {
		return ""
	}
	return f[2]
}

// parseCookie takes an OpenLDAP cookie apart: rid=…,sid=…,csn=…;…
func parseCookie(cookie string) (csns []string, ok bool) {
	for cookie != "" {
		var part string
		part, cookie, _ = strings.Cut(cookie, ",")
		name, value, found := strings.Cut(part, "=")
		switch {
		case !found:
			return nil, false
		case name == "csn":
			for _, c := range strings.Split(value, ";") {
				if csnSID(c) == "" {
					return nil, false
				}
				csns = append(csns, c)
			}
		case name != "rid" && name != "sid" && name != "delcsn":
			return nil, false
		}
	}
	return csns, true
}

// merge takes a cookie that the provider sent; it reports whether it moved.
func (p *position) merge(cookie []byte) bool {
	if len(cookie) == 0 {
		return false
	}
	csns, ok := parseCookie(string(cookie))
	if !ok {
		moved := p.opaque != string(cookie)
		p.opaque, p.csns = string(cookie), nil
		return moved
	}
	p.opaque = ""
	moved := false
	for _, c := range csns {
		if sid := csnSID(c); p.csns[sid] < c {
			if p.csns == nil {
				p.csns = map[string]string{}
			}
			p.csns[sid] = c
			moved = true
		}
	}
	return moved
}

func (p *position) empty() bool { return p.opaque == "" && len(p.csns) == 0 }

// cookie is what to send. The provider's sid= is left out: coming from us, it
// would mean that we are that server and need not be told of its changes.
func (p *position) cookie() string {
	if p.opaque != "" || len(p.csns) == 0 {
		return p.opaque
	}
	all := make([]string, 0, len(p.csns))
	for _, c := range p.csns {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b string) int { return strings.Compare(csnSID(a), csnSID(b)) })
	return "rid=000,csn=" + strings.Join(all, ";")
}

// covers reports whether we have followed to these CSNs; never for none.
func (p *position) covers(csns []string) bool {
	for _, c := range csns {
		if sid := csnSID(c); sid == "" || p.csns[sid] < c {
			return false
		}
	}
	return len(csns) > 0
}

// ahead reports whether we have seen what a provider at these CSNs has not.
func (p *position) ahead(csns []string) bool {
	at := map[string]string{}
	for _, c := range csns {
		at[csnSID(c)] = c
	}
	for sid, c := range p.csns {
		if at[sid] < c {
			return true
		}
	}
	return false
}

func (p *position) clone() position {
	n := position{opaque: p.opaque}
	for sid, c := range p.csns {
		if n.csns == nil {
			n.csns = map[string]string{}
		}
		n.csns[sid] = c
	}
	return n
}
