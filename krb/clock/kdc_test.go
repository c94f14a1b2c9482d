package clock

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

const testRealm = "EXAMPLE.ORG"

// krbError is what a KDC says whose clock is ahead by offset.
func krbError(t testing.TB, offset time.Duration, change func(*messages.KRBError)) []byte {
	t.Helper()
	e := messages.NewKRBError(types.NewPrincipalName(2, "krbtgt/"+testRealm), testRealm, 6, "CLIENT_NOT_FOUND")
	at := time.Now().Add(offset).UTC()
	e.STime, e.Susec = at.Truncate(time.Second), at.Nanosecond()/1000
	if change != nil {
		change(&e)
	}
	b, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fakeKDC answers each question by TCP with what answer gives; nil: not at all.
func fakeKDC(t *testing.T, answer func() []byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var head [4]byte
			if _, err := io.ReadFull(c, head[:]); err == nil {
				io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head[:])))
				c.Write(answer())
			}
			c.Close()
		}
	}()
	return l.Addr().String()
}

func framed(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }

// patient is for tests of KDCs that answer, on a machine that may stand still for a
// while.
func patient(t *testing.T) {
	was := kdcTimeout
	kdcTimeout = 20 * time.Second
	t.Cleanup(func() { kdcTimeout = was })
}

func TestProbeFakeKDC(t *testing.T) {
	patient(t)
	for _, tc := range []struct {
		name   string
		answer func() []byte
		offset time.Duration
		fails  string
	}{
		{"right", func() []byte { return framed(krbError(t, 0, nil)) }, 0, ""},
		{"ahead", func() []byte { return framed(krbError(t, 10*time.Minute, nil)) }, 10 * time.Minute, ""},
		{"years behind", func() []byte { return framed(krbError(t, -30*365*24*time.Hour, nil)) }, -30 * 365 * 24 * time.Hour, ""},
		{"counts microseconds", func() []byte { // as MIT's, which reads its clock once a second
			return framed(krbError(t, 10*time.Minute, func(e *messages.KRBError) { e.Susec /= 3 }))
		}, 10 * time.Minute, ""},
		{"whole seconds", func() []byte {
			return framed(krbError(t, 10*time.Minute, func(e *messages.KRBError) { e.Susec = 0 }))
		}, 10 * time.Minute, ""},
		{"another realm", func() []byte {
			return framed(krbError(t, 0, func(e *messages.KRBError) { e.Realm = "EVIL\x1b.ORG" }))
		}, 0, "of realm \"EVIL?.ORG\""},
		{"microseconds", func() []byte {
			return framed(krbError(t, 0, func(e *messages.KRBError) { e.Susec = 1_000_000 }))
		}, 0, "no time that makes sense"},
		{"too long", func() []byte { return []byte{0x7f, 0xff, 0xff, 0xff} }, 0, "too long"},
		{"cut", func() []byte { return framed(krbError(t, 0, nil))[:40] }, 0, "EOF"},
		{"nothing", func() []byte { return nil }, 0, "EOF"},
		{"rubbish", func() []byte { return framed([]byte("HTTP/1.0 200 OK\r\n\r\n")) }, 0, "not a Kerberos error"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr := fakeKDC(t, tc.answer)
			began := time.Now()
			offset, bound, err := ProbeKDC(context.Background(), addr, testRealm, time.Now)
			if tc.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fails) || !strings.Contains(err.Error(), addr) {
					t.Errorf("%s ± %s, %v, want %q", offset, bound, err, tc.fails)
				}
				return
			}
			if err != nil || (offset-tc.offset).Abs() > bound || bound > 2*time.Second+time.Since(began) {
				t.Errorf("%s ± %s, %v, want %s", offset, bound, err, tc.offset)
			}
		})
	}
	if _, _, err := ProbeKDC(context.Background(), "127.0.0.1:1", "NO REALM", time.Now); err == nil {
		t.Error("asked for a realm that is none")
	}
}

// A KDC that hangs costs its time and no more, and less when the context ends.
func TestProbeHungKDC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // connections are made, and nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	begin := time.Now()
	_, _, err = ProbeKDC(context.Background(), l.Addr().String(), testRealm, time.Now)
	if err == nil || !strings.Contains(err.Error(), "no answer by tcp in 2.0 s; no answer by udp in 2.0 s") || time.Since(begin) < 4*time.Second {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
	kdcTimeout = 2 * time.Minute
	defer func() { kdcTimeout = 2 * time.Second }()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	begin = time.Now()
	if _, _, err := ProbeKDC(ctx, l.Addr().String(), testRealm, time.Now); err == nil || time.Since(begin) > time.Minute {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
}

// Whatever AskKDC is told and others report, one address is one KDC; and one that
// is this machine itself does not make its clock good.
func TestOneKDCOfTwoNames(t *testing.T) {
	patient(t)
	var offset time.Duration = 10 * time.Minute
	addr := fakeKDC(t, func() []byte { return framed(krbError(t, offset, nil)) })
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(Config{Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	g.Observe(addr, 0, time.Second)
	name := "localhost:" + port
	if err := g.AskKDC(context.Background(), name, testRealm); err != nil {
		t.Fatal(err)
	}
	s := g.Status()
	if len(s.Sources) != 1 || s.Sources[0].Name != name || s.State != Beyond {
		t.Errorf("%+v", s)
	}
	g.Observe(addr, 0, 10*time.Millisecond)
	if s := g.Status(); len(s.Sources) != 1 || s.Sources[0].Name != name || s.State != Unknown || s.Sources[0].Verdict != Alone {
		t.Errorf("%+v", s)
	}
	// A name that is no loopback's: what it leads to is learned by asking.
	g.names["203.0.113.9"] = "kdc9.example.org"
	g.Observe("203.0.113.9:88", 0, time.Second)
	if s := g.Status(); len(s.Sources) != 2 || s.Sources[1].Name != "kdc9.example.org" || s.State != Good {
		t.Errorf("%+v", s)
	}
	if err := g.AskKDC(context.Background(), "127.0.0.1:1", testRealm); err == nil {
		t.Error("nobody is a KDC")
	}
	g.judge()
	s = g.Status()
	if len(s.Sources) != 3 || s.Sources[2].Verdict != Silent || s.Sources[2].Why == "" || s.State != Good {
		t.Errorf("%+v", s)
	}
	g.Observe("kdc2.example.org:88", 0, time.Second)
	if s := g.Status(); s.Sources[3].Name != "kdc2.example.org" {
		t.Errorf("%+v", s)
	}
}

// An answer to a question from before a step counts for nothing.
func TestKDCInMidStep(t *testing.T) {
	patient(t)
	var step atomic.Int64
	addr := fakeKDC(t, func() []byte {
		step.Store(int64(time.Hour))
		return framed(krbError(t, 0, nil))
	})
	g, err := New(Config{Log: quiet(), Now: func() time.Time { return time.Now().Add(time.Duration(step.Load())).Round(0) }})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.AskKDC(context.Background(), addr, testRealm); err == nil || !strings.Contains(err.Error(), "was moved meanwhile") {
		t.Error(err)
	}
	if s := g.Status(); s.State != Unknown || len(s.Sources) != 0 {
		t.Errorf("%+v", s)
	}
	if err := g.AskKDC(context.Background(), addr, testRealm); err != nil {
		t.Error(err)
	}
	if s := g.Status(); s.State != Beyond {
		t.Errorf("%+v", s)
	}
}

// Any bytes are an error or a time, and never a panic.
func FuzzKDCTime(f *testing.F) {
	f.Add(krbError(f, 0, nil))
	f.Add(krbError(f, 0, func(e *messages.KRBError) { e.Susec = 0 }))
	f.Add([]byte{0x7e, 0x00})
	f.Add([]byte{0x7e, 0x84, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		at, resolution, err := kdcTime(b, testRealm)
		if err == nil && (at.Year() < 1970 || at.Year() > 2201 || resolution <= 0 || resolution > time.Second) {
			t.Errorf("%s ± %s", at, resolution)
		}
	})
}
