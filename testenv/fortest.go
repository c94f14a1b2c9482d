package testenv

import "testing"

// ForTest makes a world for a test: closed when the test ends, and when it has
// failed, the end of every daemon's log is shown first.
func ForTest(t testing.TB) *World {
	t.Helper()
	w, err := NewWorld(WorldConfig{})
	if err != nil {
		t.Fatalf("making a world: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			w.ShowLogs(t.Logf)
		}
		if err := w.Close(); err != nil {
			t.Errorf("closing the world: %v", err)
		}
	})
	return w
}

// Need is Host for a test.
func (w *World) Need(t testing.TB, name string) *Host {
	t.Helper()
	h, err := w.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// ShowLogs prints the end of every daemon's log of every host.
func (w *World) ShowLogs(logf func(format string, args ...any)) {
	for _, h := range w.Hosts() {
		h.mu.Lock()
		daemons := append([]*Daemon(nil), h.daemons...)
		h.mu.Unlock()
		for _, d := range daemons {
			logf("log of %s on %s (pid %d):\n%s", d.Name, h.Name, d.Pid(), tail(d.Log(), 8000))
		}
	}
}
