// Package gss is the Kerberos mechanism of GSS-API (RFC 4121, RFC 2743) without the
// API: the tokens that establish a context, the tokens that then protect messages,
// channel bindings and delegated credentials, for both sides; and adapters for
// gssapi-with-mic in golang.org/x/crypto/ssh (RFC 4462).
//
// An [Acceptor] turns an initiator's first token into a [Context] at once, as
// Kerberos needs no second one. Whom it trusts is what package accept trusts: the
// holder of the service's key. It never believes a name that is not in the ticket.
// An [Initiator] makes that token from a service ticket and believes the acceptor
// only if it asked for mutual authentication and the answer fits.
//
// Everything in a token is the peer's to write: framing is strict DER with no rest,
// every length is bounded, and a token from before RFC 4121 is refused, as are DCE
// style, encryption types other than 17 to 20 and checksums other than 0x8003.
//
// An attacker between the two can drop tokens, which is seen, and can hand them on,
// which is not seen: who authenticates inside TLS should use channel bindings.
package gss
