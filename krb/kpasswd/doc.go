// Package kpasswd is the change-password protocol (RFC 3244), both sides:
// [Server] answers on port 464, and [Client] changes a password there. Versions
// 1 and 0xff80 are spoken; the second (set password) for one's own name only.
//
// The user's proof of the old password is a ticket for kadmin/changepw that he
// got with it (RFC 4120 §2.1, the flag INITIAL). The KDC gives one also when the
// password has expired, so that this is the way out of an expired password.
//
// Whom the server trusts: the KDC, by the key of kadmin/changepw. Before a ticket
// was believed, nothing is done but parsing within limits, and over UDP nothing is
// answered that a server could have sent: two servers never talk to each other.
// A request that comes again, as datagrams do, is answered again and not done
// again. The server changes nothing itself: [Config].Change does, for the user
// whose name the KDC has sealed.
//
// No error and no log line holds a password.
package kpasswd
