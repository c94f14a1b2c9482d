package client

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	kdcPort  = 88
	maxReply = 64 << 10
	// maxDatagram is the largest request that is first tried over UDP.
	maxDatagram = 1400
)

// Request is one message and who shall answer it.
type Request struct {
	// Message is what is sent.
	Message []byte
	// MessageFor makes the message for a connection instead, for protocols whose
	// messages hold the sender's address.
	MessageFor func(local netip.AddrPort) ([]byte, error)
	// Hosts are asked in this order, each host or host:port with Port as default;
	// empty: the servers that DNS names for SRV (kerberos, kpasswd) and the realm.
	// All three empty: the client's KDCs.
	Hosts []string
	SRV   string
	Port  uint16
	// OnlyTCP leaves UDP out: for what must not happen twice, as a datagram is sent
	// again until it is answered.
	OnlyTCP bool
	// Judge looks at a reply. Nil takes it, an error does not: over UDP the wait goes
	// on, over TCP the next server is asked. It may be called from several goroutines
	// at once, but is not called again once it has returned nil. From is the peer.
	Judge func(reply []byte, from string) error
}

// Answer is a reply that Judge took.
type Answer struct {
	Reply []byte
	// From is the server's IP:port.
	From string
	// Sent is when the first message of the call was sent to anybody, and Received
	// when the reply came, by the client's clock.
	Sent, Received time.Time
}

// answered remembers who answered last, to be asked first for a while.
type answered struct {
	host    string
	addr    netip.AddrPort
	network string
	at      time.Time
}

// Send asks the servers of a request until one gives an answer that Judge takes:
// each over UDP, again after a second, and over TCP when a second has passed, when
// the message is too long or when the server says that its answer is; and the next
// one after a second too. The failure is an *Error of kind Unreachable (nobody
// answered) or BadReply (somebody did).
func (c *Client) Send(ctx context.Context, r Request) (Answer, error) {
	return Answer{}, errNotYet
}

// splitHost reads host, host:port, an IP address, or [IPv6]:port.
func splitHost(s string, port uint16) (string, uint16, error) {
	bad := func() (string, uint16, error) {
		return "", 0, fmt.Errorf("server %.80q: write HOST or HOST:PORT", s)
	}
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return a.String(), port, nil
	}
	host := s
	if strings.Contains(s, ":") {
		h, p, err := net.SplitHostPort(s)
		if err != nil {
			return bad()
		}
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return bad()
		}
		host, port = h, uint16(n)
	}
	if host == "" || len(host) > 253 || strings.ContainsAny(host, " /@\x00") {
		return bad()
	}
	return host, port, nil
}
