// Package ldapsync is all that speaks LDAP: it keeps a broker.Snapshot of a
// directory up to date by content synchronization (RFC 4533,
// refreshAndPersist), and it holds the small Client that the command line
// binds and writes with.
//
// # Following
//
// [Sync.Run] follows one provider at a time and goes to the next when one
// fails. It publishes whole snapshots only: what a refresh brings becomes
// visible at the refresh's end, and later changes as they come. [Sync.View]
// answers from memory and never waits for the network or the disk.
//
// # Age
//
// slapd sends nothing when nothing changes, so silence proves nothing. While
// the stream is up, the provider is asked for its contextCSN every few
// seconds on the same connection. View.AsOf moves to the instant such a
// question was sent, once the provider has answered it and the stream has
// delivered everything up to the contextCSN in the answer. Nothing else moves
// it but a completed refresh (to the instant the refresh was asked for). A
// hung or half-open provider, a provider that lags behind, and a held-back
// change all leave it where it is.
//
// # Holding back
//
// A refresh that would take away more than Config.HoldShare of the users (and
// at least HoldMin of them), or that brings no entry at all where there were
// some, is not published: a wrong access rule or an empty restore looks just
// like that. The old snapshot stays, and grows old, until Accept, or until
// the directory shows the users again. The same share counts over the
// deletions of the last HoldWindow in the persist stage, so that ldapdelete -r
// is stopped on its way: those gone before the limit was reached stay gone.
//
// # Disk
//
// The last good snapshot is kept in Config.StateDir as segments: checksummed
// records of raw entries, closed by commit records that hold generation,
// cookie and time. It holds no secret. What it loads goes through the same
// translation as what the provider sends.
package ldapsync
