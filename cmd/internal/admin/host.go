package admin

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/ldapsync"
)

// Host is a host's entry.
type Host struct {
	Name        string   `json:"name"`
	DN          string   `json:"dn"`
	Aliases     []string `json:"aliases"`
	Addresses   []string `json:"addresses"`
	Description string   `json:"description,omitempty"`
	Groups      []string `json:"groups,omitempty"` // direct ones
	// FeedKeys are the keys by which it may follow a broker (sekishoHostKey).
	FeedKeys []string `json:"feed_keys,omitempty"`
}

func checkHost(names, addrs []string) error {
	for _, n := range names {
		if len(n) > 253 || !hostName.MatchString(n) {
			return refuse("host name %.60q: write a name in lower case, such as web1.example.org", n)
		}
	}
	for _, a := range addrs {
		if ip, err := netip.ParseAddr(a); err != nil || ip.Zone() != "" || ip.Unmap() != ip || ip.String() != a {
			return refuse("address %.60q: write one IPv4 or IPv6 address in its short form", a)
		}
	}
	return nil
}

// AddHost makes a host.
func (d *Directory) AddHost(ctx context.Context, h Host) error {
	if err := d.writable("host"); err != nil {
		return err
	}
	if len(h.Addresses) == 0 {
		return refuse("a host has an address: give it with --addr")
	}
	if err := checkHost(append([]string{h.Name}, h.Aliases...), h.Addresses); err != nil {
		return err
	}
	k := d.hosts()
	a := ldap.NewAddRequest(k.dn(h.Name), nil)
	a.Attribute("objectClass", []string{"device", "ipHost"})
	a.Attribute("cn", append([]string{h.Name}, h.Aliases...))
	a.Attribute("ipHostNumber", h.Addresses)
	if h.Description != "" {
		a.Attribute("description", []string{h.Description})
	}
	for _, n := range append([]string{h.Name}, h.Aliases...) {
		if has, err := d.exists(ctx, k, n); err != nil {
			return err
		} else if has {
			return refuse("a host has the name %s already: sekisho host show %s", n, n)
		}
	}
	return d.c.Client.Add(ctx, a)
}

// HostChange is what SetHost changes; nil leaves a thing alone, and a list
// takes the place of the old one.
type HostChange struct {
	Aliases, Addresses *[]string
	Description        *string
}

// SetHost changes a host, found by any of its names, in one modify. It returns
// the name that does not change.
func (d *Directory) SetHost(ctx context.Context, name string, c HostChange) (string, error) {
	if err := d.writable("host"); err != nil {
		return "", err
	}
	e, err := d.find(ctx, d.hosts(), name, "cn")
	if err != nil {
		return "", err
	}
	m := ldap.NewModifyRequest(e.DN, nil)
	if c.Aliases != nil {
		if err := checkHost(*c.Aliases, nil); err != nil {
			return "", err
		}
		m.Replace("cn", append([]string{rdnValue(e.DN)}, *c.Aliases...))
	}
	if c.Addresses != nil {
		if err := checkHost(nil, *c.Addresses); err != nil {
			return "", err
		}
		if len(*c.Addresses) == 0 {
			return "", refuse("a host has an address: give it with --addr")
		}
		m.Replace("ipHostNumber", *c.Addresses)
	}
	if c.Description != nil {
		m.Replace("description", some(*c.Description))
	}
	if len(m.Changes) == 0 {
		return "", refuse("nothing to change: see sekisho host set --help")
	}
	return rdnValue(e.DN), d.c.Client.Modify(ctx, m)
}

// PinHost makes key the only one by which a host may follow a broker: one that had
// another is cut off.
func (d *Directory) PinHost(ctx context.Context, name, key string) error {
	if err := d.writable("host"); err != nil {
		return err
	}
	e, err := d.find(ctx, d.hosts(), name, "objectClass")
	if err != nil {
		return err
	}
	m := ldap.NewModifyRequest(e.DN, nil)
	if !slices.ContainsFunc(e.GetAttributeValues("objectClass"), func(c string) bool { return strings.EqualFold(c, "sekishoHost") }) {
		m.Add("objectClass", []string{"sekishoHost"})
	}
	m.Replace(d.c.Schema.HostKeys, []string{key})
	return d.c.Client.Modify(ctx, m)
}

// RemoveHost takes a host out.
func (d *Directory) RemoveHost(ctx context.Context, name string) error {
	if err := d.writable("host"); err != nil {
		return err
	}
	h, err := d.Host(ctx, name)
	if err != nil {
		return err
	}
	if err := d.removePrincipal(ctx, h); err != nil { // first, so that none is left without its host
		return err
	}
	return d.c.Client.Delete(ctx, h.DN)
}

func (d *Directory) hostAttrs() []string {
	out := append([]string{"description"}, d.c.Schema.HostNames...)
	if d.c.Schema.HostAddrs != "" {
		out = append(out, d.c.Schema.HostAddrs)
	}
	if d.c.Schema.HostKeys != "" {
		out = append(out, d.c.Schema.HostKeys)
	}
	return out
}

// Host shows one host, found by any of its names.
func (d *Directory) Host(ctx context.Context, name string) (Host, error) {
	e, err := d.find(ctx, d.hosts(), strings.ToLower(name), d.hostAttrs()...)
	if err != nil {
		return Host{}, err
	}
	h := d.readHost(e)
	h.Groups, err = d.directGroups(ctx, e.DN, "")
	return h, err
}

// Hosts shows all whose names fit pattern.
func (d *Directory) Hosts(ctx context.Context, pattern string) ([]Host, error) {
	es, err := d.list(ctx, d.hosts(), pattern, 0, d.hostAttrs()...)
	if err != nil {
		return nil, err
	}
	out := make([]Host, len(es))
	for i, e := range es {
		out[i] = d.readHost(e)
	}
	sortBy(out, func(h Host) string { return h.Name })
	return out, nil
}

func (d *Directory) readHost(e *ldap.Entry) Host {
	h := Host{Name: rdnValue(e.DN), DN: e.DN, Description: e.GetAttributeValue("description"), Aliases: []string{}, Addresses: []string{}}
	for _, a := range d.c.Schema.HostNames {
		for _, n := range e.GetAttributeValues(a) {
			if !strings.EqualFold(n, h.Name) && !slices.Contains(h.Aliases, n) {
				h.Aliases = append(h.Aliases, n)
			}
		}
	}
	h.Addresses = append(h.Addresses, e.GetAttributeValues(d.c.Schema.HostAddrs)...)
	if d.c.Schema.HostKeys != "" {
		h.FeedKeys = e.GetAttributeValues(d.c.Schema.HostKeys)
	}
	slices.Sort(h.Aliases)
	slices.Sort(h.Addresses)
	return h
}

// Known tells whether there are users, groups and hosts of these names: a rule
// may be written before what it names, but a typing error looks the same.
func (d *Directory) Known(ctx context.Context, what, name string) (bool, error) {
	k := map[string]kind{"user": d.users(), "group": d.groups(), "hostgroup": d.groups(), "host": d.hosts()}[what]
	ok, err := d.exists(ctx, k, name)
	if ldapsync.IsCode(err, ldap.LDAPResultInsufficientAccessRights) {
		return true, nil // not ours to say
	}
	return ok, err
}
