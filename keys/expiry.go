package keys

import (
	"errors"
	"fmt"
	"time"
)

// Expiry is the value of expiry-time, to the second. sshd takes the key up to
// and including that second. The zero Expiry is none.
type Expiry struct {
	// Time is in time.UTC, with whole seconds, from 1971 to 9999. Use
	// ExpiryAt to make one from any time.
	Time time.Time
	// Local: written without Z, so that Time has the year to second of a clock
	// on the wall of the machine that runs sshd, whatever its zone.
	Local bool
}

// ExpiryAt is the expiry at t, the fraction of a second dropped. Of the zero
// time it is the zero Expiry: none.
func ExpiryAt(t time.Time) Expiry { return Expiry{Time: t.UTC().Truncate(time.Second)} }

// At is the instant of expiry for an sshd that runs in the time zone loc.
func (e Expiry) At(loc *time.Location) time.Time {
	if !e.Local {
		return e.Time
	}
	t := e.Time
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, loc)
}

const expiryLayout = "20060102150405"

// String is YYYYMMDDHHMMSS, with Z unless Local; empty for the zero Expiry.
func (e Expiry) String() string {
	if e == (Expiry{}) {
		return ""
	}
	s := e.Time.Format(expiryLayout)
	if !e.Local {
		s += "Z"
	}
	return s
}

func (e Expiry) validate() error {
	if e == (Expiry{}) {
		return nil
	}
	switch y := e.Time.Year(); {
	case e.Time.Location() != time.UTC || e.Time.Nanosecond() != 0:
		return errors.New("must be in UTC and whole seconds: make it with ExpiryAt")
	case y < 1971 || y > 9999:
		return fmt.Errorf("year %d: must be 1971 to 9999", y)
	}
	return nil
}

// parseExpiry reads YYYYMMDD[HHMM[SS]][Z], as OpenSSH's parse_absolute_time
// does, but takes no day or second that does not exist.
func parseExpiry(s string) (Expiry, error) {
	e := Expiry{Local: true}
	digits := s
	if n := len(s); n > 0 && s[n-1] == 'Z' {
		e.Local, digits = false, s[:n-1]
	}
	switch len(digits) {
	case 8, 12, 14:
	default:
		return Expiry{}, fmt.Errorf("%s: must be YYYYMMDD[HHMM[SS]][Z]", short(s))
	}
	for i := 0; i < len(digits); i++ {
		if digits[i] < '0' || digits[i] > '9' {
			return Expiry{}, fmt.Errorf("%s: must be YYYYMMDD[HHMM[SS]][Z]", short(s))
		}
	}
	t, err := time.Parse(expiryLayout[:len(digits)], digits)
	if err != nil {
		return Expiry{}, fmt.Errorf("%s: no such time", short(s))
	}
	e.Time = t
	return e, e.validate()
}
