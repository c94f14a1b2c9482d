package audit

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// syslog sends records to the local syslog as syslog(3) does: one datagram a
// record, `<PRI>Mmm dd hh:mm:ss TAG[PID]: TEXT`, which is what the sockets of
// systemd-journald (journald-syslog.c) and of rsyslog (imuxsock) take apart;
// RFC 5424 is for the network. It never waits: what the other side has no room
// for is lost there, and counted.
type syslog struct {
	path string
	log  *logrus.Entry
	fd   int // -1: not connected
	buf  []byte

	lost   uint64
	told   uint64    // of them, in the log
	toldAt time.Time // when
	tried  time.Time // to connect
}

// priority is facility authpriv, severity info (RFC 5424 §6.2.1).
const priority = 10<<3 | 6

func newSyslog(path string, log *logrus.Entry) *syslog { return &syslog{path: path, log: log, fd: -1} }

// send sends whole lines.
func (s *syslog) send(lines []byte) {
	for line := range bytes.Lines(lines) {
		if !s.one(line[:len(line)-1]) {
			s.lost++
		}
	}
	if s.lost > s.told && time.Since(s.toldAt) >= time.Minute {
		s.log.WithField("lost", s.lost-s.told).Warn("syslog did not take audit records: they are in the files alone")
		s.told, s.toldAt = s.lost, time.Now()
	}
}

func (s *syslog) one(line []byte) bool {
	b := append(s.buf[:0], '<')
	b = strconv.AppendInt(b, priority, 10)
	b = append(b, '>')
	b = time.Now().AppendFormat(b, time.Stamp)
	b = append(b, " sekisho-audit["...)
	b = strconv.AppendInt(b, int64(os.Getpid()), 10)
	b = append(b, "]: "...)
	s.buf = append(b, line...)
	for range 2 { // once more when syslog was started again
		if s.fd < 0 && !s.connect() {
			return false
		}
		_, err := unix.SendmsgN(s.fd, s.buf, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch err {
		case nil:
			return true
		case unix.EAGAIN, unix.ENOBUFS, unix.EMSGSIZE, unix.EINTR:
			return false
		}
		s.close()
	}
	return false
}

// connect tries once a second.
func (s *syslog) connect() bool {
	if time.Since(s.tried) < time.Second {
		return false
	}
	s.tried = time.Now()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: s.path}); err != nil {
		unix.Close(fd)
		return false
	}
	s.fd, s.tried = fd, time.Time{}
	return true
}

func (s *syslog) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}
