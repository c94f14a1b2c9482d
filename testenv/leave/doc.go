// Package leave holds the tests of issue 4's whole: sessions that end at once,
// shared budgets and one-time codes, on a site of a broker and two hosts with
// unmodified sshd. At the end the run's secrets are looked for in all that any
// machine has written or run.
package leave
