package clock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/beevik/ntp"
)

// A slower answer of a time server tells nothing. Only tests change it.
var queryTimeout = 2 * time.Second

const (
	maxStray = 16 // packets of no use that are read over for one answer
	// maxDistance is the error that a server may confess to (RFC 5905 calls it
	// the root distance and takes 1.5 s; chrony takes 3 s).
	maxDistance = 3 * time.Second
	minBound    = time.Millisecond // we are a process among others
)

// sample is one good answer of a time server.
type sample struct {
	offset, bound time.Duration // as in Source
	addr          string        // IP:port that answered
}

// kiss is a kiss-of-death (RFC 5905 §7.4).
type kiss string

func (k kiss) Error() string { return "kiss-of-death " + string(k) }

// forever says never to ask again.
func (k kiss) forever() bool { return k == "DENY" || k == "RSTR" }

// unfitError is an answer that says itself that it must not be used.
type unfitError struct{ error }

// query asks a time server once. It ends with ctx or after queryTimeout.
func query(ctx context.Context, addr string, now func() time.Time) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var d net.Dialer
	raw, err := d.DialContext(ctx, "udp", addr)
	if err != nil {
		return sample{}, err
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	s, err := ask(raw, now)
	var timeout net.Error
	if errors.Is(err, net.ErrClosed) || errors.As(err, &timeout) && timeout.Timeout() {
		return sample{}, fmt.Errorf("no answer in %s", Span(queryTimeout))
	}
	s.addr = raw.RemoteAddr().String()
	return s, err
}

// ask is query on an open connection.
func ask(raw net.Conn, now func() time.Time) (sample, error) {
	e := &exchange{Conn: raw}
	r, err := exchangeNTP(e, now)
	switch {
	case e.kiss != "":
		return sample{}, e.kiss
	case err != nil && e.stray != "":
		return sample{}, errors.New("no answer of use: " + e.stray)
	case errors.Is(err, ntp.ErrServerTickedBackwards), errors.Is(err, ntp.ErrInvalidTransmitTime):
		return sample{}, unfitError{err}
	case err != nil:
		return sample{}, err
	}
	return weigh(r)
}

// exchangeNTP has the library ask. It panics on some answers (version 1.6.0: a
// poll or precision of -128), which anybody on the path can send.
func exchangeNTP(e *exchange, now func() time.Time) (r *ntp.Response, err error) {
	defer func() {
		if recover() != nil {
			r, err = nil, unfitError{errors.New("its answer makes no sense")}
		}
	}()
	return ntp.QueryWithOptions("server:123", ntp.QueryOptions{
		Timeout: queryTimeout,
		// Wall clock alone: a step in between must not hide behind the monotonic
		// clock.
		GetSystemTime: func() time.Time { return now().Round(0) },
		Dialer:        func(string, string) (net.Conn, error) { return e, nil },
	})
}

// weigh takes the measure from an answer that belongs to the question.
func weigh(r *ntp.Response) (sample, error) {
	unfit := func(format string, a ...any) (sample, error) { return sample{}, unfitError{fmt.Errorf(format, a...)} }
	switch {
	case r.Stratum == 0:
		return unfit("it has no time to give (stratum 0)")
	case r.Stratum >= 16, r.Leap == ntp.LeapNotInSync:
		return unfit("it says that its own clock is not synchronised")
	case r.Precision < 0 || r.Precision > time.Second:
		return unfit("its precision makes no sense")
	}
	if err := r.Validate(); err != nil {
		return unfit("%w", err)
	}
	s := sample{offset: r.ClockOffset, bound: max(r.RootDistance+r.Precision, minBound)}
	if s.bound > maxDistance {
		return unfit("it is too unsure of its time (%s)", give(s.bound))
	}
	return s, nil
}

// exchange is a connection for one question and its answer. It reads over what
// does not belong to the question: a stranger who does not see it must guess
// its 64 random bits to be heard at all.
type exchange struct {
	net.Conn
	question []byte
	kiss     kiss
	stray    string // why the last packet was of no use
}

// Write notes the question's transmit time stamp, which is random.
func (e *exchange) Write(b []byte) (int, error) {
	e.question = append(e.question[:0], b...)
	return e.Conn.Write(b)
}

// Read gives the first packet that answers the question.
func (e *exchange) Read(b []byte) (int, error) {
	for range maxStray {
		n, err := e.Conn.Read(b)
		if err != nil {
			return 0, err
		}
		if why := stray(e.question, b[:n]); why != "" {
			e.stray = why
			continue
		}
		e.stray, e.kiss = "", kissOf(b[:n])
		return n, nil
	}
	return 0, errors.New("too many packets of no use")
}

const headerLen = 48 // RFC 5905 §7.3

// stray says why packet is no answer to question, or nothing.
func stray(question, packet []byte) string {
	switch {
	case len(packet) < headerLen:
		return "a packet of " + fmt.Sprint(len(packet)) + " bytes"
	case len(question) < headerLen || string(packet[24:32]) != string(question[40:48]):
		return "an answer to another question"
	case packet[0]&7 != 4:
		return fmt.Sprintf("an answer in mode %d, which is not a server's", packet[0]&7)
	}
	if v := packet[0] >> 3 & 7; v != 3 && v != 4 {
		return fmt.Sprintf("an answer of NTP version %d", v)
	}
	return ""
}

// kissOf is the code of a kiss-of-death that is to be obeyed: all others only
// say that there is no time.
func kissOf(packet []byte) kiss {
	if packet[1] != 0 {
		return ""
	}
	switch code := kiss(packet[12:16]); code {
	case "DENY", "RSTR", "RATE":
		return code
	}
	return ""
}

// serverAddr checks a configured server and gives it its port.
func serverAddr(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), "123"
	}
	if host == "" || host != clean(host) || strings.ContainsAny(host, "/@") {
		return "", fmt.Errorf("time server %q: write host or host:port", s)
	}
	if n, err := net.LookupPort("udp", port); err != nil || n == 0 {
		return "", fmt.Errorf("time server %q: %q is no port", s, port)
	}
	return net.JoinHostPort(host, port), nil
}
