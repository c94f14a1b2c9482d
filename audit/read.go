package audit

import (
	"errors"
	"time"
)

// Query says which records to read. The zero value is all of them.
type Query struct {
	// Since and Until bound the time, Until excluded; zero: no bound.
	Since, Until time.Time
	// Kinds are those wanted; empty: all.
	Kinds []Kind
	// Has are texts that a line must contain as a JSON string for it to be read
	// in full: a cheap first filter, not the last word.
	Has []string
}

// Scan gives f each record of a folder that q wants, oldest first, until f says
// false. It does not look at the chain: that is Verify's. The Record is f's to
// keep.
func Scan(dir string, q Query, f func(*Record) bool) error { return errors.New("not yet there") }
