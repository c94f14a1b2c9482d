// Package kdcotp is the door of the KDC's second factor. MIT's krb5kdc, with its
// plugin krb5-otp, asks at it by RADIUS (RFC 2865) over a unix stream socket
// whether what somebody typed at kinit's prompt is right: his password with the
// one-time code behind it.
//
// # Whom it trusts
//
// The KDC, which is known by the uid that the kernel names (Config.Callers); every
// other connection is closed unread. Neither side proves itself by a RADIUS secret:
// it is empty, as libkrad has it on unix sockets, so that User-Password is in the
// clear for whoever could read the socket's buffers, which is the kernel.
//
// # What an attacker can do
//
// Somebody on the network reaches this door through the KDC, with a user name and
// what he typed, each at most 253 and 128 bytes long. He can make it ask for as many
// users as he likes; how often he may guess is the broker's to limit. The KDC does
// not say where he comes from. One request does not wait for another; Config.Max
// of them are judged at once, and more than that are not answered.
//
// Somebody who has become the KDC's user holds the realm's master key already, and
// gains nothing here.
//
// # Three answers
//
// Access-Accept, Access-Reject, and silence for "could not find out": the KDC
// turns all other answers, a closed connection too, into "wrong", and after
// silence kinit says that it cannot contact the KDC.
package kdcotp
