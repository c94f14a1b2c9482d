package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"
)

var (
	hostName    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
	accountName = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,30}$`)
)

// validate tells what is wrong, by the key's name, and how to mend it.
func (c Config) validate() error {
	for _, check := range []func(Config) error{
		Config.checkPlaces, Config.checkUpstream, Config.checkRealm, Config.checkDirectory, Config.checkKerberos, Config.checkPAM, Config.checkOTP, Config.checkRest, Config.checkState, Config.checkGuessing,
		Config.checkAudit, Config.checkFeed,
	} {
		if err := check(c); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) checkPlaces() error {
	if len(c.Host) > 253 || !hostName.MatchString(c.Host) {
		return fmt.Errorf("host %q is no host name: set host to this machine's name, such as web1.example.org", clip(c.Host))
	}
	for _, d := range []struct{ key, value string }{{"state_dir", c.StateDir}, {"runtime_dir", c.RuntimeDir}} {
		if !filepath.IsAbs(d.value) || filepath.Clean(d.value) != d.value || d.value == "/" {
			return fmt.Errorf("%s %q must be an absolute path, without . and .. and a slash at its end", d.key, clip(d.value))
		}
	}
	// sun_path of unix(7) has 108 bytes; the longest name in it is slapd's.
	if len(c.RuntimeDir) > 80 {
		return errors.New("runtime_dir is too long for a socket's address: at most 80 bytes")
	}
	if c.StateDir == c.RuntimeDir {
		return errors.New("state_dir and runtime_dir must be two directories: the second is readable by all")
	}
	if !accountName.MatchString(c.User) || c.User == "root" {
		return fmt.Errorf("user %q must be a system account other than root: useradd --system --no-create-home --shell /usr/sbin/nologin sekisho", clip(c.User))
	}
	return nil
}

func (c Config) checkRealm() error {
	if c.Follows() {
		return nil // checkUpstream has looked
	}
	if !c.Embedded() {
		if !reflect.DeepEqual(c.Realm, Default().Realm) {
			return errors.New("[realm] is for the embedded realm, but directory.url is set: take one of them out")
		}
		return nil
	}
	if !hostName.MatchString(c.Realm.Domain) || len(c.Realm.Domain) > 200 {
		return fmt.Errorf("realm.domain %q must be a domain name in lower case, such as example.org", clip(c.Realm.Domain))
	}
	for _, l := range []struct {
		key    string
		values []string
	}{{"ldap", c.Realm.LDAP}, {"ldaps", c.Realm.LDAPS}, {"kdc", c.Realm.KDC}, {"kpasswd", c.Realm.Kpasswd}} {
		for _, v := range l.values {
			if a, err := netip.ParseAddrPort(v); err != nil || a.Port() == 0 {
				return fmt.Errorf("realm.%s %q must be IP:PORT, such as 203.0.113.1:636", l.key, clip(v))
			}
		}
	}
	for _, n := range c.Realm.Names {
		if _, err := netip.ParseAddr(n); err != nil && !hostName.MatchString(strings.ToLower(n)) {
			return fmt.Errorf("realm.names %q is neither a host name nor an address", clip(n))
		}
	}
	return nil
}

func (c Config) checkDirectory() error {
	d := c.Directory
	if c.Follows() {
		return nil
	}
	if _, err := c.Schema(); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	if c.Embedded() {
		d.URL = nil // empty or absent is the same
		if !reflect.DeepEqual(d, Default().Directory) {
			return errors.New("[directory] is set, but directory.url is not: name the directory's servers, or take the section out")
		}
		return nil
	}
	for _, u := range d.URL {
		if err := c.checkURL(u); err != nil {
			return err
		}
	}
	if d.Base == "" {
		return errors.New("directory.base is not set: give the DN that everything stands under, such as dc=example,dc=org")
	}
	if d.Filter != "" {
		if _, err := ldap.CompileFilter(d.Filter); err != nil {
			return fmt.Errorf("directory.filter %q is no LDAP filter, such as (objectClass=posixAccount)", clip(d.Filter))
		}
	}
	for _, n := range []struct{ key, dn string }{{"base", d.Base}, {"bind_dn", d.BindDN}, {"user_base", d.UserBase},
		{"group_base", d.GroupBase}, {"host_base", d.HostBase}, {"rule_base", d.RuleBase}, {"password_policy", d.PasswordPolicy}} {
		if _, err := ldap.ParseDN(n.dn); err != nil {
			return fmt.Errorf("directory.%s %q is no DN", n.key, clip(n.dn))
		}
	}
	if (d.BindDN == "") != (d.PasswordFile == "") {
		return errors.New("directory.bind_dn and directory.password_file go together: set both or none")
	}
	for _, f := range []struct{ key, path string }{{"password_file", d.PasswordFile}, {"ca_file", d.CAFile}} {
		if f.path != "" && !filepath.IsAbs(f.path) {
			return fmt.Errorf("directory.%s %q must be an absolute path", f.key, clip(f.path))
		}
	}
	return nil
}

func (c Config) checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return fmt.Errorf("directory.url %q is no URL", clip(s))
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "ldapi" && strings.Trim(u.Path, "/") != "" {
		return errors.New("directory.url has more than a scheme, a host and a port: the base belongs into directory.base, the account into directory.bind_dn")
	}
	switch u.Scheme {
	case "ldapi":
		return nil
	case "ldaps":
		if c.Directory.StartTLS {
			return fmt.Errorf("directory.start_tls is for ldap:// URLs, but %s has TLS from the start: take start_tls out", s)
		}
	case "ldap":
		if !c.Directory.StartTLS && !loopback(u.Hostname()) {
			return fmt.Errorf("directory.url %s would be read without TLS: write ldaps://, or set start_tls = true", s)
		}
	default:
		return fmt.Errorf("directory.url %q must begin with ldaps://, ldap:// or ldapi://", clip(s))
	}
	if u.Hostname() == "" {
		return fmt.Errorf("directory.url %q names no host", clip(s))
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback() || strings.EqualFold(host, "localhost")
}

func (c Config) checkKerberos() error {
	k := c.Kerberos
	if c.Embedded() {
		if k != Default().Kerberos {
			return errors.New("[kerberos] is for a realm that somebody else runs, but directory.url is not set: take the section out")
		}
	}
	for _, f := range []struct{ key, path string }{{"config", k.Config}, {"keytab", k.Keytab}} {
		if !filepath.IsAbs(f.path) {
			return fmt.Errorf("kerberos.%s %q must be an absolute path", f.key, clip(f.path))
		}
	}
	if k.Realm != "" && !realmName.MatchString(k.Realm) {
		return fmt.Errorf("kerberos.realm %q is no realm, such as EXAMPLE.ORG", clip(k.Realm))
	}
	if s := time.Duration(c.Clock.Skew); s < time.Second || s > time.Hour {
		return errors.New("clock.skew must be from 1s to 1h; Kerberos allows 5m")
	}
	if len(c.Clock.Servers) > 16 {
		return errors.New("clock.servers has more than 16: four are good")
	}
	for _, v := range c.Clock.Servers {
		host, port := v, ""
		if h, p, err := net.SplitHostPort(v); err == nil {
			host, port = h, p
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if net.ParseIP(host) == nil && !hostName.MatchString(strings.ToLower(host)) || port != "" && (err != nil || n == 0) {
			return fmt.Errorf("clock.servers %q must be HOST or HOST:PORT, such as ntp.example.org", clip(v))
		}
	}
	return nil
}

func (c Config) checkPAM() error {
	p := c.PAM
	if !slices.Contains([]string{"", "kdc", "ldap", "none"}, p.Password) && !isPAMProver(p.Password) {
		return fmt.Errorf("pam.password %q must be kdc, ldap, none or pam:SERVICE", clip(p.Password))
	}
	if p.TicketLife < Duration(5*time.Minute) || p.TicketRenew < 0 {
		return errors.New("pam.ticket_life must be 5m or longer, and pam.ticket_renew not below zero")
	}
	if c.Keys.PAM && !p.Enabled {
		return errors.New("keys.pam needs pam.enabled: it leaves proofs to pam_sekisho.so")
	}
	return nil
}

var (
	realmName   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,200}[A-Za-z0-9])?$`)
	serviceName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,30}$`)
)

func isPAMProver(s string) bool {
	service, ok := strings.CutPrefix(s, "pam:")
	return ok && serviceName.MatchString(service)
}

func (c Config) checkRest() error {
	if c.Snapshot.MaxAge <= 0 {
		return errors.New("snapshot.max_age must be more than nothing, such as \"24h\"")
	}
	if !(c.Snapshot.HoldShare > 0 && c.Snapshot.HoldShare <= 1) { // so that NaN is refused
		return errors.New("snapshot.hold_share must be a share over 0 and up to 1, such as 0.2")
	}
	for _, u := range c.Keys.Callers {
		if !accountName.MatchString(u) {
			return fmt.Errorf("keys.callers %q is no name of a local account", clip(u))
		}
	}
	if err := c.Policy().Validate(); err != nil {
		return fmt.Errorf("keys.types and keys.rsa_bits: %w", err)
	}
	if c.UserDB.UIDMin < 1 || c.UserDB.UIDMax < c.UserDB.UIDMin {
		return fmt.Errorf("userdb.uid_min %d and userdb.uid_max %d must be a range that begins at 1 or later", c.UserDB.UIDMin, c.UserDB.UIDMax)
	}
	if !slices.Contains([]string{"error", "warning", "info", "debug"}, c.Log.Level) {
		return fmt.Errorf("log.level %q must be error, warning, info or debug", clip(c.Log.Level))
	}
	if c.Log.Format != "json" && c.Log.Format != "text" {
		return fmt.Errorf("log.format %q must be json or text", clip(c.Log.Format))
	}
	return nil
}

// clip keeps a wrong value from flooding the terminal.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
