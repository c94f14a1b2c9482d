package feed

import (
	"strings"
	"testing"
	"time"
)

// However often somebody is refused, the record does not fill; and how much is
// missing in it, is said.
func TestNotesAreBounded(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	var told []Note
	n := newNotes(func(x Note) { told = append(told, x) }, func() time.Time { return now })
	for range 50_000 {
		n.note(Note{Kind: HostRefused, Text: "no certificate"})
	}
	if len(told) != noteBurst {
		t.Fatalf("%d notes of a flood", len(told))
	}
	n.note(Note{Kind: HostGone})
	if len(told) != noteBurst+1 {
		t.Error("a flood hides what happens to hosts that follow")
	}
	now = now.Add(noteEvery)
	n.note(Note{Kind: HostLied, Text: "nonsense"})
	n.note(Note{Kind: HostLied, Text: "nonsense"})
	if last := told[len(told)-1]; len(told) != noteBurst+2 || !strings.HasPrefix(last.Text, "49900 more were left out") || !strings.HasSuffix(last.Text, "nonsense") {
		t.Errorf("after the flood: %d notes, the last is %+v", len(told), last)
	}
	now = now.Add(-time.Hour) // set back
	n.note(Note{Kind: HostRefused})
	now = now.Add(noteEvery)
	n.note(Note{Kind: HostRefused, Text: "again"})
	if len(told) != noteBurst+3 {
		t.Error("a clock that was set back silences it")
	}
}
