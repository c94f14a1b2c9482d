package realm

import (
	"time"

	"github.com/sirupsen/logrus"
)

// Config is what Open needs. Only Dir, RunDir and Log must be set.
type Config struct {
	// Dir is the state directory, for example /var/lib/sekisho. Made if absent.
	Dir string
	// RunDir holds sockets and files made at each start, for example /run/sekisho.
	// Made if absent; must be readable by all who use ldapi.
	RunDir string
	// Domain names the realm; default sekisho.internal. It gives the base DN
	// dc=sekisho,dc=internal and the Kerberos realm SEKISHO.INTERNAL.
	Domain string
	// Names are further host names and IP addresses for the server certificate;
	// the host's own name, localhost and the listen addresses are always in it.
	Names []string
	// LDAP, LDAPS and KDC are listen addresses, host:port with an IP address;
	// default 127.0.0.1 and [::1] with ports 389, 636 and 88.
	LDAP, LDAPS, KDC []string
	// UID and GID are the user that slapd and the KDC run as. When this process
	// is root they are set on the children; 0 means "as this process".
	UID, GID int
	// AdminUIDs are users besides root who are the directory's administrator
	// over ldapi. Whoever starts a realm as himself, without root, lists his own
	// uid here to administer it; sekishod then acts with the same rights.
	AdminUIDs []int
	// Log gets supervision events.
	Log *logrus.Entry
	// Now is the clock; default time.Now.
	Now func() time.Time
}
