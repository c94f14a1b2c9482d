package enrol

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sekisho/sekisho/cmd/internal/accounts"
	"github.com/sekisho/sekisho/krb"
)

// Config says what may be done, and with what.
type Config struct {
	// Dir keeps the journal. Default /var/lib/sekisho-enrol.
	Dir string
	// Bin is the folder of sekishod and sekisho, Lib that of sekisho-keys and
	// pam_sekisho.so. Needed.
	Bin, Lib string
	// PAM and SSH say whether PAM's stacks and sshd are set up.
	PAM, SSH bool
	// Now is the clock; default time.Now.
	Now func() time.Time
	// Note, if set, is told what an undo could not have a service do.
	Note func(what string)
	// Step, if set, is told of each step before it is taken. Tests kill there.
	Step func(what string)
}

func (c *Config) validate() error {
	if c.Dir == "" {
		c.Dir = "/var/lib/sekisho-enrol"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Step == nil {
		c.Step = func(string) {}
	}
	if c.Note == nil {
		c.Note = func(string) {}
	}
	for _, d := range []string{c.Dir, c.Bin, c.Lib} {
		if !filepath.IsAbs(d) || !plainForm.MatchString(d) || strings.Contains(d, " ") {
			return fmt.Errorf("folder %q: write an absolute path without blanks", d)
		}
	}
	return nil
}

// change is one file that will be another.
type change struct {
	path   string
	before state
	after  state
	group  string // by name, since it may not be there yet; "" when after.gid counts
	secret bool
}

// Plan is all that has to change for a machine to be a host.
type Plan struct {
	Host     string
	Accounts []string // to be made, in this order
	Unit     bool     // systemd is told of the unit
	SSH, PAM bool     // sshd, PAM's stacks are among what changes or is set up
	// Notes are for the administrator: what he may have to do himself.
	Notes   []string
	changes []change
	dirs    []string // to be made, each after its parent
}

// Empty tells whether there is nothing to change.
func (p *Plan) Empty() bool { return len(p.changes) == 0 && len(p.Accounts) == 0 }

// NewPlan looks at this machine and says what must change. It changes nothing.
// The order of the changes is that in which they are safe.
func NewPlan(c Config, b Bundle) (*Plan, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	p := &Plan{Host: b.Host, SSH: c.SSH, PAM: c.PAM}
	for _, name := range []string{User, KeysUser} {
		if _, err := accounts.Lookup(name); errors.Is(err, accounts.ErrUnknown) {
			p.Accounts = append(p.Accounts, name)
		} else if err != nil {
			return nil, err
		}
	}
	for _, part := range []func(Config, Bundle) error{p.own, p.kerberos, p.unit, p.nss, p.pam, p.sshd} {
		if err := part(c, b); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// put plans a file of root's, if it is another.
func (p *Plan) put(path, text string, mode fs.FileMode) error {
	return p.add(change{path: path, after: state{exists: true, data: []byte(text), mode: mode}})
}

func (p *Plan) add(ch change) error {
	var err error
	if ch.path, err = resolve(ch.path); err != nil {
		return err
	}
	if ch.before, err = readState(ch.path); err != nil {
		return fmt.Errorf("looking at what is there: %w", err)
	}
	if ch.group != "" {
		gid, known, err := groupID(ch.group)
		if err != nil {
			return err
		}
		if ch.after.gid = gid; !known {
			ch.after.gid = -1
		}
	}
	if ch.before.same(ch.after) {
		return nil
	}
	var missing []string
	for d := filepath.Dir(ch.path); ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		missing = append([]string{d}, missing...)
	}
	for _, d := range missing {
		if !slices.Contains(p.dirs, d) {
			p.dirs = append(p.dirs, d)
		}
	}
	p.changes = append(p.changes, ch)
	return nil
}

// groupID finds a group in /etc/group.
func groupID(name string) (gid int, known bool, err error) {
	groups, _, err := accounts.Groups("")
	if err != nil {
		return 0, false, err
	}
	for _, g := range groups {
		if g.Name == name {
			return int(g.GID), true, nil
		}
	}
	return 0, false, nil
}

// edit plans a change of a file that is not ours. It keeps its mode and owner.
func (p *Plan) edit(path string, f func(text string) (string, error)) error {
	real, err := resolve(path)
	if err != nil {
		return err
	}
	s, err := readState(real)
	if err != nil {
		return fmt.Errorf("looking at what is there: %w", err)
	}
	if !s.exists {
		return fmt.Errorf("%s is not there: this is no Debian, or the package that brings it is missing", path)
	}
	text, err := f(string(s.data))
	if err != nil {
		return fmt.Errorf("%s cannot be changed safely: %w: see docs/hosts.md for doing it by hand", path, err)
	}
	after := s
	after.data, after.changed = []byte(text), time.Time{}
	return p.add(change{path: real, after: after})
}

// own are the files of sekishod.
func (p *Plan) own(c Config, b Bundle) error {
	if f := b.Feed; f != nil {
		if err := p.feed(f); err != nil {
			return err
		}
	} else if err := p.directory(b.Directory); err != nil {
		return err
	}
	keys, err := sekishodKeytab(b)
	if err != nil {
		return err
	}
	if err := p.add(change{path: serviceKeytab, secret: true, group: User, after: state{exists: true, data: keys, mode: 0o640}}); err != nil {
		return err
	}
	if err := p.put(ownKrb5Conf, wholeKrb5Conf(b), 0o644); err != nil {
		return err
	}
	return p.put(configFile, sekishodConf(b, c.PAM && c.SSH), 0o644)
}

// directory is what it takes to follow the directory.
func (p *Plan) directory(d *BundleDirectory) error {
	if err := p.put(caFile, d.CA, 0o644); err != nil {
		return err
	}
	return p.add(change{path: passwordFile, secret: true, after: state{exists: true, data: []byte(d.Password + "\n"), mode: 0o600}})
}

// feed is what it takes to follow a broker. sekishod reads the key as its own user.
func (p *Plan) feed(f *BundleFeed) error {
	if err := p.put(caFile, f.CA, 0o644); err != nil {
		return err
	}
	if err := p.put(hostCert, f.Cert, 0o644); err != nil {
		return err
	}
	return p.add(change{path: hostKey, secret: true, group: User, after: state{exists: true, data: []byte(f.Key), mode: 0o640}})
}

// kerberos are the machine's own keytab and krb5.conf.
func (p *Plan) kerberos(_ Config, b Bundle) error {
	before, err := readState(hostKeytab)
	if err != nil {
		return err
	}
	after, err := mergeKeytab(before, b.Kerberos.HostKeytab)
	if err != nil {
		return fmt.Errorf("%s: %w", hostKeytab, err)
	}
	if err := p.add(change{path: hostKeytab, secret: true, after: after}); err != nil {
		return err
	}
	now, err := readState(krb5Conf)
	switch {
	case err != nil:
		return err
	case !now.exists || strings.HasPrefix(string(now.data), ours+"\n"):
		return p.put(krb5Conf, wholeKrb5Conf(b), 0o644)
	}
	mapped := fmt.Sprintf("tickets of %s open no login at sshd unless %s says so; either\n"+
		"    [libdefaults] default_realm = %s\n  or, in the section [realms] of the present default realm,\n"+
		"    auth_to_local = RULE:[1:$1@$0](^[^/@]*@%s$)s/@.*//\n    auth_to_local = DEFAULT",
		b.Kerberos.Realm, krb5Conf, b.Kerberos.Realm, strings.ReplaceAll(b.Kerberos.Realm, ".", `\.`))
	for line := range strings.Lines(string(now.data)) {
		words := strings.Fields(line)
		if len(words) == 2 && words[0] == "includedir" && filepath.IsAbs(words[1]) {
			p.Notes = append(p.Notes, mapped)
			return p.put(filepath.Join(words[1], "sekisho"), krb5Snippet(b), 0o644)
		}
	}
	p.Notes = append(p.Notes, fmt.Sprintf("%s is somebody else's and has no includedir: it is left alone. sekishod does not need it; ssh with tickets, and\n"+
		"  Kerberos programs of this machine, do. Put into it\n%s", krb5Conf, indent(realmSection(b))), mapped)
	return nil
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n    ")
}

// unit is sekishod's, where systemd runs and no package has brought one.
func (p *Plan) unit(c Config, _ Bundle) error {
	if !systemd() {
		return nil
	}
	for _, dir := range []string{"/usr/lib/systemd/system", "/lib/systemd/system"} {
		if _, err := os.Stat(filepath.Join(dir, "sekishod.service")); err == nil {
			p.Unit = true
			return nil
		}
	}
	p.Unit = true
	return p.put(unitFile, unitText(c.Bin), 0o644)
}

// systemd tells whether it runs this machine (sd_booted(3)).
func systemd() bool {
	st, err := os.Lstat("/run/systemd/system")
	return err == nil && st.IsDir()
}

func (p *Plan) nss(Config, Bundle) error { return p.edit(nssConf, nssSystemd) }

// pam puts the broker into the stacks that Debian's services share: first what
// judges, last what proves.
func (p *Plan) pam(c Config, _ Bundle) error {
	if !c.PAM {
		return nil
	}
	module := filepath.Join(c.Lib, "pam_sekisho.so")
	for _, e := range []struct {
		file string
		edit func(string) (string, error)
	}{
		{"common-account", func(t string) (string, error) { return pamAccount(t, module) }},
		{"common-session", func(t string) (string, error) { return pamSession(t, module) }},
		{"common-session-noninteractive", func(t string) (string, error) { return pamSession(t, module) }},
		{"common-password", func(t string) (string, error) { return pamAuth("password", t, module) }},
		{"common-auth", func(t string) (string, error) { return pamAuth("auth", t, module) }},
	} {
		if err := p.edit(filepath.Join(pamDir, e.file), e.edit); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plan) sshd(c Config, _ Bundle) error {
	if !c.SSH {
		return nil
	}
	p.Notes = append(p.Notes, "files of keys (~/.ssh/authorized_keys) go on to work, for root and this machine's own users, and so for people\n"+
		"  of the directory, who may put keys there past it. Once logins work, shut that: docs/hosts.md, \"Files of keys\"")
	if err := p.put(sshdSnippet, sshdText(c.Lib, c.PAM), 0o644); err != nil {
		return err
	}
	return p.edit(sshdConf, func(t string) (string, error) { return sshdInclude(t, sshdSnippet) })
}

// sekishodKeytab is the bundle's keytab for sekishod; the one that is there, when
// it has the same keys.
func sekishodKeytab(b Bundle) ([]byte, error) {
	want, err := readKeytab(b.Kerberos.ServiceKeytab)
	if err != nil {
		return nil, fmt.Errorf("the bundle's keys of sekishod: %w", err)
	}
	now, err := readState(serviceKeytab)
	if err != nil {
		return nil, err
	}
	have, err := readKeytab(now.data)
	if err != nil || !slices.EqualFunc(have, want, sameKey) {
		return b.Kerberos.ServiceKeytab, nil // whatever is there is not needed
	}
	return now.data, nil
}

// sameKey compares all but when an entry was written.
func sameKey(a, b krb.KeytabEntry) bool {
	return sameVersion(a, b) && bytes.Equal(a.Key.Value, b.Key.Value)
}

func sameVersion(a, b krb.KeytabEntry) bool {
	return a.Principal.String() == b.Principal.String() && a.KVNO == b.KVNO && a.Key.EType == b.Key.EType
}

// mergeKeytab is a keytab with what it lacks of another, fresh. No key is lost.
func mergeKeytab(before state, fresh []byte) (state, error) {
	want, err := readKeytab(fresh)
	if err != nil {
		return state{}, fmt.Errorf("the bundle's keys of the host: %w", err)
	}
	if !before.exists {
		return state{exists: true, data: fresh, mode: 0o600}, nil
	}
	have, err := readKeytab(before.data)
	if err != nil {
		return state{}, fmt.Errorf("%w: put the keys of the host into it by hand, with ktutil", err)
	}
	var missing []krb.KeytabEntry
next:
	for _, w := range want {
		for _, h := range have {
			switch {
			case sameKey(h, w):
				continue next
			case sameVersion(h, w):
				return state{}, fmt.Errorf("it has another key of %s, version %d: it is that of a realm that is no more, or of another host: take it out with ktutil", w.Principal, w.KVNO)
			}
		}
		missing = append(missing, w)
	}
	after := before
	if len(missing) > 0 {
		b, err := formatKeytab(missing)
		if err != nil {
			return state{}, err
		}
		after.data, after.changed = append(append([]byte{}, before.data...), b[2:]...), time.Time{}
	}
	return after, nil
}

// readKeytab parses a keytab, by a file that nobody else can see.
func readKeytab(b []byte) (es []krb.KeytabEntry, err error) {
	err = inPrivate(func(path string) error {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return err
		}
		if es, err = krb.ReadKeytab(path); err != nil {
			return errors.New("it is no keytab that can be read: truncated, or with keys of an unknown kind")
		}
		return nil
	})
	if err == nil && len(es) == 0 {
		err = errors.New("it holds no key")
	}
	return es, err
}

// formatKeytab is the other way round.
func formatKeytab(es []krb.KeytabEntry) (b []byte, err error) {
	err = inPrivate(func(path string) error {
		if err := krb.WriteKeytab(path, es); err != nil {
			return err
		}
		b, err = os.ReadFile(path)
		return err
	})
	return b, err
}

// inPrivate gives a file name in a folder of the caller's own, in memory.
func inPrivate(f func(path string) error) error {
	dir, err := os.MkdirTemp("/dev/shm", "sekisho-enrol")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return f(filepath.Join(dir, "keytab"))
}
