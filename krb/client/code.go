package client

import (
	"errors"
	"time"
)

// Error codes of RFC 4120 §7.5.9.
const (
	errNameExpired     = 1
	errClientUnknown   = 6
	errServerUnknown   = 7
	errClientRevoked   = 18
	errKeyExpired      = 23
	errPreauthFailed   = 24
	errPreauthRequired = 25
	errUnavailable     = 29
	errBadIntegrity    = 31
	errTicketExpired   = 32
	errTicketNotYet    = 33
	errSkew            = 37
	errTooBig          = 52
	errGeneric         = 60
	errWrongRealm      = 68
)

var kindOf = map[int32]Kind{
	errNameExpired: AccountExpired, errClientUnknown: UnknownPrincipal, errServerUnknown: UnknownService,
	errClientRevoked: Locked, errKeyExpired: PasswordExpired, errPreauthFailed: WrongPassword,
	errTicketExpired: Expired, errTicketNotYet: Skew, errSkew: Skew,
}

// clocks are the readings around one answer: ours before and after, the KDC's, and
// how far its reading can be from its clock.
type clocks struct {
	before, after, theirs time.Time
	within                time.Duration
}

// offset is the KDC's clock minus ours, and how far that can be from the truth.
func (c clocks) offset() (offset, bound time.Duration) {
	trip := c.after.Sub(c.before)
	return c.theirs.Sub(c.before.Add(trip / 2)), trip/2 + c.within
}

func (c *Client) observe(kdc string, r clocks) (offset, bound time.Duration) {
	offset, bound = r.offset()
	c.c.Observe(kdc, offset, bound)
	return offset, bound
}

// beyond says whether the clocks are too far apart without a doubt.
func beyond(offset, bound, limit time.Duration) bool { return offset.Abs()-bound > limit }

// classify makes of a KRB-ERROR what the call fails with. The error says that this
// KDC is of no use, and another may be.
//
// With a clock that is wrong beyond doubt, a no that hangs on the time is Skew.
func (c *Client) classify(e krbError, kdc string, r clocks) (*Error, error) {
	offset, bound := c.observe(kdc, r)
	out := &Error{Kind: Refused, KDC: kdc, Code: e.Code, Text: e.Text, Skew: offset, SkewBound: bound}
	if k, ok := kindOf[e.Code]; ok {
		out.Kind = k
	}
	switch e.Code {
	case errTooBig:
		return nil, ErrTooBig
	case errUnavailable, errGeneric:
		out.Kind = Unavailable
		return nil, out
	case errWrongRealm:
		out.Err = errors.New("the KDC refers to another realm")
	case errNameExpired, errKeyExpired, errPreauthFailed, errPreauthRequired, errBadIntegrity, errTicketExpired:
		if beyond(offset, bound, c.c.MaxSkew) {
			out.Kind = Skew
		}
	}
	return out, nil
}
