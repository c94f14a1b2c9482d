package realm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/sekisho/sekisho/krb"
)

// maker makes a realm's files and keeps those that are derived.
type maker struct {
	c        Config
	sys      system
	layout   Layout
	hostname string
}

// makeRealm builds the realm beside its place and moves it there whole, so that a
// crash leaves either all of it or a folder "new" that the next start clears away.
func (m maker) makeRealm(ctx context.Context) error {
	final := m.c.files()
	switch _, err := os.Lstat(final.realm); {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	dir := filepath.Join(m.c.Dir, "new")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	f := filesIn(dir, m.c)
	for _, d := range []string{dir, f.db, filepath.Dir(f.ca)} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	now := m.c.Now()
	if err := makeCA(f, m.layout, now); err != nil {
		return fmt.Errorf("making the CA: %w", err)
	}
	if _, err := renewCert(f, certNames(m.c, m.hostname), now); err != nil {
		return err
	}
	if _, err := renewKDCCert(f, m.layout.Realm, now); err != nil {
		return err
	}
	key, err := krb.NewMasterKey()
	if err != nil {
		return err
	}
	if err := key.WriteStash(f.stash, m.layout.Realm, now); err != nil {
		return err
	}
	kdcSecret, passwdSecret := newSecret(), newSecret()
	if err := writeFile(f.passwdKDC, kdcSecretFile(m.layout, kdcSecret), 0o600); err != nil {
		return err
	}
	if err := writeFile(f.passwd, []byte(passwdSecret), 0o600); err != nil {
		return err
	}
	entries, err := seed(m.layout, key, kdcSecret, passwdSecret, now)
	if err != nil {
		return err
	}
	secret := newSecret()
	if err := writeFile(codesSecret(f), []byte(secret), 0o600); err != nil {
		return err
	}
	entries = append(entries, m.layout.codesEntry(secret)) // keepCodes adds it to realms of before
	services, keytab, err := m.newServices(m.servicePrincipals(), key)
	if err != nil {
		return err
	}
	if err := krb.WriteKeytab(f.ldapKeytab, keytab); err != nil {
		return err
	}
	if err := own(m.c, dir); err != nil {
		return err
	}
	config, err := slapdLDIF(m.c, f, m.sys)
	if err != nil {
		return err
	}
	if err := m.makeConfig(ctx, f, config); err != nil {
		return err
	}
	if _, err := m.tool(ctx, ldif(append(entries, services...)), m.sys.slapadd, "-q", "-w", "-n", "1", "-F", f.slapdD); err != nil {
		return fmt.Errorf("making the directory: %w", err)
	}
	// slapd.d names this folder: the derived files are made for the final one.
	for _, p := range []string{f.slapdD, f.slapdConf} {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	if err := syncTree(dir); err != nil {
		return err
	}
	if err := os.Rename(dir, final.realm); err != nil {
		return err
	}
	return syncDir(m.c.Dir)
}

// derive brings all files that follow from the realm and the configuration up to
// date.
func (m maker) derive(ctx context.Context) error {
	f := m.c.files()
	for _, must := range []string{f.ca, f.caKey, f.stash, f.passwd, f.passwdKDC, filepath.Join(f.db, "data.mdb")} {
		if _, err := os.Stat(must); err != nil {
			return fmt.Errorf("the realm is not whole: %w; restore it from a backup", err)
		}
	}
	if _, err := renewCert(f, certNames(m.c, m.hostname), m.c.Now()); err != nil {
		return err
	}
	config, err := slapdLDIF(m.c, f, m.sys)
	if err != nil {
		return err
	}
	old, err := os.ReadFile(f.slapdConf)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, serr := os.Stat(filepath.Join(f.slapdD, "cn=config.ldif")); serr != nil || string(old) != config {
		if err := m.makeConfig(ctx, f, config); err != nil {
			return err
		}
	}
	if err := m.keepKeytabs(ctx, f); err != nil {
		return err
	}
	if err := m.keepCodes(ctx, f); err != nil {
		return err
	}
	if err := m.keepPKINIT(ctx, f); err != nil {
		return err
	}
	for path, text := range map[string]string{
		f.kdcConf:   kdcConf(m.c, f),
		f.kdcKrb5:   krb5Conf(m.c, "", false),
		f.slapdKrb5: krb5Conf(m.c, "  ignore_acceptor_hostname = true\n", false),
	} {
		if _, err := keepFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	if err := own(m.c, f.realm); err != nil {
		return err
	}
	ca, err := os.ReadFile(f.ca)
	if err != nil {
		return err
	}
	if _, err := keepFile(f.publicCA, ca, 0o644); err != nil {
		return err
	}
	_, err = keepFile(f.publicKrb5, []byte(krb5Conf(m.c, "", true)), 0o644)
	return err
}

// makeConfig makes slapd's configuration folder. What it was made from is written
// last: without it, the next start makes it again.
func (m maker) makeConfig(ctx context.Context, f files, config string) error {
	for _, p := range []string{f.slapdConf, f.slapdD} {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	if err := os.Mkdir(f.slapdD, 0o700); err != nil {
		return err
	}
	if err := own(m.c, f.slapdD); err != nil {
		return err
	}
	if _, err := m.tool(ctx, config, m.sys.slapadd, "-n", "0", "-F", f.slapdD); err != nil {
		return fmt.Errorf("making slapd's configuration: %w", err)
	}
	if err := syncTree(f.slapdD); err != nil {
		return err
	}
	return writeFile(f.slapdConf, []byte(config), 0o600)
}

// tool runs one of slapd's tools as the service user. Like all children it dies with
// this process.
func (m maker) tool(ctx context.Context, stdin, path string, args ...string) ([]byte, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	attrs, err := attributes(m.c, false)
	if err != nil {
		return nil, err
	}
	var stdout bytes.Buffer
	var stderr tail
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.SysProcAttr, cmd.Env, cmd.Dir = attrs, baseEnv(m.c), m.c.Dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if cerr := ctx.Err(); cerr != nil {
			return nil, cerr
		}
		return nil, explain(fmt.Errorf("%s: %w", filepath.Base(path), err), &stderr, apparmorHint("/", m.sys.slapd, m.c.Dir, m.c.RunDir))
	}
	return stdout.Bytes(), nil
}

// baseEnv is all of the environment that children get: nothing of ours leaks.
func baseEnv(c Config) []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=" + c.Dir, "TMPDIR=" + c.RunDir}
}
