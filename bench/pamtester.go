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
	if err := b.pamtester(ctx, cs, "", bound{"ratio", "<=", 1}); err != nil {
		return err
	}
	for _, types := range []string{"", keyTypes} {
		for _, h := range []*testenv.Host{r.krb5, r.sss} {
			if err := h.WriteFile("/etc/krb5.conf", r.krb5Conf(types), 0o644); err != nil {
				return err
			}
		}
		if types == "" {
			if err := b.pamtester(ctx, cs, ", peers with the SHA-1 keys that libkrb5 prefers", bound{}); err != nil {
				return err
			}
		}
	}
	return nil
}

// pamtester compares the first of cs with the others.
func (b *bench) pamtester(ctx context.Context, cs []timed, how string, bound bound) error {
	took, err := alternate(ctx, pick(60, 4), cs)
	if err != nil {
		return err
	}
	ms := medians(took, 1e3)
	for i, peer := range []string{"pam_krb5", "pam_sss"} {
		b.table.add(row{name: "pamtester authenticate acct_mgmt, by KDC" + how, ours: ms[0], peer: ms[i+1], peerName: peer, unit: "ms", bound: bound})
	}
	return nil
}
