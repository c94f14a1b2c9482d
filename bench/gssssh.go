package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/sekisho/sekisho/testenv"
)

// measureGSSSSH compares whole logins by ticket: what our account and session
// steps and our users add to an sshd that has a keytab and a local account.
func measureGSSSSH(ctx context.Context, b *bench) (err error) {
	r, err := b.theRealm(ctx)
	if err != nil {
		return err
	}
	const cache = "KRB5CCNAME=FILE:/root/cc"
	kinit := r.client.Command(ctx, "kinit", "alice")
	kinit.Env = append(kinit.Env, cache)
	kinit.Stdin = strings.NewReader(realmPassword + "\n")
	if out, err := kinit.CombinedOutput(); err != nil {
		return fmt.Errorf("kinit: %w: %s", err, out)
	}
	client, stop := startOn(r.client)
	defer func() { err = errors.Join(err, stop()) }()
	var cs []timed
	for _, h := range []*testenv.Host{r.web, r.plain} {
		call := testenv.SSHCall{To: h, User: "alice", Command: "id -un", Options: []string{"GSSAPIAuthentication=yes", "PreferredAuthentications=gssapi-with-mic"}}
		for range 2 { // the second one has the ticket for the host, and a home
			c := r.client.SSH(ctx, call)
			c.Env = append(c.Env, cache)
			if out, err := c.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "alice" {
				return fmt.Errorf("logging in to %s: %w: %s", h.Name, err, out)
			}
		}
		call.Command = "true"
		c := r.client.SSH(ctx, call)
		cs = append(cs, timed{client, command{args: append([]string{c.Path}, c.Args[1:]...), env: []string{cache}}})
	}
	took, err := alternate(ctx, pick(60, 5), cs)
	if err != nil {
		return err
	}
	ms := medians(took, 1e3)
	b.table.add(row{name: "ssh host true, by ticket", ours: ms[0], peer: ms[1], peerName: "keytab, local passwd", unit: "ms"})
	b.table.add(row{name: "ssh host true, by ticket, what it adds", ours: 1e3 * median(differences(took[0], took[1])), peer: math.NaN(),
		unit: "ms", bound: bound{"ours", "<=", 10}})
	return nil
}
