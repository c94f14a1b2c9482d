package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sekisho/sekisho/cmd/internal/config"
	"github.com/sekisho/sekisho/krb/krb5conf"
	"github.com/sekisho/sekisho/ldapsync"
)

// maxKDCs is how many KDCs are asked.
const maxKDCs = 16

// doctor finds out whom to ask. What it cannot find is a note, for the clocks
// that are known can tell enough.
func (a *app) doctor(ctx context.Context, f doctorFlags) (doctor, error) {
	c, err := a.config()
	if err != nil {
		return doctor{}, err
	}
	d := doctor{host: c.Host, ntp: c.Clock.Servers, skew: time.Duration(c.Clock.Skew), kernel: readKernelClock, mends: mends{installed}}
	if len(f.ntp) > 0 {
		d.ntp = f.ntp
	}
	if len(d.ntp) == 0 {
		d.notes = append(d.notes, "no time server is known: name some by clock.servers or --ntp")
	}
	if err := a.doctorRealm(ctx, &d, c, f); err != nil {
		return doctor{}, err
	}
	if c.Follows() && len(a.urls) == 0 {
		return d, nil // it knows no directory
	}
	if d.directory, err = a.doctorDirectory(c); err != nil {
		d.notes = append(d.notes, "the directory is not asked: "+err.Error())
	}
	return d, nil
}

// embedded tells whether the realm of c is made here. A machine without a
// sekishod has the default configuration too, and no realm.
func (a *app) embedded(c config.Config) (place, bool) {
	if !c.Embedded() {
		return place{}, false
	}
	p, err := a.place()
	if err != nil || p.info == nil {
		return place{}, false
	}
	_, err = os.Stat(p.info.KRB5Conf)
	return p, err == nil
}

// doctorRealm finds the realm and its KDCs: named by hand, embedded, in krb5.conf,
// or in DNS.
func (a *app) doctorRealm(ctx context.Context, d *doctor, c config.Config, f doctorFlags) error {
	for _, k := range f.kdcs {
		addr, err := withPort(k)
		if err != nil {
			return err
		}
		d.kdcs = append(d.kdcs, addr)
	}
	d.realm = f.realm
	if p, ok := a.embedded(c); ok {
		if d.realm == "" {
			d.realm = p.info.Layout.Realm
		}
		if len(d.kdcs) == 0 && d.realm == p.info.Layout.Realm {
			d.kdcs = p.info.KDC
			return nil
		}
	}
	if err := fromKRB5Conf(ctx, d, c); err != nil {
		d.notes = append(d.notes, "no KDC is asked: "+err.Error())
		d.kdcs = nil
	}
	if len(d.kdcs) > maxKDCs {
		d.notes = append(d.notes, fmt.Sprintf("only %d of %d KDCs are asked", maxKDCs, len(d.kdcs)))
		d.kdcs = d.kdcs[:maxKDCs]
	}
	return nil
}

// fromKRB5Conf fills in what d lacks of realm and KDCs.
func fromKRB5Conf(ctx context.Context, d *doctor, c config.Config) error {
	if d.realm == "" {
		d.realm = c.Kerberos.Realm
	}
	if d.realm != "" && len(d.kdcs) > 0 {
		return nil
	}
	load := krb5conf.Default
	if path := c.Kerberos.Config; path != config.Default().Kerberos.Config {
		load = func() (*krb5conf.Config, error) { return krb5conf.Load(path) }
	}
	conf, err := load()
	if err != nil {
		return err
	}
	defaults, err := conf.Defaults(d.realm)
	if err != nil {
		return err
	}
	if d.realm == "" {
		d.realm = defaults.Realm
	}
	if d.realm == "" {
		return errors.New("krb5.conf names no default_realm: add it, or say --realm")
	}
	if len(d.kdcs) > 0 {
		return nil
	}
	if d.kdcs, err = conf.KDCs(d.realm); err != nil {
		return err
	}
	if len(d.kdcs) == 0 && defaults.DNSLookupKDC {
		if d.kdcs, err = kdcsOf(ctx, d.realm); err != nil {
			return err
		}
	}
	if len(d.kdcs) == 0 {
		return fmt.Errorf("krb5.conf names no KDC of %s: add kdc = HOST, or say --kdc", d.realm)
	}
	return nil
}

// kdcsOf asks DNS for a realm's KDCs (RFC 4120 §7.2.3.2).
func kdcsOf(ctx context.Context, realm string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var out []string
	var errs []error
	for _, proto := range []string{"tcp", "udp"} {
		_, found, err := net.DefaultResolver.LookupSRV(ctx, "kerberos", proto, realm)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, s := range found {
			addr := net.JoinHostPort(strings.TrimSuffix(s.Target, "."), strconv.Itoa(int(s.Port)))
			if s.Target != "." && !slices.Contains(out, addr) {
				out = append(out, addr)
			}
		}
	}
	if len(out) == 0 && len(errs) > 0 {
		return nil, fmt.Errorf("krb5.conf names no KDC, and DNS none either: %w", errs[0])
	}
	return out, nil
}

// doctorDirectory is how to ask the directory the time, with what right there is:
// root's on ldapi, sekishod's own account where its password can be read, or none.
func (a *app) doctorDirectory(c config.Config) (func(context.Context) (string, time.Duration, time.Duration, error), error) {
	cc := ldapsync.ClientConfig{}
	if c.Embedded() {
		p, ok := a.embedded(c)
		if !ok {
			return nil, errNoDirectory
		}
		cc.Provider = p.provider
		cc.External = allLDAPI(cc.URLs)
	} else {
		p, err := c.Provider()
		if err != nil {
			return nil, err
		}
		cc.Provider = p
		if len(a.urls) > 0 {
			cc.URLs = a.urls
		}
		var password string
		if c.Directory.PasswordFile != "" {
			password, err = config.ReadSecret(c.Directory.PasswordFile)
			if err != nil && !errors.Is(err, fs.ErrPermission) {
				return nil, err
			}
		}
		if password == "" {
			cc.BindDN = "" // as anybody can
		}
		cc.Password = func() ([]byte, error) { return []byte(password), nil }
	}
	return func(ctx context.Context) (string, time.Duration, time.Duration, error) {
		cl, err := ldapsync.Dial(ctx, cc)
		if err != nil {
			return directoryName(cc.URLs[0]), 0, 0, err
		}
		defer cl.Close()
		t, err := cl.Time(ctx)
		if err != nil {
			return directoryName(cl.URL()), 0, 0, err
		}
		offset, bound := t.Offset()
		return directoryName(cl.URL()), offset, bound, nil
	}, nil
}

// directoryName is the host in a URL, with its port where that is unusual. The
// socket's host is this one.
func directoryName(rawURL string) string {
	if strings.HasPrefix(strings.ToLower(rawURL), "ldapi:") {
		return "localhost"
	}
	u, err := url.Parse(rawURL)
	switch {
	case err != nil || u.Host == "":
		return rawURL
	case u.Port() == "389" || u.Port() == "636":
		return u.Hostname()
	}
	return u.Host
}

// kernelClock is what the kernel says of this machine's clock (adjtimex(2)).
type kernelClock struct {
	// Synchronised: a time service has set it lately.
	Synchronised bool `json:"synchronised"`
	// MaxError is the largest error by that service's account; zero when there is
	// none.
	MaxError time.Duration `json:"max_error_ns"`
}

func readKernelClock() kernelClock {
	const unsynchronised = 0x40 // STA_UNSYNC
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil || t.Status&unsynchronised != 0 {
		return kernelClock{}
	}
	return kernelClock{true, time.Duration(t.Maxerror) * time.Microsecond}
}
