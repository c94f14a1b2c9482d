package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/admin"
	"github.com/sekisho/sekisho/cmd/internal/config"
	"github.com/sekisho/sekisho/cmd/internal/enrol"
	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/realm"
)

func (a *app) hostBundle() *cobra.Command {
	var file string
	var again bool
	c := &cobra.Command{
		Use: "bundle NAME --out FILE", Short: "Write all that a machine needs to become a host", Args: takes(1, 1, "a host name"),
		Long: `Write one new file that only you can read, with all that a machine needs to become
the host NAME of the embedded realm: where the KDC is, the CA, the keys of host/FQDN
and sekisho/FQDN, and what to follow. With feed.listen, that is this broker: a
certificate of the host's own, whose key is pinned in its entry; it is good for 397
days. Else it is the directory: a service account with its password. There, as root:
sekisho host enrol FILE. It is as good as the host's own keys: carry it over ssh, and
delete it on both sides.

Servers of an NTP clock guard go with it when this machine's configuration has any.

--again gives the host a new certificate, or its service account a new password, and
the old one ends: until the new bundle is there, the host answers from its last
good snapshot. The Kerberos keys stay what they are.`,
		Example: `  sekisho host bundle web1 --out /root/web1.bundle
  sekisho host bundle web1 --again --out /root/web1.new`,
		RunE: func(c *cobra.Command, args []string) error {
			if file == "" {
				return usagef("say where the bundle is to be written: --out FILE")
			}
			if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
				return refusedError{fmt.Errorf("%s is there already: name a new file", file)}
			}
			return a.serviceWork(c, func(ctx context.Context, d *admin.Directory) error {
				return a.writeBundle(ctx, d, bundleOrder{args[0], file, again})
			})
		},
	}
	c.Flags().StringVar(&file, "out", "", "new file for the bundle, mode 0600")
	c.Flags().BoolVar(&again, "again", false, "the host has had a bundle: what that holds ends")
	a.complete(c, "host")
	return c
}

type bundleOrder struct {
	host, file string
	again      bool
}

func (a *app) writeBundle(ctx context.Context, d *admin.Directory, o bundleOrder) error {
	h, err := d.Host(ctx, o.host)
	if err != nil {
		return err
	}
	b, err := a.newBundle(h)
	if err != nil {
		return err
	}
	keys, err := d.HostKeys(ctx, h.Name, false)
	if err != nil {
		return err
	}
	if b.Kerberos.HostKeytab, err = keytabBytes(o.file, keys.SSHD); err != nil {
		return err
	}
	if b.Kerberos.ServiceKeytab, err = keytabBytes(o.file, keys.Sekishod); err != nil {
		return err
	}
	if b.Feed != nil {
		err = a.bundleFeed(ctx, d, h, b, o)
	} else {
		err = a.bundleDirectory(ctx, d, h, b, o)
	}
	if err != nil {
		return err
	}
	a.say("%s has all that %s needs; there, as root: sekisho host enrol FILE", o.file, h.Name)
	return nil
}

// bundleFeed writes a bundle with a certificate, and pins its key. A service account
// that the host had is not needed any more.
func (a *app) bundleFeed(ctx context.Context, d *admin.Directory, h admin.Host, b enrol.Bundle, o bundleOrder) error {
	c, err := a.config()
	if err != nil {
		return err
	}
	if len(h.FeedKeys) > 0 && !o.again {
		return refusedError{fmt.Errorf("%s has a bundle already; --again gives it a new certificate", h.Name)}
	}
	cert, err := c.RealmConfig(0, 0).HostCert(b.FQDN)
	if err != nil {
		return err
	}
	b.Feed.Cert, b.Feed.Key = string(cert.Cert), string(cert.Key)
	if err := enrol.WriteBundle(o.file, b); err != nil {
		return err
	}
	if err := d.PinHost(ctx, h.Name, cert.Pin); err != nil {
		os.Remove(o.file)
		return err
	}
	var none *admin.NoneError
	if o.again {
		if err := d.RemoveService(ctx, h.Name); err != nil && !errors.As(err, &none) {
			return fmt.Errorf("the bundle is good, but the host's old service account is still there: %w", err)
		}
	}
	return nil
}

// bundleDirectory writes a bundle with a service account.
func (a *app) bundleDirectory(ctx context.Context, d *admin.Directory, h admin.Host, b enrol.Bundle, o bundleOrder) (err error) {
	b.Directory.Password = "not yet made"
	if err := b.Validate(); err != nil { // before an account is removed for it
		return fmt.Errorf("making a bundle: %w", err)
	}
	if o.again {
		var none *admin.NoneError
		if err := d.RemoveService(ctx, h.Name); err != nil && !errors.As(err, &none) {
			return err
		}
	}
	wrote := false
	defer func() {
		if err != nil && wrote {
			os.Remove(o.file)
		}
	}()
	err = d.AddService(ctx, admin.Service{Name: h.Name, Description: "sekishod of the host " + h.Name}, func(password string) error {
		b.Directory.Password = password
		err := enrol.WriteBundle(o.file, b)
		wrote = err == nil
		return err
	})
	if err != nil {
		var wrong *admin.RefusedError
		if errors.As(err, &wrong) && !o.again {
			return fmt.Errorf("%w; --again gives it a new password", err)
		}
		return err
	}
	return nil
}

// newBundle is what is known of the realm without asking it.
func (a *app) newBundle(h admin.Host) (enrol.Bundle, error) {
	c, err := a.config()
	if err != nil {
		return enrol.Bundle{}, err
	}
	p, err := a.place()
	if err != nil {
		return enrol.Bundle{}, err
	}
	ca, err := os.ReadFile(p.info.CAFile)
	if err != nil {
		return enrol.Bundle{}, fmt.Errorf("reading the realm's CA: %w", err)
	}
	l := p.layout
	b := enrol.Bundle{Made: time.Now().UTC().Truncate(time.Second), Host: h.Name, FQDN: admin.FQDN(h), Clock: c.Clock.Servers}
	b.Kerberos = enrol.BundleKerberos{Realm: l.Realm}
	follow := a.bundleOfDirectory
	if len(c.Feed.Listen) > 0 {
		follow = a.bundleOfFeed
	}
	if err := follow(c, l, h, &b, string(ca)); err != nil {
		return b, err
	}
	b.Kerberos.KDC = reachable(c, c.Realm.KDC, 0)
	if b.Kerberos.Kpasswd = reachable(c, c.Realm.Kpasswd, 0); len(c.Realm.Kpasswd) == 0 {
		b.Kerberos.Kpasswd = reachable(c, c.Realm.KDC, kpasswdAbove)
	}
	if len(b.Kerberos.KDC) == 0 {
		return b, a.unreachable("realm.kdc")
	}
	if !slices.Contains(append([]string{h.Name}, h.Aliases...), b.FQDN) || !hasDot(b.FQDN) {
		return b, refusedError{fmt.Errorf("%s has no full name, which its keys go by: sekisho host set %s --alias %s.DOMAIN", h.Name, h.Name, h.Name)}
	}
	return b, nil
}

func (a *app) unreachable(key string) error {
	return refusedError{fmt.Errorf("no other machine can reach this one: set %s to an address of it in %s, and restart sekishod", key, a.configPath)}
}

func (a *app) bundleOfDirectory(c config.Config, l realm.Layout, h admin.Host, b *enrol.Bundle, ca string) error {
	d := &enrol.BundleDirectory{Base: l.Base, RuleBase: l.Access(), BindDN: l.ServiceDN(h.Name), CA: ca, Schema: "rfc2307bis"}
	for _, a := range reachable(c, c.Realm.LDAPS, 0) {
		d.URL = append(d.URL, "ldaps://"+a)
	}
	if b.Directory = d; len(d.URL) == 0 {
		return a.unreachable("realm.ldaps")
	}
	return nil
}

func (a *app) bundleOfFeed(c config.Config, _ realm.Layout, _ admin.Host, b *enrol.Bundle, ca string) error {
	if c.Feed.CertFile != "" || c.Feed.CAFile != "" {
		return refusedError{errors.New("feed.cert_file and feed.ca_file are set: the hosts' certificates are made by whoever made these, and the hosts' [upstream] by hand: docs/upstream.md")}
	}
	if b.Feed = (&enrol.BundleFeed{Brokers: reachable(c, c.Feed.Listen, 0), CA: ca}); len(b.Feed.Brokers) == 0 {
		return a.unreachable("feed.listen")
	}
	return nil
}

func hasDot(name string) bool { return slices.Contains([]byte(name), '.') }

// kpasswdAbove is how many ports above the KDC's passwords are changed by
// default: 464 and 88.
const kpasswdAbove = 376

// reachable are those of the listen addresses that are not this machine's own
// affair, for others to call, each port by above higher.
func reachable(c config.Config, listen []string, above uint16) (out []string) {
	for _, s := range listen {
		ap, err := netip.ParseAddrPort(s)
		if err != nil || ap.Addr().IsLoopback() {
			continue
		}
		host := ap.Addr().String()
		if ap.Addr().IsUnspecified() {
			host = c.Host
		}
		if s := net.JoinHostPort(host, strconv.Itoa(int(ap.Port()+above))); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// keytabBytes is a keytab file's content, by way of a file beside the bundle
// that only its owner can read.
func keytabBytes(bundle string, es []krb.KeytabEntry) ([]byte, error) {
	dir, err := os.MkdirTemp(filepath.Dir(bundle), ".sekisho-bundle")
	if err != nil {
		return nil, fmt.Errorf("writing keys: %w", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "keytab")
	if err := krb.WriteKeytab(path, es); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}
