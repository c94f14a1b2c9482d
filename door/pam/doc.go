// Package pam is the door of pam_sekisho.so: sign-in, account, credentials,
// session and password change, over a unix socket of its own. The bytes are
// those of package wire; this text says what the verbs mean.
//
// # Who may ask what
//
// The kernel says who is calling (SO_PEERCRED, unix(7)). Root, which is what
// sshd, login, su, sudo and passwd are while they use PAM, may ask about
// anybody; everybody else, such as a screen locker, about himself alone.
//
// # Conversations
//
// One connection is one PAM call. The verbs auth and passwd may take several
// rounds: an answer no with the reason "prompt" has a line for each message or
// question, "KIND TEXT", and the module's next request is "answer" with a field
// a1, a2 … for each of them that wants a reply, in order. Kinds: password,
// new-password, secret (none echoed), visible, info and error (no reply).
//
// # Verbs
//
//	auth        user service [tty rhost ruser authinfo]    yes: login TOKEN
//	account     user service [tty rhost ruser authinfo login]
//	credentials user op [login session ccname]             yes: [session ID, dir NAME, cache BASE64 …]
//	session     user service op [tty rhost ruser authinfo login session pid]  yes: session ID
//	passwd      user service phase [tty rhost ruser]
//	answer      a1 … a8
//
// authinfo is what sshd has verified in this login so far: the value of
// SSH_AUTH_INFO_0 in PAM's environment, one method a line; other programs have
// none. sshd 9.2 adds the last method only after it has asked for the account.
// So account judges its logins by what is proved by then, or else only whether
// the account is open; and session op=open judges them by everything: a no there
// is a session in which sshd runs nothing. TOKEN stands for
// what a caller has proved: sshd has one process sign somebody in and another
// one open his session. It is 32 random bytes, is kept for some minutes, and
// counts for the same user only, and for root or the uid that got it.
//
// # Which door
//
// A login is judged by the rules of the door it came in through. When sshd has
// verified a key or a certificate that is the door keys: the key must be the
// user's in the directory, or belong to somebody whom a rule allows in as this
// account. All else is the door pam.
//
// # Tickets
//
// A sign-in may bring a Kerberos ticket for the session. The module, which runs
// as root, makes a folder for it below Config.Tickets, owned by the user and
// by our group, and a file in it; so this door, which has no privilege, can
// write a renewed ticket into the file and empty the folder when the session
// has ended, and no process of another user can read either. What a user makes
// unreadable for our group is his from then on, and left alone.
package pam
