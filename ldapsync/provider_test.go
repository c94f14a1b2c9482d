package ldapsync

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
)

// provider is a server that plays what slapd cannot be brought to do: every
// sync search gets the next script. What slapd does is tested with slapd.
type provider struct {
	t       *testing.T
	lis     net.Listener
	scripts []func(*play)

	mu      sync.Mutex
	n       int      // scripts played
	cookies []string // of the sync searches
	csn     string   // contextCSN; empty: none to be seen
	wg      sync.WaitGroup
}

// play is one sync search that a script answers.
type play struct {
	p    *provider
	conn net.Conn
	id   int
}

func startProvider(t *testing.T, csn string, scripts ...func(*play)) *provider {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{t: t, lis: lis, scripts: scripts, csn: csn}
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			p.wg.Add(1)
			go func() { defer p.wg.Done(); defer c.Close(); p.serve(c) }()
		}
	}()
	t.Cleanup(func() { lis.Close(); p.wg.Wait() })
	return p
}

func (p *provider) config(t *testing.T) Config {
	return Config{Provider: Provider{URLs: []string{"ldap://" + p.lis.Addr().String()}, Timeout: 20 * time.Second}, BaseDN: testBase,
		StateDir: t.TempDir(), ProbeEvery: 50 * time.Millisecond, BackoffMin: 10 * time.Millisecond, BackoffMax: 50 * time.Millisecond,
		RollbackWait: 100 * time.Millisecond, MaxMessage: 1 << 20}
}

func (p *provider) serve(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		var b []byte
		for n := 0; n == 0 || len(b) < n; {
			x, err := r.ReadByte()
			if err != nil {
				return
			}
			b = append(b, x)
			if n, err = frame(b, 1<<20); err != nil {
				p.t.Errorf("our own request: %v", err)
				return
			}
		}
		m, err := parseMessage(b)
		if err != nil {
			p.t.Errorf("our own request: %v", err)
			return
		}
		if m.op != opSearchRequest {
			continue
		}
		value, isSync, err := m.control(oidSyncRequest)
		if err != nil {
			p.t.Errorf("our own control: %v", err)
		}
		if !isSync {
			p.base(c, m)
			continue
		}
		body, _ := value.expect(tagSequence)
		if mode, err := body.integer(tagEnumerated); mode != 3 || err != nil {
			p.t.Errorf("sync mode %d, %v", mode, err)
		}
		cookie := ""
		if len(body) > 0 {
			v, _ := body.expect(tagOctetString)
			cookie = string(v)
		}
		p.mu.Lock()
		p.cookies = append(p.cookies, cookie)
		script := p.scripts[min(p.n, len(p.scripts)-1)]
		p.n++
		p.mu.Unlock()
		script(&play{p, c, m.id})
	}
}

// base answers the searches of the root entry and the suffix.
func (p *provider) base(c net.Conn, m message) {
	dn, _ := m.body.expect(tagOctetString)
	attr := func(name string, v string) []byte { return tlv(tagSequence, text(name), tlv(tagSet, text(v))) }
	p.mu.Lock()
	attrs := attr("contextCSN", p.csn)
	if p.csn == "" {
		attrs = nil
	}
	p.mu.Unlock()
	if len(dn) == 0 {
		attrs = append(attr("namingContexts", testBase), attr("supportedControl", oidSyncRequest)...)
	}
	c.Write(request(m.id, tlv(opSearchEntry, text(string(dn)), tlv(tagSequence, attrs))))
	c.Write(request(m.id, result(opSearchDone, 0, "")))
}

func result(op byte, code int, why string) []byte {
	return tlv(op, integer(tagEnumerated, code), text(""), text(why))
}

func (p *play) send(b []byte) { p.conn.Write(b) }

func testID(n int) (id broker.EntryID) {
	copy(id[:], fmt.Sprintf("entry-%010d", n))
	return id
}

// user sends user un as added.
func (p *play) user(n int, cookie string) {
	name := fmt.Sprintf("u%d", n)
	var attrs []byte
	for _, a := range [][2]string{{"objectClass", "posixAccount"}, {"uid", name}, {"uidNumber", fmt.Sprint(2000 + n)}, {"gidNumber", "5000"},
		{"homeDirectory", "/home/" + name}, {"loginShell", "/bin/bash"}} {
		attrs = append(attrs, tlv(tagSequence, text(a[0]), tlv(tagSet, text(a[1])))...)
	}
	p.entry(n, stateAdd, cookie, attrs)
}

func (p *play) entry(n, state int, cookie string, attrs []byte) {
	id := testID(n)
	v := [][]byte{integer(tagEnumerated, state), tlv(tagOctetString, id[:])}
	if cookie != "" {
		v = append(v, text(cookie))
	}
	control := tlv(tagSequence, text(oidSyncState), tlv(tagOctetString, tlv(tagSequence, v...)))
	p.send(request(p.id, tlv(opSearchEntry, text(fmt.Sprintf("uid=u%d,ou=people,%s", n, testBase)), tlv(tagSequence, attrs)), control))
}

func (p *play) info(choice byte, parts ...[]byte) {
	p.send(request(p.id, tlv(opIntermediate, tlv(0x80, []byte(oidSyncInfo)), tlv(0x81, tlv(choice, parts...)))))
}

func (p *play) ids(deletes bool, ns ...int) {
	var set []byte
	for _, n := range ns {
		id := testID(n)
		set = append(set, tlv(tagOctetString, id[:])...)
	}
	p.info(infoIDSet, boolean(deletes), tlv(tagSet, set))
}

// stay keeps the search open until the other side goes.
func (p *play) stay() {}

const (
	csn1 = "20260101000001.000000Z#000000#000#000000"
	csn2 = "20260101000002.000000Z#000000#000#000000"
	csn9 = "20260101000009.000000Z#000000#001#000000"
)

func cookieOf(csns ...string) string { return "rid=000,sid=001,csn=" + strings.Join(csns, ";") }

// first is a full refresh with users 0 to 19.
func first(p *play) {
	for n := range 20 {
		p.user(n, "")
	}
	p.info(infoRefreshDelete, text(cookieOf(csn1)))
}

func (r *running) users() int { n, _, _, _ := r.View().Size(); return n }

func TestPhases(t *testing.T) {
	cut := func(p *play) { p.conn.Close() }
	for name, c := range map[string]struct {
		second func(*play) // after first, on a new connection with its cookie
		users  int
		absent []int
	}{
		"delete phase": {second: func(p *play) { p.ids(true, 3, 4); p.info(infoRefreshDelete) }, users: 18, absent: []int{3, 4}},
		"present phase": {second: func(p *play) {
			p.ids(false, 0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
			p.entry(17, statePresent, "", nil)
			p.user(18, "")
			p.user(30, "")
			p.info(infoRefreshPresent)
		}, users: 18, absent: []int{3, 4, 19}},
		"present, then delete phase": {second: func(p *play) {
			p.ids(false, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
			p.info(infoRefreshPresent, boolean(false))
			p.entry(3, stateDelete, "", nil)
			p.info(infoRefreshDelete)
		}, users: 18, absent: []int{3, 19}},
		"empty present phase": {second: func(p *play) {
			p.info(infoRefreshPresent)
		}, users: 20},
		"refresh broken off": {second: func(p *play) { p.ids(true, 3, 4); p.user(40, ""); cut(p) }, users: 20, absent: []int{40}},
		"refresh required":   {second: func(p *play) { p.send(request(p.id, result(opSearchDone, 4096, "cookie is stale"))) }, users: 20},
		"new cookie and changes": {second: func(p *play) {
			p.info(infoRefreshDelete)
			p.info(infoNewCookie|0, []byte(cookieOf(csn2)))
			p.ids(true, 7)
			p.entry(8, stateDelete, cookieOf(csn2), nil)
			p.user(50, cookieOf(csn9))
		}, users: 19, absent: []int{7, 8}},
	} {
		t.Run(name, func(t *testing.T) {
			p := startProvider(t, csn1, first, c.second, first, (*play).stay)
			cfg := p.config(t)
			r := startSync(t, cfg)
			wait(t, "the first refresh is published", func() bool { return r.View().Snapshot != nil })
			r.stop()
			r = startSync(t, cfg)
			check := func() error {
				if n := r.users(); n != c.users {
					return fmt.Errorf("%d users, want %d", n, c.users)
				}
				for _, n := range c.absent {
					if hasUser(fmt.Sprintf("u%d", n))(r.View()) {
						return fmt.Errorf("u%d is there", n)
					}
				}
				return nil
			}
			wait(t, "the second script was played", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.n >= 2 })
			r.live()
			wait(t, "the state is right", func() bool { return check() == nil })
			time.Sleep(50 * time.Millisecond)
			if err := check(); err != nil {
				t.Error(err)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.cookies[0] != "" || p.cookies[1] != "rid=000,csn="+csn1 {
				t.Errorf("cookies sent: %q", p.cookies)
			}
			if name == "empty present phase" || name == "refresh required" {
				if len(p.cookies) < 3 || p.cookies[2] != "" {
					t.Errorf("no full refresh followed: %q", p.cookies)
				}
			}
		})
	}
}

// TestBadProvider: what no server should send ends the connection with a clear
// error, takes nothing away, and does not take the process's memory.
func TestBadProvider(t *testing.T) {
	for name, c := range map[string]struct {
		send func(*play)
		want string
	}{
		"not LDAP":          {func(p *play) { p.send([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }, "not LDAP"},
		"huge length":       {func(p *play) { p.send([]byte{0x30, 0x84, 0x7f, 0xff, 0xff, 0xff, 0x02}) }, "raise MaxMessage"},
		"indefinite length": {func(p *play) { p.send([]byte{0x30, 0x80, 0x02, 0x01, 0x02, 0, 0}) }, "forbids"},
		"garbage inside":    {func(p *play) { p.send(tlv(tagSequence, integer(tagInteger, p.id), []byte{opSearchEntry, 0x20, 1})) }, "malformed BER"},
		"short entryUUID": {func(p *play) {
			v := tlv(tagSequence, integer(tagEnumerated, 1), text("short"))
			p.send(request(p.id, tlv(opSearchEntry, text("uid=x"), tlv(tagSequence)), tlv(tagSequence, text(oidSyncState), tlv(tagOctetString, v))))
		}, "entryUUID of 5 bytes"},
		"no sync state":        {func(p *play) { p.send(request(p.id, tlv(opSearchEntry, text("uid=x"), tlv(tagSequence)))) }, "does not speak RFC 4533"},
		"half a message":       {func(p *play) { p.send([]byte{0x30, 0x84, 0, 0, 1, 0, 2, 1}) }, "sent nothing for"},
		"nothing":              {func(p *play) {}, "sent nothing for"},
		"disconnection notice": {func(p *play) { p.send(request(0, result(opExtendedResponse, 52, "shutting down"))) }, "shutting down"},
		"busy":                 {func(p *play) { p.send(request(p.id, result(opSearchDone, 51, "later"))) }, "Busy: later"},
		"control characters":   {func(p *play) { p.send(request(p.id, result(opSearchDone, 1, "a\nb\x1b[0m"))) }, "a?b?[0m"},
	} {
		t.Run(name, func(t *testing.T) {
			p := startProvider(t, csn1, first, c.send)
			cfg := p.config(t)
			r := startSync(t, cfg)
			wait(t, "the first refresh is published", func() bool { return r.View().Snapshot != nil })
			r.stop()
			cfg.StallTimeout = 500 * time.Millisecond
			r = startSync(t, cfg)
			wait(t, "the error is told", func() bool { return strings.Contains(r.Status().LastError, c.want) })
			if r.users() != 20 {
				t.Errorf("%d users are left", r.users())
			}
		})
	}
}

// TestLaggingStream: the provider answers, but its stream stays behind: that
// proves nothing.
func TestLaggingStream(t *testing.T) {
	p := startProvider(t, csn2, first, func(p *play) { p.info(infoRefreshDelete) })
	r := startSync(t, p.config(t))
	wait(t, "the first refresh is published", func() bool { return r.View().Snapshot != nil })
	time.Sleep(300 * time.Millisecond)
	if !r.standsStill() {
		t.Error("AsOf moves though the stream never reached the provider's contextCSN")
	}
	p.mu.Lock()
	p.csn = csn1
	p.mu.Unlock()
	was := r.View().AsOf
	wait(t, "AsOf moves", func() bool { return r.View().AsOf.After(was) })
}
