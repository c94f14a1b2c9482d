package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/sekisho/sekisho/cmd/internal/accounts"
	"github.com/sekisho/sekisho/keys"
	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/krb5conf"
	"github.com/sekisho/sekisho/ldapsync"
	"github.com/sekisho/sekisho/realm"
)

// Policy is the key policy.
func (c Config) Policy() keys.Policy {
	return keys.Policy{Types: c.Keys.Types, MinRSABits: c.Keys.RSABits}
}

// Socket is the path of the local socket.
func (c Config) Socket() string { return c.RuntimeDir + "/sekisho.sock" }

// PAMSocket is the path of the PAM door's socket.
func (c Config) PAMSocket() string { return c.RuntimeDir + "/pam.sock" }

// PasswordProver is pam.password with its default: kdc, ldap, none or
// pam:SERVICE.
func (c Config) PasswordProver() string {
	switch {
	case c.PAM.Password != "":
		return c.PAM.Password
	case c.Embedded(), c.Follows():
		return "kdc"
	}
	return "ldap"
}

// PAMServices are the PAM stacks of this host that provers run.
func (c Config) PAMServices() []string {
	var out []string
	for _, p := range []string{c.PAM.Password, c.PAM.OTP} {
		if s, ok := strings.CutPrefix(p, "pam:"); ok && c.PAM.Enabled && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// Schema is the preset with what the file changes of it.
func (c Config) Schema() (ldapsync.Schema, error) {
	d := c.Directory
	s, err := ldapsync.Preset(d.Schema)
	if err != nil {
		return s, err
	}
	s.UserBase, s.GroupBase, s.HostBase, s.RuleBase = d.UserBase, d.GroupBase, d.HostBase, d.RuleBase
	s.Filter, s.PolicyDefaultDN = d.Filter, d.PasswordPolicy
	if d.KeyAttribute != "" {
		s.UserKeys = d.KeyAttribute
	}
	return s, nil
}

// Provider says how to reach the external directory; the password is not in
// it yet.
func (c Config) Provider() (ldapsync.Provider, error) {
	d := c.Directory
	p := ldapsync.Provider{URLs: d.URL, BindDN: d.BindDN, StartTLS: d.StartTLS, CAFile: d.CAFile}
	if d.CAFile != "" {
		f, err := os.Open(d.CAFile)
		if err != nil {
			return p, fmt.Errorf("directory.ca_file: %w", err)
		}
		f.Close()
	}
	return p, nil
}

// RealmConfig is the embedded realm's, run as the user with this uid and gid.
func (c Config) RealmConfig(uid, gid int) realm.Config {
	names := append([]string{c.Host}, c.Realm.Names...)
	for _, l := range c.Feed.Listen {
		if a, err := netip.ParseAddrPort(l); err == nil && !a.Addr().IsUnspecified() {
			names = append(names, a.Addr().String())
		}
	}
	return realm.Config{
		Dir: c.StateDir, RunDir: c.RuntimeDir, Domain: c.Realm.Domain, Names: names,
		LDAP: c.Realm.LDAP, LDAPS: c.Realm.LDAPS, KDC: c.Realm.KDC, Kpasswd: c.Realm.Kpasswd, UID: uid, GID: gid,
	}
}

// Inspect looks at what the file names on this machine. Problems keep sekishod
// from working; warnings may be meant so. It must be run by who will start
// sekishod: another user sees other files.
func (c Config) Inspect() (problems, warnings []string) {
	if _, err := accounts.Lookup(c.User); errors.Is(err, accounts.ErrUnknown) {
		warnings = append(warnings, fmt.Sprintf("user: there is no local account %s yet: useradd --system --no-create-home --shell /usr/sbin/nologin %s", c.User, c.User))
	}
	for _, name := range c.Keys.Callers {
		if _, err := accounts.Lookup(name); errors.Is(err, accounts.ErrUnknown) {
			warnings = append(warnings, fmt.Sprintf("keys.callers: there is no local account %s, so sshd cannot ask as him: useradd --system --no-create-home --shell /usr/sbin/nologin %s", name, name))
		}
	}
	if !strings.Contains(c.Host, ".") {
		warnings = append(warnings, fmt.Sprintf("host: %s is no full name; it must be one of the names of this host's entry in the directory", c.Host))
	}
	problems = append(problems, c.inspectFeed()...)
	if c.Embedded() {
		return problems, warnings
	}
	d := c.Directory
	if c.Follows() {
		problems = append(problems, c.inspectUpstream()...)
	}
	if d.CAFile != "" {
		if err := checkPEM(d.CAFile); err != nil {
			problems = append(problems, err.Error())
		}
	}
	if d.PasswordFile != "" {
		if _, err := ReadSecret(d.PasswordFile); err != nil {
			problems = append(problems, "directory.password_file: "+err.Error())
		}
	}
	if c.OTP.PasswordFile != "" {
		if _, err := ReadSecret(c.OTP.PasswordFile); err != nil {
			problems = append(problems, "otp.password_file: "+err.Error())
		}
	}
	if c.PAM.Enabled && c.PasswordProver() == "kdc" {
		_, err := os.Stat(c.Kerberos.Config) // MIT's libraries pass over a file that is not there
		if err == nil {
			_, err = krb5conf.Load(c.Kerberos.Config)
		}
		if err != nil {
			problems = append(problems, "kerberos.config: "+err.Error())
		}
		if _, err := krb.ReadKeytab(c.Kerberos.Keytab); err != nil {
			problems = append(problems, "kerberos.keytab: "+err.Error()+": sekisho host enrol writes it, or sekisho host keytab on the realm's machine")
		}
	}
	if c.Follows() {
		return problems, warnings
	}
	if d.BindDN == "" {
		warnings = append(warnings, "directory.bind_dn is not set: sekishod reads as anybody can")
	}
	if d.RuleBase == "" {
		warnings = append(warnings, "directory.rule_base is not set: a rule counts wherever in the tree somebody may write one")
	}
	return problems, warnings
}

func checkPEM(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("directory.ca_file: %w", err)
	}
	if !strings.Contains(string(b), "-----BEGIN CERTIFICATE-----") {
		return fmt.Errorf("directory.ca_file: there is no PEM certificate in %s", path)
	}
	return nil
}

// Summary is what sekishod would do, in a few words.
func (c Config) Summary() string {
	if c.Embedded() {
		return fmt.Sprintf("%s runs the realm %s in %s", c.Host, c.Realm.Domain, c.StateDir)
	}
	if c.Follows() {
		return fmt.Sprintf("%s follows the broker %s", c.Host, strings.Join(c.Upstream.Brokers, ", "))
	}
	return fmt.Sprintf("%s follows %s at %s", c.Host, c.Directory.Base, strings.Join(c.Directory.URL, ", "))
}
