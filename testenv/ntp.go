package testenv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// NTPReply says how an NTPServer answers; the zero value is an honest server of
// stratum 2.
type NTPReply struct {
	Offset time.Duration // of its clock against the machine's; positive is ahead
	Jump   time.Duration // added to Offset at each second answer
	Delay  time.Duration // before it answers

	Silent   bool // no answer
	Bogus    bool // the only answer has another origin time stamp than the question
	Stranger bool // such an answer comes before the true one
	Backward bool // its clock went back between question and answer
	NoTime   bool // a transmit time stamp of zero
	Truncate int  // bytes of the packet that are sent; 0: all 48
	Copies   int  // of the answer, besides itself

	Leap       int    // 3: not synchronised
	Version    int    // default: the question's
	Mode       int    // default 4, a server
	Stratum    int    // default 2; -1: zero
	Kiss       string // four letters: stratum 0 with this code
	Precision  int8   // log2 of seconds; default -20
	RootDelay  time.Duration
	Dispersion time.Duration
	Stale      time.Duration // since its clock was last set; default 10 s
}

// NTPServer is a time server that lies as it is told: for what a real one
// cannot be made to say. Everything else is shown with StartChronyd.
type NTPServer struct {
	Addr string // IP:port

	conn net.PacketConn
	done chan struct{}

	mu    sync.Mutex
	reply NTPReply    // guarded by mu
	asked []time.Time // guarded by mu
}

// StartNTP starts a time server on an address, such as 127.0.0.1:0.
func StartNTP(addr string) (*NTPServer, error) {
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("starting a time server: %w", err)
	}
	s := &NTPServer{Addr: c.LocalAddr().String(), conn: c, done: make(chan struct{})}
	go s.serve()
	return s, nil
}

// Set changes how it answers from now on.
func (s *NTPServer) Set(r NTPReply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reply = r
}

// Asked is when it was asked so far.
func (s *NTPServer) Asked() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.asked...)
}

// Close ends it. It may be called twice.
func (s *NTPServer) Close() error {
	err := s.conn.Close()
	<-s.done
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *NTPServer) serve() {
	var late sync.WaitGroup
	defer close(s.done)
	defer late.Wait()
	for {
		q := make([]byte, 512)
		n, from, err := s.conn.ReadFrom(q)
		if err != nil {
			return
		}
		received := time.Now()
		s.mu.Lock()
		s.asked = append(s.asked, received)
		r, odd := s.reply, len(s.asked)%2 == 1
		s.mu.Unlock()
		if n < 48 || r.Silent {
			continue
		}
		if odd {
			r.Jump = 0
		}
		late.Go(func() {
			time.Sleep(r.Delay)
			for _, p := range r.packets(q[:48], received) {
				s.conn.WriteTo(p, from) // closed, or arrived
			}
		})
	}
}

// packets are the answers to a question (RFC 5905 §7.3).
func (r *NTPReply) packets(q []byte, received time.Time) [][]byte {
	or := func(v, standard int) byte {
		switch {
		case v == 0:
			return byte(standard)
		case v < 0:
			return 0
		}
		return byte(v)
	}
	offset := r.Offset + r.Jump
	p := make([]byte, 48)
	p[0] = byte(r.Leap)<<6 | or(r.Version, int(q[0]>>3&7))<<3 | or(r.Mode, 4)
	p[1], p[2], p[3] = or(r.Stratum, 2), q[2], byte(r.Precision)
	if r.Precision == 0 {
		p[3] = 0x100 - 20
	}
	if r.Kiss != "" {
		p[1] = 0
	}
	binary.BigEndian.PutUint32(p[4:], ntpShort(r.RootDelay))
	binary.BigEndian.PutUint32(p[8:], ntpShort(r.Dispersion))
	copy(p[12:16], r.Kiss)
	stale := r.Stale
	if stale == 0 {
		stale = 10 * time.Second
	}
	sent := time.Now().Add(offset)
	if r.Backward {
		sent = sent.Add(-time.Minute)
	}
	binary.BigEndian.PutUint64(p[16:], ntpTime(sent.Add(-stale)))
	copy(p[24:32], q[40:48])
	binary.BigEndian.PutUint64(p[32:], ntpTime(received.Add(offset)))
	if !r.NoTime {
		binary.BigEndian.PutUint64(p[40:], ntpTime(sent))
	}
	bogus := append([]byte(nil), p...)
	bogus[31] ^= 1
	if r.Bogus {
		p = bogus
	}
	if r.Truncate > 0 {
		p = p[:r.Truncate]
	}
	var out [][]byte
	if r.Stranger {
		out = append(out, bogus, nil, bogus[:20])
	}
	for range 1 + r.Copies {
		out = append(out, p)
	}
	return out
}

// ntpTime is seconds since 1900 with 32 bits of fraction.
func ntpTime(t time.Time) uint64 {
	const from1900 = 2208988800
	return uint64(t.Unix()+from1900)<<32 | uint64(t.Nanosecond())<<32/1e9
}

// ntpShort is seconds with 16 bits of fraction.
func ntpShort(d time.Duration) uint32 {
	return uint32(d/time.Second<<16) | uint32(d%time.Second<<16/time.Second)
}
