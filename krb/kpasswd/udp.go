package kpasswd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// datagrams is a UDP socket that knows which of this host's addresses each
// datagram was sent to: the reply comes from there and names it, and clients take
// it from nowhere else.
type datagrams struct {
	conn  *net.UDPConn
	local netip.AddrPort
	any   bool // bound to all addresses
}

func listenUDP(at netip.AddrPort) (*datagrams, error) {
	conn, err := net.ListenUDP(network("udp", at), net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	u := &datagrams{conn: conn, any: at.Addr().IsUnspecified()}
	u.local = netip.AddrPortFrom(at.Addr(), uint16(conn.LocalAddr().(*net.UDPAddr).Port))
	if !u.any {
		return u, nil
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		var opt error
		err = raw.Control(func(fd uintptr) {
			if at.Addr().Is4() {
				opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
			} else {
				opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
			}
		})
		err = errors.Join(err, opt)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("asking for the addresses of datagrams: %w", err)
	}
	return u, nil
}

// network is the name of one address family alone: a socket of both would show
// the other's addresses in disguise.
func network(proto string, at netip.AddrPort) string {
	if at.Addr().Is4() {
		return proto + "4"
	}
	return proto + "6"
}

// read gets a datagram, who sent it, and to which address.
func (u *datagrams) read(buf []byte) (n int, remote, local netip.AddrPort, err error) {
	var oob [128]byte
	n, oobn, _, remote, err := u.conn.ReadMsgUDPAddrPort(buf, oob[:])
	if err != nil || !u.any {
		return n, remote, u.local, err
	}
	to, err := destination(oob[:oobn])
	return n, remote, netip.AddrPortFrom(to, u.local.Port()), err
}

// destination reads IP_PKTINFO (ip(7)) or IPV6_PKTINFO (RFC 3542 §6.1).
func destination(oob []byte) (netip.Addr, error) {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("reading where a datagram went: %w", err)
		}
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= 12:
			return netip.AddrFrom4([4]byte(data[8:12])), nil // after ipi_ifindex and ipi_spec_dst
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= 16:
			return netip.AddrFrom16([16]byte(data[:16])), nil
		}
		oob = rest
	}
	return netip.Addr{}, errors.New("the kernel does not say where a datagram went")
}

// write sends a datagram from the address local.
func (u *datagrams) write(b []byte, remote, local netip.AddrPort) error {
	var oob []byte
	if u.any {
		if a := local.Addr(); a.Is4() {
			info := unix.Inet4Pktinfo{Spec_dst: a.As4()}
			oob = unix.PktInfo4(&info)
		} else {
			info := unix.Inet6Pktinfo{Addr: a.As16()}
			oob = unix.PktInfo6(&info)
		}
	}
	_, _, err := u.conn.WriteMsgUDPAddrPort(b, oob, remote)
	return err
}
