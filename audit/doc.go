// Package audit is the record of all decisions: JSON lines in a folder, each
// with the SHA-256 of the line before, sealed by ed25519 signatures as it goes,
// and on the disk before a grant is given.
//
// # Lines
//
// A file holds whole lines, one JSON object each, in the order of seq, which
// grows by one from line to line through all files. The last field of a line is
// prev, the SHA-256 (base64url, 43 characters) of the whole line before it, its
// newline included; the first line of all has 43 times A. A seal (kind seal)
// has sig after prev: an ed25519 signature of all bytes of its line before
// `,"sig":`. A seal stands for lines that were on the disk before it was
// written.
//
// # Writers
//
// A [Log] has one goroutine that writes and syncs what all others have queued
// meanwhile, so that many grants share one fdatasync(2). A grant waits for it; a
// refusal does not.
//
// # Torn places
//
// Nothing that was written is changed or taken away by a Log but in two cases:
// what a failed write has left is cut off at once, before anybody was answered;
// and files grow too old (Config.Keep), which a record of kind delete says first,
// and a seal after it: at the start a delete that is not sealed is taken back.
// A crash leaves bytes that are no whole line, or do not fit the chain: they stay
// where they are, the next file begins with a record of kind mend that says
// where, how many and what their SHA-256 is, and the chain goes on from the last
// good line.
//
// # What it cannot do
//
// Lines after the last seal that somebody has kept elsewhere can be cut off, or
// all lines rewritten by whoever has the key, and the folder alone will not show
// it; see docs/audit.md.
package audit
