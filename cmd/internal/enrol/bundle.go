package enrol

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// bundleVersion is written into each bundle; another one is refused.
const bundleVersion = 1

// maxBundle is the longest bundle that is read, in bytes.
const maxBundle = 1 << 20

// Bundle is all that a machine needs to become a host of a realm. It holds
// secrets: keys, and with a directory a password. The fields are those of its file, JSON.
type Bundle struct {
	Version int       `json:"version"`
	Made    time.Time `json:"made"`
	// Host is the host's name in the directory, FQDN that of its Kerberos keys.
	Host string `json:"host"`
	FQDN string `json:"fqdn"`
	// Directory is there, or Feed, and never both: what the host follows.
	Directory *BundleDirectory `json:"directory,omitempty"`
	Feed      *BundleFeed      `json:"feed,omitempty"`
	Kerberos  BundleKerberos   `json:"kerberos"`
	// Clock are NTP servers, host or host:port; none is needed.
	Clock []string `json:"clock,omitempty"`
}

// BundleDirectory is where the host's sekishod reads, and as whom.
type BundleDirectory struct {
	URL      []string `json:"url"`
	Base     string   `json:"base"`
	RuleBase string   `json:"rule_base"`
	BindDN   string   `json:"bind_dn"`
	Password string   `json:"password"`
	CA       string   `json:"ca"` // PEM
	Schema   string   `json:"schema"`
}

// BundleFeed is which brokers the host follows, and by what certificate.
type BundleFeed struct {
	Brokers []string `json:"brokers"` // host:port
	CA      string   `json:"ca"`      // PEM, of the brokers' certificates
	Cert    string   `json:"cert"`    // PEM, the host's
	Key     string   `json:"key"`     // PEM, its key
}

// BundleKerberos is the realm, and the keys of the host in it: keytab files.
type BundleKerberos struct {
	Realm   string   `json:"realm"`
	KDC     []string `json:"kdc"`     // host:port
	Kpasswd []string `json:"kpasswd"` // host:port
	// HostKeytab has the keys of host/FQDN, for sshd; ServiceKeytab those of
	// sekisho/FQDN, for sekishod.
	HostKeytab    []byte `json:"host_keytab"`
	ServiceKeytab []byte `json:"service_keytab"`
}

// String keeps secrets out of logs.
func (b Bundle) String() string   { return "bundle of " + b.Host }
func (b Bundle) GoString() string { return b.String() }

// WriteBundle writes a new file that only its owner can read.
func WriteBundle(path string, b Bundle) error {
	b.Version = bundleVersion
	if err := b.Validate(); err != nil {
		return fmt.Errorf("writing a bundle: %w", err)
	}
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return fmt.Errorf("writing a bundle: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("writing a bundle: %w", err)
	}
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("writing a bundle: %w", err)
	}
	return nil
}

// ReadBundle reads a bundle, strictly, out of a file of the caller's own that
// nobody else can read. The error never holds what is in it.
func ReadBundle(path string) (Bundle, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return Bundle{}, fmt.Errorf("reading the bundle: %w", err)
	}
	defer f.Close()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return Bundle{}, fmt.Errorf("reading the bundle: %w", err)
	}
	switch {
	case st.Mode&syscall.S_IFMT != syscall.S_IFREG:
		return Bundle{}, fmt.Errorf("%s is no regular file", path)
	case st.Mode&0o077 != 0 || int(st.Uid) != os.Geteuid():
		return Bundle{}, fmt.Errorf("%s can be read or changed by others, and it holds keys: chown it to yourself, chmod 0600 it, and make a new one (sekisho host bundle --again) if they may have", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxBundle+1))
	if err != nil {
		return Bundle{}, fmt.Errorf("reading the bundle: %w", err)
	}
	b, err := parseBundle(text)
	if err != nil {
		return Bundle{}, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

func parseBundle(text []byte) (Bundle, error) {
	if len(text) > maxBundle {
		return Bundle{}, errors.New("it is too long for a bundle")
	}
	var version struct{ Version int }
	if err := json.Unmarshal(text, &version); err != nil {
		return Bundle{}, errors.New("it is no bundle, or not all of one: make it with sekisho host bundle")
	}
	if version.Version != bundleVersion {
		return Bundle{}, fmt.Errorf("it is a bundle of version %d, and this program reads version %d: use the same sekisho release on both machines", version.Version, bundleVersion)
	}
	var b Bundle
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&b); err != nil {
		return Bundle{}, errors.New("it is no bundle of this version")
	}
	if _, err := dec.Token(); err != io.EOF {
		return Bundle{}, errors.New("something follows the bundle")
	}
	if err := b.Validate(); err != nil {
		return Bundle{}, err
	}
	return b, nil
}

var (
	hostForm  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
	realmForm = regexp.MustCompile(`^[A-Z0-9]([A-Z0-9.-]{0,198}[A-Z0-9])?$`)
	// plain is what is written into configuration files; no quote, backslash,
	// control character or comment sign is in it.
	plainForm = regexp.MustCompile(`^[A-Za-z0-9 .,:;=/_@+\[\]()-]{1,500}$`)
)

// Validate tells what is wrong, and never a secret.
func (b Bundle) Validate() error {
	k := b.Kerberos
	if (b.Directory == nil) == (b.Feed == nil) {
		return errors.New("it must name a directory or brokers to follow, and not both")
	}
	checks := b.Feed.checks()
	if b.Directory != nil {
		checks = b.Directory.checks()
	}
	for _, c := range append(checks, []check{
		{"host", len(b.Host) <= 253 && hostForm.MatchString(b.Host)},
		{"fqdn", len(b.FQDN) <= 253 && hostForm.MatchString(b.FQDN) && strings.Contains(b.FQDN, ".")},
		{"kerberos.realm", realmForm.MatchString(k.Realm)},
		{"kerberos.kdc", len(k.KDC) > 0 && len(k.KDC) <= 32 && all(k.KDC, address)},
		{"kerberos.kpasswd", len(k.Kpasswd) <= 32 && all(k.Kpasswd, address)},
		{"kerberos.host_keytab", len(k.HostKeytab) > 2},
		{"kerberos.service_keytab", len(k.ServiceKeytab) > 2},
		{"clock", len(b.Clock) <= 32 && all(b.Clock, func(s string) bool { return plainForm.MatchString(s) && !strings.Contains(s, " ") })},
	}...) {
		if !c.ok {
			return fmt.Errorf("%s is missing or not what belongs there", c.what)
		}
	}
	return nil
}

// check is one thing in a bundle, and whether it is what belongs there.
type check struct {
	what string
	ok   bool
}

func (d *BundleDirectory) checks() []check {
	return []check{
		{"directory.url", len(d.URL) > 0 && len(d.URL) <= 32 && all(d.URL, func(u string) bool { return plainForm.MatchString(u) && strings.HasPrefix(u, "ldaps://") })},
		{"directory.base", plainForm.MatchString(d.Base)},
		{"directory.rule_base", plainForm.MatchString(d.RuleBase)},
		{"directory.bind_dn", plainForm.MatchString(d.BindDN)},
		{"directory.password", d.Password != "" && len(d.Password) <= 1024 && !strings.ContainsAny(d.Password, "\x00\r\n")},
		{"directory.ca", certificates(d.CA)},
		{"directory.schema", hostForm.MatchString(d.Schema)},
	}
}

func (f *BundleFeed) checks() []check {
	if f == nil {
		return nil
	}
	pair, err := tls.X509KeyPair([]byte(f.Cert), []byte(f.Key))
	return []check{
		{"feed.brokers", len(f.Brokers) > 0 && len(f.Brokers) <= 16 && all(f.Brokers, address)},
		{"feed.ca", certificates(f.CA)},
		{"feed.cert", certificates(f.Cert) && err == nil && len(pair.Certificate) == 1},
		{"feed.key", err == nil && privateKey(f.Key)},
	}
}

// privateKey tells whether text is one key and nothing else.
func privateKey(text string) bool {
	block, rest := pem.Decode([]byte(text))
	return block != nil && block.Type == "PRIVATE KEY" && len(block.Headers) == 0 && len(bytes.TrimSpace(rest)) == 0
}

func all(list []string, ok func(string) bool) bool {
	for _, s := range list {
		if !ok(s) {
			return false
		}
	}
	return true
}

// address tells whether s is HOST:PORT.
func address(s string) bool {
	host, port, err := net.SplitHostPort(s)
	n, perr := strconv.Atoi(port)
	return err == nil && perr == nil && n > 0 && n < 1<<16 && (net.ParseIP(host) != nil || hostForm.MatchString(host))
}

// certificates tells whether text is certificates and nothing else.
func certificates(text string) bool {
	rest, n := []byte(text), 0
	for len(bytes.TrimSpace(rest)) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return false
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return false
		}
		n++
	}
	return n > 0 && n <= 32
}
