package state

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
)

// Config says where the store is: Dir or Servers.
type Config struct {
	// Dir is the folder of the store in this process. It is made if need be; only
	// its owner may read it. A second process that opens it is refused.
	Dir string
	// MaxDisk is how many bytes the store may take on a disk, 0 is 2 GiB; one
	// bucket has an eighth of it.
	MaxDisk int64

	// Servers are the cluster's, `tls://HOST:PORT`.
	Servers []string
	// CAFile, CertFile and KeyFile are the PEM files of the servers' authorities
	// and of our own certificate and key. They are read at each connection, so
	// they may be renewed.
	CAFile, CertFile, KeyFile string
	// Replicas is on how many servers each value is kept: 1, 3 or 5. 0 is 3.
	Replicas int

	// MaxKeys bounds single buckets otherwise than the package does.
	MaxKeys map[string]int
	// Log is told when the store is lost and found. It is never told a key or a
	// value.
	Log *logrus.Entry
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

func (c *Config) validate() error {
	if (c.Dir == "") == (len(c.Servers) == 0) {
		return errors.New("a state store needs either a folder or the servers of a cluster")
	}
	if c.Log == nil {
		return errors.New("a state store needs a log")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Dir != "" {
		if !filepath.IsAbs(c.Dir) {
			return fmt.Errorf("the folder %q must be an absolute path", c.Dir)
		}
		c.Replicas = 1
	}
	if c.MaxDisk == 0 {
		c.MaxDisk = 2 << 30
	}
	if c.MaxDisk < 64<<20 {
		return errors.New("the store needs 64 MiB of disk or more")
	}
	if c.Replicas == 0 {
		c.Replicas = 3
	}
	if c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5 {
		return fmt.Errorf("replicas are %d: 1, 3 or 5 are possible", c.Replicas)
	}
	for _, s := range c.Servers {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "tls" || u.Hostname() == "" || u.Port() == "" || u.User != nil || u.Path != "" {
			return fmt.Errorf("server %q must be tls://HOST:PORT", s)
		}
	}
	if len(c.Servers) > 0 && (c.CAFile == "" || c.CertFile == "" || c.KeyFile == "") {
		return errors.New("a cluster needs ca_file, cert_file and key_file: both sides show a certificate")
	}
	for b, n := range c.MaxKeys {
		if _, ok := bucketNamed(b); !ok {
			return fmt.Errorf("there is no bucket %q", b)
		}
		if n < 1 {
			return fmt.Errorf("bucket %s needs room for at least one key", b)
		}
	}
	return nil
}
