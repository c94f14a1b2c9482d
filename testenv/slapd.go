package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// SlapdConfig is a site's own directory, as tests of its clients need it: one
// mdb database with syncprov. (The embedded one is package realm's.)
type SlapdConfig struct {
	Host    *Host    // nil: the sandbox itself, on 127.0.0.1
	Port    int      // default 389
	TLSPort int      // default 636
	Suffix  string   // default dc=example,dc=org
	RootPW  string   // of cn=admin,SUFFIX; default secret
	Schemas []string // LDIF files of the sandbox in order; default Schemas()
	LDIF    []byte   // first entries; default: the suffix alone

	CA   *CA   // trusted by slapd, and issues a sound certificate when Cert is nil; both nil: no TLS
	Cert *Cert // what slapd shows

	SessionLog int      // operations that syncprov remembers; default 1000, negative: none
	ReloadHint bool     // a cookie too old is answered by e-syncRefreshRequired, not by a present phase
	NoSync     bool     // no fsync: for loads
	Debug      string   // slapd -d; default stats: each operation is in the log; 0 for loads
	Access     []string // olcAccess values after root's; default: all may read all but secrets
	Indexes    []string // more olcDbIndex values
	Config     string   // more LDIF for cn=config, after the database {1}mdb
}

// Slapd is a running directory. Stop it, or close its host.
type Slapd struct {
	*Daemon
	URL    string // ldap://ADDR:PORT
	TLSURL string // ldaps://ADDR:PORT; "" without TLS
	LDAPI  string // ldapi://...; root is manager there by SASL EXTERNAL
	BaseDN string
	RootDN string
	RootPW string

	cfg SlapdConfig
	dir string
}

// Schemas are the LDIF files of the schemas an embedded realm has: Debian's
// core, cosine and inetorgperson, and those of realm/schema.
func Schemas() ([]string, error) {
	id, err := sandbox()
	if err != nil {
		return nil, err
	}
	ours, err := filepath.Glob(filepath.Join(id.Root, "realm", "schema", "*.ldif"))
	if err != nil {
		return nil, err
	}
	return append(PackagedSchemas("core", "cosine", "inetorgperson"), ours...), nil
}

// PackagedSchemas are Debian's schemas of those names, such as nis.
func PackagedSchemas(names ...string) []string {
	var files []string
	for _, n := range names {
		files = append(files, "/etc/ldap/schema/"+n+".ldif")
	}
	return files
}

func (c *SlapdConfig) validate() error {
	if c.Port == 0 {
		c.Port = 389
	}
	if c.TLSPort == 0 {
		c.TLSPort = 636
	}
	if c.Suffix == "" {
		c.Suffix = "dc=example,dc=org"
	}
	if c.RootPW == "" {
		c.RootPW = "secret"
	}
	if c.Debug == "" {
		c.Debug = "stats"
	}
	if c.SessionLog == 0 {
		c.SessionLog = 1000
	}
	if c.Schemas == nil {
		var err error
		if c.Schemas, err = Schemas(); err != nil {
			return err
		}
	}
	if c.LDIF == nil {
		var err error
		if c.LDIF, err = suffixEntry(c.Suffix); err != nil {
			return err
		}
	}
	if c.Access == nil {
		secret := "userPassword"
		for _, s := range c.Schemas {
			if filepath.Base(s) == "kerberos.ldif" {
				secret += ",krbPrincipalKey,krbExtraData,krbMKey"
			}
		}
		c.Access = []string{"to attrs=" + secret + " by self =w by anonymous auth by * none", "to * by * read"}
	}
	if c.CA != nil && c.Cert == nil {
		names := []string{"localhost", "127.0.0.1", "::1", bridgeAddr, bridge6}
		if h := c.Host; h != nil {
			names = []string{h.FQDN, h.Name, h.Addr.String()}
			if h.Addr6.IsValid() {
				names = append(names, h.Addr6.String())
			}
		}
		var err error
		if c.Cert, err = c.CA.Issue(CertConfig{Names: names}); err != nil {
			return err
		}
	}
	return nil
}

// suffixEntry is the entry of a suffix dc=….
func suffixEntry(suffix string) ([]byte, error) {
	rdn, _, _ := strings.Cut(suffix, ",")
	attr, value, _ := strings.Cut(rdn, "=")
	if attr != "dc" {
		return nil, fmt.Errorf("the suffix %s is no dc=…: give its entry in LDIF", suffix)
	}
	return fmt.Appendf(nil, "dn: %s\nobjectClass: dcObject\nobjectClass: organization\ndc: %s\no: %s\n", suffix, value, value), nil
}

// StartSlapd makes a directory with cfg's entries and starts it. Its files are
// in memory, below /run of its host.
func StartSlapd(ctx context.Context, cfg SlapdConfig) (*Slapd, error) {
	if !Inside() {
		return nil, errors.New("slapd runs in the sandbox: call testenv.Main in TestMain")
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configuring slapd: %w", err)
	}
	addr := "127.0.0.1"
	if cfg.Host != nil {
		addr = cfg.Host.Addr.String()
	}
	s := &Slapd{
		cfg:    cfg,
		dir:    fmt.Sprintf("/run/slapd-%d", cfg.Port),
		URL:    "ldap://" + net.JoinHostPort(addr, strconv.Itoa(cfg.Port)),
		BaseDN: cfg.Suffix,
		RootDN: "cn=admin," + cfg.Suffix,
		RootPW: cfg.RootPW,
	}
	s.LDAPI = "ldapi://" + url.PathEscape(s.dir+"/ldapi")
	if cfg.Cert != nil {
		s.TLSURL = "ldaps://" + net.JoinHostPort(addr, strconv.Itoa(cfg.TLSPort))
	}
	if err := s.build(ctx); err != nil {
		return nil, err
	}
	return s, s.start(ctx)
}

// inside runs f where slapd's files are.
func (s *Slapd) inside(f func() error) error {
	if s.cfg.Host == nil {
		return f()
	}
	return s.cfg.Host.Inside(f)
}

func (s *Slapd) command(ctx context.Context, name string, args ...string) *Cmd {
	if s.cfg.Host == nil {
		return newCmd(ctx, nil, name, args)
	}
	return s.cfg.Host.Command(ctx, name, args...)
}

// build makes cn=config and the database.
func (s *Slapd) build(ctx context.Context) error {
	err := s.inside(func() error {
		if err := os.RemoveAll(s.dir); err != nil {
			return err
		}
		for _, d := range []string{"", "slapd.d", "db"} {
			if err := os.Mkdir(filepath.Join(s.dir, d), 0o700); err != nil {
				return err
			}
		}
		if s.cfg.CA != nil {
			if err := os.WriteFile(s.dir+"/ca.pem", s.cfg.CA.PEM, 0o600); err != nil {
				return err
			}
		}
		if s.cfg.Cert != nil {
			if err := os.WriteFile(s.dir+"/cert.pem", s.cfg.Cert.CertPEM, 0o600); err != nil {
				return err
			}
			return os.WriteFile(s.dir+"/key.pem", s.cfg.Cert.KeyPEM, 0o600)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("making slapd's folders: %w", err)
	}
	var schemas [][]byte
	for _, f := range s.cfg.Schemas {
		b, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("configuring slapd: %w", err)
		}
		schemas = append(schemas, b)
	}
	if err := s.slapadd(ctx, 0, []byte(s.config(schemas))); err != nil {
		return fmt.Errorf("configuring slapd: %w", err)
	}
	if err := s.slapadd(ctx, 1, s.cfg.LDIF); err != nil {
		return fmt.Errorf("filling the directory: %w", err)
	}
	return nil
}

func (s *Slapd) slapadd(ctx context.Context, db int, ldif []byte) error {
	cmd := s.command(ctx, "/usr/sbin/slapadd", "-q", "-w", "-n", strconv.Itoa(db), "-F", s.dir+"/slapd.d")
	if db == 0 {
		cmd = s.command(ctx, "/usr/sbin/slapadd", "-n0", "-F", s.dir+"/slapd.d")
	}
	cmd.Stdin = bytes.NewReader(ldif)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("slapadd: %w: %s", err, tail(string(out), 2000))
	}
	return nil
}

// config is the LDIF of cn=config. schemas are the texts of the schemas: a host
// need not see their files.
func (s *Slapd) config(schemas [][]byte) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	const peerRoot = "gidNumber=0+uidNumber=0,cn=peercred,cn=external,cn=auth"
	p("dn: cn=config\nobjectClass: olcGlobal\ncn: config\nolcPidFile: %s/pid\nolcToolThreads: 2\nolcLocalSSF: 256", s.dir)
	if s.cfg.CA != nil {
		p("olcTLSCACertificateFile: %s/ca.pem", s.dir)
	}
	if s.cfg.Cert != nil {
		p("olcTLSCertificateFile: %s/cert.pem\nolcTLSCertificateKeyFile: %s/key.pem", s.dir, s.dir)
	}
	p("\ndn: cn=module{0},cn=config\nobjectClass: olcModuleList\ncn: module{0}\nolcModulePath: /usr/lib/ldap")
	for _, m := range []string{"back_mdb", "syncprov", "memberof", "refint", "ppolicy", "dynlist"} {
		p("olcModuleLoad: %s", m)
	}
	p("\ndn: cn=schema,cn=config\nobjectClass: olcSchemaConfig\ncn: schema\n")
	for _, schema := range schemas {
		p("%s\n", schema)
	}
	p("dn: olcDatabase={-1}frontend,cn=config\nobjectClass: olcDatabaseConfig\nobjectClass: olcFrontendConfig\n" +
		"olcDatabase: {-1}frontend\nolcSizeLimit: unlimited\nolcAccess: to dn.base=\"\" by * read\nolcAccess: to dn.base=\"cn=subschema\" by * read\n")
	p("dn: olcDatabase={0}config,cn=config\nobjectClass: olcDatabaseConfig\nolcDatabase: {0}config\nolcRootDN: %s\n", peerRoot)
	p("dn: olcDatabase={1}mdb,cn=config\nobjectClass: olcDatabaseConfig\nobjectClass: olcMdbConfig\nolcDatabase: {1}mdb")
	p("olcSuffix: %s\nolcRootDN: %s\nolcRootPW: %s\nolcDbDirectory: %s/db\nolcDbMaxSize: 8589934592", s.cfg.Suffix, s.RootDN, s.RootPW, s.dir)
	p("olcDbIndex: objectClass,entryUUID,entryCSN,uid,cn,member eq")
	for _, i := range s.cfg.Indexes {
		p("olcDbIndex: %s", i)
	}
	if s.cfg.NoSync {
		p("olcDbNoSync: TRUE")
	}
	p("olcAccess: to * by dn.exact=%s manage by * break", peerRoot)
	for _, a := range s.cfg.Access {
		p("olcAccess: %s", a)
	}
	p("\ndn: olcOverlay={0}syncprov,olcDatabase={1}mdb,cn=config\nobjectClass: olcOverlayConfig\nobjectClass: olcSyncProvConfig\nolcOverlay: {0}syncprov")
	p("olcSpCheckpoint: 100 10")
	if s.cfg.SessionLog > 0 {
		p("olcSpSessionlog: %d", s.cfg.SessionLog)
	}
	if s.cfg.ReloadHint {
		p("olcSpNoPresent: TRUE\nolcSpReloadHint: TRUE")
	}
	p("\n%s", s.cfg.Config)
	return b.String()
}

func (s *Slapd) start(ctx context.Context) error {
	urls := fmt.Sprintf("ldap://:%d", s.cfg.Port)
	if s.cfg.Cert != nil {
		urls += fmt.Sprintf(" ldaps://:%d", s.cfg.TLSPort)
	}
	urls += " " + s.LDAPI // slapd listens in this order, and Ready tries the last
	cfg := DaemonConfig{
		Name: "slapd", Path: "/usr/sbin/slapd",
		Args: []string{"-d", s.cfg.Debug, "-F", s.dir + "/slapd.d", "-h", urls},
		Ready: func(context.Context) error {
			return s.inside(func() error {
				c, err := net.Dial("unix", s.dir+"/ldapi")
				if err != nil {
					return err
				}
				return c.Close()
			})
		},
	}
	var err error
	if s.cfg.Host != nil {
		s.Daemon, err = s.cfg.Host.Start(ctx, cfg)
	} else {
		s.Daemon, err = StartDaemon(ctx, cfg)
	}
	return err
}

// Restart stops slapd, if it still runs, and starts it on the same data. Its
// sessionlog is lost.
func (s *Slapd) Restart(ctx context.Context) error {
	if err := s.Stop(); err != nil {
		return err
	}
	return s.start(ctx)
}

// Hang stops slapd from running (SIGSTOP): connections stay, nothing answers.
// It returns when every thread stands still: a signal takes a moment to reach
// those that run on another processor.
func (s *Slapd) Hang() error {
	if err := s.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		stopped, err := allStopped(s.Pid())
		if err != nil || stopped {
			return err
		}
		if time.Now().After(end) {
			return errors.New("slapd goes on after SIGSTOP")
		}
	}
}

// allStopped reports whether all threads of a process are stopped (state T of
// proc(5)).
func allStopped(pid int) (bool, error) {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(stats) == 0 {
		return false, fmt.Errorf("process %d has no threads to be seen: %w", pid, os.ErrNotExist)
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // it has ended
		}
		if err != nil {
			return false, err
		}
		// The name, in parentheses, may hold anything.
		if rest := text[bytes.LastIndexByte(text, ')')+1:]; len(rest) < 2 || rest[1] != 'T' {
			return false, nil
		}
	}
	return true, nil
}

// Resume ends Hang.
func (s *Slapd) Resume() error { return s.Signal(syscall.SIGCONT) }

// Dump is the database as LDIF (slapcat), operational attributes included.
func (s *Slapd) Dump(ctx context.Context) ([]byte, error) {
	out, err := s.command(ctx, "/usr/sbin/slapcat", "-n1", "-F", s.dir+"/slapd.d", "-o", "ldif-wrap=no").Output()
	if err != nil {
		return nil, fmt.Errorf("dumping the directory: %w", err)
	}
	return out, nil
}

// Rebuild stops slapd, makes its database anew from ldif and starts it, as
// after a restore: no cookie of before is known to it. Entries have new
// entryUUIDs unless ldif, such as a Dump, gives them. With nil it has the
// suffix alone.
func (s *Slapd) Rebuild(ctx context.Context, ldif []byte) error {
	if err := s.Stop(); err != nil {
		return err
	}
	if ldif == nil {
		var err error
		if ldif, err = suffixEntry(s.cfg.Suffix); err != nil {
			return err
		}
	}
	s.cfg.LDIF = ldif
	if err := s.build(ctx); err != nil {
		return err
	}
	return s.start(ctx)
}
