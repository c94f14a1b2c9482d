// Package keys parses, judges and prints SSH public keys, certificates and
// authorized_keys lines with their options. It is pure: no input or output, no
// clock, no log. What it takes is a subset of what OpenSSH 9 takes; anything
// doubtful is refused, because a value dropped in silence could have been a
// restriction. What it prints, sshd and ParseLine read back as the same value.
package keys

// Key is one public key, comparable with ==. Make it with ParseBlob or
// ParseLine: the methods of a Key made by hand from other bytes answer as for
// no key at all.
type Key struct {
	// Type is the name OpenSSH gives to the key's format, such as
	// "ssh-ed25519" (RFC 4253 §6.6, RFC 5656, RFC 8709, PROTOCOL.certkeys,
	// PROTOCOL.u2f). It equals the name inside Blob.
	Type string
	// Blob is the public key in wire format, as RFC 4253 §6.6 has it.
	Blob string
}
