package feed

import (
	"fmt"
	"sync"
	"time"
)

// Anybody who reaches the port can be refused as often as he likes, and each note
// takes room in the audit record, without which nobody gets in. So many are told of
// at once, and then one in noteEvery, with the number of those left out.
const (
	noteBurst = 100
	noteEvery = 10 * time.Second
)

// notes bounds what is told of hosts that were refused or that lied.
type notes struct {
	tell func(Note)
	now  func() time.Time

	mu   sync.Mutex // guards all below
	left int
	last time.Time // that left has grown
	out  int       // notes left out
}

func newNotes(tell func(Note), now func() time.Time) *notes {
	return &notes{tell: tell, now: now, left: noteBurst, last: now()}
}

func (n *notes) note(x Note) {
	if x.Kind != HostRefused && x.Kind != HostLied {
		n.tell(x)
		return
	}
	n.mu.Lock()
	since := n.now().Sub(n.last)
	if since < 0 { // the clock was set back
		n.last, since = n.now(), 0
	}
	if more := int(since / noteEvery); more > 0 {
		n.left = min(noteBurst, n.left+more)
		n.last = n.last.Add(time.Duration(more) * noteEvery)
	}
	if n.left == 0 {
		n.out++
		n.mu.Unlock()
		return
	}
	n.left--
	if n.out > 0 {
		x.Text = short(fmt.Sprintf("%d more were left out before: %s", n.out, x.Text))
		n.out = 0
	}
	n.mu.Unlock()
	n.tell(x)
}
