// Package broker holds Sekisho's words as types and its one decision.
//
// A door turns bytes into a [Request]; [Decide] turns a [View] of the
// directory, the request, the proofs shown and a time into a [Decision]; the
// door turns that into bytes again. Decide is pure: it opens no file and no
// socket, reads no clock, starts nothing and logs nothing. Its specification
// is the folder of commented transcripts under testdata.
//
// A [Snapshot] is an immutable view of the directory. It is changed through an
// [Edit], which shares everything that did not change with the snapshot it
// came from, so that publishing one user's change costs the same in a
// directory of ten thousand users and in one of a million. Nested groups are
// resolved in the Edit, when they change, and never when somebody asks.
//
// A [Session] is a live use of a decision. Broker tracks those that are open by
// what they rest on: the account, its groups and all that those are nested in,
// the host and its groups, the rules, the clock. When a new snapshot is published
// it is compared with the one before at the cost of what differs ([Changes]), and
// the sessions that this touches are judged again by the same Decide.
//
// Default deny: the zero [Outcome] denies, rules only allow, and a rule that
// does not match for any reason, an unreadable value included, gives nothing.
package broker
