// Package feed hands a broker's snapshot on to hosts, and is the host's side of
// it: a host that follows a broker instead of the directory is told its own
// users, groups and rules, and nothing else.
//
// # Whom it trusts
//
// The broker believes a host what its certificate says: signed by the
// configured CA, for one DNS name that one host entry has, with the public key
// that this entry lists (sekishoHostKey). Such a host is believed its own
// sessions, and nothing about others. The host believes the broker all that it
// says, which is why it checks the broker's certificate against the name it
// has dialled.
//
// A stolen host's key opens that host's view and its calls until the entry
// loses the key or is removed; then the connection is cut at once.
//
// # The protocol
//
// TLS 1.3 with certificates on both sides and ALPN "sekisho-feed/1". Each
// direction is a row of frames: four bytes of length (big-endian, of what
// follows, at most 1 MiB), one byte that says what it is, and JSON. A frame that
// is not exactly one of the known kinds, with the known fields, ends the
// connection.
//
// The client begins with hello: its version, and which state it has (a stream
// and a number in it, and a digest). The server answers with its hello, then
// with what differs: the steps that the client has missed while it still has
// them, nothing when the digests are the same, else the whole view. After that
// come changes as they happen. A change is a row of frames that the commit at
// its end makes valid all at once; the commit has the digest of what the view
// must then be.
//
// The client pings every two seconds, and says how far it is. The answer tells
// how old the broker's own view is, so that ages add up; who hears nothing for six
// seconds hangs up.
package feed
