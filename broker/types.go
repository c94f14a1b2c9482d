package broker

import (
	"net/netip"
	"time"

	"github.com/sekisho/sekisho/keys"
)

// Named strings, so that a swap of two of them does not compile.
type (
	// UserName is a directory user's uid attribute, case kept.
	UserName string
	// GroupName is a group's cn attribute, case kept.
	GroupName string
	// HostName is one of a host's names, in lower case.
	HostName string
	// RuleName is a rule's cn attribute.
	RuleName string
	// Login is the account on the target that the caller asks for.
	Login string
	// Door names one way in: keys, pam, userdb, gateway, openvpn, radius, …
	Door string
	// DN is a distinguished name in the normal form that the Directory gives
	// all its names; broker only compares it for equality.
	DN string
)

// EntryID is an entry's entryUUID (RFC 4530), 16 bytes: the one name of an
// entry that a rename does not change.
type EntryID [16]byte

// AccountState is what the directory says of an account besides its name.
// The zero value is an account in good standing. Times are in seconds since
// the Unix epoch; 0 is none.
type AccountState struct {
	// Locked by an administrator: nsAccountLock TRUE, the KDC's
	// DISALLOW_ALL_TIX, or pwdAccountLockedTime 000001010000Z.
	Locked bool
	// ShadowExpires is the first instant at which shadowExpire
	// (days since the epoch, RFC 2307) shuts the account.
	ShadowExpires int64
	// KerberosExpires is krbPrincipalExpiration.
	KerberosExpires int64
	// PolicyLockedUntil is the end of a ppolicy lock-out
	// (pwdAccountLockedTime and the policy's pwdLockoutDuration).
	PolicyLockedUntil int64
}

// User is one person or service account of the directory.
type User struct {
	ID    EntryID
	DN    DN
	Name  UserName
	UID   uint32
	GID   uint32
	Gecos string
	Home  string
	// Shell is the loginShell; one that ends in /nologin or /false shuts the
	// account at every door.
	Shell string
	// Keys are the entry's usable sshPublicKey values.
	Keys  []keys.Line
	State AccountState
}

// HasKey reports whether a key is the user's own. One that signs certificates is
// not: it lets its owner sign for others.
func (u *User) HasKey(fingerprint string) bool {
	for _, l := range u.Keys {
		if (l.Options == nil || !l.Options.CertAuthority) && !l.Key.IsCertificate() && l.Key.Fingerprint() == fingerprint {
			return true
		}
	}
	return false
}

// Group is a group of users, groups and hosts. It may contain itself by any
// way round: loops are harmless.
type Group struct {
	ID   EntryID
	DN   DN
	Name GroupName
	// GID is the gidNumber; 0 for a group that is no posixGroup.
	GID uint32
	// Members are the direct members by DN: users, groups or hosts.
	Members []DN
	// MemberUsers are direct members by name (memberUid of RFC 2307, the user
	// of a nisNetgroup triple).
	MemberUsers []UserName
	// MemberHosts are direct members by name (the host of a netgroup triple).
	MemberHosts []HostName
}

// Host is a machine that people enter.
type Host struct {
	ID EntryID
	DN DN
	// Names are all its names, lower case; the first is the canonical one.
	Names []HostName
	Addrs []netip.Addr
	// FeedKeys are SHA-256 of the public keys (SubjectPublicKeyInfo, RFC 5280
	// §4.1.2.7) by which the host may follow a broker: sekishoHostKey.
	FeedKeys [][32]byte
}

// Outcome is what a decision says. The zero value denies.
type Outcome uint8

const (
	// Deny is a certain no.
	Deny Outcome = iota
	// Unknown is "could not find out": never a yes, never a no.
	Unknown
	// NeedProof is a no that would be a yes with the proofs in Decision.Need.
	NeedProof
	// Allow is a yes, to what Decision.Grants say.
	Allow
)

// String gives the outcome's word: deny, unknown, need-proof or allow.
func (o Outcome) String() string {
	switch o {
	case Allow:
		return "allow"
	case NeedProof:
		return "need-proof"
	case Unknown:
		return "unknown"
	default:
		return "deny"
	}
}

// Reason is why a decision came out as it did: exactly one of the list below.
type Reason string

// The closed list of reasons.
const (
	ReasonNone            Reason = ""                 // the zero Decision, made by nobody
	ReasonRule            Reason = "rule"             // allow: the rules in Decision.Rules
	ReasonNoSnapshot      Reason = "no-snapshot"      // unknown: nothing was ever read from the directory
	ReasonStale           Reason = "stale"            // unknown: the snapshot is older than allowed
	ReasonRecorder        Reason = "recorder"         // unknown: a grant could not be recorded
	ReasonUnknownUser     Reason = "unknown-user"     // deny
	ReasonAmbiguousUser   Reason = "ambiguous-user"   // deny: two entries share the name or the uid number
	ReasonLocked          Reason = "locked"           // deny: locked by an administrator
	ReasonPolicyLocked    Reason = "policy-locked"    // deny: locked by the password policy
	ReasonShadowExpired   Reason = "shadow-expired"   // deny: shadowExpire has passed
	ReasonKerberosExpired Reason = "kerberos-expired" // deny: krbPrincipalExpiration has passed
	ReasonNologin         Reason = "nologin"          // deny: the shell says that nobody logs in
	ReasonNoKey           Reason = "no-key"           // deny: the user has not this key, or nobody has
	ReasonUnknownHost     Reason = "unknown-host"     // deny: the target is no host of the directory
	ReasonNoRule          Reason = "no-rule"          // deny: no rule is about this user, door, target and login
	ReasonSource          Reason = "source"           // deny: not from this network
	ReasonTime            Reason = "time"             // deny: not at this time
	ReasonRuleExpired     Reason = "rule-expired"     // deny: every fitting rule has expired
	ReasonRuleNotYet      Reason = "rule-not-yet"     // deny: every fitting rule begins later
	ReasonProof           Reason = "proof"            // need-proof: the proofs in Decision.Need are missing
	ReasonCommand         Reason = "command"          // deny: the fitting rules force a command, which this door cannot do
	ReasonConflict        Reason = "conflict"         // deny: fitting rules force different commands
	ReasonDeferred        Reason = "deferred"         // allow: another door judges the missing proofs, see Request.ProofsDeferred and Standing

	// What provers find out, see Proven.
	ReasonWrongPassword   Reason = "wrong-password"   // deny: the proof shown is wrong
	ReasonPasswordExpired Reason = "password-expired" // deny: right, but it must be changed first, and was not
	ReasonPasswordRefused Reason = "password-refused" // deny: the policy does not take the new password
	ReasonClock           Reason = "clock"            // unknown: a clock is wrong, so that tickets prove nothing
	ReasonUnreachable     Reason = "unreachable"      // unknown: no KDC or directory server answers
	ReasonBusy            Reason = "busy"             // unknown: too many proofs to be judged at once
	ReasonFalseKDC        Reason = "false-kdc"        // unknown: whoever answers does not know our own key
	ReasonProver          Reason = "prover"           // unknown: the proof could not be judged for another cause
	ReasonConversation    Reason = "conversation"     // unknown: the caller left or broke the protocol
	ReasonThrottled       Reason = "throttled"        // deny: too many failures; whether the proof was right was not looked at
	ReasonUsedCode        Reason = "used-code"        // deny: the one-time code was used before
	ReasonNotEnrolled     Reason = "not-enrolled"     // deny: the user has no token for one-time codes
	ReasonState           Reason = "state"            // unknown: what brokers share cannot be reached

	// Why sessions end or do not begin, besides the reasons above.
	ReasonTooMany Reason = "too-many-sessions" // deny: as many as the user or the rule may have are open
	ReasonKilled  Reason = "killed"            // an administrator ended it
)

// Proof is one thing that the caller has shown to a prover.
type Proof string

// The kinds of proof that a rule can ask for.
const (
	ProofKey         Proof = "key"
	ProofCertificate Proof = "certificate"
	ProofPassword    Proof = "password"
	ProofTicket      Proof = "ticket"
	ProofOTP         Proof = "otp"
)

// Target is where a caller wants to go: a host by name, or an address.
type Target struct {
	Host HostName
	Addr netip.Addr
}

// Request is who wants what, where from, through which door.
type Request struct {
	User   UserName
	Login  Login // empty: the user's own name
	Door   Door
	Target Target
	// From is the caller's address; invalid when the door does not know it.
	From netip.Addr
	// Remote says that the caller is not on the target itself, even when From is
	// not known.
	Remote bool
	// SourceDeferred says that the door does not know From but has the peer
	// enforce each Grant's From (sshd's from= option). Without it, a rule with
	// a source network matches no request of unknown source.
	SourceDeferred bool
	// ProofsDeferred says that another door asks for the proofs that are still
	// missing before anybody is in (the account step of PAM, after a key). Such
	// a request is allowed, with ReasonDeferred, where nothing but proofs is
	// missing and all rules that want them permit the same.
	ProofsDeferred bool
	// Unconfined says that the door cannot hold a session to a forced command
	// (sshd, for a login by password or ticket), so rules that force one do not
	// match.
	Unconfined bool
	// Key is the fingerprint (SHA256:...) of the key that sshd has verified, of a
	// plain key in the user's entry: the answer is no when he has it no more. Empty
	// for a login by anything else.
	Key string
	// Recent are older proofs that count for rules which allow for it, such as
	// sekishoProof: otp<12h. Their age is of the time of asking, for good.
	Recent []RecentProof
}

// Grant is what an allowed caller gets.
type Grant struct {
	// From is the network that the grant holds for; the zero Prefix is
	// anywhere. Only a request with SourceDeferred gets more than one grant or
	// one with From set: the first whose From contains the caller is his.
	From  netip.Prefix
	User  UserName
	Login Login
	// Rules are the rules that made the grant, by name.
	Rules []RuleName
	// Until is when the grant must be judged again at the latest: the nearest
	// end of a rule, a time window or the account; zero for no such end.
	Until  time.Time
	Permit Permissions
}

// Decision is the answer to a Request. The zero value denies.
type Decision struct {
	Outcome Outcome
	Reason  Reason
	// Rules are the rules that made it so: for an allow those that granted,
	// for a refusal with a nearest miss the rule that missed.
	Rules []RuleName
	// Shown are the proofs that it was made on; set by Broker, for the record.
	Shown []Proof
	// Need are the proofs that are missing when Outcome is NeedProof; any one
	// of the lists would do.
	Need [][]ProofNeed
	// Until is the nearest time at which the same question may be answered
	// differently without any change in the directory, View.MaxAge aside; zero
	// for none known.
	Until time.Time
	// Text is what the caller may be told beside the door's fixed sentence, in
	// one line; empty for nothing.
	Text string
	// Generation and Age are the snapshot's.
	Generation uint64
	Age        time.Duration
	// Grants is empty unless Outcome is Allow.
	Grants []Grant
}
