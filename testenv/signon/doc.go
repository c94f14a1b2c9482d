// Package signon tests one sign-in from end to end: sekishod as a realm and on
// hosts, pam_sekisho.so in Debian's own stacks, and the unmodified sshd, login,
// su, sudo, passwd, pamtester, kinit, kpasswd and ldapwhoami on the other side.
//
// The tests that disturb a realm (move its clocks, hang or kill its servers)
// have one of their own, so that all others can run at the same time.
package signon
