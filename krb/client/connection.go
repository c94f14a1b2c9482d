package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"
)

// badReply marks what is wrong with a reply, against what is wrong with the way to it.
type badReply struct{ err error }

func (b badReply) Error() string { return b.err.Error() }

// open connects, and gives the message for the connection. The connection fails as
// soon as ctx ends; close must be called.
func (a *asking) open(ctx context.Context, addr netip.AddrPort, network string) (conn net.Conn, msg []byte, close func(), err error) {
	conn, err = a.c.c.Dial(ctx, network, addr.String())
	if err != nil {
		return nil, nil, nil, short(err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	close = func() { stop(); conn.Close() }
	msg = a.r.Message
	if a.r.MessageFor != nil {
		local, perr := netip.ParseAddrPort(conn.LocalAddr().String())
		if perr != nil {
			close()
			return nil, nil, nil, fmt.Errorf("the connection's own address: %w", perr)
		}
		if msg, err = a.r.MessageFor(netip.AddrPortFrom(local.Addr().Unmap().WithZone(""), local.Port())); err != nil {
			close()
			return nil, nil, nil, fmt.Errorf("making the message: %w", err)
		}
	}
	return conn, msg, close, nil
}

// udp sends the message each second until a reply is taken. Replies that are not
// taken are not looked at any more, as anybody could have sent them.
func (a *asking) udp(ctx context.Context, addr netip.AddrPort) ([]byte, error) {
	conn, msg, closeConn, err := a.open(ctx, addr, "udp")
	if err != nil {
		return nil, err
	}
	defer closeConn()
	buf := make([]byte, maxDatagram)
	var ignored error
	for n := 0; n < maxIgnored; {
		if _, err := conn.Write(msg); err != nil {
			return nil, either(ignored, short(err))
		}
		// Set before ctx is looked at: its end sets a deadline too.
		if err := conn.SetReadDeadline(time.Now().Add(a.c.resend())); err != nil {
			return nil, err
		}
		for ; n < maxIgnored; n++ {
			if ctx.Err() != nil {
				return nil, either(ignored, ctx.Err())
			}
			size, err := conn.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break // send it again
			}
			if err != nil {
				return nil, either(ignored, short(err))
			}
			if size == len(buf) {
				return nil, ErrTooBig
			}
			reply := append([]byte(nil), buf[:size]...)
			err = a.judge(reply, addr)
			if err == nil {
				return reply, nil
			}
			var e *Error
			if errors.Is(err, ErrTooBig) || errors.Is(err, errTaken) || errors.As(err, &e) && e.Kind == Unavailable {
				return nil, err
			}
			ignored = badReply{err}
		}
	}
	return nil, either(ignored, errors.New("too many datagrams that belong to no request"))
}

func either(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// tcp asks once (RFC 4120 §7.2.2).
func (a *asking) tcp(ctx context.Context, addr netip.AddrPort) ([]byte, error) {
	if a.spent() {
		return nil, errSent
	}
	conn, msg, closeConn, err := a.open(ctx, addr, "tcp")
	if err != nil {
		return nil, err
	}
	defer closeConn()
	a.mu.Lock()
	a.sent = true
	a.mu.Unlock()
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...)); err != nil {
		return nil, short(err)
	}
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, cutShort(err)
	}
	size := binary.BigEndian.Uint32(head[:])
	if size == 0 || size > maxReply {
		return nil, badReply{fmt.Errorf("a reply of %d bytes", size)}
	}
	reply := make([]byte, size)
	if _, err := io.ReadFull(conn, reply); errors.Is(err, io.EOF) {
		return nil, cutShort(io.ErrUnexpectedEOF)
	} else if err != nil {
		return nil, cutShort(err)
	}
	if err := a.judge(reply, addr); err != nil {
		var e *Error
		if errors.As(err, &e) || errors.Is(err, errTaken) {
			return nil, err
		}
		return nil, badReply{err}
	}
	return reply, nil
}

// cutShort tells a reply that ends early from a server that does not reply.
func cutShort(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return badReply{errors.New("the connection was closed within the reply")}
	case errors.Is(err, io.EOF):
		return errors.New("the connection was closed without a reply")
	}
	return short(err)
}

// short is the heart of a network error, without the addresses that we say anyway.
func short(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
