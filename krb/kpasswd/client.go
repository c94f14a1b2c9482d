package kpasswd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/client"
	"github.com/sekisho/sekisho/krb/der"
)

// Port is where servers listen (RFC 3244 §2).
const Port = 464

// Client changes passwords at the servers of one realm.
type Client struct {
	// KDC gets the tickets, and carries the messages.
	KDC *client.Client
	// Servers are host or host:port (default port 464), tried in this order. Empty:
	// those that DNS names (SRV _kpasswd of the realm, RFC 3244 §3).
	Servers []string
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// errOtherRequest says that a reply is to another request than ours.
var errOtherRequest = errors.New("the reply is to another request")

// Change changes the password of p. It works with an expired one too.
//
// The error is a *client.Error when no ticket could be got with the old password
// (its Kind tells a wrong password, a lock, a wrong clock and an unreachable KDC
// apart) and when no server was reached, *Refused when the policy does not take
// the new one, *Denied, *ServerError, ErrUnsure, ErrFailed, or another one.
func (c *Client) Change(ctx context.Context, p krb.Principal, old, new string) error {
	if err := krb.CheckPassword(new); err != nil {
		return &Refused{err.Error()}
	}
	cred, err := c.KDC.Login(ctx, p, old, client.LoginOptions{Service: Service(p.Realm)})
	if err != nil {
		return fmt.Errorf("a ticket to change the password with: %w", err)
	}
	return c.ChangeWith(ctx, cred, new)
}

// ChangeWith is Change with a ticket for [Service] that the old password got.
func (c *Client) ChangeWith(ctx context.Context, cred krb.Credential, new string) error {
	if err := krb.CheckPassword(new); err != nil {
		return &Refused{err.Error()}
	}
	now := c.Now
	if now == nil {
		now = time.Now
	}
	hosts := [][]string{nil}
	if len(c.Servers) > 0 {
		hosts = nil
		for _, s := range c.Servers {
			hosts = append(hosts, []string{s})
		}
	}
	var err error
	// Over TCP only: a datagram would be sent again until it is answered, and some
	// servers take the second for a replay. A server that was reached has the
	// request, whatever becomes of its answer: no other is asked then.
	for _, h := range hosts {
		t := &transfer{cred: cred, new: new, now: now}
		_, err = c.KDC.Send(ctx, client.Request{MessageFor: t.message, Hosts: h, SRV: "kpasswd", Port: Port, OnlyTCP: true, Judge: t.judge})
		answered, sent, verdict := t.end()
		var unsealed *ServerError
		switch {
		case answered:
			return verdict
		case errors.As(verdict, &unsealed):
			return unsealed
		case sent && verdict != nil:
			return fmt.Errorf("%w (%w)", ErrUnsure, verdict)
		case sent:
			return ErrUnsure
		}
		if ctx.Err() != nil {
			break
		}
	}
	return fmt.Errorf("no password server was reached: %w", err)
}

// transfer is one new password on its way to a server, over some connections.
type transfer struct {
	cred krb.Credential
	new  string
	now  func() time.Time

	mu       sync.Mutex // guards all below
	sent     []*exchange
	answered bool
	verdict  error // of the answer, or why the last one was not taken
}

// message makes the request for a connection. Each has an authenticator of its
// own: none is a replay of another.
func (t *transfer) message(local netip.AddrPort) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := t.now()
	if n := len(t.sent); n > 0 && !at.Truncate(time.Microsecond).After(t.sent[n-1].at) {
		at = t.sent[n-1].at.Add(time.Microsecond)
	}
	x, err := newExchange(t.cred, at)
	if err != nil {
		return nil, err
	}
	priv, err := private{data: []byte(t.new), seq: x.seq}.seal(x.subkey, local.Addr())
	if err != nil {
		return nil, err
	}
	raw, err := frame(versionChange, x.apReq, priv)
	if err == nil {
		t.sent = append(t.sent, x)
	}
	return raw, err
}

// judge takes a reply that belongs to one of the requests. What is not sealed is
// anybody's word: it is kept as the reason why there was no answer.
func (t *transfer) judge(reply []byte, _ string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := errOtherRequest
	for _, x := range t.sent {
		code, words, xerr := x.parse(reply)
		if xerr == nil {
			t.answered, t.verdict = true, verdictOf(code, words)
			return nil
		}
		if !errors.Is(xerr, errOtherRequest) {
			err = xerr
		}
	}
	t.verdict = err
	return err
}

func (t *transfer) end() (answered, sent bool, verdict error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.answered, len(t.sent) > 0, t.verdict
}

// parse reads a reply to this request: its result code and words.
func (x *exchange) parse(reply []byte) (code uint16, words string, err error) {
	apRep, rest, version, ok := parseFrame(reply)
	if !ok || version != versionChange && version != versionSet {
		return 0, "", der.ErrMalformed
	}
	if len(apRep) == 0 {
		return 0, "", parseError(rest)
	}
	seq, err := x.openReply(apRep)
	if err != nil {
		return 0, "", err
	}
	priv, err := openPrivate(rest, x.subkey)
	switch {
	case err != nil:
		return 0, "", err
	case priv.seq != seq:
		return 0, "", errOtherRequest
	case len(priv.data) < 2:
		return 0, "", der.ErrMalformed
	}
	return binary.BigEndian.Uint16(priv.data), clean(string(priv.data[2:])), nil
}

// verdictOf is what a sealed result means.
func verdictOf(code uint16, words string) error {
	switch code {
	case resultSuccess:
		return nil
	case resultSoftError:
		return &Refused{words}
	case resultAccessDenied, resultAuthError, resultInitialNeeded:
		return &Denied{words}
	case resultHardError:
		if words == "" {
			return ErrFailed
		}
		return fmt.Errorf("%w (it said: %s)", ErrFailed, words)
	}
	return fmt.Errorf("the password server does not understand us: result %d, %q", code, words)
}

// ServerError is a password server's refusal before it believed the ticket. It is
// not sealed: anybody on the way can have sent it.
type ServerError struct {
	// Code is the KRB-ERROR's (RFC 4120 §7.5.9): 37 for clocks too far apart.
	Code int32
	// Words are what it says, fit to be shown; may be empty.
	Words string
}

func (e *ServerError) Error() string {
	if e.Words == "" {
		return fmt.Sprintf("the password server says error %d", e.Code)
	}
	return fmt.Sprintf("the password server says error %d: %s", e.Code, e.Words)
}

// parseError reads a KRB-ERROR (RFC 4120 §5.9.1).
func parseError(raw []byte) error {
	d, err := der.ParseError(raw)
	if err != nil {
		return err
	}
	e := &ServerError{Code: d.Code, Words: clean(d.Text)}
	if len(d.Data) > 2 {
		if words := clean(string(d.Data[2:])); words != "" {
			e.Words = words
		}
	}
	return e
}
