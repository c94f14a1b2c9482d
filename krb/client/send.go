package client

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxReply bounds a reply over TCP, maxDatagram one over UDP; a longer one is
	// asked for again over TCP.
	maxReply    = 64 << 10
	maxDatagram = 16 << 10
	// maxUDPRequest is the longest request that is sent over UDP.
	maxUDPRequest = 1400
	// maxIgnored bounds the datagrams that one attempt looks at.
	maxIgnored = 64
	// preferFor is how long the server that answered last is asked first.
	preferFor = time.Minute
)

// Request is one message and who shall answer it.
type Request struct {
	// Message is what is sent.
	Message []byte
	// MessageFor makes the message for a connection instead, for protocols whose
	// messages hold the sender's address.
	MessageFor func(local netip.AddrPort) ([]byte, error)
	// Hosts are asked in this order, each host or host:port with Port as default;
	// empty: the servers that DNS names for SRV (kerberos, kpasswd) and the realm.
	// All three empty: the client's KDCs.
	Hosts []string
	SRV   string
	Port  uint16
	// OnlyTCP is for what must not happen twice: UDP is left out, as a datagram is
	// sent again until it is answered, and the next server is asked only while none
	// has been sent the message.
	OnlyTCP bool
	// Judge looks at a reply of from, which is an IP:port. Nil takes it. Any error
	// does not: over UDP the wait goes on, for anybody may have sent the datagram;
	// over TCP, and with an *Error of kind Unavailable, the next server is asked.
	// ErrTooBig has this server asked again over TCP. It is called from several
	// goroutines, but never from two at once, and not again after it returned nil.
	Judge func(reply []byte, from string) error
}

// ErrTooBig is a Judge's word for KRB_ERR_RESPONSE_TOO_BIG.
var ErrTooBig = errors.New("the answer is too long for a datagram")

// Answer is a reply that Judge took.
type Answer struct {
	Reply []byte
	// From is the server's IP:port.
	From string
}

// answered remembers who answered last, to be asked first for a while.
type answered struct {
	host    string
	addr    netip.AddrPort
	network string
	at      time.Time
}

// Send asks the servers of a request until one gives an answer that Judge takes.
// Each is asked over UDP, again each second, and after the first second over TCP
// too; the next server likewise as soon as one has failed or has not answered for
// a second. An attempt ends after Config.Try, the call after Config.Total. The
// failure is an *Error: Unreachable when nobody answered, otherwise what the last
// one to answer made of it (BadReply, Unavailable).
func (c *Client) Send(ctx context.Context, r Request) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.c.Total)
	defer cancel()
	servers, err := c.locate(ctx, r)
	if err != nil {
		return Answer{}, &Error{Kind: Unreachable, Err: err}
	}
	a := &asking{c: c, r: r}
	var tries []try
	for _, s := range servers {
		tries = append(tries, func(ctx context.Context) (Answer, error) { return a.server(ctx, s) })
	}
	return race(ctx, a.step(), tries)
}

// resend is how long an answer is waited for before something else is tried too.
func (c *Client) resend() time.Duration { return c.c.Try / 3 }

func (a *asking) step() time.Duration {
	if a.r.OnlyTCP {
		return a.c.c.Total
	}
	return a.c.resend()
}

// try is one way to an answer. It ends soon after ctx. Its error is an *Error.
type try func(ctx context.Context) (Answer, error)

// race begins one try after the other, the next one whenever one has failed or step
// has passed, and returns the first answer. It waits for all that it began.
func race(ctx context.Context, step time.Duration, tries []try) (Answer, error) {
	type outcome struct {
		a   Answer
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	done := make(chan outcome, len(tries))
	timer := time.NewTimer(0)
	defer timer.Stop()
	var errs []error
	for begun, ended := 0, 0; ; {
		select {
		case <-timer.C:
			if begun < len(tries) && ctx.Err() == nil {
				t := tries[begun]
				begun++
				wg.Go(func() {
					a, err := t(ctx)
					done <- outcome{a, err}
				})
				timer.Reset(step)
			}
		case o := <-done:
			if o.err == nil {
				return o.a, nil
			}
			errs = append(errs, o.err)
			ended++
			timer.Reset(0)
		}
		if begun == ended && (begun == len(tries) || ctx.Err() != nil) {
			return Answer{}, worst(ctx, errs)
		}
	}
}

// worst is the one error of several tries: of those that show that somebody
// answered the last, otherwise all of them as Unreachable.
func worst(ctx context.Context, errs []error) error {
	var silent string
	for i := len(errs) - 1; i >= 0; i-- {
		var e *Error
		if errors.As(errs[i], &e) && e.Kind != Unreachable {
			return e
		}
	}
	for _, err := range errs {
		var e *Error
		if errors.As(err, &e) && e.Err != nil {
			err = e.Err
		}
		if errors.Is(err, errSent) {
			continue
		}
		if silent != "" {
			silent += "; "
		}
		silent += err.Error()
	}
	e := &Error{Kind: Unreachable, Err: ctx.Err()}
	switch {
	case silent == "":
	case e.Err == nil:
		e.Err = errors.New(silent)
	default:
		e.Err = fmt.Errorf("%w: %s", e.Err, silent)
	}
	return e
}

// asking is one call of Send.
type asking struct {
	c *Client
	r Request

	mu    sync.Mutex // guards taken, sent and calls of r.Judge
	taken bool
	sent  bool // over TCP, to somebody
}

var errSent = errors.New("another server has the message already")

// spent says that the message may go to no other server.
func (a *asking) spent() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.r.OnlyTCP && a.sent
}

var errTaken = errors.New("another server has answered")

// judge is r.Judge as it is documented.
func (a *asking) judge(reply []byte, from netip.AddrPort) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.taken {
		return errTaken
	}
	err := a.r.Judge(reply, from.String())
	a.taken = err == nil
	return err
}

// server asks one server at each of its addresses.
func (a *asking) server(ctx context.Context, s server) (Answer, error) {
	addrs, err := a.c.resolve(ctx, s)
	if err != nil {
		return Answer{}, &Error{Kind: Unreachable, Err: err}
	}
	var tries []try
	last := a.c.lastAnswered()
	add := func(addr netip.AddrPort, network string) {
		t := try(func(ctx context.Context) (Answer, error) {
			return a.attempt(ctx, answered{host: s.host, addr: addr, network: network})
		})
		if addr == last.addr && network == last.network {
			tries = append([]try{t}, tries...)
		} else {
			tries = append(tries, t)
		}
	}
	if !a.r.OnlyTCP && !s.onlyTCP && len(a.r.Message) <= maxUDPRequest {
		for _, addr := range addrs {
			add(addr, "udp")
		}
	}
	for _, addr := range addrs {
		add(addr, "tcp")
	}
	return race(ctx, a.step(), tries)
}

// attempt asks one address in one way. Its error is an *Error.
func (a *asking) attempt(ctx context.Context, way answered) (Answer, error) {
	addr := way.addr
	tctx, cancel := context.WithTimeout(ctx, a.c.c.Try)
	defer cancel()
	var reply []byte
	var err error
	if way.network == "udp" {
		reply, err = a.udp(tctx, addr)
		if errors.Is(err, ErrTooBig) {
			way.network = "tcp"
			reply, err = a.tcp(tctx, addr)
		}
	} else {
		reply, err = a.tcp(tctx, addr)
	}
	if err == nil {
		a.c.remember(way)
		return Answer{reply, addr.String()}, nil
	}
	var e *Error
	if errors.As(err, &e) {
		return Answer{}, e
	}
	kind, bad := Unreachable, badReply{}
	if errors.As(err, &bad) {
		kind, err = BadReply, bad.err
	} else if tctx.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("no answer in %s", a.c.c.Try)
	}
	e = &Error{Kind: kind, Err: err}
	if kind == BadReply {
		e.KDC = addr.String()
	} else {
		e.Err = fmt.Errorf("%s %s: %w", way.network, addr, err)
	}
	return Answer{}, e
}

func (c *Client) lastAnswered() answered {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last.at.IsZero() || c.c.Now().Sub(c.last.at) > preferFor {
		return answered{}
	}
	return c.last
}

func (c *Client) remember(way answered) {
	way.at = c.c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = way
}
