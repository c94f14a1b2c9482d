package realm

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/krb"
)

// Config is what Open needs. Only Dir, RunDir and Log must be set.
type Config struct {
	// Dir is the state directory, for example /var/lib/sekisho. Made if absent.
	Dir string
	// RunDir holds sockets and files made at each start, for example /run/sekisho.
	// Made if absent; all who use ldapi must be able to enter it.
	RunDir string
	// Domain names the realm; default sekisho.internal. It gives the base DN
	// dc=sekisho,dc=internal and the Kerberos realm SEKISHO.INTERNAL.
	Domain string
	// Names are further host names and IP addresses for the server certificate and
	// the LDAP service's Kerberos keys. The host's own name, localhost and the
	// listen addresses are always among them.
	Names []string
	// LDAP, LDAPS and KDC are listen addresses, IP:port. Default are 127.0.0.1 and,
	// where there is IPv6, [::1], with ports 389, 636 and 88.
	LDAP, LDAPS, KDC []string
	// Kpasswd are the addresses, IP:port, to change passwords at (RFC 3244). The
	// default are those of KDC, 376 ports higher: 464 where the KDC has 88.
	Kpasswd []string
	// UID and GID are the user that slapd and the KDC run as, never root. When
	// this process is root they must be set; else they must be its own or 0.
	// Drop to the user before Open where possible: as root, Open writes into
	// directories that belong to the user.
	UID, GID int
	// AdminUIDs are users besides root who are the directory's administrator over
	// ldapi. Whoever starts a realm as himself, without root, lists his own uid to
	// administer it. The broker, being the same user, then has these rights too;
	// he owns all files of the realm anyway.
	AdminUIDs []int
	// Log gets supervision events.
	Log *logrus.Entry
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// maxSocketPath is what fits into sockaddr_un on Linux, with its NUL.
const maxSocketPath = 107

// validate gives the configuration with its defaults.
func (c Config) validate() (Config, error) {
	c, err := c.validatePlaces()
	if err != nil {
		return c, err
	}
	if c.Log == nil {
		return c, errors.New("no log")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c.validateUser()
}

// validatePlaces is the part of validate that Info needs.
func (c Config) validatePlaces() (Config, error) {
	if c.Domain == "" {
		c.Domain = "sekisho.internal"
	}
	if _, err := NewLayout(c.Domain); err != nil {
		return c, err
	}
	for name, dir := range map[string]string{"state": c.Dir, "run": c.RunDir} {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || dir == "/" {
			return c, fmt.Errorf("%s directory %q: write a clean absolute path", name, dir)
		}
		if !plainPath(dir) {
			return c, fmt.Errorf("%s directory %q: only letters, digits and / . _ - + may be in it", name, dir)
		}
	}
	if p := filepath.Join(c.RunDir, "kdc/otp"); len(p) > maxSocketPath {
		return c, fmt.Errorf("run directory %s is too long for a socket: at most %d characters", c.RunDir, maxSocketPath-len("/kdc/otp"))
	}
	for _, l := range []struct {
		name string
		port int
		list *[]string
	}{{"ldap", 389, &c.LDAP}, {"ldaps", 636, &c.LDAPS}, {"kdc", 88, &c.KDC}, {"kpasswd", 464, &c.Kpasswd}} {
		switch {
		case len(*l.list) > 0:
		case l.name == "kpasswd":
			*l.list = besideKDC(c.KDC)
		default:
			*l.list = loopback(l.port)
		}
		for _, a := range *l.list {
			if ap, err := netip.ParseAddrPort(a); err != nil || ap.Port() == 0 || ap.Addr().Zone() != "" {
				return c, fmt.Errorf("%s listen address %q: write IP:port, such as 127.0.0.1:%d", l.name, a, l.port)
			}
		}
	}
	for _, n := range c.Names {
		if _, err := netip.ParseAddr(n); err != nil && !validHost(n) {
			return c, fmt.Errorf("name %.80q is neither an IP address nor a host name", n)
		}
	}
	return c, nil
}

func (c Config) validateUser() (Config, error) {
	if os.Geteuid() == 0 {
		if c.UID <= 0 || c.GID <= 0 {
			return c, errors.New("slapd and the KDC do not run as root: make a user for them (useradd --system sekisho) and name it in the configuration")
		}
	} else {
		if c.UID == 0 {
			c.UID = os.Geteuid()
		}
		if c.GID == 0 {
			c.GID = os.Getegid()
		}
		if c.UID != os.Geteuid() || c.GID != os.Getegid() {
			return c, fmt.Errorf("user %d cannot start the realm as user %d: start as root or as that user", os.Geteuid(), c.UID)
		}
	}
	for _, u := range c.AdminUIDs {
		if u < 0 {
			return c, fmt.Errorf("administrator uid %d is negative", u)
		}
	}
	return c, nil
}

// plainPath keeps out what slapd.d, kdc.conf or a URL would read otherwise.
func plainPath(p string) bool {
	for i := 0; i < len(p); i++ {
		b := p[i]
		if !(b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("/._-+", b) >= 0) {
			return false
		}
	}
	return true
}

func validHost(n string) bool {
	if len(n) > 253 {
		return false
	}
	for _, l := range strings.Split(strings.ToLower(n), ".") {
		if !validLabel(l) {
			return false
		}
	}
	return true
}

// loopback gives the loopback addresses that this machine has.
func loopback(port int) []string {
	list := []string{net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	if l, err := net.Listen("tcp", "[::1]:0"); err == nil {
		l.Close()
		list = append(list, net.JoinHostPort("::1", strconv.Itoa(port)))
	}
	return list
}

// besideKDC are the addresses to change passwords at where none are given. KDC's
// have been looked at.
func besideKDC(kdc []string) []string {
	var out []string
	for _, a := range kdc {
		ap := netip.MustParseAddrPort(a)
		// Past the last port it becomes 0, which is refused.
		port := uint32(ap.Port()) + 464 - 88
		if port > 65535 {
			port = 0
		}
		out = append(out, netip.AddrPortFrom(ap.Addr(), uint16(port)).String())
	}
	return out
}

// Info tells how the realm of this configuration is reached, without opening it:
// for programs beside sekishod. UID, GID, Log and Now need not be set for it.
func (c Config) Info() (Info, error) {
	c, err := c.validatePlaces()
	if err != nil {
		return Info{}, fmt.Errorf("realm: %w", err)
	}
	return c.info(), nil
}

// ownName is the host name in the realm's own service principal: the first of
// Names, or the name that the kernel gives.
func (c Config) ownName() string {
	for _, n := range c.Names {
		if _, err := netip.ParseAddr(n); err != nil {
			return strings.ToLower(n)
		}
	}
	if n, err := os.Hostname(); err == nil && validHost(n) {
		return strings.ToLower(n)
	}
	return "localhost"
}

func (c Config) info() Info {
	l, _ := NewLayout(c.Domain) // validate has seen it
	f := c.files()
	i := Info{
		Layout:   l,
		LDAPI:    socketURL(f.socket),
		CAFile:   f.publicCA,
		Cert:     f.cert,
		CertKey:  f.certKey,
		KRB5Conf: f.publicKrb5,
		Stash:    f.stash,
		Keytab:   f.keytab,
		OTP:      f.otpSocket,
		Service:  krb.Principal{Components: []string{"sekisho", c.ownName()}, Realm: l.Realm},
	}
	for _, a := range c.KDC {
		i.KDC = append(i.KDC, dialable(a))
	}
	for _, a := range c.Kpasswd {
		i.Kpasswd = append(i.Kpasswd, dialable(a))
	}
	for _, a := range c.LDAPS {
		i.LDAPS = append(i.LDAPS, "ldaps://"+dialable(a))
	}
	for _, a := range c.LDAP {
		i.LDAP = append(i.LDAP, "ldap://"+dialable(a))
	}
	return i
}

// files are the paths of a realm. The first part is made once; the second is
// derived from it and from the configuration, and rewritten when that changes.
type files struct {
	realm, stash, db, ca, caKey, passwd, passwdKDC string

	slapdConf, slapdD, cert, certKey, kdcCert, kdcKey, ldapKeytab, kdcConf, kdcKrb5, slapdKrb5 string
	keytab, changepwKeytab, changepwReplay, unclean                                            string

	lock, socket, socketNew, otpDir, otpSocket, publicCA, publicKrb5, slapdPID, kdcPID, kdcMark string
}

func (c Config) files() files { return filesIn(filepath.Join(c.Dir, "realm"), c) }

func filesIn(realm string, c Config) files {
	in := func(s string) string { return filepath.Join(realm, s) }
	run := func(s string) string { return filepath.Join(c.RunDir, s) }
	return files{
		realm: realm, stash: in("stash"), db: in("db"), ca: in("tls/ca.crt"), caKey: in("tls/ca.key"),
		passwd: in("passwd.secret"), passwdKDC: in("kdc.secret"),

		slapdConf: in("slapd.ldif"), slapdD: in("slapd.d"), cert: in("tls/server.crt"), certKey: in("tls/server.key"),
		kdcCert: in("tls/kdc.crt"), kdcKey: in("tls/kdc.key"),
		ldapKeytab: in("ldap.keytab"), kdcConf: in("kdc.conf"), kdcKrb5: in("kdc-krb5.conf"), slapdKrb5: in("slapd-krb5.conf"),
		keytab: in("sekisho.keytab"), changepwKeytab: in("changepw.keytab"), changepwReplay: in("changepw.replay"), unclean: in("slapd.unclean"),

		lock: filepath.Join(c.Dir, "lock"), socket: run("ldapi"), socketNew: run("ldapi.new"), otpDir: run("kdc"), otpSocket: run("kdc/otp"), publicCA: run("ca.crt"), publicKrb5: run("krb5.conf"),
		slapdPID: filepath.Join(c.Dir, "slapd.pid"), kdcPID: filepath.Join(c.Dir, "krb5kdc.pid"),
		// The KDC's own pid file, whose name tells it from other KDCs. It does not start
		// without writing it, so it is not on the disk that may be full.
		kdcMark: run("krb5kdc.self"),
	}
}
