package moduletest

import "testing"

// The module as it is shipped, under valgrind: reads of what was never written,
// which the sanitizers do not see, and leaks at the program's end. A start takes a
// second, so not all tests are run.
func TestValgrind(t *testing.T) {
	v := valgrind(t)
	for name, body := range map[string]func(*testing.T, variant){
		"requests": requests, "rounds": rounds, "another user": theUserChangesMeanwhile, "closed descriptors": closedDescriptors,
		"tickets": ticketsWithTheSession, "deleting": deleting, "reinitialize": reinitialize, "threads": threads,
	} {
		t.Run(name, func(t *testing.T) { body(t, v) })
	}
}
