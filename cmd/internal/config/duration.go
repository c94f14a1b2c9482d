package config

import (
	"fmt"
	"time"
)

// Duration is a time.Duration, written in the file as "90s", "12h" or "24h".
type Duration time.Duration

// UnmarshalText reads the value of a key.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is no duration: write for example \"30m\" or \"24h\"", b)
	}
	*d = Duration(v)
	return nil
}

// MarshalText prints the value as UnmarshalText reads it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String leaves out the units that are zero: 24h, not 24h0m0s.
func (d Duration) String() string {
	t := time.Duration(d)
	switch {
	case t >= time.Hour && t%time.Hour == 0:
		return fmt.Sprintf("%dh", t/time.Hour)
	case t >= time.Minute && t%time.Minute == 0:
		return fmt.Sprintf("%dm", t/time.Minute)
	}
	return t.String()
}
