package ldapsync

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"
)

// ErrNoTime says that a directory does not tell its time: slapd does with
// `database monitor` and the right to read it, 389 DS in cn=monitor, Active
// Directory to all.
var ErrNoTime = errors.New("the directory does not tell its time")

// ServerTime is a directory server's clock.
type ServerTime struct {
	// Time is what the server said: its clock, cut to Resolution, at some instant
	// within RoundTrip before Received. Its clock at Received was therefore
	// between Time and Time+Resolution+RoundTrip.
	Time       time.Time
	Resolution time.Duration
	RoundTrip  time.Duration
	Received   time.Time // by our clock
}

// Offset is their clock minus ours and how far it can be from the truth.
func (s ServerTime) Offset() (offset, bound time.Duration) {
	bound = (s.RoundTrip + s.Resolution) / 2
	return s.Time.Add(bound).Sub(s.Received), bound
}

// Time asks the server for its clock. The error is ErrNoTime, by errors.Is, when it
// answers and does not say.
func (cl *Client) Time(ctx context.Context) (ServerTime, error) {
	root, got, err := cl.timed(ctx, "", "currentTime", "monitorContext")
	if err != nil {
		return ServerTime{}, err
	}
	if s, ok := got.read(root, "currentTime"); ok { // Active Directory
		return s, nil
	}
	var places []string
	if m := attribute(root, "monitorContext"); m != "" { // OpenLDAP
		places = append(places, "cn=Current,cn=Time,"+m)
	}
	for _, dn := range append(places, "cn=monitor") { // 389 DS
		e, got, err := cl.timed(ctx, dn, "monitorTimestamp", "currentTime")
		switch {
		case IsCode(err, ldap.LDAPResultNoSuchObject, ldap.LDAPResultInsufficientAccessRights):
			continue
		case err != nil:
			return ServerTime{}, err
		}
		for _, a := range []string{"monitorTimestamp", "currentTime"} {
			if s, ok := got.read(e, a); ok {
				return s, nil
			}
		}
	}
	return ServerTime{}, fmt.Errorf("%s: %w: load `database monitor` in slapd and give this account the right to read it", cl.url, ErrNoTime)
}

// asked is when a question was sent and answered.
type asked struct{ sent, received time.Time }

// timed reads one entry and takes the time that it takes.
func (cl *Client) timed(ctx context.Context, dn string, attrs ...string) (*ldap.Entry, asked, error) {
	a := asked{sent: time.Now()}
	e, err := cl.Get(ctx, dn, attrs...)
	a.received = time.Now()
	return e, a, err
}

func (a asked) read(e *ldap.Entry, attr string) (ServerTime, bool) {
	text := attribute(e, attr)
	t, err := parseTime(text)
	if err != nil {
		return ServerTime{}, false
	}
	// A fraction is read by none of the three servers' clocks: AD writes .0.
	return ServerTime{Time: t, Resolution: time.Second, RoundTrip: a.received.Sub(a.sent), Received: a.received}, true
}

// attribute is the first value of an attribute, whatever the case of its name.
func attribute(e *ldap.Entry, name string) string {
	for _, a := range e.Attributes {
		if strings.EqualFold(a.Name, name) && len(a.Values) > 0 {
			return a.Values[0]
		}
	}
	return ""
}
