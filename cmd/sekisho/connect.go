package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/cmd/internal/accounts"
	"github.com/sekisho/sekisho/cmd/internal/admin"
	"github.com/sekisho/sekisho/cmd/internal/config"
	"github.com/sekisho/sekisho/ldapsync"
	"github.com/sekisho/sekisho/realm"
	"github.com/sekisho/sekisho/wire"
)

// askTimeout bounds one question to sekishod.
const askTimeout = 12 * time.Second

// config reads sekishod's configuration once.
func (a *app) config() (config.Config, error) {
	if a.cfg == nil {
		c, err := config.Load(a.configPath)
		if err != nil {
			return c, usageError{err}
		}
		a.cfg = &c
	}
	return *a.cfg, nil
}

// place is where the directory is.
type place struct {
	provider ldapsync.Provider
	layout   realm.Layout
	krb5conf string      // empty: the machine's own
	info     *realm.Info // of an embedded realm
}

func (a *app) place() (place, error) {
	c, err := a.config()
	if err != nil {
		return place{}, err
	}
	if c.Follows() && len(a.urls) == 0 {
		return place{}, refusedError{fmt.Errorf("this host follows the broker %s and knows no directory: run it there, or name a directory with --url", strings.Join(c.Upstream.Brokers, ", "))}
	}
	if !c.Embedded() {
		p, err := c.Provider()
		if err != nil {
			return place{}, usageError{err}
		}
		p.BindDN = ""
		if len(a.urls) > 0 {
			p.URLs = a.urls
		}
		return place{provider: p, layout: realm.Layout{Base: c.Directory.Base}}, nil
	}
	uid, gid := 0, 0
	if os.Geteuid() == 0 {
		u, err := accounts.Lookup(c.User)
		if err != nil {
			return place{}, fmt.Errorf("the service user: %w: start sekishod first, it says how to make him", err)
		}
		uid, gid = int(u.UID), int(u.GID)
	}
	rc := c.RealmConfig(uid, gid)
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	rc.Log = logrus.NewEntry(quiet)
	info, err := rc.Info()
	if err != nil {
		return place{}, usageError{err}
	}
	p := place{provider: ldapsync.Provider{URLs: []string{info.LDAPI}}, layout: info.Layout, krb5conf: info.KRB5Conf, info: &info}
	if len(a.urls) > 0 {
		p.provider.URLs, p.provider.CAFile, p.provider.StartTLS = a.urls, info.CAFile, true
	}
	return p, nil
}

// connect binds to the directory as the caller. The client must be closed.
func (a *app) connect(ctx context.Context) (*admin.Directory, *ldapsync.Client, error) {
	c, err := a.config()
	if err != nil {
		return nil, nil, err
	}
	p, err := a.place()
	if err != nil {
		return nil, nil, err
	}
	cc, err := a.credentials(p, c)
	if err != nil {
		return nil, nil, err
	}
	client, err := ldapsync.Dial(ctx, cc)
	if err != nil {
		if p.info != nil && len(a.urls) == 0 && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
			return nil, nil, fmt.Errorf("%w: is sekishod running here? (sekisho status)", err)
		}
		return nil, nil, err
	}
	if cc.External {
		if err := mapped(ctx, client); err != nil {
			client.Close()
			return nil, nil, err
		}
	}
	schema, err := c.Schema()
	if err != nil {
		client.Close()
		return nil, nil, usageError{err}
	}
	issuer, err := issuerOf(p)
	if err != nil {
		client.Close()
		return nil, nil, err
	}
	return admin.New(admin.Config{
		Client: client, Schema: schema, Preset: c.Directory.Schema, Layout: p.layout, Issuer: issuer, Policy: c.Policy(),
		UIDMin: c.UserDB.UIDMin, UIDMax: c.UserDB.UIDMax, Taken: takenHere(),
	}), client, nil
}

// mapped refuses to go on as a uid that the directory knows no entry for: it
// would be shown nothing, which looks like an empty directory.
func mapped(ctx context.Context, c *ldapsync.Client) error {
	id, err := c.WhoAmI(ctx)
	if err != nil {
		return err
	}
	if strings.HasSuffix(strings.ToLower(id), "cn=external,cn=auth") {
		return refusedError{fmt.Errorf("the directory takes your uid %d for nobody: sign in with --auth password", os.Geteuid())}
	}
	return nil
}

// issuerOf reads the realm's master key, where there is one and the caller may.
func issuerOf(p place) (*realm.Issuer, error) {
	if p.info == nil {
		return nil, nil
	}
	is, err := realm.LoadIssuer(*p.info)
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &is, nil
}

// takenHere tells which numbers this machine's own accounts use.
func takenHere() func(uint32) bool {
	used := map[uint32]bool{}
	if users, _, err := accounts.Users(""); err == nil {
		for _, u := range users {
			used[u.UID], used[u.GID] = true, true
		}
	}
	if groups, _, err := accounts.Groups(""); err == nil {
		for _, g := range groups {
			used[g.GID] = true
		}
	}
	return func(n uint32) bool { return used[n] }
}

// credentials says how the caller signs in.
func (a *app) credentials(p place, c config.Config) (ldapsync.ClientConfig, error) {
	cc := ldapsync.ClientConfig{Provider: p.provider}
	how := a.auth
	if how == "" {
		how = "password"
		if a.as == "" && os.Geteuid() == 0 && allLDAPI(p.provider.URLs) {
			how = "external"
		}
	}
	switch how {
	case "external":
		cc.External = true
	case "kerberos":
		cache, err := ticketFile()
		if err != nil {
			return cc, err
		}
		cc.GSSAPI = &ldapsync.GSSAPI{CCache: cache, Krb5Conf: p.krb5conf}
		if allLDAPI(p.provider.URLs) {
			cc.GSSAPI.Service = "ldap/" + c.Host
		}
	case "password":
		dn, who, err := a.bindDN(p, c)
		if err != nil {
			return cc, err
		}
		cc.BindDN = dn
		cc.Password = func() ([]byte, error) { return a.bindPassword(who) }
	default:
		return cc, usagef("--auth %q: write external, password or kerberos", how)
	}
	return cc, nil
}

// bindDN is the entry that the caller signs in as.
func (a *app) bindDN(p place, c config.Config) (dn, who string, err error) {
	who = a.as
	if strings.Contains(who, "=") {
		if _, err := ldapsync.NormalizeDN(who); err != nil {
			return "", "", usagef("--as %q is no DN", who)
		}
		return who, who, nil
	}
	if who == "" {
		if who, err = callerName(); err != nil {
			return "", "", err
		}
	}
	if err := admin.CheckUserName(who); err != nil {
		return "", "", usageError{err}
	}
	if c.Directory.UserBase != "" {
		s, err := c.Schema()
		if err != nil {
			return "", "", usageError{err}
		}
		return s.UserName + "=" + who + "," + c.Directory.UserBase, who, nil
	}
	return p.layout.UserDN(who), who, nil
}

// callerName is the user that runs this command. His name may come from the
// directory itself, by NSS; that is no risk, since he must prove to be that
// user.
func callerName() (string, error) {
	if u, err := accounts.LookupID(uint32(os.Getuid())); err == nil {
		return u.Name, nil
	}
	for _, v := range []string{"USER", "LOGNAME"} {
		if n := os.Getenv(v); n != "" {
			return n, nil
		}
	}
	return "", usagef("your user has no name here: give it with --as")
}

// bindPassword reads the password to sign in with.
func (a *app) bindPassword(who string) ([]byte, error) {
	switch a.passwordFile {
	case "":
		s, err := a.askSecret("Password of " + who + ": ")
		return []byte(s), err
	case "-":
		s, err := a.secretFromStdin()
		return []byte(s), err
	}
	s, err := config.ReadSecret(a.passwordFile)
	if err != nil {
		return nil, usageError{err}
	}
	return []byte(s), nil
}

func allLDAPI(urls []string) bool {
	for _, u := range urls {
		if !strings.HasPrefix(strings.ToLower(u), "ldapi:") {
			return false
		}
	}
	return len(urls) > 0
}

// ticketFile is the file of the caller's credential cache, which was read strictly
// once: the library that reads it again is not strict.
func ticketFile() (string, error) {
	stores, _, err := openCaches(context.Background(), "", false)
	if err != nil {
		return "", err
	}
	name := stores[0].Name()
	if _, err := stores[0].Read(context.Background()); err != nil {
		return "", noTickets(err, name)
	}
	for _, kind := range []string{"FILE:", "DIR::"} {
		if path, ok := strings.CutPrefix(name, kind); ok {
			return path, nil
		}
	}
	return "", usagef("--auth kerberos reads tickets from files only, not from %s: set KRB5CCNAME to another cache", name)
}

// ask puts one question to this machine's sekishod.
func (a *app) ask(ctx context.Context, r wire.Request) (wire.Answer, error) {
	c, err := a.config()
	if err != nil {
		return wire.Answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.Socket())
	if err != nil {
		return wire.Answer{}, fmt.Errorf("asking sekishod: %w: is it running?", err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return wire.Answer{}, fmt.Errorf("asking sekishod: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	ans, err := wire.Ask(conn, r)
	if err != nil {
		return wire.Answer{}, fmt.Errorf("asking sekishod: %w", err)
	}
	if ans.Outcome != wire.Unknown || len(ans.Body) > 0 {
		return ans, nil
	}
	switch text := ans.Text; ans.Reason {
	case wire.ReasonCaller:
		return ans, refusedError{errors.New(text)}
	case wire.ReasonMalformed:
		return ans, usageError{errors.New(text)}
	case wire.ReasonVerb:
		return ans, refusedError{errors.New("this sekishod cannot do that: it has no realm of its own, or is of another release")}
	default:
		if text == "" {
			text = "sekishod could not find out: " + ans.Reason
		}
		return ans, errors.New(text)
	}
}
