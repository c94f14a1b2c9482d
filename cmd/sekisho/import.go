package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sekisho/sekisho/cmd/internal/accounts"
	"github.com/sekisho/sekisho/cmd/internal/admin"
)

// importMax is the end of the numbers that distributions give to people; what
// is above is nobody's, or systemd's.
const importMax = 60000

func (a *app) importCommand() *cobra.Command {
	var o importOptions
	c := &cobra.Command{
		Use: "import", Short: "Take over users, groups and SSH keys of this machine", Args: noArgs,
		Long: `Take over the users and groups of /etc/passwd and /etc/group, and the SSH keys of
each user's authorized_keys with their options. Without --apply nothing is written:
a table shows what would be done and what is left out, and why. What the directory
has already stays as it is, so that the command can be given again.

Passwords are never taken over: set new ones with sekisho passwd. The local
accounts stay too, and go before those of the directory until they are removed.`,
		Example: `  sekisho import
  sekisho import --users --groups --uid-min 1000
  sekisho import --apply`,
		RunE: func(c *cobra.Command, _ []string) error {
			if !o.users && !o.groups && !o.keys {
				o.users, o.groups, o.keys = true, true, true
			}
			if o.min == 0 || o.min >= importMax {
				return usagef("--uid-min %d: write a number from 1 to %d", o.min, importMax-1)
			}
			return a.work(c, func(ctx context.Context, d *admin.Directory) error { return a.importAll(ctx, d, o) })
		},
	}
	f := c.Flags()
	f.BoolVar(&o.users, "users", false, "users (default: users, groups and keys)")
	f.BoolVar(&o.groups, "groups", false, "groups and who is in them")
	f.BoolVar(&o.keys, "keys", false, "SSH keys of users who are in the directory then")
	f.Uint32Var(&o.min, "uid-min", 1000, "the lowest uid and gid to take over")
	f.BoolVar(&o.apply, "apply", false, "write it, instead of showing it")
	return c
}

type importOptions struct {
	users, groups, keys, apply bool
	min                        uint32
}

// step is one line of the table.
type step struct {
	Kind   string `json:"kind"` // user, group, key
	Name   string `json:"name"`
	Action string `json:"action"` // add, added, there, skip, failed
	Note   string `json:"note,omitempty"`

	do func(context.Context) error // nil unless Action is add
}

func skip(kind, name, format string, args ...any) step {
	return step{Kind: kind, Name: name, Action: "skip", Note: fmt.Sprintf(format, args...)}
}

// importAll plans everything, then does it when asked to.
func (a *app) importAll(ctx context.Context, d *admin.Directory, o importOptions) error {
	users, badUsers, err := accounts.Users("")
	if err != nil {
		return err
	}
	groups, badGroups, err := accounts.Groups("")
	if err != nil {
		return err
	}
	p := &importer{app: a, dir: d, o: o, users: users, groups: groups, known: map[string]bool{}}
	var steps []step
	for _, e := range append(badUsers, badGroups...) {
		steps = append(steps, step{Kind: "line", Name: "?", Action: "skip", Note: e.Error()})
	}
	for _, plan := range []func(context.Context) ([]step, error){p.planUsers, p.planGroups, p.planKeys} {
		more, err := plan(ctx)
		if err != nil {
			return err
		}
		steps = append(steps, more...)
	}
	failed := 0
	for i := range steps {
		s := &steps[i]
		if !o.apply || s.do == nil {
			continue
		}
		if err := s.do(ctx); err != nil {
			if ctx.Err() != nil || codeOf(err) == exitUnknown {
				return fmt.Errorf("importing the %s %s: %w: what was done stays; give the command again", s.Kind, s.Name, err)
			}
			s.Action, s.Note = "failed", err.Error()
			failed++
			continue
		}
		s.Action = "added"
	}
	if err := a.printSteps(steps, o.apply); err != nil {
		return err
	}
	if failed > 0 {
		return exit(exitNo)
	}
	return nil
}

func (a *app) printSteps(steps []step, applied bool) error {
	if a.json {
		if steps == nil {
			steps = []step{}
		}
		return a.printJSON(steps)
	}
	var rows [][]string
	n := map[string]int{}
	for _, s := range steps {
		rows = append(rows, []string{s.Action, s.Kind, s.Name, s.Note})
		n[s.Action]++
	}
	if err := a.table([]string{"ACTION", "KIND", "NAME", "NOTE"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	if !applied {
		a.say("%d to add, %d there already, %d skipped; nothing was written: give --apply to do it", n["add"], n["there"], n["skip"])
	} else {
		a.say("%d added, %d there already, %d skipped, %d failed", n["added"], n["there"], n["skip"], n["failed"])
	}
	a.say("passwords are not taken over: set new ones with sekisho passwd")
	return nil
}

// importer plans what to take over.
type importer struct {
	app    *app
	dir    *admin.Directory
	o      importOptions
	users  []accounts.User
	groups []accounts.Group
	known  map[string]bool // users who are in the directory, or will be
}

// ours tells whether a local user is a person.
func (p *importer) ours(u accounts.User) bool { return u.UID >= p.o.min && u.UID < importMax }

func (p *importer) planUsers(ctx context.Context) ([]step, error) {
	var out []step
	numbers := map[uint32]string{}
	for _, u := range p.users {
		if !p.ours(u) {
			continue
		}
		have, err := p.dir.User(ctx, u.Name)
		var none *admin.NoneError
		switch {
		case err == nil && have.UID == u.UID:
			p.known[u.Name] = true
			if p.o.users {
				out = append(out, step{Kind: "user", Name: u.Name, Action: "there"})
			}
			continue
		case err == nil:
			if p.o.users {
				out = append(out, skip("user", u.Name, "the directory has another user of this name, with uid %d and not %d", have.UID, u.UID))
			}
			continue
		case !errors.As(err, &none):
			return nil, err
		}
		if !p.o.users {
			continue
		}
		if err := admin.CheckUserName(u.Name); err != nil {
			out = append(out, skip("user", u.Name, "%v", err))
			continue
		}
		if other := numbers[u.UID]; other != "" {
			out = append(out, skip("user", u.Name, "uid %d is %s's too", u.UID, other))
			continue
		}
		if who, err := p.dir.UserByNumber(ctx, u.UID); err != nil {
			return nil, err
		} else if who != "" {
			out = append(out, skip("user", u.Name, "uid %d is %s's in the directory", u.UID, who))
			continue
		}
		numbers[u.UID], p.known[u.Name] = u.Name, true
		out = append(out, p.addUser(u))
	}
	return out, nil
}

func (p *importer) addUser(u accounts.User) step {
	name, _, _ := strings.Cut(u.Gecos, ",") // the rest is rooms and telephones
	nu := admin.NewUser{Name: u.Name, Common: name, Home: u.Home, Shell: u.Shell, UID: u.UID, GID: u.GID}
	note := fmt.Sprintf("uid %d, gid %d", u.UID, u.GID)
	switch {
	case p.ownGroup(u):
		nu.GID = 0
		note = fmt.Sprintf("uid %d and a group of the same number", u.UID)
	case u.GID < p.o.min: // the directory gives no such number to anybody
		nu.GID = 0
		note = fmt.Sprintf("uid %d; a group of his own in place of gid %d", u.UID, u.GID)
	}
	return step{Kind: "user", Name: u.Name, Action: "add", Note: note, do: func(ctx context.Context) error {
		_, err := p.dir.AddUser(ctx, nu)
		return err
	}}
}

// ownGroup tells whether the user's primary group is one of his own.
func (p *importer) ownGroup(u accounts.User) bool {
	return u.GID == u.UID && slices.ContainsFunc(p.groups, func(g accounts.Group) bool {
		return g.GID == u.GID && g.Name == u.Name && !slices.ContainsFunc(g.Members, func(m string) bool { return m != u.Name })
	})
}

func (p *importer) planGroups(ctx context.Context) ([]step, error) {
	var out []step
	if !p.o.groups {
		return nil, nil
	}
	for _, g := range p.groups {
		if g.GID < p.o.min || g.GID >= importMax {
			continue
		}
		if i := slices.IndexFunc(p.users, func(u accounts.User) bool { return u.Name == g.Name }); i >= 0 && p.ownGroup(p.users[i]) {
			continue // it goes with its user
		}
		s, err := p.planGroup(ctx, g)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func (p *importer) planGroup(ctx context.Context, g accounts.Group) (step, error) {
	var m admin.Members
	var left []string
	for _, u := range g.Members {
		if p.known[u] {
			m.Users = append(m.Users, u)
		} else {
			left = append(left, u)
		}
	}
	note := fmt.Sprintf("gid %d", g.GID)
	if len(m.Users) > 0 {
		note += ", with " + list(m.Users)
	}
	if len(left) > 0 {
		note += "; without " + list(left) + ", who would not be in the directory"
	}
	have, err := p.dir.Group(ctx, g.Name)
	var none *admin.NoneError
	switch {
	case errors.As(err, &none):
	case err != nil:
		return step{}, err
	case have.GID != g.GID:
		return skip("group", g.Name, "the directory has another group of this name, with %s", "gid "+gidText(have.GID)), nil
	default:
		m.Users = slices.DeleteFunc(m.Users, func(u string) bool { return slices.Contains(have.Users, u) })
		if len(m.Users) == 0 {
			return step{Kind: "group", Name: g.Name, Action: "there"}, nil
		}
		return step{Kind: "group", Name: g.Name, Action: "add", Note: "members " + list(m.Users), do: func(ctx context.Context) error {
			_, _, err := p.dir.SetGroup(ctx, g.Name, admin.GroupChange{Add: m})
			return err
		}}, nil
	}
	if err := admin.CheckGroupName(g.Name); err != nil {
		return skip("group", g.Name, "%v", err), nil
	}
	return step{Kind: "group", Name: g.Name, Action: "add", Note: note, do: func(ctx context.Context) error {
		_, err := p.dir.AddGroup(ctx, g.Name, "", true, g.GID, m)
		return err
	}}, nil
}

func (p *importer) planKeys(ctx context.Context) ([]step, error) {
	if !p.o.keys {
		return nil, nil
	}
	cfg, err := p.app.config()
	if err != nil {
		return nil, err
	}
	var out []step
	for _, u := range p.users {
		if !p.ours(u) || !p.known[u.Name] {
			continue
		}
		have, err := p.dir.Keys(ctx, u.Name)
		var none *admin.NoneError
		if err != nil && !errors.As(err, &none) { // none: he is still to be added
			return nil, err
		}
		there := map[string]bool{}
		for _, k := range have {
			there[k.ID] = true
		}
		for _, file := range []string{".ssh/authorized_keys", ".ssh/authorized_keys2"} {
			path := u.Home + "/" + file
			lines, err := readAuthorizedKeys(path, u.UID)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				out = append(out, skip("key", u.Name, "%v", err))
				continue
			}
			for _, l := range lines {
				k := admin.ReadKey(l.text, cfg.Policy())
				switch {
				case k.Fault != "":
					out = append(out, skip("key", u.Name, "%s:%d: %s", path, l.number, k.Fault))
				case there[k.ID]:
					out = append(out, step{Kind: "key", Name: u.Name, Action: "there", Note: k.ID})
				default:
					there[k.ID] = true
					out = append(out, step{Kind: "key", Name: u.Name, Action: "add",
						Note: strings.TrimSpace(k.Type + " " + k.ID + " " + k.Comment + " " + k.Options),
						do: func(ctx context.Context) error {
							_, err := p.dir.AddKeys(ctx, u.Name, []string{l.text})
							return err
						}})
				}
			}
		}
	}
	return out, nil
}

type keyLine struct {
	number int
	text   string
}

// readAuthorizedKeys reads a file in somebody's home as root: it must be a
// regular file of his or root's, as sshd wants it, and is not waited for.
func readAuthorizedKeys(path string, uid uint32) ([]keyLine, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	switch {
	case !st.Mode().IsRegular() || !ok:
		return nil, fmt.Errorf("%s is no regular file", path)
	case sys.Uid != uid && sys.Uid != 0:
		return nil, fmt.Errorf("%s belongs to uid %d: sshd does not take it either", path, sys.Uid)
	case st.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("%s can be written by others (mode %04o): sshd does not take it either", path, st.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxKeyFile {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxKeyFile)
	}
	var out []keyLine
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			out = append(out, keyLine{n, line})
		}
	}
	return out, nil
}
