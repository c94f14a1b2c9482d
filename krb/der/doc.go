// Package der reads and writes what Kerberos messages are made of (RFC 4120 §5),
// and the messages that more than one package of ours speaks.
//
// The reader is strict, for what it reads is the peer's to write: DER, each field in
// its place, nothing left over, every list bounded. Where RFC 4120 lets a sender
// choose, all that it allows is read; where peers are known to differ from it (the
// sign of UInt32), both are. Nothing here judges what a message says, and names are
// given as they stand: krb.Principal.Check says whether one can be taken.
//
// An empty input, a missing field and a wrong one are all [ErrMalformed].
package der
