package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

const (
	realmSuffix   = "dc=sekisho,dc=internal"
	realmName     = "SEKISHO.INTERNAL"
	realmPeople   = 8 // alice and others, so that many can sign in at once
	realmPassword = "correct-horse-battery"
	pamModule     = "/usr/local/lib/sekisho/pam_sekisho.so"
	pamSocket     = "/run/sekisho/pam.sock"
)

// peopleOfRealm are its users.
func peopleOfRealm() []string {
	names := []string{"alice"}
	for i := 1; i < realmPeople; i++ {
		names = append(names, fmt.Sprintf("user%d", i))
	}
	return names
}

// realm is an embedded realm on one host, and hosts whose users sign in by its
// KDC: web by our doors, krb5 by pam_krb5, sss by pam_sss. On plain nobody signs
// in by password: its sshd has a keytab, and alice is a local account.
type realm struct {
	*testenv.World
	broker, web, krb5, sss, plain, client *testenv.Host

	sekishod *sekishod // web's
	ca       []byte
}

// theRealm makes the realm when it is first asked for.
func (b *bench) theRealm(ctx context.Context) (*realm, error) {
	if b.realm != nil {
		return b.realm, nil
	}
	tw, err := testenv.NewWorld(testenv.WorldConfig{})
	if err != nil {
		return nil, err
	}
	r := &realm{World: tw}
	for _, step := range []func(context.Context) error{r.hosts, r.startBroker, r.people, r.join, r.startWeb, r.startKrb5, r.startSSS, r.startPlain} {
		if err := step(ctx); err != nil {
			r.ShowLogs(func(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) })
			return nil, errors.Join(fmt.Errorf("making the realm: %w", err), r.Close())
		}
	}
	b.realm = r
	return r, nil
}

func (r *realm) hosts(context.Context) error {
	for _, h := range []struct {
		name string
		to   **testenv.Host
	}{{"broker", &r.broker}, {"web", &r.web}, {"krb5", &r.krb5}, {"sss", &r.sss}, {"plain", &r.plain}, {"client", &r.client}} {
		var err error
		if *h.to, err = r.Host(h.name); err != nil {
			return err
		}
	}
	return nil
}

// startBroker starts sekishod with an embedded realm.
func (r *realm) startBroker(ctx context.Context) (err error) {
	a := r.broker.Addr
	conf := fmt.Sprintf("[realm]\nldaps = [\"%s:636\"]\nkdc = [\"%s:88\"]\nnames = [%q]\n", a, a, r.broker.FQDN)
	const file = "/etc/sekisho/sekishod.toml"
	if err := r.broker.WriteFile(file, []byte(conf), 0o644); err != nil {
		return err
	}
	if _, err := (sekishodConfig{host: r.broker}).launch(ctx, file); err != nil {
		return err
	}
	r.ca, err = r.broker.ReadFile("/var/lib/sekisho/realm/tls/ca.crt")
	return err
}

// sekisho runs the command as root on the realm's machine.
func (r *realm) sekisho(ctx context.Context, stdin string, args ...string) error {
	c := r.broker.Command(ctx, "/usr/local/bin/sekisho", args...)
	c.Stdin = strings.NewReader(stdin)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("sekisho %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// people adds the users, and the rule that lets them in.
func (r *realm) people(ctx context.Context) error {
	rule := []string{"rule", "add", "staff-on-web", "--subject", "group:employees", "--door", "pam", "--target", "host:" + r.web.Name}
	group := []string{"group", "add", "employees"}
	for _, name := range peopleOfRealm() {
		if err := r.sekisho(ctx, realmPassword+"\n", "user", "add", name, "--password-stdin"); err != nil {
			return err
		}
		group = append(group, "--add", name)
	}
	return errors.Join(r.sekisho(ctx, "", group...), r.sekisho(ctx, "", rule...))
}

// keyTypes are ours, in our order.
const keyTypes = "aes256-cts-hmac-sha384-192 aes256-cts-hmac-sha1-96 aes128-cts-hmac-sha1-96"

// krb5Conf is for programs of MIT's library. They make the same exchanges as we do
// when types is keyTypes; with its own order, "", the library prefers keys by SHA-1,
// which are made of a password at a fraction of the cost.
func (r *realm) krb5Conf(types string) []byte {
	if types != "" {
		types = " permitted_enctypes = " + types + "\n"
	}
	return fmt.Appendf(nil, `[libdefaults]
 default_realm = %[1]s
%[4]s dns_lookup_kdc = false
 dns_lookup_realm = false
 dns_canonicalize_hostname = false
 rdns = false
[realms]
 %[1]s = {
  kdc = %[2]s
 }
[domain_realm]
 .%[3]s = %[1]s
`, realmName, r.broker.Addr, r.Domain, types)
}

// join gives each host but the broker's its entry, its keys, a service account,
// and a krb5.conf.
func (r *realm) join(ctx context.Context) error {
	if err := r.client.WriteFile("/etc/krb5.conf", r.krb5Conf(keyTypes), 0o644); err != nil {
		return err
	}
	for _, h := range []*testenv.Host{r.web, r.krb5, r.sss, r.plain} {
		secret, sshd, own := "/root/"+h.Name+".secret", "/root/"+h.Name+".keytab", "/root/"+h.Name+".own.keytab"
		for _, args := range [][]string{
			{"host", "add", h.Name, "--addr", h.Addr.String(), "--alias", h.FQDN},
			{"service", "add", h.Name, "--secret-file", secret},
			{"host", "keytab", h.Name, "--sshd", sshd, "--sekishod", own},
		} {
			if err := r.sekisho(ctx, "", args...); err != nil {
				return err
			}
		}
		for _, f := range []struct {
			from, to string
			mode     os.FileMode
		}{{secret, "/etc/sekisho/password", 0o600}, {sshd, "/etc/krb5.keytab", 0o600}, {own, "/etc/sekisho/krb5.keytab", 0o640}} {
			b, err := r.broker.ReadFile(f.from)
			if err == nil {
				err = h.WriteFile(f.to, b, f.mode)
			}
			if err != nil {
				return err
			}
		}
		if err := errors.Join(h.WriteFile("/etc/sekisho/ca.crt", r.ca, 0o644), h.WriteFile("/etc/krb5.conf", r.krb5Conf(keyTypes), 0o644)); err != nil {
			return err
		}
	}
	return nil
}

// startWeb starts our side: sekishod that has the KDC prove passwords, NSS by it,
// and sshd with pam_sekisho.so.
func (r *realm) startWeb(ctx context.Context) error {
	h := r.web
	conf := fmt.Sprintf("host = %q\n[directory]\nurl = [\"ldaps://%s\"]\nbase = %q\nbind_dn = %q\npassword_file = \"/etc/sekisho/password\"\nca_file = \"/etc/sekisho/ca.crt\"\n[pam]\npassword = \"kdc\"\n",
		h.Name, r.broker.FQDN, realmSuffix, r.service(h))
	const file = "/etc/sekisho/sekishod.toml"
	const nss = "passwd: files systemd\ngroup: files systemd\nshadow: files systemd\nhosts: files\n"
	if err := errors.Join(h.WriteFile(file, []byte(conf), 0o644), h.WriteFile("/etc/nsswitch.conf", []byte(nss), 0o644)); err != nil {
		return err
	}
	if out, err := h.Command(ctx, "chgrp", "sekisho", "/etc/sekisho/krb5.keytab").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	var err error
	if r.sekishod, err = (sekishodConfig{host: h, users: realmPeople}).launch(ctx, file); err != nil {
		return err
	}
	if _, err := testenv.Program("pam_sekisho.so"); err != nil {
		return err
	}
	if err := r.stack(ctx, h, "auth required "+pamModule+"\naccount required "+pamModule+"\n"); err != nil {
		return err
	}
	_, err = h.StartSSHD(ctx, testenv.SSHDConfig{Lines: []string{"GSSAPIAuthentication yes", "AuthorizedKeysFile none"},
		PAM: "auth required pam_deny.so\naccount required pam_nologin.so\naccount required " + pamModule +
			"\nsession required pam_mkhomedir.so umask=0077\nsession required " + pamModule + "\n"})
	return err
}

// service is the DN of a host's account in the directory.
func (r *realm) service(h *testenv.Host) string {
	return "cn=" + h.Name + ",ou=services," + realmSuffix
}

// startKrb5 sets up pam_krb5 (pam_krb5(5)), which checks the KDC with the keytab;
// its users are local accounts.
func (r *realm) startKrb5(ctx context.Context) error {
	if err := r.localAlice(r.krb5); err != nil {
		return err
	}
	return r.stack(ctx, r.krb5, "auth required pam_krb5.so\naccount required pam_krb5.so\n")
}

// localAlice makes alice an account of the host.
func (r *realm) localAlice(h *testenv.Host) error {
	const nss = "passwd: files\ngroup: files\nshadow: files\nhosts: files\n"
	return errors.Join(h.WriteFile("/etc/nsswitch.conf", []byte(nss), 0o644), h.AddUser(testenv.LocalUser{Name: "alice"}))
}

// startSSS starts sssd with users by LDAP and passwords by the KDC (sssd-ldap(5),
// sssd-krb5(5)), which it checks with the keytab, as we do.
func (r *realm) startSSS(ctx context.Context) error {
	secret, err := r.sss.ReadFile("/etc/sekisho/password")
	if err != nil {
		return err
	}
	conf := fmt.Sprintf(`[sssd]
services = nss, pam
domains = bench

[domain/bench]
id_provider = ldap
access_provider = permit
ldap_uri = ldaps://%s
ldap_tls_cacert = /etc/sekisho/ca.crt
ldap_schema = rfc2307bis
ldap_search_base = %s
ldap_default_bind_dn = %s
ldap_default_authtok = %s
auth_provider = krb5
chpass_provider = none
krb5_server = %s
krb5_realm = %s
krb5_validate = true
`, r.broker.FQDN, realmSuffix, r.service(r.sss), strings.TrimSpace(string(secret)), r.broker.FQDN, realmName)
	const nss = "passwd: files sss\ngroup: files sss\nshadow: files sss\nhosts: files\n"
	if err := errors.Join(r.sss.WriteFile("/etc/nsswitch.conf", []byte(nss), 0o644), r.sss.WriteFile("/etc/sssd/sssd.conf", []byte(conf), 0o600)); err != nil {
		return err
	}
	_, err = r.sss.Start(ctx, testenv.DaemonConfig{
		Name: "sssd", Path: "/usr/sbin/sssd", Args: []string{"-i", "--logger=stderr"}, ReadyTimeout: 5 * time.Minute,
		Ready: func(ctx context.Context) error { return r.sss.Command(ctx, "getent", "passwd", "alice").Run() },
	})
	if err != nil {
		return err
	}
	return r.stack(ctx, r.sss, "auth required pam_sss.so\naccount required pam_sss.so\n")
}

// startPlain starts an sshd that takes tickets and asks nobody.
func (r *realm) startPlain(ctx context.Context) error {
	if err := r.localAlice(r.plain); err != nil {
		return err
	}
	_, err := r.plain.StartSSHD(ctx, testenv.SSHDConfig{Lines: []string{"GSSAPIAuthentication yes", "AuthorizedKeysFile none"}})
	return err
}

const pamService = "bench"

// stack gives a host the PAM service that is measured, and proves that it lets
// alice in by her password and not by another.
func (r *realm) stack(ctx context.Context, h *testenv.Host, text string) error {
	if err := h.WriteFile("/etc/pam.d/"+pamService, []byte(text), 0o644); err != nil {
		return err
	}
	for _, try := range []struct {
		password string
		in       bool
	}{{realmPassword + "x", false}, {realmPassword, true}} {
		c := h.Command(ctx, "pamtester", pamtest...)
		c.Stdin = strings.NewReader(try.password + "\n")
		if out, err := c.CombinedOutput(); (err == nil) != try.in {
			return fmt.Errorf("pamtester on %s with a password that is right (%v): %w: %s", h.Name, try.in, err, out)
		}
	}
	return nil
}

// pamtest are pamtester's arguments.
var pamtest = []string{pamService, "alice", "authenticate", "acct_mgmt"}
