package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

func (c Config) checkFeed() error {
	f := c.Feed
	if len(f.Listen) == 0 {
		f.Listen = nil // empty or absent is the same
		if !reflect.DeepEqual(f, Feed{}) {
			return errors.New("[feed] is set, but feed.listen is not: name the addresses for hosts, or take the section out")
		}
		return nil
	}
	if c.Follows() {
		return errors.New("feed.listen and upstream.brokers exclude each other: a host that follows a broker has too little to hand on")
	}
	if len(f.Listen) > 16 {
		return errors.New("feed.listen has more than 16 addresses")
	}
	for _, v := range f.Listen {
		if a, err := netip.ParseAddrPort(v); err != nil || a.Port() == 0 {
			return fmt.Errorf("feed.listen %q must be IP:PORT, such as 203.0.113.1:7143", clip(v))
		}
	}
	if (f.CertFile == "") != (f.KeyFile == "") {
		return errors.New("feed.cert_file and feed.key_file go together: set both or none")
	}
	for _, p := range []struct{ key, path string }{{"cert_file", f.CertFile}, {"key_file", f.KeyFile}, {"ca_file", f.CAFile}} {
		if p.path == "" && !c.Embedded() {
			return fmt.Errorf("feed.%s is not set: only the embedded realm has certificates of its own", p.key)
		}
		if p.path != "" && !filepath.IsAbs(p.path) {
			return fmt.Errorf("feed.%s %q must be an absolute path", p.key, clip(p.path))
		}
	}
	if f.Unpinned && c.Embedded() {
		return errors.New("feed.unpinned is for a directory that somebody else runs: in the embedded realm, sekisho host bundle pins each host's key")
	}
	return nil
}

func (c Config) checkUpstream() error {
	u := c.Upstream
	if !c.Follows() {
		u.Brokers = nil
		if !reflect.DeepEqual(u, Default().Upstream) {
			return errors.New("[upstream] is set, but upstream.brokers is not: name the brokers, or take the section out")
		}
		return nil
	}
	d, r := c.Directory, c.Realm
	if len(d.URL) == 0 {
		d.URL = nil
	}
	switch {
	case len(d.URL) > 0:
		return errors.New("upstream.brokers and directory.url exclude each other: this host follows either a broker or the directory")
	case !reflect.DeepEqual(d, Default().Directory):
		return errors.New("[directory] is for a directory, but upstream.brokers is set: take one of them out")
	case !reflect.DeepEqual(r, Default().Realm):
		return errors.New("[realm] is for the embedded realm, but upstream.brokers is set: take one of them out")
	}
	if len(u.Brokers) > 16 {
		return errors.New("upstream.brokers has more than 16")
	}
	for _, v := range u.Brokers {
		host, port, err := net.SplitHostPort(v)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil || n == 0 || net.ParseIP(host) == nil && !hostName.MatchString(strings.ToLower(host)) {
			return fmt.Errorf("upstream.brokers %q must be HOST:PORT, such as broker1.example.org:7143", clip(v))
		}
	}
	for _, p := range []struct{ key, path string }{{"cert_file", u.CertFile}, {"key_file", u.KeyFile}, {"ca_file", u.CAFile}} {
		if !filepath.IsAbs(p.path) {
			return fmt.Errorf("upstream.%s %q must be an absolute path", p.key, clip(p.path))
		}
	}
	if how := c.PasswordProver(); !slices.Contains([]string{"kdc", "none"}, how) && !isPAMProver(how) {
		return fmt.Errorf("pam.password %q needs a directory, but upstream.brokers is set: write kdc, none or pam:SERVICE", clip(how))
	}
	return nil
}

// inspectUpstream looks at the files that [upstream] names.
func (c Config) inspectUpstream() (problems []string) {
	u := c.Upstream
	for _, f := range []struct{ key, path, has string }{{"cert_file", u.CertFile, "-----BEGIN CERTIFICATE-----"}, {"ca_file", u.CAFile, "-----BEGIN CERTIFICATE-----"},
		{"key_file", u.KeyFile, "PRIVATE KEY-----"}} {
		b, err := os.ReadFile(f.path)
		switch {
		case err != nil:
			problems = append(problems, fmt.Sprintf("upstream.%s: %v: sekisho host enrol writes it", f.key, err))
		case !strings.Contains(string(b), f.has):
			problems = append(problems, fmt.Sprintf("upstream.%s: %s is not what belongs there (PEM)", f.key, f.path))
		}
		if f.key != "key_file" || err != nil {
			continue
		}
		if st, err := os.Stat(f.path); err == nil && st.Mode().Perm()&0o027 != 0 {
			problems = append(problems, fmt.Sprintf("upstream.key_file: %s can be read by others: chown root:%s %s, chmod 0640 %s", f.path, c.User, f.path, f.path))
		}
	}
	return problems
}

// inspectFeed looks at the files that [feed] names.
func (c Config) inspectFeed() (problems []string) {
	for _, f := range []struct{ key, path string }{{"cert_file", c.Feed.CertFile}, {"key_file", c.Feed.KeyFile}, {"ca_file", c.Feed.CAFile}} {
		if f.path == "" {
			continue
		}
		if _, err := os.Stat(f.path); err != nil {
			problems = append(problems, fmt.Sprintf("feed.%s: %v", f.key, err))
		}
	}
	return problems
}
