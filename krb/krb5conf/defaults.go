package krb5conf

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sekisho/sekisho/krb"
)

// Canonicalize says whether names of hosts are replaced by what DNS makes of them.
type Canonicalize int

// The three settings of dns_canonicalize_hostname.
const (
	CanonicalizeNo Canonicalize = iota
	CanonicalizeYes
	CanonicalizeFallback // only when the name as it is has no ticket
)

// Defaults are the settings of [libdefaults] that something here uses, with MIT's
// values for what is not said.
type Defaults struct {
	// Realm is default_realm, empty when none is said.
	Realm string
	// DNSLookupKDC: look for KDCs by SRV records (dns_lookup_kdc; default true).
	DNSLookupKDC bool
	// DNSLookupRealm: look for the realm of a host by TXT records (default false).
	DNSLookupRealm bool
	// Canonicalize is dns_canonicalize_hostname (default CanonicalizeYes).
	Canonicalize Canonicalize
	// RDNS: canonicalize by the address as well (rdns; default true).
	RDNS bool
	// TicketLifetime and RenewLifetime are what new tickets are asked for; 0 when
	// nothing is said (MIT then asks for a day, and for no renewal).
	TicketLifetime, RenewLifetime time.Duration
	// Forwardable and Proxiable tickets (default false).
	Forwardable, Proxiable bool
	// ClockSkew is how far apart clocks may be (clockskew; default 5 min).
	ClockSkew time.Duration
	// KDCTimeSync: work with the KDC's clock, not this machine's (default true).
	KDCTimeSync bool
	// CacheName is default_ccache_name with its tokens, empty when not said.
	CacheName string
	// ETypes are the encryption types of permitted_enctypes that Sekisho knows, in
	// its order; all of Sekisho's when it is not said.
	ETypes []int32
}

// Defaults reads [libdefaults]. What stands in the subsection of the realm there
// counts more for the tickets' settings; an empty realm has none. An unreadable
// value is an error that names its line.
func (c *Config) Defaults(realm string) (Defaults, error) {
	r := settings{c: c, realm: realm}
	d := Defaults{
		Realm:          c.Value("libdefaults", "default_realm"),
		DNSLookupKDC:   r.boolean("dns_lookup_kdc", r.boolean("dns_fallback", true)),
		DNSLookupRealm: r.boolean("dns_lookup_realm", r.boolean("dns_fallback", false)),
		Canonicalize:   r.canonicalize(),
		RDNS:           r.boolean("rdns", true),
		Forwardable:    r.ticketBoolean("forwardable"),
		Proxiable:      r.ticketBoolean("proxiable"),
		TicketLifetime: r.duration("ticket_lifetime"),
		RenewLifetime:  r.duration("renew_lifetime"),
		ClockSkew:      time.Duration(r.integer("clockskew", 300)) * time.Second,
		KDCTimeSync:    r.integer("kdc_timesync", 1) != 0,
		CacheName:      c.Value("libdefaults", "default_ccache_name"),
		ETypes:         r.etypes(),
	}
	if r.err != nil {
		return Defaults{}, r.err
	}
	return d, nil
}

// settings reads tags of [libdefaults] and keeps the first error.
type settings struct {
	c     *Config
	realm string
	err   error
}

func (r *settings) fail(v value, err error) {
	if r.err == nil {
		r.err = fmt.Errorf("%s:%d: %w", v.at.file, v.at.line, err)
	}
}

func (r *settings) first(tag string) (value, bool) {
	if v := r.c.values("libdefaults", tag); len(v) > 0 {
		return v[0], true
	}
	return value{}, false
}

// ticket looks in the realm's own subsection first.
func (r *settings) ticket(tag string) (value, bool) {
	if r.realm != "" {
		if v := r.c.values("libdefaults", r.realm, tag); len(v) > 0 {
			return v[0], true
		}
	}
	return r.first(tag)
}

// parseBool reads MIT's words.
func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "y", "yes", "true", "t", "1", "on":
		return true, nil
	case "n", "no", "false", "nil", "0", "off":
		return false, nil
	}
	return false, fmt.Errorf("%.40q is neither true nor false", s)
}

func (r *settings) boolOf(v value, ok, fallback bool) bool {
	if !ok {
		return fallback
	}
	b, err := parseBool(v.text)
	if err != nil {
		r.fail(v, err)
	}
	return b
}

func (r *settings) boolean(tag string, fallback bool) bool {
	v, ok := r.first(tag)
	return r.boolOf(v, ok, fallback)
}

func (r *settings) ticketBoolean(tag string) bool {
	v, ok := r.ticket(tag)
	return r.boolOf(v, ok, false)
}

func (r *settings) canonicalize() Canonicalize {
	v, ok := r.first("dns_canonicalize_hostname")
	if ok && strings.EqualFold(v.text, "fallback") {
		return CanonicalizeFallback
	}
	if r.boolOf(v, ok, true) {
		return CanonicalizeYes
	}
	return CanonicalizeNo
}

func (r *settings) duration(tag string) time.Duration {
	v, ok := r.ticket(tag)
	if !ok {
		return 0
	}
	d, err := ParseDuration(v.text)
	if err != nil {
		r.fail(v, err)
	}
	return d
}

// integer is 0 to 2147483647.
func (r *settings) integer(tag string, fallback int) int {
	v, ok := r.first(tag)
	if !ok {
		return fallback
	}
	n, err := strconv.ParseInt(v.text, 10, 32)
	if err != nil || n < 0 {
		r.fail(v, fmt.Errorf("%s: %.40q is no whole number from 0 to 2147483647", tag, v.text))
	}
	return int(n)
}

// known are Sekisho's encryption types by the names that MIT has for them.
var known = []struct {
	id    int32
	names []string
}{
	{krb.AES256SHA1, []string{"aes256-cts-hmac-sha1-96", "aes256-cts", "aes256-sha1"}},
	{krb.AES128SHA1, []string{"aes128-cts-hmac-sha1-96", "aes128-cts", "aes128-sha1"}},
	{krb.AES256SHA2, []string{"aes256-cts-hmac-sha384-192", "aes256-sha2"}},
	{krb.AES128SHA2, []string{"aes128-cts-hmac-sha256-128", "aes128-sha2"}},
}

// etypes reads permitted_enctypes: words that add, or with - take away. Words for
// types that Sekisho does not have are passed over.
func (r *settings) etypes() []int32 {
	all := []int32{}
	for _, k := range known {
		all = append(all, k.id)
	}
	v, ok := r.first("permitted_enctypes")
	if !ok {
		return all
	}
	out := []int32{}
	for _, word := range strings.FieldsFunc(v.text, func(r rune) bool { return strings.ContainsRune(" \t\r\n,", r) }) {
		take := strings.HasPrefix(word, "-")
		word = strings.ToLower(strings.TrimLeft(word[:1], "+-") + word[1:])
		var ids []int32
		if word == "default" || word == "aes" {
			ids = all
		}
		for _, k := range known {
			if slices.Contains(k.names, word) {
				ids = []int32{k.id}
			}
		}
		for _, id := range ids {
			i := slices.Index(out, id)
			switch {
			case take && i >= 0:
				out = slices.Delete(out, i, i+1)
			case !take && i < 0:
				out = append(out, id)
			}
		}
	}
	if len(out) == 0 {
		r.fail(v, errors.New("permitted_enctypes leaves none of the types that Sekisho uses: allow aes"))
	}
	return out
}
