// Package outside has the tests that look at a sandbox from the machine: that
// exit codes, output and flags pass through it, that nothing on the machine is
// changed, and that nothing is left when a run is killed.
package outside
