package audit

import (
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
)

// Config is what a Log is made of.
type Config struct {
	// Dir is the folder; it is made, for its owner alone. Its files and the
	// signing key lie there.
	Dir string
	// Host is written in every record.
	Host string
	// FileSize is how many bytes a file holds before the next is begun.
	FileSize int64
	// Keep is how long files are kept after their last record; 0: for ever.
	Keep time.Duration
	// Syslog is the path of a datagram socket that each record is sent to as well
	// when it is on the disk; empty: none.
	Syslog string
	// Wait bounds how long a caller waits for the disk; 0: five seconds.
	Wait time.Duration
	// Now reads the clock; nil: time.Now.
	Now func() time.Time
	// Log is for what happens to the record itself.
	Log *logrus.Entry
}

// Log writes the record. It is safe for any number of goroutines.
type Log struct{ c Config }

// Status is how a Log is doing.
type Status struct {
	// Seq is the last record on the disk, and File the file that it is in.
	Seq  uint64
	File string
	// Sealed is the last seal.
	Sealed uint64
	// Err is why nothing can be written at the moment; nil: it can.
	Err error
	// Queued is how many bytes wait to be written.
	Queued int
	// SyslogLost is how many records syslog did not take.
	SyslogLost uint64
	// Key is the public key of the seals.
	Key string
}

// Open begins to write in c.Dir, after what is there.
func Open(c Config) (*Log, error) { return nil, errors.New("audit: not yet there") }

// Decision records a decision. For a grant it returns when that is on the disk;
// an error says that it may not be given. Another is queued, and the error is
// that of an earlier write if none has succeeded since.
func (l *Log) Decision(q broker.Request, d broker.Decision) error { return errors.New("not yet there") }

// Session records a step in a session's life: its opening is on the disk when
// Session returns, and without that it may not begin.
func (l *Log) Session(e broker.SessionEvent) error { return errors.New("not yet there") }

// Note records anything else.
func (l *Log) Note(e Event) error { return errors.New("not yet there") }

// Status is how the Log is doing.
func (l *Log) Status() Status { return Status{} }

// Close writes what is queued and a last seal. It may be called twice.
func (l *Log) Close() error { return nil }
