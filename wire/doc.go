// Package wire is the line protocol of sekishod's local socket, version 1:
// the bytes, and nothing else. It is pure: it opens no socket and keeps no
// state. sekishod's door/local serves it; sekisho-keys, sekisho and the PAM
// module speak it. It is a protocol of our own; this text specifies it.
//
// # Carrier
//
// A stream socket (SOCK_STREAM, AF_UNIX). Who is calling is asked of the
// kernel (SO_PEERCRED) and never taken from a message. The client speaks
// first; each request gets exactly one answer. A connection may be kept for
// many requests, but a client sends the next one only after the last byte of
// the answer: bytes that arrive early make the other side close. What a verb
// remembers between two requests (a conversation) belongs to the connection
// and ends with it.
//
// # Words
//
//	name    = 1*32 of a-z 0-9 "-", the first one a-z
//	value   = any bytes, percent-encoded: bytes 0x21 to 0x7E other than "%"
//	          stand for themselves, every other byte is "%" and two digits of
//	          0-9 A-F. Nothing else may be encoded, so that each value has one
//	          spelling. It may be empty.
//	count   = decimal digits without a leading zero
//	version = 1*5 decimal digits without a leading zero; here "1"
//
// Words are parted by one space (0x20). There is none at a line's end. A line
// ends in one newline (0x0A); a carriage return is an error like any other
// control character.
//
// # Request
//
//	version SP verb *( SP name "=" value ) LF
//
//	1 keys user=alice fp=SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDbv4o1eP5vQyIdGJ0 type=ssh-ed25519\n
//
// The verb is a name. No field name may come twice. The order of the fields
// has no meaning. A field that the verb does not know makes the request
// wrong: it is never skipped. At most MaxFields fields and MaxLine bytes, the
// newline included.
//
// # Answer
//
//	version SP outcome SP count [ SP "reason=" name ] [ SP "text=" value ] LF
//	count * ( line LF )
//
//	1 yes 1\n
//	restrict,pty ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI… alice@laptop\n
//
//	1 no 0 reason=no-rule text=no%20rule%20lets%20alice%20in\n
//
//	1 unknown 0 reason=no-snapshot\n
//
// The outcome is "yes", "no" or "unknown"; unknown means "could not find out"
// and is never to be treated as one of the others. Whatever a client cannot
// read to the last byte, or does not understand, is "unknown" as well. The
// reason is a name out of the verb's closed list, up to MaxReason bytes; the
// text is one sentence for people and may change at any time. Both are left
// out when empty, and stand in this order.
//
// The body is count lines of raw bytes: never percent-encoded, and without
// control characters (0x00 to 0x1F, 0x7F). A line may be empty. A client acts
// on the body only after all of it has arrived. Limits: MaxBodyLines lines of
// MaxBodyLine bytes each, and MaxAnswer bytes for the whole answer, header
// and newlines included.
//
// # Versions and errors
//
// The version is the first word in both directions. A server that does not
// speak the request's version answers, in its own, "unknown" with the reason
// "version" and a text that names both, and closes; a client that reads
// another version reports both numbers and has found out nothing. To a
// request that it cannot parse, a server answers "unknown" with the reason
// "malformed" and closes.
//
// A new verb, a new field of a verb and a new reason keep the version. A
// change to anything above makes a new one.
//
// # Verbs
//
//	keys    user [fp] [type] [key]   authorized_keys lines for sshd
//	why     user door target …       a decision and its causes, for people
//	status                           the broker's state
//	accept  …                        release a held-back refresh
//
// The fields of keys: user is the account that sshd was asked for (sshd's
// %u); fp the offered key's fingerprint, "SHA256:" and 43 characters of
// unpadded base64 (%f); type its algorithm name (%t); key its blob in base64
// (%k). With fp or key, only the offered key is answered. "yes" carries one
// line for each key, "no" none.
package wire
