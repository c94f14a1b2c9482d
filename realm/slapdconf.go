package realm

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Schemas are the schema files that OpenLDAP does not bring: rfc2307bis.ldif,
// openssh-lpk.ldif, kerberos.ldif and sekisho.ldif in the folder schema, in the
// form that ldapadd takes for cn=config. Sites add them to their own servers.
//
//go:embed schema/*.ldif
var Schemas embed.FS

var ownSchemas = []string{"rfc2307bis", "openssh-lpk", "kerberos", "sekisho"}

// modules are slapd's: the back end, what the tree needs, and argon2 for passwords.
var modules = []string{"back_mdb", "memberof", "refint", "syncprov", "ppolicy", "otp", "unique"}

// mapSize is how large the database may grow. It is address space, not disk.
const mapSize = 32 << 30

// slapdLDIF is the whole of cn=config. It is rendered at each start, and slapd's
// configuration is made anew where it differs: changes made there by hand are not
// kept, and nobody has the right to make them.
func slapdLDIF(c Config, f files, sys system) (string, error) {
	l, err := NewLayout(c.Domain)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	w := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }

	w("dn: cn=config\nobjectClass: olcGlobal\ncn: config")
	w("olcLogLevel: none")
	w("olcWriteTimeout: 60") // a client that stops reading does not hold a thread for ever
	w("olcTLSCACertificateFile: %s", f.ca)
	w("olcTLSCertificateFile: %s", f.cert)
	w("olcTLSCertificateKeyFile: %s", f.certKey)
	w("olcTLSVerifyClient: never")
	w("olcTLSProtocolMin: 3.3") // TLS 1.2
	// A password in the clear is refused; ldapi counts as sealed.
	w("olcLocalSSF: 256\nolcSecurity: simple_bind=128 update_ssf=128")
	w("olcSaslSecProps: noanonymous,noplain")
	// A ticket of this realm names a person; a host's (host/…) or another realm's
	// (cn=REALM before cn=gssapi) fits nothing and is nobody.
	w("olcAuthzRegexp: {0}%q %q", "^uid=([^,/]+),cn=gssapi,cn=auth$", "uid=$1,"+l.People())
	i := 1
	peer := func(uid int, dn string) {
		w("olcAuthzRegexp: {%d}%q %q", i, fmt.Sprintf("^gidNumber=[0-9]+[+]uidNumber=%d,cn=peercred,cn=external,cn=auth$", uid), dn)
		i++
	}
	for _, uid := range append([]int{0}, c.AdminUIDs...) {
		peer(uid, l.Admin())
	}
	peer(c.UID, l.Sekishod()) // after the administrators: the first that fits counts
	w("")

	w("dn: cn=module{0},cn=config\nobjectClass: olcModuleList\ncn: module{0}\nolcModulePath: %s", sys.modules)
	for _, m := range modules {
		w("olcModuleLoad: %s", m)
	}
	w("olcModuleLoad: argon2 m=%d t=%d p=%d\n", argonMemory, argonTime, argonThreads)

	w("dn: cn=schema,cn=config\nobjectClass: olcSchemaConfig\ncn: schema\n")
	for _, s := range []string{"core", "cosine", "inetorgperson"} {
		w("include: file://%s\n", filepath.Join(sys.schemas, s+".ldif"))
	}
	for _, s := range ownSchemas {
		text, err := Schemas.ReadFile("schema/" + s + ".ldif")
		if err != nil {
			return "", err
		}
		w("%s", text)
	}

	w("dn: olcDatabase={-1}frontend,cn=config\nobjectClass: olcDatabaseConfig\nobjectClass: olcFrontendConfig")
	w("olcDatabase: {-1}frontend\nolcPasswordHash: {ARGON2}")
	w(`olcAccess: {0}to dn.base="" by * read`)
	w(`olcAccess: {1}to dn.base="cn=subschema" by users read by * none`)
	w("olcAccess: {2}to * by * none\n")

	w("dn: olcDatabase={0}config,cn=config\nobjectClass: olcDatabaseConfig\nolcDatabase: {0}config")
	w("olcAccess: {0}to * by dn.exact=%q read by * none\n", l.Admin())

	db := "olcDatabase={1}mdb,cn=config"
	w("dn: %s\nobjectClass: olcDatabaseConfig\nobjectClass: olcMdbConfig\nolcDatabase: {1}mdb", db)
	w("olcSuffix: %s\nolcRootDN: %s\nolcDbDirectory: %s\nolcDbMaxSize: %d", l.Base, l.Admin(), f.db, int64(mapSize))
	w("olcDbIndex: objectClass,entryUUID,entryCSN,uid,cn,uidNumber,gidNumber,member,memberUid eq")
	w("olcDbIndex: ipHostNumber,oathTOTPToken,oathHOTPToken eq")
	w("olcDbIndex: krbPrincipalName eq,pres,sub")
	w("olcLimits: {0}dn.onelevel=%q size=unlimited time=unlimited", l.Services())
	for n, a := range accessRules(l) {
		w("olcAccess: {%d}%s", n, a)
	}
	w("")

	n := 0
	overlay := func(name, class, lines string) {
		w("dn: olcOverlay={%d}%s,%s\nobjectClass: olcOverlayConfig", n, name, db)
		if class != "" {
			w("objectClass: %s", class)
		}
		w("olcOverlay: {%d}%s", n, name)
		if lines != "" {
			w("%s", lines)
		}
		w("")
		n++
	}
	// The contextCSN is written after each change. Otherwise a slapd that is killed
	// comes back with an older one, and looks to its followers like a restored backup.
	// There is no session log: after a start it takes itself for complete, and hides
	// deletions of before that were not told.
	overlay("syncprov", "olcSyncProvConfig", "olcSpCheckpoint: 1 1")
	overlay("memberof", "olcMemberOfConfig", "olcMemberOfGroupOC: groupOfNames\nolcMemberOfMemberAD: member\n"+
		"olcMemberOfMemberOfAD: memberOf\nolcMemberOfRefInt: TRUE")
	// A group that loses its last member to a deletion keeps a name that is nobody's,
	// for groupOfNames must have one.
	overlay("refint", "olcRefintConfig", "olcRefintAttribute: member\nolcRefintAttribute: owner\n"+
		"olcRefintNothing: cn=nobody,"+l.Base)
	overlay("ppolicy", "olcPPolicyConfig", "olcPPolicyDefault: cn=default,"+l.Policies()+
		"\nolcPPolicyHashCleartext: TRUE")
	// No two people share a name or a uid number, no two groups a gid number, and no
	// two entries a principal. Root can overrule it with the ManageDsaIT control.
	overlay("unique", "olcUniqueConfig", strings.Join([]string{
		"olcUniqueURI: ldap:///" + l.People() + "?uid?one",
		"olcUniqueURI: ldap:///" + l.People() + "?uidNumber?one",
		"olcUniqueURI: ldap:///" + l.Groups() + "?gidNumber?one",
		"olcUniqueURI: ldap:///" + l.Base + "?krbPrincipalName?sub",
	}, "\n"))
	overlay("otp", "", "")

	// What slapd says of itself is not for all: here, its clock alone, by which the
	// broker and service accounts see that it is right.
	services := fmt.Sprintf("dn.onelevel=%q", l.Services())
	w("dn: olcDatabase={2}monitor,cn=config\nobjectClass: olcDatabaseConfig\nobjectClass: olcMonitorConfig\nolcDatabase: {2}monitor")
	w("olcAccess: {0}to * by dn.exact=%q read by * break", l.Admin())
	w(`olcAccess: {1}to dn.base="cn=Current,cn=Time,cn=Monitor" attrs=entry,objectClass,monitorTimestamp by %s read by * none`, services)
	w(`olcAccess: {2}to dn.base="cn=Time,cn=Monitor" attrs=entry,children by %s search by * none`, services)
	w(`olcAccess: {3}to dn.base="cn=Monitor" attrs=entry,children by %s search by * none`, services)
	w("olcAccess: {4}to * by * none\n")
	return b.String(), nil
}

// system is where this machine's packages put slapd's parts.
type system struct {
	slapd, slapadd, slapcat, krb5kdc string
	modules, schemas                 string
}

// findSystem looks for the programs and modules, and names the package of what is
// missing.
func findSystem() (system, error) {
	var s system
	for _, p := range []struct {
		path *string
		name string
		pkg  string
	}{{&s.slapd, "slapd", "slapd"}, {&s.slapadd, "slapadd", "slapd"}, {&s.slapcat, "slapcat", "slapd"}, {&s.krb5kdc, "krb5kdc", "krb5-kdc"}} {
		for _, dir := range []string{"/usr/sbin", "/usr/bin", "/usr/lib/openldap", "/usr/local/sbin"} {
			if st, err := os.Stat(filepath.Join(dir, p.name)); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
				*p.path = filepath.Join(dir, p.name)
				break
			}
		}
		if *p.path == "" {
			return s, fmt.Errorf("%s is not installed: install the package %s", p.name, p.pkg)
		}
	}
	var err error
	if s.modules, err = dirWith("syncprov.so", "slapd", "/usr/lib/ldap", "/usr/lib64/openldap", "/usr/lib/openldap", "/usr/libexec/openldap"); err != nil {
		return s, err
	}
	for _, m := range append(modules, "argon2") {
		if _, err := os.Stat(filepath.Join(s.modules, m+".so")); err != nil {
			return s, fmt.Errorf("slapd's module %s is not installed: install the package slapd-contrib", m)
		}
	}
	if s.schemas, err = dirWith("inetorgperson.ldif", "slapd", "/etc/ldap/schema", "/etc/openldap/schema"); err != nil {
		return s, err
	}
	if !hasPlugin("kdb/kldap.so") {
		return s, fmt.Errorf("the KDC's LDAP back end is not installed: install the package krb5-kdc-ldap")
	}
	return s, nil
}

// hasPlugin says whether MIT Kerberos has a plugin, such as kdb/kldap.so.
func hasPlugin(name string) bool {
	for _, dir := range []string{"/usr/lib/*/krb5/plugins", "/usr/lib*/krb5/plugins"} {
		if found, _ := filepath.Glob(filepath.Join(dir, name)); len(found) > 0 {
			return true
		}
	}
	return false
}

func dirWith(file, pkg string, dirs ...string) (string, error) {
	for _, d := range dirs {
		if _, err := os.Stat(filepath.Join(d, file)); err == nil {
			return d, nil
		}
	}
	return "", fmt.Errorf("%s is in none of %s: install the package %s", file, strings.Join(dirs, ", "), pkg)
}
