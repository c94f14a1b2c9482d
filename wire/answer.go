package wire

import (
	"errors"
	"io"
	"strconv"
)

// AppendAnswer appends a, header and body, to dst. The error names what a
// breaks; nothing is returned beside it.
func AppendAnswer(dst []byte, a Answer) ([]byte, error) {
	if err := a.check(); err != nil {
		return nil, errIn("writing an answer", err)
	}
	start := len(dst)
	dst = append(dst, '1', ' ')
	dst = append(dst, a.Outcome.String()...)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, int64(len(a.Body)), 10)
	if a.Reason != "" {
		dst = append(dst, " reason="...)
		dst = append(dst, a.Reason...)
	}
	if a.Text != "" {
		dst = append(dst, " text="...)
		dst = escape(dst, a.Text)
	}
	dst = append(dst, '\n')
	for _, line := range a.Body {
		dst = append(dst, line...)
		dst = append(dst, '\n')
		if len(dst)-start > MaxAnswer {
			return nil, errIn("writing an answer", over("its length", MaxAnswer))
		}
	}
	return dst, nil
}

// check refuses what may not stand in an answer.
func (a *Answer) check() error {
	if a.Outcome > Yes {
		return errors.New("there is no such outcome")
	}
	if a.Reason != "" && !isName(a.Reason, MaxReason) {
		return errors.New("the reason is not a name")
	}
	if len(a.Text) > MaxText {
		return over("the text", MaxText)
	}
	if !clean(a.Text) {
		return errors.New("a control character in the text")
	}
	if len(a.Body) > MaxBodyLines {
		return over("the number of body lines", MaxBodyLines)
	}
	for _, line := range a.Body {
		if len(line) > MaxBodyLine {
			return over("a body line", MaxBodyLine)
		}
		if !clean(line) {
			return errors.New("a control character in the body")
		}
	}
	return nil
}

// ParseAnswer reads one whole answer and nothing after it. The error is
// io.ErrUnexpectedEOF, under errors.Is, when b ends before the answer does,
// and a *VersionError, under errors.As, when it is of another version.
// Nothing is returned beside an error.
func ParseAnswer(b []byte) (Answer, error) {
	var s scan
	n, err := s.end(b)
	switch {
	case err == nil && n == 0:
		err = io.ErrUnexpectedEOF
	case err == nil && n != len(b):
		err = errTrailing
	}
	if err != nil {
		return Answer{}, errIn("reading an answer", err)
	}
	return s.answer(b), nil
}

// ReadAnswer reads one answer to its last byte, and no more than MaxAnswer
// bytes plus one read. It returns only what has arrived whole. The error is
// io.EOF when the peer hung up before the first byte and io.ErrUnexpectedEOF
// within the answer; bytes after the answer are an error. An error of r's
// own, such as a deadline passed, is returned as it is.
func ReadAnswer(r io.Reader) (Answer, error) {
	var s scan
	buf := make([]byte, 0, 4<<10)
	for {
		if len(buf) == cap(buf) {
			buf = grow(buf, MaxAnswer+1)
		}
		n, rerr := read(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		size, err := s.end(buf)
		if err == nil && size != 0 && size != len(buf) {
			err = errTrailing
		}
		if err != nil {
			return Answer{}, errIn("reading an answer", err)
		}
		if size != 0 {
			return s.answer(buf), nil
		}
		if rerr != nil {
			return Answer{}, eof(rerr, len(buf))
		}
	}
}

// Ask writes one request and reads its answer. Deadlines are the caller's, on
// rw. A server that turned the connection away before it read the request has
// said why, and that is the answer; but it can only be Unknown. After an error
// the connection is of no further use.
func Ask(rw io.ReadWriter, r Request) (Answer, error) {
	line, err := AppendRequest(nil, r)
	if err != nil {
		return Answer{}, err
	}
	if _, err := rw.Write(line); err != nil {
		if a, rerr := ReadAnswer(rw); rerr == nil && a.Outcome == Unknown {
			return a, nil
		}
		return Answer{}, err
	}
	return ReadAnswer(rw)
}

var errTrailing = errors.New("bytes follow its end")

// scan finds an answer's end in a buffer that grows, looking at each byte
// once. All limits are kept here.
type scan struct {
	head  Answer // Outcome, Reason, Text
	lines int    // body lines the header promised
	body  int    // where the body begins, 0 before the header is read
	seen  int    // body lines found so far
	line  int    // where the line now being read begins
	at    int    // the next byte to look at
}

// end returns the answer's length in bytes, 0 while b is too short to hold
// it. b must begin with the bytes of the call before. After an error s is of
// no further use.
func (s *scan) end(b []byte) (int, error) {
	for s.body == 0 || s.seen < s.lines {
		i := index(b[s.at:], '\n')
		if i < 0 {
			i = len(b) - s.at
		}
		limit, what := MaxBodyLine, "a body line"
		if s.body == 0 {
			limit, what = MaxLine-1, "the header line"
		}
		if s.at+i-s.line > limit {
			return 0, over(what, limit)
		}
		if s.at+i >= MaxAnswer {
			return 0, over("its length", MaxAnswer)
		}
		for _, c := range b[s.at : s.at+i] {
			if c < ' ' || c == 0x7f {
				return 0, errors.New("a control character in it")
			}
		}
		s.at += i
		if s.at == len(b) {
			return 0, nil
		}
		if s.body != 0 {
			s.seen++
		} else {
			if err := s.header(string(b[:s.at])); err != nil {
				return 0, err
			}
			s.body = s.at + 1
		}
		s.at++
		s.line = s.at
	}
	return s.at, nil
}

// header reads the header line, without its newline.
func (s *scan) header(line string) error {
	word, rest, more := cut(line)
	if err := version(word); err != nil {
		return err
	}
	if !more {
		return errors.New("it has no outcome")
	}
	word, rest, more = cut(rest)
	switch word {
	case "yes":
		s.head.Outcome = Yes
	case "no":
		s.head.Outcome = No
	case "unknown":
		s.head.Outcome = Unknown
	default:
		return errors.New("there is no such outcome")
	}
	if !more {
		return errors.New("it has no count of body lines")
	}
	word, rest, more = cut(rest)
	var ok bool
	if s.lines, ok = count(word, MaxBodyLines); !ok {
		return errors.New("the count of body lines is not a number up to " + strconv.Itoa(MaxBodyLines))
	}
	for more {
		word, rest, more = cut(rest)
		name, value, _ := cutField(word)
		switch {
		case name == "reason" && s.head.Reason == "" && s.head.Text == "":
			if !isName(value, MaxReason) {
				return errors.New("the reason is not a name")
			}
			s.head.Reason = value
		case name == "text" && s.head.Text == "":
			text, err := unescape(value)
			if err != nil {
				return errIn("the text", err)
			}
			if text == "" || len(text) > MaxText || !clean(text) {
				return errors.New("the text is empty, too long or has control characters")
			}
			s.head.Text = text
		default:
			return errors.New("a word in the header that is unknown or out of place")
		}
	}
	return nil
}

// answer builds the answer from b, whose end was found.
func (s *scan) answer(b []byte) Answer {
	a := s.head
	if s.lines == 0 {
		return a
	}
	a.Body = make([]string, 0, s.lines)
	rest := string(b[s.body:s.at])
	for at := 0; at < len(rest); {
		n := at
		for rest[n] != '\n' {
			n++
		}
		a.Body = append(a.Body, rest[at:n])
		at = n + 1
	}
	return a
}
