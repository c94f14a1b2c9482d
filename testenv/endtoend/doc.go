// Package endtoend has no code: its tests look at Sekisho as a user or an
// attacker does, through unmodified sshd, ssh, getent, ldap-utils and slapd on
// the hosts of package testenv. What a part does by itself is tested in the
// part's own package; here stands what only shows when all of them meet.
//
// All tests share one world: an embedded realm on the host broker, which web1
// follows, and a client with several addresses. A test that breaks something
// has a directory and a host of its own.
package endtoend
