// Package spnego negotiates Kerberos over SPNEGO (RFC 4178), for both sides, and
// speaks it in HTTP (Negotiate, RFC 4559), as [HTTP] and [Transport].
//
// Kerberos is the only mechanism, under its own and under Microsoft's object
// identifier. So there is nothing weaker to be talked down to; the list of mechanisms
// is protected nevertheless wherever RFC 4178 §5 asks for it, and a negotiation
// that cannot be protected is refused.
//
// In HTTP every request is authenticated by itself. A connection proves nothing:
// proxies put the requests of several people on one. Without TLS the ticket could
// be taken off the wire and the request with it changed, so plain HTTP is refused
// unless it is allowed; and whoever stands in the middle of TLS can hand tokens on,
// which channel bindings show.
package spnego
