package main

import (
	"context"
	"errors"
)

// measureAKC compares the wall time of AuthorizedKeysCommands, each started by
// fork and exec as the user that sshd starts it as.
func measureAKC(ctx context.Context, b *bench) (err error) {
	w, err := b.theWorld(ctx)
	if err != nil {
		return err
	}
	cred, err := account(ctx, "sekisho-keys")
	if err != nil {
		return err
	}
	web, stopWeb := startOn(w.web)
	sss, stopSSS := startOn(w.sss)
	defer func() { err = errors.Join(err, stopWeb(), stopSSS()) }()

	took, err := alternate(ctx, pick(600, 20), []timed{
		{web, command{args: append([]string{akcPath}, w.question()...), cred: cred}},
		{sss, command{args: []string{sssPath, "alice"}, cred: cred}},
		{web, command{args: append([]string{tinyPath, sockPath}, w.question()...), cred: cred}},
		{web, command{args: []string{"/bin/true"}, cred: cred}},
	})
	if err != nil {
		return err
	}
	ms := medians(took, 1e3)
	b.table.add(row{name: "sekisho-keys, wall time", ours: ms[0], peer: ms[1], peerName: "sss_ssh_authorizedkeys, cached",
		unit: "ms", bound: bound{"ratio", "<=", 0.40}})
	b.table.add(row{name: "sekisho-keys, wall time", ours: ms[0], peer: ms[2], peerName: "static C that connects and prints",
		unit: "ms", bound: bound{"ratio", "<=", 2.8}})
	b.table.add(row{name: "sekisho-keys, wall time", ours: ms[0], peer: ms[3], peerName: "/bin/true", unit: "ms"})
	return nil
}

// measureSSH compares whole logins from another host.
func measureSSH(ctx context.Context, b *bench) (err error) {
	w, err := b.theWorld(ctx)
	if err != nil {
		return err
	}
	client, stop := startOn(w.client)
	defer func() { err = errors.Join(err, stop()) }()

	var cs []timed
	for _, c := range []string{"web", "plain", "sss"} {
		h, err := w.Host(c)
		if err != nil {
			return err
		}
		cmd := w.login(ctx, h)
		cs = append(cs, timed{client, command{args: append([]string{cmd.Path}, cmd.Args[1:]...)}})
	}
	took, err := alternate(ctx, pick(60, 5), cs)
	if err != nil {
		return err
	}
	ms := medians(took, 1e3)
	for _, t := range took {
		for i := range t {
			t[i] *= 1e3
		}
	}
	b.table.add(row{name: "ssh host true", ours: ms[0], peer: ms[1], peerName: "key file, local passwd", unit: "ms"})
	b.table.add(row{name: "ssh host true, what it adds", ours: median(differences(took[0], took[1])),
		peer: median(differences(took[2], took[1])), peerName: "what sssd adds", unit: "ms", bound: bound{"ours", "<=", 8}})
	return nil
}

// timed is a command and who starts it.
type timed struct {
	by *starter
	command
}

// alternate runs all commands once a round, each round beginning with the next
// of them, and returns their seconds, by command and round.
func alternate(ctx context.Context, rounds int, cs []timed) ([][]float64, error) {
	took := make([][]float64, len(cs))
	for r := range rounds {
		for i := range cs {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			c := (r + i) % len(cs)
			run := cs[c].by.run(cs[c].command)
			if run.err != nil {
				return nil, run.err
			}
			took[c] = append(took[c], run.took.Seconds())
		}
	}
	return took, nil
}

func medians(vs [][]float64, scale float64) []float64 {
	var out []float64
	for _, v := range vs {
		out = append(out, median(v)*scale)
	}
	return out
}
