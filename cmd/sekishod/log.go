package main

import (
	"errors"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/config"
)

// logBuffer is how many bytes may wait for a slow reader of the log.
const logBuffer = 4 << 20

// errLogFull says that whoever reads the log does not keep up.
var errLogFull = errors.New("the log is not being read: more than 4 MiB wait to be written")

// logWriter writes whole lines from memory, many at once, so that a decision
// costs no system call, and a reader of the log that hangs hangs nobody's
// login. A Write is refused while the buffer is full or the last write to the
// file failed.
type logWriter struct {
	out  io.Writer
	wake chan struct{} // capacity 1
	done chan struct{}

	mu     sync.Mutex
	buf    []byte // guarded by mu
	err    error  // guarded by mu; of the last write to out, nil when it went well
	closed bool   // guarded by mu
}

func newLogWriter(out io.Writer) *logWriter {
	w := &logWriter{out: out, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go w.run()
	return w
}

// Write takes over one or more whole lines.
func (w *logWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, io.ErrClosedPipe
	}
	if w.err != nil {
		return 0, w.err
	}
	if len(w.buf)+len(line) > logBuffer {
		return 0, errLogFull
	}
	w.buf = append(w.buf, line...)
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return len(line), nil
}

// run writes until Close. After a failure it keeps the lines and tries again.
func (w *logWriter) run() {
	defer close(w.done)
	var spare []byte
	for {
		w.mu.Lock()
		lines, closed := w.buf, w.closed
		w.buf = spare[:0]
		w.mu.Unlock()
		n, err := 0, error(nil)
		if len(lines) > 0 {
			n, err = w.out.Write(lines)
		}
		w.mu.Lock()
		w.err = err
		if err != nil {
			w.buf = append(lines[n:len(lines):len(lines)], w.buf...)
			spare = nil
		} else if spare = lines; cap(spare) > logBuffer/4 {
			spare = nil
		}
		empty := len(w.buf) == 0
		w.mu.Unlock()
		switch {
		case closed && (empty || err != nil):
			return
		case err != nil:
			time.Sleep(100 * time.Millisecond)
		case empty:
			<-w.wake
		}
	}
}

// Close writes what is left, for at most five seconds, and stops. It may be
// called twice.
func (w *logWriter) Close() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
	select {
	case <-w.done:
		return nil
	case <-time.After(5 * time.Second):
		return errLogFull
	}
}

// newLogger is the log for all but decisions.
func newLogger(c config.Log, out io.Writer) (*logrus.Entry, error) {
	level, err := logrus.ParseLevel(c.Level)
	if err != nil {
		return nil, err
	}
	l := logrus.New()
	l.SetOutput(out)
	l.SetLevel(level)
	l.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	if c.Format == "text" {
		l.SetFormatter(&logrus.TextFormatter{DisableColors: true, FullTimestamp: true, TimestampFormat: time.RFC3339Nano})
	}
	return logrus.NewEntry(l), nil
}

// recorder writes one line for each decision, grant or refusal, as far as the log
// takes them: what must not be lost is in the audit record.
type recorder struct {
	lost atomic.Uint64 // lines that the log did not take

	out  io.Writer
	text bool // key=value instead of JSON
	now  func() time.Time
	pool sync.Pool // of *[]byte
}

func newRecorder(c config.Log, out io.Writer, now func() time.Time) *recorder {
	return &recorder{out: out, text: c.Format == "text", now: now,
		pool: sync.Pool{New: func() any { b := make([]byte, 0, 512); return &b }}}
}

// record writes a decision's line. What the log has not taken it says as soon as it
// takes lines again.
func (r *recorder) record(q broker.Request, d broker.Decision) {
	p := r.pool.Get().(*[]byte)
	l := line{b: (*p)[:0], text: r.text}
	l.open()
	l.time(r.now())
	l.string("level", "info")
	l.string("msg", "decision")
	l.string("door", string(q.Door))
	l.string("user", string(q.User))
	if q.Login != "" && string(q.Login) != string(q.User) {
		l.string("login", string(q.Login))
	}
	l.string("target", q.Target.String())
	if q.From.IsValid() {
		l.string("from", q.From.String())
	}
	l.string("outcome", d.Outcome.String())
	l.string("reason", string(d.Reason))
	for i, n := range d.Rules {
		if i == 0 {
			l.string("rule", string(n))
		} else {
			l.string("rule"+strconv.Itoa(i+1), string(n))
		}
	}
	l.number("generation", d.Generation)
	if d.Age >= time.Second {
		l.number("age_seconds", uint64(d.Age/time.Second))
	}
	l.close()
	if _, err := r.out.Write(l.b); err != nil {
		r.lost.Add(1)
	} else if n := r.lost.Swap(0); n > 0 {
		l := line{b: l.b[:0], text: r.text}
		l.open()
		l.time(r.now())
		l.string("level", "warning")
		l.string("msg", "decisions are missing here, because the log was not being read: they are in the audit record")
		l.number("missing", n)
		l.close()
		if _, err := r.out.Write(l.b); err != nil {
			r.lost.Add(n)
		}
	}
	*p = l.b
	r.pool.Put(p)
}

// line is one line of the log being made.
type line struct {
	b    []byte
	text bool
	more bool
}

func (l *line) open() {
	if !l.text {
		l.b = append(l.b, '{')
	}
}

func (l *line) close() {
	if !l.text {
		l.b = append(l.b, '}')
	}
	l.b = append(l.b, '\n')
}

func (l *line) field(name string) {
	if l.more {
		if l.text {
			l.b = append(l.b, ' ')
		} else {
			l.b = append(l.b, ',')
		}
	}
	l.more = true
	if l.text {
		l.b = append(append(l.b, name...), '=')
	} else {
		l.b = append(append(append(l.b, '"'), name...), '"', ':')
	}
}

func (l *line) time(t time.Time) {
	l.field("time")
	l.b = append(l.b, '"')
	l.b = t.AppendFormat(l.b, time.RFC3339Nano)
	l.b = append(l.b, '"')
}

func (l *line) number(name string, n uint64) {
	l.field(name)
	l.b = strconv.AppendUint(l.b, n, 10)
}

func (l *line) string(name, s string) {
	l.field(name)
	if l.text {
		l.b = strconv.AppendQuoteToASCII(l.b, s)
		return
	}
	l.b = append(l.b, '"')
	for i := 0; i < len(s); {
		plain := i
		for plain < len(s) && s[plain] >= ' ' && s[plain] < 0x7f && s[plain] != '"' && s[plain] != '\\' {
			plain++
		}
		if plain > i {
			l.b = append(l.b, s[i:plain]...)
			i = plain
			continue
		}
		c := s[i]
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case c == '"' || c == '\\':
			l.b = append(l.b, '\\', c)
		case r == utf8.RuneError && n == 1: // JSON has no bytes
			l.b = append(l.b, `\ufffd`...)
		case r < 0x10000 && (r < 0xa0 || r == 0x2028 || r == 0x2029):
			const hex = "0123456789abcdef"
			l.b = append(l.b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
		default:
			l.b = append(l.b, s[i:i+n]...)
		}
		i += n
	}
	l.b = append(l.b, '"')
}
