// Package config is sekishod's configuration: one strict TOML file, read into
// one struct. A key that nobody knows is an error with its line number, for a
// setting that is silently ignored may have been a restriction.
//
// docs/configuration.md is made from the comments in this file:
//
//	go generate ./cmd/internal/config
package config

import (
	"time"

	"github.com/sekisho/sekisho/keys"
)

//go:generate go run ./gen ../../../docs/configuration.md

// DefaultPath is where the programs look when no path is given.
const DefaultPath = "/etc/sekisho/sekishod.toml"

// Config is the whole file. Every key may be left out. With no file, or an
// empty one, sekishod makes and runs a directory and a KDC of its own.
type Config struct {
	// Host is this machine's name in the directory: what rules call
	// `host:NAME`. Empty: the name that the kernel gives (hostname(1)).
	Host string `toml:"host"`
	// StateDir holds what outlives a restart: the last good snapshot, and the
	// embedded realm with all its data.
	StateDir string `toml:"state_dir"`
	// RuntimeDir holds the sockets. It must be readable by all users.
	RuntimeDir string `toml:"runtime_dir"`
	// User is the local system account that sekishod, slapd and the KDC run as
	// when sekishod is started by root. Started by anybody else, sekishod stays
	// who it is.
	User string `toml:"user"`

	Realm     Realm     `toml:"realm"`
	Directory Directory `toml:"directory"`
	Snapshot  Snapshot  `toml:"snapshot"`
	Keys      Keys      `toml:"keys"`
	PAM       PAM       `toml:"pam"`
	Kerberos  Kerberos  `toml:"kerberos"`
	Clock     Clock     `toml:"clock"`
	UserDB    UserDB    `toml:"userdb"`
	Sessions  Sessions  `toml:"sessions"`
	Guessing  Guessing  `toml:"guessing"`
	OTP       OTP       `toml:"otp"`
	Audit     Audit     `toml:"audit"`
	State     State     `toml:"state"`
	Feed      Feed      `toml:"feed"`
	Upstream  Upstream  `toml:"upstream"`
	Log       Log       `toml:"log"`
}

// Realm is the embedded realm: a private OpenLDAP server and a private MIT
// Kerberos KDC, run by sekishod. It is not used when directory.url is set, and
// nothing may be set here then.
type Realm struct {
	// Domain names the realm: `example.org` gives the base DN
	// `dc=example,dc=org` and the Kerberos realm EXAMPLE.ORG. It cannot be
	// changed after the first start.
	Domain string `toml:"domain"`
	// Names are further names and addresses of this machine for the servers'
	// certificate; its host name and the listen addresses are always in it.
	Names []string `toml:"names"`
	// LDAP are the addresses (IP:PORT) to listen on without TLS; a bind needs
	// StartTLS there. Empty: loopback, port 389.
	LDAP []string `toml:"ldap"`
	// Kpasswd are the addresses to change passwords at (RFC 3244), UDP and TCP.
	// Empty: those of kdc, 376 ports higher, which is 464 beside port 88.
	Kpasswd []string `toml:"kpasswd"`
	// LDAPS are the addresses to listen on with TLS. Other hosts need one that
	// they can reach. Empty: loopback, port 636.
	LDAPS []string `toml:"ldaps"`
	// KDC are the addresses of the Kerberos KDC, UDP and TCP. Empty: loopback,
	// port 88.
	KDC []string `toml:"kdc"`
}

// Directory is an LDAP directory that somebody else runs. Without a url,
// sekishod runs the embedded realm.
type Directory struct {
	// URL lists the directory's servers, `ldaps://ldap1.example.org` or
	// `ldap://…` with start_tls; all hold the same data, and the first that
	// answers is used. Without TLS only loopback is accepted, for whoever can
	// change an answer on its way decides who gets in.
	URL []string `toml:"url"`
	// Base is the DN that everything is looked for under, such as
	// `dc=example,dc=org`.
	Base string `toml:"base"`
	// BindDN is the account to read with. It needs no secret attribute: deny it
	// userPassword and krbPrincipalKey. Empty: anonymous.
	BindDN string `toml:"bind_dn"`
	// PasswordFile holds bind_dn's password on its first line. It is refused
	// unless only its owner can read it (mode 0600 or 0400).
	PasswordFile string `toml:"password_file"`
	// CAFile is the PEM file of the authorities that may sign the servers'
	// certificates. Empty: those that the machine trusts.
	CAFile string `toml:"ca_file"`
	// StartTLS turns TLS on after connecting to an `ldap://` URL (RFC 4511
	// §4.14).
	StartTLS bool `toml:"start_tls"`
	// Schema says how the directory names things: `rfc2307bis`, `rfc2307`,
	// `freeipa` or `ad`.
	Schema string `toml:"schema"`
	// UserBase limits users to a subtree, when base holds entries that are none
	// of ours. Empty: all of base.
	UserBase string `toml:"user_base"`
	// GroupBase limits groups to a subtree.
	GroupBase string `toml:"group_base"`
	// HostBase limits hosts to a subtree.
	HostBase string `toml:"host_base"`
	// RuleBase limits rules to a subtree: whoever may write there decides who
	// gets in.
	RuleBase string `toml:"rule_base"`
	// Filter is an LDAP filter (RFC 4515) that every entry must meet.
	Filter string `toml:"filter"`
	// KeyAttribute holds the SSH keys. Empty: what the schema says.
	KeyAttribute string `toml:"key_attribute"`
	// PasswordPolicy is the DN of the default password policy (ppolicy), which
	// says when a lock-out ends. Empty: the one that there is; where there are
	// several, a lock-out of a user without a policy of his own then holds until
	// an administrator unlocks him.
	PasswordPolicy string `toml:"password_policy"`
}

// Snapshot is the copy of the directory that sekishod answers from.
type Snapshot struct {
	// MaxAge is how long sekishod goes on answering after it last heard from
	// the directory; after that every answer is "could not find out". A rule
	// can ask for less (sekishoMaxAge), never for more.
	MaxAge Duration `toml:"max_age"`
	// HoldShare holds a refresh back that would delete more than this share of
	// the users (0.3 is three in ten): the old snapshot stays in use until somebody
	// says `sekisho sync accept`. 1 holds nothing back.
	HoldShare float64 `toml:"hold_share"`
}

// Keys is the keys door: what sshd's AuthorizedKeysCommand is answered.
type Keys struct {
	// Callers are the local accounts besides root that may ask for anybody's
	// keys: what sshd_config names as AuthorizedKeysCommandUser. They are
	// looked up in /etc/passwd and nowhere else.
	Callers []string `toml:"callers"`
	// Types are the key types that are good enough, by OpenSSH's names. Empty:
	// all that OpenSSH 9 knows but ssh-dss.
	Types []string `toml:"types"`
	// RSABits is the least size of an RSA key.
	RSABits int `toml:"rsa_bits"`
	// PAM says that sshd on this host has pam_sekisho.so in its account and its
	// session stack (UsePAM yes), which judges each login of a directory user
	// again with all that was proved. A rule that wants more than a key then lets
	// the key through here, and PAM refuses whoever has shown no more. Set it only
	// where that is so: without it the other proofs would never be asked for.
	PAM bool `toml:"pam"`
}

// PAM is the door of pam_sekisho.so: passwords, accounts and sessions.
type PAM struct {
	// Enabled turns the door on.
	Enabled bool `toml:"enabled"`
	// Password says who finds out whether a password is right: `kdc` (Kerberos;
	// the session gets a ticket), `ldap` (a bind as the user), `pam:SERVICE` (a
	// PAM stack of this host), or `none`. Empty: `kdc` with the embedded realm,
	// `ldap` with a directory that somebody else runs.
	Password string `toml:"password"`
	// OTP says who finds out whether a one-time code is right: `totp` (sekishod, by
	// the tokens in the directory; see docs/otp.md), `pam:SERVICE`, or `none`: then
	// rules that ask for one let nobody in. Empty: `totp` with the embedded realm and
	// on a host that follows a broker, which is asked; else `none`.
	OTP string `toml:"otp"`
	// TicketLife is how long a session's ticket lives; it is renewed in time. The
	// KDC may give less.
	TicketLife Duration `toml:"ticket_life"`
	// TicketRenew is how long it is renewed for, counted from the sign-in.
	TicketRenew Duration `toml:"ticket_renew"`
}

// Kerberos is the realm that a directory somebody else runs goes with. The
// embedded realm needs none of it.
type Kerberos struct {
	// Config is the krb5.conf(5) that names the realm and its KDCs; where it
	// names no KDC, DNS does (RFC 4120 §7.2.3).
	Config string `toml:"config"`
	// Realm is the realm of the directory's users. Empty: default_realm.
	Realm string `toml:"realm"`
	// Keytab has the keys of a service of our own, such as sekisho/HOST. A KDC
	// that does not know them is a false one, and believed nothing. It must be
	// readable for the service user, and nobody else but root.
	Keytab string `toml:"keytab"`
}

// Clock is the clock guard: Kerberos tickets are neither asked for nor believed
// while a clock is wrong, and it is said which.
type Clock struct {
	// Servers are NTP servers, `host` or `host:port`; at least three tell which
	// one lies. Empty: only the KDC's clock is compared with this host's.
	Servers []string `toml:"servers"`
	// Skew is how far two clocks may differ: what the realm allows (clockskew in
	// krb5.conf and the KDC).
	Skew Duration `toml:"skew"`
}

// UserDB is the users door: directory users and groups become users and groups
// of this machine, by libnss-systemd (`passwd: files systemd` in
// /etc/nsswitch.conf).
type UserDB struct {
	// Enabled turns the door on.
	Enabled bool `toml:"enabled"`
	// UIDMin is the lowest uid and gid that the directory may give. Entries
	// with a smaller one are not read at all, for any door. Never below 1:
	// nobody becomes root by an LDAP entry.
	UIDMin uint32 `toml:"uid_min"`
	// UIDMax is the highest.
	UIDMax uint32 `toml:"uid_max"`
}

// Sessions are the logins that are open.
type Sessions struct {
	// MaxPerUser is how many one user may have open at once on this host, and, on
	// a broker, on all hosts that follow it. 0: any number.
	MaxPerUser int `toml:"max_per_user"`
	// Grace is how long the programs of a session that must end may take to end by
	// themselves before they are killed.
	Grace Duration `toml:"grace"`
}

// Guessing limits wrong passwords and codes, before the directory is asked.
type Guessing struct {
	// PerUser is how many may be wrong for one user before he has to wait, longer
	// each time.
	PerUser int `toml:"per_user"`
	// PerSource is the same for one network they come from: an IPv4 /24, an IPv6 /64.
	PerSource int `toml:"per_source"`
	// LongestWait bounds the waiting.
	LongestWait Duration `toml:"longest_wait"`
	// KnownGood is how long a network from which a user has signed in stays known:
	// wrong passwords from elsewhere do not lock him out there.
	KnownGood Duration `toml:"known_good"`
}

// OTP are one-time codes (TOTP, RFC 6238) that sekishod checks itself:
// pam.otp = "totp".
type OTP struct {
	// Issuer is what authenticator apps show beside the user's name. Empty: the
	// realm's or the directory's domain.
	Issuer string `toml:"issuer"`
	// Drift is how many time steps before and after now a code may be of, up to 20.
	// slapo-otp uses what was set when the token was made.
	Drift int `toml:"drift"`
	// BindDN is the account of an external directory that may read oathSecret and
	// write oathTOTPLastTimeStep. It must not be directory.bind_dn. The embedded
	// realm has its own.
	BindDN string `toml:"bind_dn"`
	// PasswordFile holds its password, as directory.password_file.
	PasswordFile string `toml:"password_file"`
}

// Audit is the record of all decisions, in state_dir/audit: chained, signed, and
// read by `sekisho audit`.
type Audit struct {
	// Keep is how long files of it are kept.
	Keep Duration `toml:"keep"`
	// FileSize is how large one file becomes, in MiB.
	FileSize int `toml:"file_size"`
	// Syslog sends each record to syslog (/dev/log) besides.
	Syslog bool `toml:"syslog"`
}

// State is what brokers share: spent codes, failure counters, sessions. It is
// a store inside sekishod, in state_dir/state, unless servers are named.
type State struct {
	// Servers are those of a NATS cluster with JetStream, `tls://HOST:PORT`. Empty:
	// the store inside, with no socket.
	Servers []string `toml:"servers"`
	// Replicas is on how many of them each value is kept: 1, 3 or 5.
	Replicas int `toml:"replicas"`
	// CAFile is the PEM file of the authorities of the servers' certificates.
	CAFile string `toml:"ca_file"`
	// CertFile is sekishod's own certificate for the servers (PEM).
	CertFile string `toml:"cert_file"`
	// KeyFile is its key, which only the service user may read.
	KeyFile string `toml:"key_file"`
}

// Feed is what a broker gives to hosts that follow it instead of the directory.
type Feed struct {
	// Listen are the addresses (IP:PORT) for hosts, over TLS with certificates on
	// both sides. Empty: no host can follow this one.
	Listen []string `toml:"listen"`
	// CertFile is the broker's certificate (PEM). Empty: the embedded realm's.
	CertFile string `toml:"cert_file"`
	// KeyFile is its key, which only the service user may read.
	KeyFile string `toml:"key_file"`
	// CAFile is the authority of the hosts' certificates. Empty: the embedded
	// realm's.
	CAFile string `toml:"ca_file"`
	// Unpinned lets in a host whose entry lists no sekishoHostKey, by its
	// certificate alone: for directories that somebody else runs and that lack the
	// attribute. A stolen key is then good until its certificate ends.
	Unpinned bool `toml:"unpinned"`
}

// Upstream makes this host follow a broker instead of a directory: it is told its
// own users, groups and rules, and nothing else.
type Upstream struct {
	// Brokers are HOST:PORT; the first that answers is followed.
	Brokers []string `toml:"brokers"`
	// CertFile is this host's certificate, as `sekisho host enrol` puts it there.
	CertFile string `toml:"cert_file"`
	// KeyFile is its key, which only root and the service user may read.
	KeyFile string `toml:"key_file"`
	// CAFile is the authority of the brokers' certificates.
	CAFile string `toml:"ca_file"`
}

// Log is what sekishod writes on standard error. Every decision is a line of
// its own at every level.
type Log struct {
	// Level is the least important level written: `error`, `warning`, `info`
	// or `debug`.
	Level string `toml:"level"`
	// Format is `json`, or `text` for people.
	Format string `toml:"format"`
}

// Default is the configuration of an empty file.
func Default() Config {
	return Config{
		StateDir:   "/var/lib/sekisho",
		RuntimeDir: "/run/sekisho",
		User:       "sekisho",
		Realm:      Realm{Domain: "sekisho.internal"},
		Directory:  Directory{Schema: "rfc2307bis"},
		Snapshot:   Snapshot{MaxAge: Duration(24 * time.Hour), HoldShare: 0.3},
		Keys:       Keys{Callers: []string{"sekisho-keys"}, RSABits: keys.DefaultMinRSABits},
		PAM:        PAM{Enabled: true, TicketLife: Duration(10 * time.Hour), TicketRenew: Duration(7 * 24 * time.Hour)},
		Kerberos:   Kerberos{Config: "/etc/krb5.conf", Keytab: "/etc/sekisho/krb5.keytab"},
		Clock:      Clock{Skew: Duration(5 * time.Minute)},
		UserDB:     UserDB{Enabled: true, UIDMin: 1000, UIDMax: 1<<31 - 1},
		Sessions:   Sessions{Grace: Duration(200 * time.Millisecond)},
		Guessing: Guessing{PerUser: 5, PerSource: 20, LongestWait: Duration(15 * time.Minute),
			KnownGood: Duration(30 * 24 * time.Hour)},
		OTP:      OTP{Drift: 1},
		Audit:    Audit{Keep: Duration(400 * 24 * time.Hour), FileSize: 64},
		State:    State{Replicas: 3},
		Upstream: Upstream{CertFile: "/etc/sekisho/host.crt", KeyFile: "/etc/sekisho/host.key", CAFile: "/etc/sekisho/ca.crt"},
		Log:      Log{Level: "info", Format: "json"},
	}
}

// Embedded tells whether sekishod runs a realm of its own.
func (c Config) Embedded() bool { return len(c.Directory.URL) == 0 && !c.Follows() }

// Follows tells whether sekishod follows a broker instead of a directory.
func (c Config) Follows() bool { return len(c.Upstream.Brokers) > 0 }
