// Package local is the door on sekishod's own unix socket: it serves the line
// protocol of package wire to sekisho-keys, the sekisho command and the PAM
// module. The verb keys is here, for sshd's AuthorizedKeysCommand
// (sshd_config(5)); the other verbs are functions that the program hands in.
//
// # Who may ask what
//
// The kernel says who is calling (SO_PEERCRED, unix(7)); nothing in a message
// counts. Root may use every verb. The configured keys callers, which is the
// user that sshd runs sekisho-keys as, may use keys about anybody. Everybody
// else may ask keys and any verb marked Self only about himself: the user
// field must be the directory's name for his uid.
//
// # What one caller can cost
//
// One goroutine and one small buffer a connection. Connections are counted,
// those of unprivileged users in a share of their own and for each uid, so
// that they cannot keep sshd out; package gate says what is left to them. A connection that is too many is told so
// and closed. A request must arrive whole within Config.Request of its first
// byte, a connection without one is closed after Config.Idle, and an answer
// that is not taken within Config.Request ends it too. Nothing is logged for
// each request above the level debug.
//
// # keys
//
// The door asks the broker whether the key's owner may log in, and prints the
// key with what the grant allows and nothing more: "restrict" and the flags
// granted, from=, permitopen=, permitlisten=, environment=, command=,
// expiry-time= and tunnel=. Options that the directory has on the key can
// only narrow the grant further; where the two cannot be put into one line,
// the key is left out.
//
// With a fingerprint, the owners of that key are asked about: first the
// account's own user, then others whom a rule may allow in as this account.
// Without one, only the account's own user is. The proof shown is the key,
// since sshd lets nobody in before it has verified the signature. A key that
// signs certificates (cert-authority) is never printed, and for an offered
// certificate the answer is no: sshd matches it against such keys only.
//
// sshd's options cannot say everything. Tunnels need PermitTunnel in
// sshd_config, which is off by default, and "restrict" does not shut them: a
// grant without them names a device that nobody has, see noTunnel in grant.go.
// And where a grant opens only some ports for ssh -L, or only some for ssh -R,
// the other direction is shut by one entry that can do nothing: see nowhere.
package local
