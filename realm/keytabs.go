package realm

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"github.com/sekisho/sekisho/krb"
)

// servicePrincipals are the names that clients ask for tickets by, when they speak
// GSSAPI to slapd: one for each name in the certificate that is not an address.
func (m maker) servicePrincipals() []string {
	var out []string
	for _, n := range certNames(m.c, m.hostname) {
		if _, err := netip.ParseAddr(n); err != nil {
			out = append(out, "ldap/"+n)
		}
	}
	return out
}

func (m maker) newServices(names []string, key krb.MasterKey) ([]entry, []krb.KeytabEntry, error) {
	is := Issuer{Layout: m.layout, Master: key, Now: m.c.Now}
	var es []entry
	var keytab []krb.KeytabEntry
	for _, n := range names {
		req, keys, err := is.Service(n)
		if err != nil {
			return nil, nil, err
		}
		es = append(es, entry{req.DN, req.Attributes})
		keytab = append(keytab, keys...)
	}
	return es, keytab, nil
}

// keepKeytabs brings the keytabs of the realm's own services up to date: slapd's,
// sekishod's own, and the one to change passwords with.
func (m maker) keepKeytabs(ctx context.Context, f files) error {
	own := m.c.info().Service
	for _, k := range []struct {
		path  string
		names []string
		make  bool // what the directory lacks
	}{
		{f.ldapKeytab, m.servicePrincipals(), true},
		{f.keytab, []string{strings.Join(own.Components, "/")}, true},
		{f.changepwKeytab, []string{"kadmin/changepw"}, false},
	} {
		if err := m.keepKeytab(ctx, f, k.path, k.names, k.make); err != nil {
			return fmt.Errorf("the Kerberos keys of %s: %w", k.names[0], err)
		}
	}
	return nil
}

// keepKeytab puts into a keytab what it lacks. The directory comes first and the
// keytab follows it, so that a crash between them is mended by the next start.
func (m maker) keepKeytab(ctx context.Context, f files, path string, names []string, create bool) error {
	keytab, err := krb.ReadKeytab(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	have := map[string]bool{}
	for _, e := range keytab {
		have[e.Principal.String()] = true
	}
	var missing []string
	for _, n := range names {
		if !have[n+"@"+m.layout.Realm] {
			missing = append(missing, n)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	key, err := krb.LoadMasterKey(f.stash, m.layout.Realm)
	if err != nil {
		return err
	}
	is := Issuer{Layout: m.layout, Master: key, Now: m.c.Now}
	for _, n := range missing {
		p, err := krb.NewPrincipal(n, m.layout.Realm)
		if err != nil {
			return err
		}
		values, err := m.storedKeys(ctx, f, p)
		if err != nil {
			return err
		}
		if len(values) > 0 {
			es, err := is.keytabOf(p, values)
			if err != nil {
				return err
			}
			keytab = append(keytab, es...)
			continue
		}
		if !create {
			return fmt.Errorf("%s is not in the directory, where each realm has it: restore it from a backup", p)
		}
		es, made, err := m.newServices([]string{n}, key)
		if err != nil {
			return err
		}
		if _, err := m.tool(ctx, ldif(es), m.sys.slapadd, "-w", "-n", "1", "-F", f.slapdD); err != nil {
			return err
		}
		keytab = append(keytab, made...)
	}
	return krb.WriteKeytab(path, keytab)
}

// storedKeys reads the keys of a principal from the directory while slapd is down,
// one value a version; none when there is no such principal.
func (m maker) storedKeys(ctx context.Context, f files, p krb.Principal) ([][]byte, error) {
	out, err := m.tool(ctx, "", m.sys.slapcat, "-o", "ldif-wrap=no", "-n", "1", "-F", f.slapdD, "-a", "(krbPrincipalName="+p.String()+")")
	if err != nil {
		return nil, err
	}
	const name = "krbPrincipalKey:: "
	var values [][]byte
	for line := range strings.Lines(string(out)) {
		if text, ok := strings.CutPrefix(line, name); ok {
			v, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
			if err != nil {
				return nil, fmt.Errorf("%s: slapcat printed a key that is not base64", p)
			}
			values = append(values, v)
		}
	}
	return values, nil
}
