package accept

import (
	"errors"

	"github.com/sekisho/sekisho/krb"
)

// Keytab is a set of service keys, of several principals and versions.
type Keytab struct{}

// OpenKeytab reads a keytab file, and reads it again when it has changed, so that
// keys are rolled over without a restart. While the new file cannot be read,
// the old keys stay in use and Err tells why.
func OpenKeytab(path string) (*Keytab, error) { return nil, errors.New("not yet written") }

// StaticKeytab is a set that never changes.
func StaticKeytab(entries []krb.KeytabEntry) (*Keytab, error) {
	return nil, errors.New("not yet written")
}

// Err is nil unless the file has changed and the change could not be read.
func (k *Keytab) Err() error { return nil }

// Principals are those that have a key, in no order.
func (k *Keytab) Principals() []krb.Principal { return nil }
