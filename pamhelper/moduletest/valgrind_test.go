package moduletest

import "testing"

// The module as it is shipped, under valgrind: reads of what was never written,
// which the sanitizers do not see, and leaks at the program's end.
func TestValgrind(t *testing.T) {
	v := valgrind(t)
	for name, body := range map[string]func(*testing.T, variant){
		"requests": requests, "rounds": rounds, "first pass": firstPass, "change": change, "turned away": nobodyListens,
		"tickets": ticketsWithTheSession, "deleting": deleting, "reinitialize": reinitialize, "logs": logs, "threads": threads,
	} {
		t.Run(name, func(t *testing.T) { body(t, v) })
	}
}
