package kpasswd

import (
	"sync"
	"time"

	"github.com/sekisho/sekisho/krb"
)

// How many answers are remembered, and for how long: a client sends a datagram
// again for some seconds, and tries TCP after that, with the same ticket and
// authenticator.
const (
	maxReplies = 1024
	replyLife  = time.Minute
)

// outcome is what became of one request, by its AP-REQ. It is sealed anew for each
// answer, for the sender's address stands in it.
type outcome struct {
	done chan struct{} // closed when the rest is set

	believed bool // the rest means something
	apRep    []byte
	key      krb.Key
	seq      uint32
	code     uint16
	words    string
}

// replies are the outcomes of late and of those at work. A request whose AP-REQ is
// among them is not done again, whatever else is in it.
type replies struct {
	now func() time.Time

	mu    sync.Mutex // guards all below
	known map[[32]byte]*outcome
	order []replyAt // the believed ones, the oldest first
}

type replyAt struct {
	mark [32]byte
	at   time.Time
}

// begin says whether the caller is the first with this mark; he must end it then.
func (r *replies) begin(mark [32]byte) (o *outcome, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.order) > 0 && (len(r.order) > maxReplies || r.now().Sub(r.order[0].at) > replyLife) {
		delete(r.known, r.order[0].mark)
		r.order = r.order[1:]
	}
	if o := r.known[mark]; o != nil {
		return o, false
	}
	o = &outcome{done: make(chan struct{})}
	if r.known == nil {
		r.known = map[[32]byte]*outcome{}
	}
	r.known[mark] = o
	return o, true
}

// end makes what is in o known to all who wait for it; what was not believed is
// forgotten at once.
func (r *replies) end(mark [32]byte, o *outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o.believed {
		r.order = append(r.order, replyAt{mark, r.now()})
	} else {
		delete(r.known, mark)
	}
	close(o.done)
}
