package clock

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/testenv"
)

func startNTP(t testing.TB) *testenv.NTPServer {
	t.Helper()
	s, err := testenv.StartNTP("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestLies: each way to lie, on the network.
func TestLies(t *testing.T) {
	for _, tc := range []struct {
		name   string
		reply  testenv.NTPReply
		offset time.Duration // of a good sample
		fails  string        // what the error says
		unfit  bool          // the server itself says so
	}{
		{"honest", testenv.NTPReply{}, 0, "", false},
		{"ahead", testenv.NTPReply{Offset: time.Hour}, time.Hour, "", false},
		{"behind", testenv.NTPReply{Offset: -432 * time.Second}, -432 * time.Second, "", false},
		{"version 3", testenv.NTPReply{Version: 3}, 0, "", false},
		{"stratum 1", testenv.NTPReply{Stratum: 1}, 0, "", false},
		{"a stranger's answer first", testenv.NTPReply{Stranger: true, Offset: time.Hour}, time.Hour, "", false},
		{"several copies", testenv.NTPReply{Copies: 5}, 0, "", false},
		{"leap second announced", testenv.NTPReply{Leap: 1}, 0, "", false},
		{"unsure within reason", testenv.NTPReply{Dispersion: time.Second, RootDelay: time.Second}, 0, "", false},

		{"another question's answer", testenv.NTPReply{Bogus: true}, 0, "no answer", false},
		{"no answer", testenv.NTPReply{Silent: true}, 0, "no answer in 2.0 s", false},
		{"too slow", testenv.NTPReply{Delay: 3 * time.Second}, 0, "no answer in 2.0 s", false},
		{"truncated", testenv.NTPReply{Truncate: 47}, 0, "no answer", false},
		{"one byte", testenv.NTPReply{Truncate: 1}, 0, "no answer", false},
		{"a client's mode", testenv.NTPReply{Mode: 3}, 0, "no answer", false},
		{"broadcast", testenv.NTPReply{Mode: 5}, 0, "no answer", false},
		{"version 1", testenv.NTPReply{Version: 1}, 0, "no answer", false},
		{"version 7", testenv.NTPReply{Version: 7}, 0, "no answer", false},
		{"not synchronised", testenv.NTPReply{Leap: 3}, 0, "not synchronised", true},
		{"stratum 16", testenv.NTPReply{Stratum: 16}, 0, "not synchronised", true},
		{"stratum 255", testenv.NTPReply{Stratum: 255}, 0, "not synchronised", true},
		{"stratum 0", testenv.NTPReply{Stratum: -1}, 0, "no time to give", true},
		{"another kiss", testenv.NTPReply{Kiss: "INIT"}, 0, "no time to give", true},
		{"root dispersion", testenv.NTPReply{Dispersion: 4 * time.Second}, 0, "too unsure", true},
		{"root delay", testenv.NTPReply{RootDelay: 8 * time.Second}, 0, "too unsure", true},
		{"huge root dispersion", testenv.NTPReply{Dispersion: 1000 * time.Second}, 0, "dispersion", true},
		{"huge precision", testenv.NTPReply{Precision: 10}, 0, "precision", true},
		{"a precision that the library panics on", testenv.NTPReply{Precision: -128}, 0, "makes no sense", true},
		{"stale", testenv.NTPReply{Stale: 100 * time.Hour}, 0, "not fresh", true},
		{"set in the future", testenv.NTPReply{Stale: -time.Minute}, 0, "invalid time", true},
		{"backward", testenv.NTPReply{Backward: true}, 0, "backwards", true},
		{"no transmit time", testenv.NTPReply{NoTime: true}, 0, "transmit time", true},
		{"DENY", testenv.NTPReply{Kiss: "DENY"}, 0, "DENY", false},
		{"RSTR", testenv.NTPReply{Kiss: "RSTR"}, 0, "RSTR", false},
		{"RATE", testenv.NTPReply{Kiss: "RATE"}, 0, "RATE", false},
		{"RATE without a time", testenv.NTPReply{Kiss: "RATE", NoTime: true}, 0, "RATE", false},
		{"a stranger's kiss", testenv.NTPReply{Kiss: "DENY", Bogus: true}, 0, "no answer", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			srv := startNTP(t)
			srv.Set(tc.reply)
			s, err := query(context.Background(), srv.Addr, time.Now)
			if tc.fails != "" {
				var unfit unfitError
				if err == nil || !strings.Contains(err.Error(), tc.fails) || errors.As(err, &unfit) != tc.unfit {
					t.Errorf("%+v, %v (unfit: %v), want %q", s, err, errors.As(err, &unfit), tc.fails)
				}
				var k kiss
				if errors.As(err, &k) != (strings.HasPrefix(tc.name, strings.ToUpper(tc.fails[:4]))) {
					t.Errorf("kiss-of-death %q of %v", k, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := (s.offset - tc.offset).Abs(); d > s.bound || s.bound > maxDistance || s.addr != srv.Addr {
				t.Errorf("%s ± %s of %s, want %s", s.offset, s.bound, s.addr, tc.offset)
			}
		})
	}
}

// A question ends with its context at once, also while it waits.
func TestQueryObeysContext(t *testing.T) {
	srv := startNTP(t)
	srv.Set(testenv.NTPReply{Silent: true})
	was := queryTimeout
	queryTimeout = 2 * time.Minute
	defer func() { queryTimeout = was }()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := query(ctx, srv.Addr, time.Now); err == nil || time.Since(begin) > time.Minute {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
}

// TestLiarsAmongServers: the guard with servers on the network.
func TestLiarsAmongServers(t *testing.T) {
	var servers []*testenv.NTPServer
	var names []string
	for range 5 {
		s := startNTP(t)
		servers, names = append(servers, s), append(names, s.Addr)
	}
	guard := func(t *testing.T, now func() time.Time, replies ...testenv.NTPReply) Status {
		t.Helper()
		for i, r := range replies {
			servers[i].Set(r)
		}
		g, err := New(Config{Log: quiet(), Servers: names[:len(replies)], Now: now, spacing: 10 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		g.Poll(context.Background())
		return g.Status()
	}
	honest, hour := testenv.NTPReply{}, testenv.NTPReply{Offset: time.Hour}
	for _, tc := range []struct {
		name    string
		replies []testenv.NTPReply
		want    State
		text    string
		left    int // servers that are left out
	}{
		{"all honest", []testenv.NTPReply{honest, honest, honest, honest}, Good, "by 4 time servers", 0},
		{"one lies", []testenv.NTPReply{honest, hour, honest}, Good, "by 2 time servers", 1},
		{"two of five lie alike", []testenv.NTPReply{hour, honest, hour, honest, honest}, Good, "by 3 time servers", 2},
		{"one jumps", []testenv.NTPReply{honest, {Jump: 10 * time.Minute}, honest}, Good, "by ", 0},
		{"one is the only one left", []testenv.NTPReply{honest, {Leap: 3}, {Stratum: 16}, {Kiss: "DENY"}}, Good, "by 1 time server", 3},
		{"two apart", []testenv.NTPReply{honest, hour}, Unknown, "contradict", 2},
		{"none says anything", []testenv.NTPReply{{Leap: 3}, {Bogus: true}}, Unknown, "no time server", 2},
		{"all say we are wrong", []testenv.NTPReply{hour, hour, hour}, Beyond, "this host's clock is 1 h 0 min behind", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := guard(t, nil, tc.replies...)
			left := 0
			for _, o := range s.Sources {
				if o.Verdict != Right {
					left++
				}
				if (o.Verdict != Right) != (o.Why != "") {
					t.Errorf("%+v", o)
				}
			}
			if s.State != tc.want || !strings.Contains(s.Text, tc.text) || left != tc.left && tc.name != "one jumps" {
				t.Errorf("%s: %q with %d left out: %+v", s.State, s.Text, left, s.Sources)
			}
		})
	}
	t.Run("this host is behind", func(t *testing.T) {
		s := guard(t, func() time.Time { return time.Now().Add(-432 * time.Second) }, honest, honest, honest)
		if s.State != Beyond || !strings.HasPrefix(s.Text, "this host's clock is 7 min 12 s behind (+/- ") || !strings.HasSuffix(s.Text, "by 3 time servers)") {
			t.Errorf("%s: %q", s.State, s.Text)
		}
	})
	t.Run("two names of one machine", func(t *testing.T) {
		_, port, _ := net.SplitHostPort(names[0])
		servers[0].Set(hour)
		servers[1].Set(honest)
		g, err := New(Config{Log: quiet(), Servers: []string{names[0], "localhost:" + port, names[1]}, spacing: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		g.Poll(context.Background())
		if s := g.Status(); s.State != Unknown {
			t.Errorf("%s: %q %+v", s.State, s.Text, s.Sources)
		}
	})
}

// flood answers each question with packets of no use, without end.
type flood struct{ net.Conn }

func (flood) Read(b []byte) (int, error)  { return copy(b, make([]byte, headerLen)), nil }
func (flood) Write(b []byte) (int, error) { return len(b), nil }
func (flood) SetDeadline(time.Time) error { return nil }
func (flood) Close() error                { return nil }

func TestFlood(t *testing.T) {
	if _, err := ask(flood{}, time.Now); err == nil {
		t.Error("a flood of nothing is an answer")
	}
}

// canned gives one packet for an answer, made to fit the question.
type canned struct {
	flood
	packet, question []byte
	fit, read        bool
}

func (c *canned) Write(b []byte) (int, error) {
	c.question = append([]byte(nil), b...)
	return len(b), nil
}

func (c *canned) Read(b []byte) (int, error) {
	if c.read {
		return 0, io.ErrUnexpectedEOF
	}
	c.read = true
	p := append([]byte(nil), c.packet...)
	if c.fit && len(p) >= 32 {
		copy(p[24:32], c.question[40:48])
	}
	return copy(b, p), nil
}

// Whatever a server sends, a sample is within its limits, and only an answer to
// the question is one.
func FuzzAnswer(f *testing.F) {
	good := make([]byte, 48)
	good[0], good[1], good[3] = 4<<3|4, 2, 0x100-20
	now := uint64(time.Now().Unix()+2208988800) << 32
	binary.BigEndian.PutUint64(good[16:], now)
	binary.BigEndian.PutUint64(good[32:], now)
	binary.BigEndian.PutUint64(good[40:], now)
	f.Add(good, true)
	f.Add(good, false)
	f.Add(append(good[:len(good):len(good)], 0, 0, 0, 0), true)
	f.Add(good[:47], true)
	kod := append([]byte(nil), good...)
	kod[1] = 0
	copy(kod[12:], "RATE")
	f.Add(kod, true)
	f.Fuzz(func(t *testing.T, packet []byte, fit bool) {
		s, err := ask(&canned{packet: packet, fit: fit}, time.Now)
		if err != nil {
			var k kiss
			if errors.As(err, &k) && (!fit || k != "RATE" && !k.forever()) {
				t.Errorf("obeyed %q", k)
			}
			return
		}
		if !fit {
			t.Error("an answer to another question was taken") // its 64 bits are random
		}
		if s.bound < minBound || s.bound > maxDistance || s.offset.Abs() > 200*365*24*time.Hour {
			t.Errorf("%+v", s)
		}
		if st := packet[1]; st == 0 || st > 15 || packet[0]&7 != 4 || packet[0]>>6 == 3 {
			t.Errorf("taken: % x", packet)
		}
	})
}
