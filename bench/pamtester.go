package main

import (
	"context"
	"errors"

	"github.com/sekisho/sekisho/testenv"
)

// measurePamtester compares the wall time of one sign-in through PAM by the same
// KDC: the program, the modules that it loads, and all that they ask.
func measurePamtester(ctx context.Context, b *bench) (err error) {
	r, err := b.theRealm(ctx)
	if err != nil {
		return err
	}
	var cs []timed
	for _, h := range []*testenv.Host{r.web, r.krb5, r.sss} {
		s, stop := startOn(h)
		defer func() { err = errors.Join(err, stop()) }()
		cs = append(cs, timed{s, command{args: append([]string{"/usr/bin/pamtester"}, pamtest...), input: realmPassword + "\n"}})
	}
	took, err := alternate(ctx, pick(60, 5), cs)
	if err != nil {
		return err
	}
	ms := medians(took, 1e3)
	for i, peer := range []string{"", "pam_krb5", "pam_sss"} {
		if i > 0 {
			b.table.add(row{name: "pamtester authenticate acct_mgmt, by KDC", ours: ms[0], peer: ms[i], peerName: peer,
				unit: "ms", bound: bound{"ratio", "<=", 1}})
		}
	}
	return nil
}
