package admin

import (
	"context"
	"fmt"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/ldapsync"
)

// ranges are the numbers that new users and groups get: those that no
// distribution gives to local accounts and systemd gives to nothing
// (https://systemd.io/UIDS-GIDS).
var ranges = [][2]uint32{{10000, 59999}, {65536, 524287}, {1879048192, 2147483646}}

// NextNumber returns a number, not less than from, that is neither a uid nor a
// gid in the directory, and greater than all that are in its range; so that the
// number of somebody who left is not soon another's. Two callers at once get
// the same: whoever writes second is told by the directory, and asks again.
func (d *Directory) NextNumber(ctx context.Context, from uint32) (uint32, error) {
	for _, r := range ranges {
		lo, hi := max(r[0], d.c.UIDMin, from), min(r[1], d.c.UIDMax)
		if lo > hi {
			continue
		}
		n, err := d.above(ctx, lo, hi)
		if err != nil {
			return 0, err
		}
		for ; n <= hi; n++ {
			if !d.c.Taken(n) {
				return n, nil
			}
		}
	}
	return 0, refuse("no number is left for a new account: give one with --uid, or raise userdb.uid_max")
}

// above finds the least number in lo to hi+1 that no number used up to hi
// reaches, by halves.
func (d *Directory) above(ctx context.Context, lo, hi uint32) (uint32, error) {
	top := hi
	for lo <= hi {
		mid := lo + (hi-lo)/2
		used, err := d.usedBetween(ctx, mid, top)
		if err != nil {
			return 0, err
		}
		if used {
			lo = mid + 1
		} else {
			if mid == lo {
				return lo, nil
			}
			hi = mid
		}
	}
	return lo, nil
}

// usedBetween reports whether an entry has a number from lo to hi.
func (d *Directory) usedBetween(ctx context.Context, lo, hi uint32) (bool, error) {
	f := fmt.Sprintf("(|(&(uidNumber>=%d)(uidNumber<=%d))(&(gidNumber>=%d)(gidNumber<=%d)))", lo, hi, lo, hi)
	es, err := d.c.Client.Search(ctx, ldap.NewSearchRequest(d.c.Layout.Base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases,
		1, 0, false, f, []string{"1.1"}, nil))
	if ldapsync.IsCode(err, ldap.LDAPResultSizeLimitExceeded) {
		return true, nil
	}
	return len(es) > 0, err
}

// holders counts the entries with that uid number, up to two.
func (d *Directory) holders(ctx context.Context, attr string, n uint32) (int, error) {
	es, err := d.c.Client.Search(ctx, ldap.NewSearchRequest(d.c.Layout.Base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases,
		2, 0, false, fmt.Sprintf("(%s=%d)", attr, n), []string{"1.1"}, nil))
	if ldapsync.IsCode(err, ldap.LDAPResultSizeLimitExceeded) {
		return 2, nil
	}
	return len(es), err
}
