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
)

func (a *app) hostBundle() *cobra.Command {
	var file string
	var again bool
	c := &cobra.Command{
		Use: "bundle NAME --out FILE", Short: "Write all that a machine needs to become a host", Args: takes(1, 1, "a host name"),
		Long: `Write one new file that only you can read, with all that a machine needs to become
the host NAME of the embedded realm: where the directory and the KDC are, the CA,
a service account with its password, and the keys of host/FQDN and sekisho/FQDN.
There, as root: sekisho host enrol FILE. It is as good as the host's own keys:
carry it over ssh, and delete it on both sides.

Servers of an NTP clock guard go with it when this machine's configuration has any.

--again gives the service account a new password, and the old one ends; the keys
stay what they are.`,
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
	c.Flags().BoolVar(&again, "again", false, "the host has a service account: give it a new password")
	a.complete(c, "host")
	return c
}

type bundleOrder struct {
	host, file string
	again      bool
}

func (a *app) writeBundle(ctx context.Context, d *admin.Directory, o bundleOrder) (err error) {
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
	a.say("%s has all that %s needs; there, as root: sekisho host enrol FILE", o.file, h.Name)
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
	b.Directory = enrol.BundleDirectory{Base: l.Base, RuleBase: l.Access(), BindDN: l.ServiceDN(h.Name), CA: string(ca), Schema: "rfc2307bis"}
	b.Kerberos = enrol.BundleKerberos{Realm: l.Realm}
	ldaps := reachable(c, c.Realm.LDAPS, 0)
	for _, a := range ldaps {
		b.Directory.URL = append(b.Directory.URL, "ldaps://"+a)
	}
	b.Kerberos.KDC = reachable(c, c.Realm.KDC, 0)
	if b.Kerberos.Kpasswd = reachable(c, c.Realm.Kpasswd, 0); len(c.Realm.Kpasswd) == 0 {
		b.Kerberos.Kpasswd = reachable(c, c.Realm.KDC, kpasswdAbove)
	}
	for _, need := range []struct {
		key  string
		have []string
	}{{"realm.ldaps", ldaps}, {"realm.kdc", b.Kerberos.KDC}} {
		if len(need.have) == 0 {
			return b, refusedError{fmt.Errorf("no other machine can reach this one: set %s to an address of it in %s, and restart sekishod", need.key, a.configPath)}
		}
	}
	if !slices.Contains(append([]string{h.Name}, h.Aliases...), b.FQDN) || !hasDot(b.FQDN) {
		return b, refusedError{fmt.Errorf("%s has no full name, which its keys go by: sekisho host set %s --alias %s.DOMAIN", h.Name, h.Name, h.Name)}
	}
	return b, nil
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
