package feed

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxFrame bounds a frame in bytes, without the four of its length.
const maxFrame = 1 << 20

// kind is the byte that says what a frame is.
type kind byte

// What the client sends.
const (
	kindHello    kind = 'h' // clientHello
	kindPing     kind = 'p' // ping
	kindAck      kind = 'a' // ack
	kindSessions kind = 's' // sessionList
	kindEvent    kind = 'e' // sessionEvent
	kindCall     kind = 'c' // call
)

// What the server sends.
const (
	kindWelcome kind = 'H' // welcome
	kindOps     kind = 'O' // ops
	kindSelf    kind = 'S' // self
	kindCommit  kind = 'C' // commit
	kindPong    kind = 'P' // pong
	kindEnd     kind = 'E' // end
	kindAnswer  kind = 'A' // answer
	kindBye     kind = 'B' // bye
)

// errNonsense is what a peer says that is not in the protocol.
var errNonsense = errors.New("not of the protocol")

func nonsense(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errNonsense}, args...)...)
}

// newFrame encodes v; nil when it cannot be, or is too long.
func newFrame(k kind, v any) []byte {
	var b bytes.Buffer
	b.Write([]byte{0, 0, 0, 0, byte(k)})
	enc := json.NewEncoder(&b)
	if enc.Encode(v) != nil {
		return nil
	}
	out := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if len(out)-4 > maxFrame {
		return nil
	}
	binary.BigEndian.PutUint32(out, uint32(len(out)-4))
	return out
}

// readFrame reads one frame into buf, which it may replace by a larger one.
func readFrame(r io.Reader, buf *[]byte) (kind, []byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n < 1 || n > maxFrame {
		return 0, nil, nonsense("a frame of %d bytes", n)
	}
	// The buffer grows with what has come, not with what is announced.
	b := (*buf)[:0]
	for len(b) < n {
		step := min(n-len(b), max(4096, len(b)))
		if cap(b)-len(b) < step {
			b = append(make([]byte, 0, len(b)+step), b...)
		}
		got, err := io.ReadFull(r, b[len(b):len(b)+step])
		b = b[:len(b)+got]
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
	}
	*buf = b
	return kind(b[0]), b[1:], nil
}

// decode reads one JSON value, strictly.
func decode(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return nonsense("%v", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nonsense("something follows the value")
	}
	return nil
}

// parseClientFrame reads what a client sent: one of the structs that the kinds
// name.
func parseClientFrame(k kind, body []byte) (any, error) {
	var v interface{ check() error }
	switch k {
	case kindHello:
		v = new(clientHello)
	case kindPing:
		v = new(ping)
	case kindAck:
		v = new(ack)
	case kindSessions:
		v = new(sessionList)
	case kindEvent:
		v = new(sessionEvent)
	case kindCall:
		v = new(call)
	default:
		return nil, nonsense("a frame of kind %q", byte(k))
	}
	return v, parseInto(body, v)
}

// parseServerFrame reads what a server sent.
func parseServerFrame(k kind, body []byte) (any, error) {
	var v interface{ check() error }
	switch k {
	case kindWelcome:
		v = new(welcome)
	case kindOps:
		v = new(ops)
	case kindSelf:
		v = new(self)
	case kindCommit:
		v = new(commit)
	case kindPong:
		v = new(pong)
	case kindEnd:
		v = new(end)
	case kindAnswer:
		v = new(answer)
	case kindBye:
		v = new(bye)
	default:
		return nil, nonsense("a frame of kind %q", byte(k))
	}
	return v, parseInto(body, v)
}

func parseInto(body []byte, v interface{ check() error }) error {
	if err := decode(body, v); err != nil {
		return err
	}
	return v.check()
}
