package realm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// codesSecret is the file with the password of Layout.Codes.
func codesSecret(f files) string { return filepath.Join(f.realm, "codes.secret") }

// CodesPassword is the password of the identity that checks one-time codes, for a
// bind over ldapi.
func (r *Realm) CodesPassword() ([]byte, error) { return os.ReadFile(codesSecret(r.maker.c.files())) }

// keepCodes gives a realm the identity that checks one-time codes, while slapd is
// down. The password is written down first under another name, so that a crash
// anywhere is mended by the next start.
func (m maker) keepCodes(ctx context.Context, f files) error {
	path := codesSecret(f)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	early := path + ".new"
	secret, err := os.ReadFile(early)
	if errors.Is(err, fs.ErrNotExist) {
		secret = []byte(newSecret())
		err = writeFile(early, secret, 0o600)
	}
	if err != nil {
		return err
	}
	dn := m.layout.Codes()
	there, err := m.tool(ctx, "", m.sys.slapcat, "-n", "1", "-F", f.slapdD, "-a", "(&(objectClass=applicationProcess)(cn=codes))")
	if err != nil {
		return fmt.Errorf("looking for %s: %w", dn, err)
	}
	if strings.TrimSpace(string(there)) == "" {
		if _, err := m.tool(ctx, ldif([]entry{m.layout.codesEntry(string(secret))}), m.sys.slapadd, "-w", "-n", "1", "-F", f.slapdD); err != nil {
			return fmt.Errorf("adding %s: %w", dn, err)
		}
	}
	if err := os.Rename(early, path); err != nil {
		return err
	}
	return syncDir(f.realm)
}

func (l Layout) codesEntry(secret string) entry {
	return entry{l.Codes(), []ldap.Attribute{
		attr("objectClass", "applicationProcess", "simpleSecurityObject"), attr("cn", "codes"),
		attr("description", "checks one-time codes"),
		attr("userPassword", hashPassword(secret)), attr("pwdPolicySubentry", l.servicePolicy())}}
}
