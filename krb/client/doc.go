// Package client is the client side of the KDC exchanges (RFC 4120 §3.1, §3.3): a
// ticket-granting ticket for a password or a key, service tickets with it, its
// renewal and its forwarding; and [Prover], which makes of them the broker's proof
// that somebody knows his password.
//
// It trusts neither the network nor the KDC. Every answer is read strictly,
// within limits, and belongs to its request or is not looked at; and as anybody
// can play a KDC to whom a password or a key was told beforehand, a ticket from
// Login proves nothing yet: Prover does, with a key that only the true KDC knows.
//
// A failed exchange is an [*Error], whose Kind tells apart what a door must tell
// apart: a wrong password, an unknown or locked principal, an expired password, a
// wrong clock, and a KDC that could not be asked. No clock is corrected in silence.
package client
