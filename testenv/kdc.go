package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// KDCConfig says what a KDC is like; the zero value but for Dir serves.
type KDCConfig struct {
	// Dir is an empty directory for all its files. Below t.TempDir it is visible in
	// every host too.
	Dir string
	// Realm is the Kerberos realm; default EXAMPLE.ORG, for the hosts of example.org.
	Realm string
	// Addr is its IP:port; default 203.0.113.1:88, which every host reaches, or
	// port 88 of Host.
	Addr string
	// Host is where krb5kdc runs; nil is the sandbox itself. The KDC's clock moves
	// with the host's, if MoveClock was called before.
	Host *Host
}

// KDC is MIT's krb5kdc with a database of files: for tests that need tickets and
// no directory.
type KDC struct {
	Realm string
	Addr  string
	// KRB5Conf is a krb5.conf for its clients.
	KRB5Conf string

	dir    string
	host   *Host
	daemon *Daemon
}

// StartKDC makes a realm and starts its KDC. The caller closes it.
func StartKDC(ctx context.Context, c KDCConfig) (*KDC, error) {
	if c.Dir == "" {
		return nil, errors.New("a KDC needs a directory")
	}
	if c.Realm == "" {
		c.Realm = "EXAMPLE.ORG"
	}
	if c.Addr == "" {
		c.Addr = bridgeAddr + ":88"
		if c.Host != nil {
			c.Addr = c.Host.Addr.String() + ":88"
		}
	}
	k := &KDC{Realm: c.Realm, Addr: c.Addr, KRB5Conf: filepath.Join(c.Dir, "krb5.conf"), dir: c.Dir, host: c.Host}
	domain := strings.ToLower(c.Realm)
	const etypes = "aes256-cts-hmac-sha384-192 aes256-cts-hmac-sha1-96 aes128-cts-hmac-sha256-128 aes128-cts-hmac-sha1-96"
	conf := fmt.Sprintf(`[libdefaults]
  default_realm = %[1]s
  dns_lookup_kdc = false
  dns_lookup_realm = false
  dns_canonicalize_hostname = false
  qualify_shortname = ""
  rdns = false
  permitted_enctypes = %[4]s
[realms]
  %[1]s = {
    kdc = %[3]s
  }
[domain_realm]
  .%[2]s = %[1]s
  %[2]s = %[1]s
`, c.Realm, domain, c.Addr, etypes)
	kdcConf := fmt.Sprintf(`[kdcdefaults]
  kdc_listen = %[2]s
  kdc_tcp_listen = %[2]s
[realms]
  %[1]s = {
    database_name = %[3]s/principal
    key_stash_file = %[3]s/stash
    acl_file = /dev/null
    supported_enctypes = %[4]s
    max_life = 10h
    max_renewable_life = 7d
    default_principal_flags = +preauth
  }
[logging]
  kdc = STDERR
`, c.Realm, c.Addr, c.Dir, strings.ReplaceAll(etypes, " ", ":normal ")+":normal")
	for name, text := range map[string]string{"krb5.conf": conf, "kdc.conf": kdcConf} {
		if err := os.WriteFile(filepath.Join(c.Dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	if err := k.run(ctx, "kdb5_util", "create", "-s", "-r", k.Realm, "-P", "master password"); err != nil {
		return nil, err
	}
	if err := k.Start(ctx); err != nil {
		return nil, err
	}
	return k, nil
}

// Start starts the KDC again after Close.
func (k *KDC) Start(ctx context.Context) (err error) {
	start := StartDaemon
	if k.host != nil {
		start = k.host.Start
	}
	k.daemon, err = start(ctx, DaemonConfig{Path: "/usr/sbin/krb5kdc", Args: []string{"-n", "-r", k.Realm}, Env: k.env(),
		Ready: func(ctx context.Context) error {
			c, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", k.Addr)
			if err == nil {
				c.Close()
			}
			return err
		}})
	return err
}

// Close stops the KDC. It may be called twice.
func (k *KDC) Close() error { return k.daemon.Stop() }

// Log is what the KDC logged.
func (k *KDC) Log() string { return k.daemon.Log() }

func (k *KDC) env() []string {
	return []string{"KRB5_CONFIG=" + k.KRB5Conf, "KRB5_KDC_PROFILE=" + filepath.Join(k.dir, "kdc.conf")}
}

func (k *KDC) run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(minimalEnv(), k.env()...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, args[0], err, out)
	}
	return nil
}

// AddUser adds a principal with a password.
func (k *KDC) AddUser(ctx context.Context, name, password string) error {
	return k.run(ctx, "kadmin.local", "addprinc", "-pw", password, name)
}

// AddService adds a principal with random keys, and adds them to the file keytab, mode
// 0600. Its keys, and session keys with it, are of the encryption types (MIT's names),
// or of all four when none is named.
func (k *KDC) AddService(ctx context.Context, name, keytab string, etypes ...string) error {
	args := []string{"addprinc", "-randkey"}
	if len(etypes) > 0 {
		args = append(args, "-e", strings.Join(etypes, ":normal,")+":normal")
	}
	if err := k.run(ctx, "kadmin.local", append(args, name)...); err != nil {
		return err
	}
	if len(etypes) > 0 {
		if err := k.run(ctx, "kadmin.local", "setstr", name, "session_enctypes", strings.Join(etypes, " ")); err != nil {
			return err
		}
	}
	return k.run(ctx, "kadmin.local", "ktadd", "-norandkey", "-k", keytab, name)
}
