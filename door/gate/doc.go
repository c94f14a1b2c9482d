// Package gate is what the doors on unix sockets have in common: it accepts
// connections, asks the kernel who is calling, bounds how many there are and
// how long each may wait, and ends them when sekishod stops. What is said on a
// connection is the door's own; this package knows no protocol.
//
// # Who is calling
//
// A Peer is what the kernel noted at connect(2) (SO_PEERCRED, unix(7)): the
// effective ids of the process, as sekishod's own user namespace numbers them.
// So a setuid program counts as its owner; a process that was handed a
// connection speaks as the one that made it; root of a container without a
// user namespace of its own, which was given the socket, is root. A connection
// whose caller the kernel does not name is closed.
//
// # What somebody who can connect can use up
//
//   - His own places: Config.PerUID connections for as long as he likes, by
//     saying something now and then. Whoever has subordinate uids (subuid(5))
//     can come as many users, and then take
//   - all places of unprivileged users, which are half of Config.Max.
//     Unprivileged callers beyond it are turned away until some go. Of the other
//     half he gets nothing, but through setuid programs that connect for him as
//     root: one that he stops (SIGSTOP) holds a place of root's for
//     Config.Idle. His limit of processes (RLIMIT_NPROC) bounds those.
//   - Processor time, some ten microseconds for each connection that is turned
//     away, and a place in the listen queue until it is its turn. The queue is
//     served in order; while it is full all callers wait in connect(2), root too.
//   - What the door spends on a request that it answers. Nothing here limits how
//     often one connection may ask.
//
// # What he cannot use up
//
//   - Root's half, except as said, and that of Config.Privileged.
//   - Descriptors and goroutines: one of each a connection, Config.Max at the
//     most. The limit of open files (LimitNOFILE) should be above that of all
//     gates together; when it is reached nevertheless, what is open goes on, new
//     connections wait in the queue, and one log line in ten seconds says so.
//   - Time: a connection that says nothing ends after Config.Idle, one whose
//     request has begun after another Config.Request however slowly the rest
//     drips, one that does not take an answer after Config.Request a write and
//     ten times that in all. Being turned away makes nobody wait, the gate least.
//   - sekishod's stopping: waits end at once, and an answer under way has at most
//     twice Config.Request more to be taken, once the door has made it.
//   - The log: nothing is written for a connection above the level debug, unless the
//     kernel does not say whose it is.
//
// Memory for what is said is the door's to bound. A panic in a handler is not
// caught: it ends the program, as anywhere, instead of going on in an unknown
// state.
package gate
