package ldapsync

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

const krb5Conf = `[libdefaults]
 default_realm = EXAMPLE.ORG
 dns_lookup_kdc = false
 dns_lookup_realm = false
 rdns = false
 dns_canonicalize_hostname = false
 default_tkt_enctypes = %[2]s
 default_tgs_enctypes = %[2]s
 permitted_enctypes = %[2]s
[realms]
 EXAMPLE.ORG = {
  kdc = 127.0.0.1:%[1]d
 }
`

// kdc is a small MIT realm in a folder of its own; krb5.conf and the keytab are
// the sandbox's.
func kdc(t *testing.T, port int, etype string) (ccache string) {
	t.Helper()
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("/etc/krb5.conf", fmt.Sprintf(krb5Conf, port, etype))
	kdcConf := filepath.Join(dir, "kdc.conf")
	put(kdcConf, fmt.Sprintf(`[realms]
 EXAMPLE.ORG = {
  database_name = %s/principal
  key_stash_file = %s/stash
  acl_file = %s/acl
  kdc_listen = 127.0.0.1:%d
  kdc_tcp_listen = 127.0.0.1:%d
  supported_enctypes = %s:normal
 }
`, dir, dir, dir, port, port, etype))
	env := []string{"KRB5_KDC_PROFILE=" + kdcConf}
	run := func(stdin string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Env = append(os.Environ(), env...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	os.Remove("/etc/krb5.keytab")
	run("", "/usr/sbin/kdb5_util", "create", "-s", "-r", "EXAMPLE.ORG", "-P", "master")
	run("", "/usr/sbin/kadmin.local", "addprinc", "-pw", "alices", "alice")
	run("", "/usr/sbin/kadmin.local", "addprinc", "-randkey", "ldap/localhost")
	run("", "/usr/sbin/kadmin.local", "ktadd", "ldap/localhost")
	d, err := testenv.StartDaemon(t.Context(), testenv.DaemonConfig{Path: "/usr/sbin/krb5kdc", Args: []string{"-n"}, Env: env,
		Ready: func(context.Context) error {
			c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 10*time.Second)
			if err == nil {
				c.Close()
			}
			return err
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("krb5kdc:\n%s", d.Log())
		}
		d.Stop()
	})
	ccache = filepath.Join(dir, "cc")
	run("alices\n", "kinit", "-c", ccache, "alice")
	return ccache
}

// TestGSSAPI binds with a ticket to slapd and MIT's library.
func TestGSSAPI(t *testing.T) {
	for i, etype := range []string{"aes256-cts-hmac-sha1-96", "aes128-cts-hmac-sha1-96", "aes256-cts-hmac-sha384-192"} {
		t.Run(etype, func(t *testing.T) {
			ccache := kdc(t, 8800+i, etype)
			ca := testCA(t, "ours")
			d := startDirectory(t, testenv.SlapdConfig{CA: ca})
			d.modify("cn=config", "replace", "olcSaslHost", "localhost")
			p := Provider{URLs: []string{strings.Replace(d.TLSURL, "127.0.0.1", "localhost", 1)}, CAFile: writeFile(t, ca.PEM)}
			dial := func(p Provider, g GSSAPI) error {
				cl, err := Dial(t.Context(), ClientConfig{Provider: p, GSSAPI: &g})
				if err != nil {
					return err
				}
				defer cl.Close()
				id, err := cl.WhoAmI(t.Context())
				if err == nil && id != "dn:uid=alice,cn=gssapi,cn=auth" {
					t.Errorf("bound as %q", id)
				}
				return err
			}
			if err := dial(p, GSSAPI{CCache: "FILE:" + ccache}); err != nil {
				t.Errorf("over ldaps: %v", err)
			}
			tls := p
			tls.URLs, tls.StartTLS = []string{strings.Replace(d.URL, "127.0.0.1", "localhost", 1)}, true
			if err := dial(tls, GSSAPI{CCache: ccache}); err != nil {
				t.Errorf("with StartTLS: %v", err)
			}
			if err := dial(Provider{URLs: []string{d.LDAPI}}, GSSAPI{CCache: ccache, Service: "ldap/localhost"}); err != nil {
				t.Errorf("over ldapi: %v", err)
			}
			for want, err := range map[string]error{
				"inside TLS or over ldapi:// only": dial(Provider{URLs: []string{d.URL}}, GSSAPI{CCache: ccache}),
				"get a ticket with kinit":          dial(p, GSSAPI{CCache: "/nonexistent"}),
				"getting a ticket for":             dial(Provider{URLs: []string{d.LDAPI}}, GSSAPI{CCache: ccache, Service: "ldap/unknown"}),
				"service principal":                dial(Provider{URLs: []string{d.LDAPI}}, GSSAPI{CCache: ccache}),
			} {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("want %q: %v", want, err)
				}
			}
			b, err := os.ReadFile(ccache)
			if err != nil {
				t.Fatal(err)
			}
			for n := 0; n < len(b); n += 37 { // gokrb5 panics on some of these
				if err := dial(Provider{URLs: []string{d.LDAPI}}, GSSAPI{CCache: writeFile(t, b[:n]), Service: "ldap/localhost"}); err == nil && n < len(b)/2 {
					t.Errorf("a cache cut at %d of %d works", n, len(b))
				}
			}
		})
	}
}
