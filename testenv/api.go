package testenv

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

var errSoon = errors.New("testenv: being written")

// Runner is what Main runs inside: a *testing.M, or a wrapper of it.
type Runner interface{ Run() int }

// Main is called by TestMain. It enters the sandbox, runs m there and exits with its code.
func Main(m Runner) { os.Exit(m.Run()) }

// Reexec must be the first thing in main of a program that uses this package
// without Main: it takes over when the process was started to be the init of a
// sandbox or host.
func Reexec() {}

// Program is the path of a program of cmd/ ("sekishod", "sekisho",
// "sekisho-keys") inside the sandbox, or the reason why it could not be built.
func Program(name string) (string, error) { return "", errSoon }

// Cmd is an exec.Cmd that starts inside the namespaces of a host or sandbox.
// Set its fields as usual, and call the methods of Cmd, not of the inner one.
type Cmd struct{ *exec.Cmd }

func (c *Cmd) Start() error                    { return errSoon }
func (c *Cmd) Run() error                      { return errSoon }
func (c *Cmd) Output() ([]byte, error)         { return nil, errSoon }
func (c *Cmd) CombinedOutput() ([]byte, error) { return nil, errSoon }

// World is a set of hosts that know each other's names and host keys.
type World struct{}

// WorldConfig says what a world is like; the zero value serves.
type WorldConfig struct {
	Domain string // DNS suffix of the hosts; default example.org
}

func NewWorld(cfg WorldConfig) (*World, error)     { return nil, errSoon }
func (w *World) Host(name string) (*Host, error)   { return nil, errSoon }
func (w *World) Hosts() []*Host                    { return nil }
func (w *World) Close() error                      { return errSoon }
func ForTest(t testing.TB) *World                  { return nil }
func (w *World) Need(t testing.TB, n string) *Host { return nil }

// Host is one machine of the world.
type Host struct {
	Name  string     // "web1"
	FQDN  string     // "web1.example.org", also its hostname
	Addr  netip.Addr // in 203.0.113.0/24
	Addr6 netip.Addr // in 2001:db8::/64; the zero Addr where the kernel has no IPv6
}

func (h *Host) Command(ctx context.Context, name string, args ...string) *Cmd { return nil }

// CommandAs runs as a user of the host, local or of the directory, with his groups.
func (h *Host) CommandAs(ctx context.Context, user, name string, args ...string) *Cmd { return nil }
func (h *Host) WriteFile(path string, data []byte, perm os.FileMode) error            { return errSoon } // makes parents (0755)
func (h *Host) ReadFile(path string) ([]byte, error)                                  { return nil, errSoon }
func (h *Host) Path(path string) string                                               { return "" } // the host's file as the test sees it (/proc/PID/root/...)
func (h *Host) AddUser(u LocalUser) error                                             { return errSoon }
func (h *Host) Start(cfg DaemonConfig) (*Daemon, error)                               { return nil, errSoon }
func (h *Host) Partition() error                                                      { return errSoon }
func (h *Host) Heal() error                                                           { return errSoon }
func (h *Host) Close() error                                                          { return errSoon } // power off

type LocalUser struct {
	Name  string
	UID   int    // also the GID
	Shell string // default /bin/bash
}

// StartDaemon is Host.Start on the sandbox itself (its loopback).
func StartDaemon(cfg DaemonConfig) (*Daemon, error) { return nil, errSoon }

type DaemonConfig struct {
	Name                      string // of the log; default the base of Path
	Path                      string
	Args                      []string // without argv[0]
	Argv0                     string   // default Path
	Env                       []string // added to a minimal environment
	User                      *syscall.Credential
	Ready                     func(ctx context.Context) error // polled until nil
	ReadyTimeout, StopTimeout time.Duration                   // default 10 s, 5 s
}

type Daemon struct{}

func (d *Daemon) Pid() int                 { return 0 } // as the caller sees it
func (d *Daemon) Signal(s os.Signal) error { return errSoon }
func (d *Daemon) Stop() error              { return errSoon } // SIGTERM (and SIGCONT), SIGKILL later; waits
func (d *Daemon) Kill() error              { return errSoon } // SIGKILL; waits
func (d *Daemon) Done() <-chan struct{}    { return nil }
func (d *Daemon) Log() string              { return "" } // stdout and stderr

type SSHDConfig struct {
	Port    int      // default 22
	Service string   // PAM service name, the base of argv[0]; default sshd
	PAM     string   // text of /etc/pam.d/SERVICE; default: key logins only, pam_unix account, pam_mkhomedir
	Lines   []string // sshd_config lines; they go before ours, so they win
	Env     []string
}

func (h *Host) StartSSHD(ctx context.Context, cfg SSHDConfig) (*Daemon, error) { return nil, errSoon }

type SSHCall struct {
	To      *Host
	Port    int
	User    string
	Key     *Key // nil: no key
	Command string
	Options []string // "Name=value", each given with -o; they win over ours
}

// SSH is the ssh client on h, BatchMode, host keys of the world known and checked.
func (h *Host) SSH(ctx context.Context, c SSHCall) *Cmd { return nil }

type Key struct {
	Private []byte // OpenSSH PEM
	Public  []byte // one authorized_keys line with newline
}

func NewKey(comment string) (*Key, error) { return nil, errSoon } // ed25519

type CA struct{ PEM []byte }
type CertConfig struct {
	Names               []string  // DNS names and addresses
	NotBefore, NotAfter time.Time // default: an hour ago, tomorrow
}
type Cert struct{ CertPEM, KeyPEM []byte }

func NewCA(name string) (*CA, error)               { return nil, errSoon }
func (ca *CA) Issue(cfg CertConfig) (*Cert, error) { return nil, errSoon }

// SlapdConfig is an external directory for tests of its clients.
type SlapdConfig struct {
	Host          *Host    // nil: the sandbox's loopback
	Suffix        string   // default dc=example,dc=org
	RootPW        string   // of cn=admin,SUFFIX; default "secret"
	Schemas       []string // LDIF files; default core, cosine, inetorgperson and realm/schema/*.ldif
	LDIF          []byte   // first entries (slapadd)
	CA            *CA
	Cert          *Cert    // nil: no ldaps, no StartTLS
	SessionLog    int      // syncprov; default 1000; negative: none
	Access        []string // olcAccess values; default: all readable but userPassword and krb keys
	Config        string   // further LDIF for cn=config
	Port, TLSPort int      // default 389, 636
}

type Slapd struct {
	*Daemon
	URL, TLSURL, LDAPI     string
	BaseDN, RootDN, RootPW string
}

func StartSlapd(ctx context.Context, cfg SlapdConfig) (*Slapd, error) { return nil, errSoon }
func (s *Slapd) Restart(ctx context.Context) error                    { return errSoon }
func (s *Slapd) Hang() error                                          { return errSoon } // SIGSTOP
func (s *Slapd) Resume() error                                        { return errSoon } // SIGCONT
// Forget restarts slapd with its sessionlog and contextCSN lost, so that cookies are no longer known.
func (s *Slapd) Forget(ctx context.Context) error { return errSoon }

// Proxy is a TCP relay that misbehaves when told.
type Proxy struct{ Addr string }

func NewProxy(listen, target string) (*Proxy, error) { return nil, errSoon } // listen "203.0.113.1:0"
func (p *Proxy) Delay(d time.Duration)               {}                      // each direction
func (p *Proxy) Stall(on bool)                       {}                      // half-open: connections stay, nothing passes
func (p *Proxy) Refuse(on bool)                      {}                      // new connections are reset
func (p *Proxy) CutAll()                             {}                      // open ones are reset
func (p *Proxy) Close() error                        { return errSoon }

// Holder is a sandbox that lives until it is stopped.
type Holder struct{}
type HolderConfig struct{ Dir string } // e.g. build/demo: state.json and holder.log

func StartHolder(cfg HolderConfig) (*Holder, error)                             { return nil, errSoon }
func OpenHolder(dir string) (*Holder, error)                                    { return nil, errSoon }
func (h *Holder) Command(ctx context.Context, name string, args ...string) *Cmd { return nil }
func StopHolder(dir string) error                                               { return errSoon } // also half made; nil when there is none
