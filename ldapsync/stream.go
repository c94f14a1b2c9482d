package ldapsync

import (
	"errors"
	"net"
)

// stream starts the goroutine that reads messages; chunks is closed when the
// connection ends, readErr says why. Buffers come back through free.
func (c *conn) stream(chunks chan<- chunk, free <-chan []byte) {
	c.reading.Add(1)
	go func() {
		defer c.reading.Done()
		defer close(chunks)
		c.readErr = c.readOn(chunks, free)
	}()
}

func (c *conn) readOn(chunks chan<- chunk, free <-chan []byte) error {
	g := gatherOf(c.net)
	for {
		// How many bytes are whole messages?
		whole, need := c.start, 0
		var large *largeError
		for {
			n, err := frame(c.buf[whole:c.end], c.max)
			if err != nil && !errors.As(err, &large) {
				return err
			}
			if n == 0 || n > c.end-whole {
				need = n
				break
			}
			whole += n
		}
		if whole > c.start {
			if err := c.deliver(whole, chunks, free); err != nil {
				return err
			}
		}
		if large != nil {
			if err := c.passOver(large, chunks); err != nil {
				return err
			}
			continue
		}
		c.makeRoom(need)
		if err := c.fill(); err != nil {
			return err
		}
		for g.ready() && c.end < len(c.buf) { // TLS gives one record, one entry, at a time
			if err := c.fill(); err != nil {
				return err
			}
		}
	}
}

// deliver hands over what is before whole, and goes on in another buffer.
func (c *conn) deliver(whole int, chunks chan<- chunk, free <-chan []byte) error {
	var next []byte
	select {
	case next = <-free:
	default:
	}
	rest := c.end - whole
	if len(next) < max(rest, chunkSize) {
		next = make([]byte, max(chunkSize, rest))
	}
	copy(next, c.buf[whole:c.end])
	k := chunk{msgs: c.buf[c.start:whole], buf: c.buf}
	select {
	case chunks <- k:
	case <-c.quit:
		return net.ErrClosed
	}
	c.buf, c.start, c.end = next, 0, rest
	if len(k.buf) > largeChunk {
		select {
		case <-c.used:
		case <-c.quit:
			return net.ErrClosed
		}
	}
	return nil
}

// giveBack returns a chunk's buffer after its messages were dealt with.
func (c *conn) giveBack(k chunk, free chan<- []byte) {
	if len(k.buf) > largeChunk {
		c.used <- struct{}{} // has room: one large chunk is on its way at a time
		return
	}
	select {
	case free <- k.buf:
	default:
	}
}

// passOver reads past an entry that is too long, and delivers it without its
// attributes: whoever writes a huge entry hides that entry and stops nothing
// else. Of anything else that is too long, the connection ends.
func (c *conn) passOver(l *largeError, chunks chan<- chunk) error {
	if l.size > longestSkip {
		return l
	}
	for c.end-c.start < edge { // less than l.size, since MaxMessage is no smaller
		c.makeRoom(edge)
		if err := c.fill(); err != nil {
			return err
		}
	}
	head := append([]byte(nil), c.buf[c.start:c.start+edge]...)
	tailAt := l.size - edge // offsets in the message
	tail := make([]byte, 0, edge)
	for at := 0; at < l.size; {
		if c.start == c.end {
			c.start, c.end = 0, 0
			if err := c.fill(); err != nil {
				return err
			}
		}
		n := min(c.end-c.start, l.size-at)
		if from := max(tailAt-at, 0); from < n {
			tail = append(tail, c.buf[c.start+from:c.start+n]...)
		}
		c.start += n
		at += n
	}
	msg, err := withoutAttributes(head, tail, l)
	if err != nil {
		return err
	}
	select {
	case chunks <- chunk{msgs: msg, large: l.size}:
		return nil
	case <-c.quit:
		return net.ErrClosed
	}
}

// withoutAttributes makes a message of an entry's beginning and end: its DN
// and its controls.
func withoutAttributes(head, tail []byte, l *largeError) ([]byte, error) {
	r := ber(head)
	open := func(tag byte) (size int, err error) { // goes into an element that is not all there
		if len(r) < 2 || r[0] != tag {
			return 0, l
		}
		n, size, err := berLength(r[1:])
		if err != nil {
			return 0, l
		}
		r = r[1+n:]
		return size, nil
	}
	if _, err := open(tagSequence); err != nil {
		return nil, err
	}
	id, err := r.integer(tagInteger)
	if err != nil {
		return nil, err
	}
	size, err := open(opSearchEntry)
	if err != nil {
		return nil, err
	}
	// The operation ends, and the controls begin, so far from the end:
	after := l.size - (len(head) - len(r)) - size
	dn, err := r.expect(tagOctetString)
	if err != nil || after < 0 || after > len(tail) {
		return nil, l
	}
	return tlv(tagSequence, integer(tagInteger, id), tlv(opSearchEntry, tlv(tagOctetString, dn), tlv(tagSequence)), tail[len(tail)-after:]), nil
}
