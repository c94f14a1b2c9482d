package clock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

// kdcTimeout is for each of TCP and UDP. Only tests change it.
var kdcTimeout = 2 * time.Second

const (
	maxKDCReply = 64 << 10
	// probeName is asked for because it does not exist: a ticket would show no
	// time to who has no key.
	probeName = "sekisho-clock-probe-of-nobody"
)

// ProbeKDC asks the KDC at addr (host:port) the time, without any credential: an
// AS-REQ for a principal that does not exist is answered by a KRB-ERROR with the
// KDC's time (RFC 4120 §5.9.1). offset is how far the KDC is ahead of now's clock,
// and the true figure is offset ± bound. By TCP, and by UDP where that fails.
//
// The answer is not authenticated: who sits on the path can lie here.
func ProbeKDC(ctx context.Context, addr, realm string, now func() time.Time) (offset, bound time.Duration, err error) {
	t, err := askKDC(ctx, addr, realm, now)
	return t.offset, t.bound, err
}

// told is what a KDC said.
type told struct {
	offset, bound time.Duration
	from          string // IP:port
	own           bool   // it runs on this machine
}

func askKDC(ctx context.Context, addr, realm string, now func() time.Time) (told, error) {
	msg, err := question(realm)
	if err == nil {
		var t told
		if t, err = probe(ctx, "tcp", addr, realm, msg, now); err == nil {
			return t, nil
		}
		t, again := probe(ctx, "udp", addr, realm, msg, now)
		if again == nil {
			return t, nil
		}
		err = fmt.Errorf("%w; %w", err, again)
	}
	return told{}, fmt.Errorf("asking the KDC %s the time: %w", clean(addr), err)
}

// question is an AS-REQ for nobody (RFC 4120 §5.4.1). It is made here and not by
// package client, which imports this one.
func question(realm string) ([]byte, error) {
	const asReq = 10
	nobody, err := krb.NewPrincipal(probeName, realm)
	if err != nil {
		return nil, err
	}
	tgs := krb.Principal{Components: []string{"krbtgt", realm}, Realm: realm}
	body := der.Seq(der.Field(0, der.Flags(0)), der.Field(1, der.Name(nobody)), der.Field(2, der.Text(realm)), der.Field(3, der.Name(tgs)),
		der.Field(5, der.Time(time.Unix(0, 0))), der.Field(7, der.Int(rand.Int64N(1<<31))),
		der.Field(8, der.Seq(der.Int(int64(krb.AES256SHA2)), der.Int(int64(krb.AES256SHA1)), der.Int(int64(krb.AES128SHA1)))))
	return der.App(asReq, der.Field(1, der.Int(der.Version)), der.Field(2, der.Int(asReq)), der.Field(4, body)), nil
}

func probe(ctx context.Context, network, addr, realm string, msg []byte, now func() time.Time) (told, error) {
	ctx, cancel := context.WithTimeout(ctx, kdcTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return told{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	wall, start := now().Round(0), time.Now()
	body, err := exchangeKDC(conn, network, msg)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer by %s in %s", network, Span(kdcTimeout))
		}
		return told{}, err
	}
	took := time.Since(start)
	theirs, resolution, err := kdcTime(body, realm)
	if err != nil {
		return told{}, err
	}
	t := told{offset: theirs.Sub(wall.Add(took / 2)), bound: took/2 + resolution, from: conn.RemoteAddr().String()}
	// Who reaches an address of this machine has it himself.
	us, _, err1 := net.SplitHostPort(conn.LocalAddr().String())
	them, _, err2 := net.SplitHostPort(t.from)
	t.own = err1 == nil && err2 == nil && us == them
	return t, nil
}

func exchangeKDC(conn net.Conn, network string, msg []byte) ([]byte, error) {
	if network == "udp" {
		if _, err := conn.Write(msg); err != nil {
			return nil, err
		}
		body := make([]byte, maxKDCReply)
		n, err := conn.Read(body)
		return body[:n], err
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...)); err != nil { // RFC 4120 §7.2.2
		return nil, err
	}
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxKDCReply {
		return nil, errors.New("the answer is too long for a KDC's")
	}
	body := make([]byte, n)
	_, err := io.ReadFull(conn, body)
	return body, err
}

// kdcTime reads the KDC's time from a KRB-ERROR of that realm, with how coarse
// it is.
func kdcTime(body []byte, realm string) (t time.Time, resolution time.Duration, err error) {
	e, err := der.ParseError(body)
	if err != nil {
		return time.Time{}, 0, errors.New("the answer is not a Kerberos error, or has no time that makes sense in it")
	}
	if e.Server.Realm != realm {
		return time.Time{}, 0, fmt.Errorf("the answer is of realm %.80q, not %s", clean(e.Server.Realm), realm)
	}
	// MIT's KDC reads its clock once a second and then counts up by a microsecond
	// an answer (krb5_crypto_us_timeofday), and others say seconds only: it is
	// somewhere between what it says and the end of that second.
	half := (time.Second - time.Duration(e.At.Nanosecond())) / 2
	return e.At.Add(half), half + minBound, nil
}
