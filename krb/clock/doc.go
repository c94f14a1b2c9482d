// Package clock is the clock guard: it knows how far the clocks that tickets
// hang on are apart, and says which of them is wrong, by how much and how sure.
//
// A [Guard] samples several NTP servers (RFC 5905), leaves out those that lie,
// and is told the clocks of the KDC and the directory as their answers show
// them. From all of it comes one of four states: Good, Near, Beyond (tickets
// are neither issued nor accepted: [Guard.Check] says so with a sentence that
// names the wrong clock), and Unknown, which is never taken for Good.
//
// The guard sets no clock and corrects no time stamp: a lie told to it can make
// tickets be refused, or hide that a clock is wrong. It cannot make a ticket
// good that Kerberos itself would refuse. NTP is not authenticated here;
// docs/clock.md says what somebody on the path gains.
package clock
