// Package reaper ends login sessions: all processes of one, and of no other.
//
// sekishod has no rights to do so. sekisho-reaper has: a small program that
// sekishod's first stage starts as root, with one end of a pair of sockets
// ([Pair]), and that keeps uid 0 with CAP_KILL alone. [Serve] is what it does.
// sekishod holds the other end ([Client]); when that is closed, sekisho-reaper
// ends, and the sessions live on.
//
// # Whom it trusts
//
// Nobody else can ask: the pair has no name. What may be asked is little. A
// process is adopted only with the connection by which it told sekishod of its
// session: the kernel says (SO_PEERCRED) that root made that connection, to the
// socket of the door. So no daemon of the machine can be named a session and be
// ended, even by whoever has taken over sekishod; he can end sessions, and write
// a line to their terminals.
//
// # What a session's processes are
//
// With a cgroup2 mount that can be written, a session is a folder of its own,
// sekisho-ID.PID.STARTED, in which everything stays that its processes start:
// setsid, nohup and double forks do not leave it, and users cannot move out of
// a folder that is root's. The folder is made
//
//   - in logind's scope, when this session made it or is nested in it,
//   - in the folder of the session in which it began (su in ssh), or in the one
//     of the service that it belongs to,
//   - else in the folder sekisho at the mount's root.
//
// So the end of a session is the end of those nested in it. A session from
// outside (Opening.Fresh: sshd) is never nested, not even when sshd was started
// anew by hand in somebody's session.
//
// Without cgroup2, a session is the process that opened it with all that
// descends from it, all with the audit session id (pam_loginuid(8)) that it got,
// and all in the sessions (setsid(2)) of those. A process leaves this when its
// parent has ended, it has made a session of its own, and there is no audit
// session id; docs/sessions.md says so to people.
//
// # What is said
//
// Each packet is a number, a space and a message of package wire: a request, or
// the answer with the same number.
//
//	adopt   session pid started [fresh]   with the connection as SCM_RIGHTS
//	end     session grace [text]          grace in milliseconds
//	forget  session
//	list    [after]                       sessions in the order of their ids
//
// A packet with the number 0 comes unasked, with a line "emptied ID" for each
// session whose last process has gone.
package reaper
