package gss

import (
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/sekisho/sekisho/krb"
)

// Context is an established security context, of either side. Its methods may be
// called from any goroutine.
type Context struct {
	// immutable
	client, server krb.Principal
	flags          Flags
	until          time.Time
	ticket         krb.TicketFlags
	delegated      []krb.Credential
	bound          bool
	initiator      bool // our side
	key            krb.Key
	acceptorKey    bool // key is a subkey of the acceptor's

	mu   sync.Mutex
	send uint64 // guarded by mu: our next sequence number
	recv window // guarded by mu
}

// Client is the verified initiator; for the initiator itself, whose ticket it used.
func (c *Context) Client() krb.Principal { return c.client }

// Server is the acceptor. The initiator knows it only as far as Mutual was asked.
func (c *Context) Server() krb.Principal { return c.server }

// Flags are those in force. Delegate means that credentials came with it and were
// taken.
func (c *Context) Flags() Flags { return c.flags }

// TicketFlags are the flags of the ticket.
func (c *Context) TicketFlags() krb.TicketFlags { return c.ticket }

// Until is the end of the ticket. The context works on beyond it; whoever lets
// something live on longer must want that.
func (c *Context) Until() time.Time { return c.until }

// Delegated are the credentials that the client handed over: ticket-granting tickets
// in the client's own name. They are authentic as the client's word, and shown to
// be good only by the KDC that takes them.
func (c *Context) Delegated() []krb.Credential { return slices.Clone(c.delegated) }

// Bound says that channel bindings were compared and were equal. An initiator does
// not know.
func (c *Context) Bound() bool { return c.bound }

// Errors of a message that is authentic and yet refused.
var (
	// ErrReplayed: the message came before, or is older than the window of 64.
	ErrReplayed = errors.New("the message was received before, or is too old to tell")
	// ErrOrder: messages before this one are missing.
	ErrOrder = errors.New("the message is out of order")
)

// window judges sequence numbers (RFC 2743 §1.2.3). They start from 32 random
// bits and are counted in 64, so they never wrap.
type window struct {
	replay, order bool
	next          uint64 // the lowest number that is above all that came
	seen          uint64 // bit i: next-1-i came
	first         uint64
}

func newWindow(first uint32, f Flags) window {
	return window{replay: f&Replay != 0, order: f&Sequence != 0, next: uint64(first), first: uint64(first)}
}

// take accepts each number once. What it refuses changes nothing.
func (w *window) take(seq uint64) error {
	if !w.replay && !w.order {
		return nil
	}
	if seq == math.MaxUint64 {
		return ErrOrder // the one after it would be the first again
	}
	if seq >= w.next {
		ahead := seq - w.next + 1
		if w.order && ahead > 1 {
			return ErrOrder
		}
		w.seen = w.seen<<ahead | 1
		w.next = seq + 1
		return nil
	}
	behind := w.next - 1 - seq
	if seq < w.first || behind >= 64 || w.seen>>behind&1 == 1 {
		return ErrReplayed
	}
	if w.order {
		return ErrOrder
	}
	w.seen |= 1 << behind
	return nil
}
