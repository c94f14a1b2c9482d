package wire

import (
	"errors"
	"io"
)

// AppendRequest appends r as one line to dst. The error names what r breaks,
// and never a value; nothing is returned beside it.
func AppendRequest(dst []byte, r Request) ([]byte, error) {
	if !isName(r.Verb, MaxName) {
		return nil, errors.New("writing a request: the verb is not a name")
	}
	if len(r.Fields) > MaxFields {
		return nil, errIn("writing a request", over("the number of fields", MaxFields))
	}
	start := len(dst)
	dst = append(dst, '1', ' ')
	dst = append(dst, r.Verb...)
	for i, f := range r.Fields {
		if err := checkName(f.Name, r.Fields[:i]); err != nil {
			return nil, errIn("writing a request", err)
		}
		if len(f.Value) > MaxLine {
			return nil, errIn("writing a request", over("its length", MaxLine))
		}
		dst = append(dst, ' ')
		dst = append(dst, f.Name...)
		dst = append(dst, '=')
		dst = escape(dst, f.Value)
	}
	dst = append(dst, '\n')
	if len(dst)-start > MaxLine {
		return nil, errIn("writing a request", over("its length", MaxLine))
	}
	return dst, nil
}

// ParseRequest reads one whole line, its newline included and nothing after
// it. The error is a *VersionError, under errors.As, when the line is of
// another version; it never holds a value. Nothing is returned beside an
// error.
func ParseRequest(line []byte) (Request, error) {
	r, err := parseRequest(line)
	if err != nil {
		return Request{}, errIn("reading a request", err)
	}
	return r, nil
}

func parseRequest(line []byte) (Request, error) {
	if len(line) > MaxLine {
		return Request{}, over("its length", MaxLine)
	}
	if len(line) == 0 || line[len(line)-1] != '\n' {
		return Request{}, errors.New("it does not end in a newline")
	}
	word, rest, more := cut(string(line[:len(line)-1]))
	if err := version(word); err != nil {
		return Request{}, err
	}
	if !more {
		return Request{}, errors.New("it has no verb")
	}
	var r Request
	r.Verb, rest, more = cut(rest)
	if !isName(r.Verb, MaxName) {
		return Request{}, errors.New("the verb is not a name")
	}
	for more {
		word, rest, more = cut(rest)
		name, value, ok := cutField(word)
		if !ok {
			return Request{}, errSpace
		}
		if err := checkName(name, r.Fields); err != nil {
			return Request{}, err
		}
		if len(r.Fields) == MaxFields {
			return Request{}, over("the number of fields", MaxFields)
		}
		value, err := unescape(value)
		if err != nil {
			return Request{}, errIn("field "+name, err)
		}
		if r.Fields == nil {
			r.Fields = make([]Field, 0, 4)
		}
		r.Fields = append(r.Fields, Field{name, value})
	}
	return r, nil
}

// ReadRequest reads one request, using buf[:cap(buf)] for room so that a
// server can keep one buffer for each connection; the request does not point
// into it. It reads no more than MaxLine bytes. The error is io.EOF when the
// peer hung up between two requests and io.ErrUnexpectedEOF in the middle of
// one; bytes after the newline are an error, since a client waits for its
// answer. An error of r's own is returned as it is.
func ReadRequest(r io.Reader, buf []byte) (Request, error) {
	buf = buf[:0:min(cap(buf), MaxLine)]
	for {
		if len(buf) == cap(buf) {
			buf = grow(buf, MaxLine)
		}
		n, err := read(r, buf[len(buf):cap(buf)])
		fresh := buf[len(buf) : len(buf)+n]
		buf = buf[:len(buf)+n]
		if i := index(fresh, '\n'); i >= 0 {
			if i != len(fresh)-1 {
				return Request{}, errors.New("reading a request: bytes follow it before it is answered")
			}
			return ParseRequest(buf)
		}
		if len(buf) >= MaxLine {
			return Request{}, errIn("reading a request", over("its length", MaxLine))
		}
		if err != nil {
			return Request{}, eof(err, len(buf))
		}
	}
}

// checkName refuses what is no name, or came before.
func checkName(name string, before []Field) error {
	if !isName(name, MaxName) {
		return errors.New("a field's name is not a name")
	}
	for i := range before {
		if before[i].Name == name {
			return errors.New("field " + name + " comes twice")
		}
	}
	return nil
}

// cutField parts name=value at the first equals sign.
func cutField(s string) (name, value string, ok bool) {
	for i := 0; i < len(s); i++ {
		if s[i] == '=' {
			return s[:i], s[i+1:], true
		}
	}
	return "", "", false
}
