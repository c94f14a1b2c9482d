package enrol

import (
	_ "embed"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// ours is the first line of files that are all ours.
const ours = "# Written by sekisho host enrol, which takes it out again with --undo."

// The files of a host.
const (
	etcDir        = "/etc/sekisho"
	configFile    = etcDir + "/sekishod.toml"
	caFile        = etcDir + "/ca.crt"
	passwordFile  = etcDir + "/password"
	serviceKeytab = etcDir + "/krb5.keytab"
	ownKrb5Conf   = etcDir + "/krb5.conf"
	hostCert      = etcDir + "/host.crt"
	hostKey       = etcDir + "/host.key"
	hostKeytab    = "/etc/krb5.keytab"
	krb5Conf      = "/etc/krb5.conf"
	nssConf       = "/etc/nsswitch.conf"
	pamDir        = "/etc/pam.d"
	sshdConf      = "/etc/ssh/sshd_config"
	sshdSnippet   = "/etc/ssh/sshd_config.d/10-sekisho.conf"
	unitFile      = "/etc/systemd/system/sekishod.service"
)

// User is whom sekishod runs as, and KeysUser whom sshd asks for keys as.
const (
	User     = "sekisho"
	KeysUser = "sekisho-keys"
)

// sekishodConf is the host's configuration. pam says that sshd's account step
// asks sekishod.
func sekishodConf(b Bundle, pam bool) string {
	var t strings.Builder
	fmt.Fprintf(&t, "%s\nhost = %q\n", ours, b.FQDN)
	if f := b.Feed; f != nil {
		fmt.Fprintf(&t, `
[upstream]
brokers = %s
cert_file = %q
key_file = %q
ca_file = %q
`, list(f.Brokers), hostCert, hostKey, caFile)
	} else {
		fmt.Fprintf(&t, `
[directory]
url = %s
base = %q
rule_base = %q
bind_dn = %q
password_file = %q
ca_file = %q
schema = %q
`, list(b.Directory.URL), b.Directory.Base, b.Directory.RuleBase, b.Directory.BindDN, passwordFile, caFile, b.Directory.Schema)
	}
	fmt.Fprintf(&t, `
[kerberos]
config = %q
realm = %q
keytab = %q

[pam]
password = "kdc"
`, ownKrb5Conf, b.Kerberos.Realm, serviceKeytab)
	if len(b.Clock) > 0 {
		fmt.Fprintf(&t, "\n[clock]\nservers = %s\n", list(b.Clock))
	}
	if pam {
		t.WriteString("\n[keys]\npam = true   # sshd's account step asks sekishod: /etc/pam.d/common-account\n")
	}
	return t.String()
}

func list(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = strconv.Quote(v)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// realmSection is the realm for krb5.conf(5).
func realmSection(b Bundle) string {
	var t strings.Builder
	fmt.Fprintf(&t, "[realms]\n\t%s = {\n", b.Kerberos.Realm)
	for _, k := range b.Kerberos.KDC {
		fmt.Fprintf(&t, "\t\tkdc = %s\n", k)
	}
	for _, k := range b.Kerberos.Kpasswd {
		fmt.Fprintf(&t, "\t\tkpasswd_server = %s\n", k)
	}
	// By this CA a KDC is known that gives an armour for one-time codes (kinit -n).
	fmt.Fprintf(&t, "\t\tpkinit_anchors = FILE:%s\n", caFile)
	t.WriteString("\t}\n")
	return t.String()
}

// wholeKrb5Conf is a krb5.conf of ours alone.
func wholeKrb5Conf(b Bundle) string {
	return fmt.Sprintf(`%s
[libdefaults]
	default_realm = %s
	dns_lookup_realm = false
	dns_lookup_kdc = false
	rdns = false

%s`, ours, b.Kerberos.Realm, realmSection(b))
}

// krb5Snippet is for a machine whose krb5.conf is somebody else's.
func krb5Snippet(b Bundle) string {
	return fmt.Sprintf("%s\n%s\n[domain_realm]\n\t%s = %s\n", ours, realmSection(b), b.FQDN, b.Kerberos.Realm)
}

// sshdText is what sshd is to do. It switches nothing off.
func sshdText(lib string, pam bool) string {
	t := ours + `
AuthorizedKeysCommand ` + filepath.Join(lib, "sekisho-keys") + ` %u %f %t %k
AuthorizedKeysCommandUser ` + KeysUser + `
GSSAPIAuthentication yes
`
	if pam {
		t += "UsePAM yes\nKbdInteractiveAuthentication yes\n"
	}
	return t
}

//go:embed sekishod.service
var unitTemplate string

// unitText is the systemd unit for programs in folder bin.
func unitText(bin string) string {
	return ours + "\n" + strings.ReplaceAll(unitTemplate, "/usr/local/bin/", bin+"/")
}
