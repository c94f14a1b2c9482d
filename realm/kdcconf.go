package realm

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// etypes are the encryption types that the realm speaks, in MIT's names.
const etypes = "aes256-cts-hmac-sha384-192 aes256-cts-hmac-sha1-96 aes128-cts-hmac-sha1-96"

// krb5Conf is a krb5.conf for this realm; extra goes into [libdefaults]. With SPAKE
// (RFC 9588) nobody who listens on the wire can guess a password offline.
// The one for people names the CA by which they know the KDC's certificate.
func krb5Conf(c Config, extra string, forPeople bool) string {
	i := c.info()
	domain := strings.ToLower(i.Layout.Realm)
	var b strings.Builder
	fmt.Fprintf(&b, `# Made by sekishod; rewritten at each start.
[libdefaults]
  default_realm = %s
  dns_lookup_kdc = false
  dns_lookup_realm = false
  dns_canonicalize_hostname = false
  qualify_shortname = ""
  rdns = false
  forwardable = true
  permitted_enctypes = %s
  spake_preauth_groups = edwards25519
%s
[realms]
  %s = {
`, i.Layout.Realm, etypes, extra, i.Layout.Realm)
	for _, a := range i.KDC {
		fmt.Fprintf(&b, "    kdc = %s\n", a)
	}
	for _, a := range i.Kpasswd {
		fmt.Fprintf(&b, "    kpasswd_server = %s\n", a)
	}
	if forPeople {
		fmt.Fprintf(&b, "    pkinit_anchors = FILE:%s\n", i.CAFile)
	}
	fmt.Fprintf(&b, "  }\n[domain_realm]\n  .%s = %s\n  %s = %s\n  localhost = %s\n", domain, i.Layout.Realm, domain, i.Layout.Realm, i.Layout.Realm)
	return b.String()
}

// dialable turns the address of all interfaces into one that can be called here.
func dialable(addr string) string {
	ap := netip.MustParseAddrPort(addr) // validate has seen it
	if ap.Addr().IsUnspecified() {
		lo := "127.0.0.1"
		if ap.Addr().Is6() {
			lo = "::1"
		}
		return netip.AddrPortFrom(netip.MustParseAddr(lo), ap.Port()).String()
	}
	return ap.String()
}

// otpTimeout is how long the KDC waits for the answer about a code. After it, it says
// that the code is wrong; kinit must have given up before (30 s at the most) and said
// that it cannot contact the KDC, since then nobody knows.
const otpTimeout = 90 * time.Second

// kdcConf is the KDC's profile.
//
// PKINIT is there for who comes as nobody, and needs
// the CA as an anchor to show the KDC's own certificate with. With no module that
// could say whose a client's certificate is, no certificate is a way in.
//
// Successes are not written to the directory, for a write at each ticket would wake
// every consumer of it. kadmin.local, which is for root alone, comes over ldapi as
// root; only there EXTERNAL names the administrator.
func kdcConf(c Config, f files) string {
	i := c.info()
	return fmt.Sprintf(`# Made by sekishod; rewritten at each start.
[kdcdefaults]
  kdc_listen = %s
  kdc_tcp_listen = %s
  kdc_tcp_listen_backlog = 128
[realms]
  %s = {
    key_stash_file = %s
    master_key_type = aes256-cts-hmac-sha1-96
    supported_enctypes = aes256-cts-hmac-sha384-192:normal aes256-cts-hmac-sha1-96:normal aes128-cts-hmac-sha1-96:normal
    default_principal_flags = +preauth
    max_life = 10h 0m 0s
    max_renewable_life = 7d 0h 0m 0s
    restrict_anonymous_to_tgt = true
    pkinit_identity = FILE:%s,%s
    pkinit_anchors = FILE:%s
    database_module = directory
  }
[plugins]
  certauth = {
    enable_only = none
  }
[otp]
  %s = {
    server = %s
    timeout = %d
    strip_realm = true
    indicator = otp
  }
[dbmodules]
  directory = {
    db_library = kldap
    ldap_servers = %s
    ldap_kerberos_container_dn = %s
    ldap_kdc_dn = %s
    ldap_kadmind_sasl_mech = EXTERNAL
    ldap_service_password_file = %s
    ldap_conns_per_server = 5
    disable_last_success = true
    disable_lockout = true
  }
[logging]
  kdc = STDERR
`, strings.Join(c.KDC, " "), strings.Join(c.KDC, " "), i.Layout.Realm, f.stash,
		f.kdcCert, f.kdcKey, f.ca, otpSection, f.otpSocket, otpTimeout/time.Second, i.LDAPI,
		i.Layout.Kerberos(), i.Layout.kdc(), f.passwdKDC)
}

// kdcSecretFile is the form of ldap_service_password_file (kdb5_ldap_util stashsrvpw).
func kdcSecretFile(l Layout, secret string) []byte {
	return []byte(l.kdc() + "#{HEX}" + hex.EncodeToString([]byte(secret)) + "\n")
}

// probeKDC asks the KDC for a ticket of a principal that does not exist. That it
// says so (RFC 4120 §7.5.9, code 6) proves that it runs and reads the directory.
func probeKDC(ctx context.Context, addr, realm string) error {
	cfg := config.New()
	cfg.LibDefaults.DefaultRealm = realm
	name := types.PrincipalName{NameType: 1, NameString: []string{"sekisho-probe-of-nobody"}}
	req, err := messages.NewASReqForTGT(realm, cfg, name)
	if err != nil {
		return err
	}
	msg, err := req.Marshal()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...)); err != nil {
		return err
	}
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > 64<<10 {
		return errors.New("the answer is too long for a KDC's")
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(conn, body); err != nil {
		return err
	}
	return judgeProbe(body)
}

func judgeProbe(body []byte) (err error) {
	defer func() {
		if recover() != nil { // gokrb5's parsers are not safe on odd input
			err = errors.New("the answer is not a KDC's")
		}
	}()
	var e messages.KRBError
	if err := e.Unmarshal(body); err != nil {
		return errors.New("the answer is not a Kerberos error")
	}
	if e.ErrorCode != errorcode.KDC_ERR_C_PRINCIPAL_UNKNOWN {
		return fmt.Errorf("the KDC answers with error %d, not 6: it cannot read the directory", e.ErrorCode)
	}
	return nil
}
