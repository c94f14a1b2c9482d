// Package userdb is the users door: the Varlink service io.systemd.UserDatabase
// (https://systemd.io/USER_GROUP_API), by which Debian's libnss-systemd makes
// directory users and groups into users and groups of this machine. There is
// no NSS code of ours in anybody's process.
//
// # What it gives away
//
// Names, numbers, home directories, shells and group memberships of all users
// of the snapshot, to every local process, as /etc/passwd does; whether they
// may enter is the other doors' question, and resolving a name is no login.
// Nothing here proves anything, and no password hash is ever here. What
// systemd calls privileged is for root and the user himself; others get
// "incomplete": true. Even to those it is empty unless Config.Keys is set: a
// key that is listed here was judged by no rule, and from systemd 256 on sshd
// would let it in.
//
// # What it must not give
//
// A directory entry must never become root, a system account, or somebody
// else's account on this machine. So nothing is answered that
//
//   - has a uid or gid below Config.Min, above Config.Max, or in a range that
//     systemd keeps for itself; or a name that accounts cannot have;
//   - has a name or number that /etc/passwd or /etc/group has: local entries
//     are local. It is not enough that files come first in nsswitch.conf:
//     libnss-systemd looks up the groups of a membership through all of NSS,
//     so a directory group named sudo would make its members sudoers;
//   - has a name or number that stands in the directory twice;
//   - differs from what was asked, letter by letter;
//   - would break a line of passwd(5), or would not be taken by the client.
//
// systemd's range for containers (524288 to 1879048191) is not refused: FreeIPA
// and sssd give numbers there. Config.Max can shut it out.
//
// # Local groups and a service that hangs
//
// Lookups that /etc/passwd and /etc/group answer never come here, with one
// exception: the C library puts the groups of a local user other than root
// together from all services. Where "initgroups: files [SUCCESS=return]
// systemd" stands in nsswitch.conf it stops at the files when they name him.
//
// # Could not find out
//
// Without a snapshot, with one that is too old, and when the local files
// cannot be read, the answer is ServiceNotAvailable, which NSS takes for
// "unavailable" and not for "no such user". It comes at once: a service that
// is silent costs each caller 45 seconds, so there is a socket that listens
// only once there is something to say (Bind, Listen), all answers come from
// memory, and a connection that is too many is told so and closed.
package userdb
