package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sirupsen/logrus"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/feed"
	embedded "github.com/sekisho/sekisho/realm"
	"github.com/sekisho/sekisho/testenv"
	"github.com/sekisho/sekisho/testenv/site"
)

// crowd is many hosts in this process that follow a site's broker. Each is what
// sekishod is on a host, a feed.Client and a broker.Broker that judges, but for the
// doors: a session is nothing but its entry, and ends when it is told to.
//
// The people are in teams, the teams in staff, and staff in access, which may enter
// every host. Everyone may come by another door too: who has left is known to the
// hosts yet, so that what is measured is not how this one machine takes thousands of
// people out of a thousand views. Session i is its user's on host i modulo their
// number, so that a team's are on all hosts.
type crowd struct {
	s                    *site.Site
	conn                 *ldap.Conn // as root, over ldapi
	users, team, perUser int
	hosts                []*member

	ids    []broker.SessionID // of session i
	opened uint64             // sessions so far
	all    sync.WaitGroup     // the hosts
	mu     sync.Mutex
	told   map[broker.SessionID]time.Time // guarded by mu; when its host had it end
	failed error                          // guarded by mu; a host's that has stopped
}

// member is one of its hosts.
type member struct {
	name   broker.HostName
	client *feed.Client
	broker *broker.Broker
}

const keeperCrowd = "crowd"

// newCrowd fills the directory and has the hosts follow, as long as ctx lasts; then
// wait must be called, after an error too.
func newCrowd(ctx context.Context, s *site.Site, dir string) (c *crowd, err error) {
	c = &crowd{s: s, users: pick(2000, 40), team: pick(40, 8), perUser: pick(25, 5), told: map[broker.SessionID]time.Time{}}
	c.hosts, c.ids = make([]*member, pick(1000, 20)), make([]broker.SessionID, c.users*c.perUser)
	if c.conn, err = ldap.DialURL("ldapi://" + s.Broker.Path("/run/sekisho/ldapi")); err != nil {
		return c, err
	}
	c.conn.SetTimeout(patience)
	if err := c.conn.ExternalBind(); err != nil {
		return c, err
	}
	pairs, err := c.fill()
	if err != nil {
		return c, err
	}
	if err := s.Soon(patience, func() error {
		st, err := s.Status(s.Broker)
		if err == nil && (st.Sync.Users < c.users || st.Sync.Hosts < len(c.hosts)) {
			err = fmt.Errorf("the broker has read %d users and %d hosts", st.Sync.Users, st.Sync.Hosts)
		}
		return err
	}); err != nil {
		return c, err
	}
	dial, err := c.addresses()
	if err != nil {
		return c, err
	}
	ca, err := s.Broker.ReadFile(site.State + "/realm/tls/ca.crt")
	if err != nil {
		return c, err
	}
	cas := x509.NewCertPool()
	cas.AppendCertsFromPEM(ca)
	log := logrus.New()
	log.SetOutput(io.Discard)
	for i := range c.hosts {
		if err := c.follow(ctx, i, feed.ClientConfig{
			Brokers:     []string{net.JoinHostPort(s.Broker.Addr.String(), fmt.Sprint(site.FeedPort))},
			Certificate: func() (*tls.Certificate, error) { return &pairs[i], nil }, CAs: func() (feed.CAs, error) { return cas, nil },
			StateDir: dir, Dial: dial(i), Now: time.Now, Log: logrus.NewEntry(log),
		}); err != nil {
			return c, err
		}
	}
	return c, nil
}

// wait waits for the end of the hosts, and tells if one has stopped by itself.
func (c *crowd) wait() error {
	c.all.Wait()
	if c.conn != nil {
		c.conn.Close()
	}
	return c.failed
}

// follow begins host i, and waits until it follows: this machine is not a thousand.
func (c *crowd) follow(ctx context.Context, i int, fc feed.ClientConfig) (err error) {
	m := &member{name: hostName(i)}
	c.hosts[i] = m
	fc.Host, fc.StateDir, fc.Judges = m.name, filepath.Join(fc.StateDir, string(m.name)), true
	fc.Sessions = func(f func(*broker.Session) bool) { m.broker.Sessions(f) }
	fc.End = func(id broker.SessionID, why broker.Reason, _ string) bool {
		return m.broker.EndSession(id, why, "the broker")
	}
	if m.client, err = feed.NewClient(fc); err != nil {
		return err
	}
	if m.broker, err = broker.New(broker.Config{
		Directory: m.client.View, Now: time.Now, Record: func(broker.Request, broker.Decision) error { return nil },
		RecordSession: func(e broker.SessionEvent) error { m.client.Session(e); return nil }, Judged: m.judged,
	}); err != nil {
		return err
	}
	m.broker.Keep(keeperCrowd, func(e broker.Ending) { c.order(m, e) })
	for _, run := range []func() error{
		func() error { return m.client.Run(ctx) },
		func() error { return m.broker.RunSessions(ctx, m.client.Wait) },
	} {
		c.all.Go(func() {
			if err := run(); err != nil {
				c.mu.Lock()
				c.failed = errors.Join(c.failed, fmt.Errorf("%s: %w", m.name, err))
				c.mu.Unlock()
			}
		})
	}
	return c.s.Soon(patience, func() error {
		if st := m.client.Status(); st.State != feed.Live || st.Users != c.users {
			return fmt.Errorf("%s does not follow: %s, %d users, %s", m.name, st.State, st.Users, st.LastError)
		}
		return nil
	})
}

// judged is what sekishod does on a host that follows.
func (m *member) judged(generation uint64) {
	m.broker.Sessions(func(s *broker.Session) bool {
		if !s.Ending.IsZero() {
			m.client.Session(broker.SessionEvent{Kind: broker.SessionEnding, Session: *s, Reason: s.Why})
		}
		return true
	})
	m.client.Judged(generation)
}

// order is the end of a session.
func (c *crowd) order(m *member, e broker.Ending) {
	now := time.Now()
	c.mu.Lock()
	if _, again := c.told[e.Session.ID]; !again {
		c.told[e.Session.ID] = now
	}
	c.mu.Unlock()
	m.broker.CloseSession(e.Session.ID, broker.ReasonNone)
}

func hostName(i int) broker.HostName { return broker.HostName(fmt.Sprintf("sim%d.example.org", i)) }
func userName(i int) string          { return fmt.Sprintf("user%d", i) }
func teamName(i int) string          { return fmt.Sprintf("team-%d", i) }

var places = embedded.Layout{Base: site.Base, Realm: site.Realm}

// fill writes people, groups and hosts, these as sekisho host bundle pins them.
func (c *crowd) fill() ([]tls.Certificate, error) {
	group := func(name string, members ...string) error {
		return c.add(places.GroupDN(name), "objectClass", []string{"groupOfNames"}, "cn", []string{name}, "member", members)
	}
	var teams []string
	for first := 0; first < c.users; first += c.team {
		var members []string
		for i := first; i < first+c.team; i++ {
			name := userName(i)
			members = append(members, places.UserDN(name))
			if err := c.add(members[i-first], "objectClass", []string{"inetOrgPerson", "posixAccount"}, "uid", []string{name}, "cn", []string{name}, "sn", []string{name},
				"uidNumber", []string{fmt.Sprint(firstUID + i)}, "gidNumber", []string{fmt.Sprint(usersGID)}, "homeDirectory", []string{"/home/" + name}); err != nil {
				return nil, err
			}
		}
		name := teamName(first / c.team)
		if err := group(name, members...); err != nil {
			return nil, err
		}
		teams = append(teams, places.GroupDN(name))
	}
	// A group has a member, if only itself (RFC 4519 §3.5).
	if err := errors.Join(group("staff", teams...), group("access", places.GroupDN("access"), places.GroupDN("staff")), group("everyone", teams...),
		c.s.Run("", "rule", "add", "access", "--subject", "group:access", "--door", "keys", "--target", "host:*"),
		c.s.Run("", "rule", "add", "everyone", "--subject", "group:everyone", "--door", "pam", "--target", "host:*")); err != nil {
		return nil, err
	}
	pairs := make([]tls.Certificate, len(c.hosts))
	for i := range c.hosts {
		name := string(hostName(i))
		var cert embedded.HostCert
		err := c.s.Broker.Inside(func() (err error) {
			cert, err = embedded.Config{Dir: site.State, RunDir: "/run/sekisho"}.HostCert(name)
			return err
		})
		if err == nil {
			pairs[i], err = tls.X509KeyPair(cert.Cert, cert.Key)
		}
		if err == nil {
			err = c.add(places.HostDN(name), "objectClass", []string{"device", "ipHost", "sekishoHost"}, "cn", []string{name},
				"ipHostNumber", []string{fmt.Sprintf("2001:db8:1::%x", i+1)}, "sekishoHostKey", []string{cert.Pin})
		}
		if err != nil {
			return nil, err
		}
	}
	return pairs, nil
}

// add writes an entry of attributes and their values.
func (c *crowd) add(dn string, attributes ...any) error {
	a := ldap.NewAddRequest(dn, nil)
	for i := 0; i < len(attributes); i += 2 {
		a.Attribute(attributes[i].(string), attributes[i+1].([]string))
	}
	if err := c.conn.Add(a); err != nil {
		return fmt.Errorf("adding %s: %w", dn, err)
	}
	return nil
}

// addresses gives the client's machine so many that none has more hosts than a
// broker takes, and returns how host i dials.
func (c *crowd) addresses() (func(i int) func(context.Context, string) (net.Conn, error), error) {
	const each = 50
	var lines bytes.Buffer
	n := (len(c.hosts) + each - 1) / each
	for i := range n {
		fmt.Fprintf(&lines, "addr add 198.51.100.%d/32 dev eth0\n", i+1)
	}
	for h, text := range map[*testenv.Host]string{c.s.Client: lines.String(), c.s.Broker: "route add 198.51.100.0/24 dev eth0\n"} {
		ip := h.Command(c.s.Ctx, "ip", "-batch", "-")
		ip.Stdin = bytes.NewBufferString(text)
		if out, err := ip.CombinedOutput(); err != nil {
			return nil, site.Said(err, string(out))
		}
	}
	return func(i int) func(context.Context, string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(198, 51, 100, byte(i%n+1))}}
		return func(ctx context.Context, address string) (conn net.Conn, err error) {
			inside := c.s.Client.Inside(func() error { conn, err = d.DialContext(ctx, "tcp", address); return nil })
			return conn, errors.Join(err, inside)
		}
	}, nil
}

// open begins n sessions from first on, and waits until the broker knows all that
// there are.
func (c *crowd) open(first, n int) error {
	for i := first; i < first+n; i++ {
		m, user := c.hosts[i%len(c.hosts)], userName(i/c.perUser)
		c.opened++
		c.ids[i] = broker.SessionID(base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(make([]byte, 8), c.opened)))
		x := broker.Session{ID: c.ids[i], Basis: broker.BasisRules, Keeper: keeperCrowd, Place: m.name, Service: "sshd", Since: time.Now(), Proofs: []broker.Proof{broker.ProofKey},
			Request: broker.Request{User: broker.UserName(user), Login: broker.Login(user), Door: "keys", Target: broker.Target{Host: m.name}}}
		// The host may not have heard yet that he may enter again.
		if err := c.s.Soon(patience, func() error { return m.broker.OpenSession(x) }); err != nil {
			return fmt.Errorf("opening a session of %s on %s: %w", user, m.name, err)
		}
	}
	// The broker's own list of very many costs it seconds: once each time.
	return c.s.Soon(patience, func() error {
		all, err := c.s.Sessions(c.s.Broker, "")
		if err == nil && len(all) != len(c.ids) {
			err = fmt.Errorf("the broker knows %d of %d sessions", len(all), len(c.ids))
		}
		return err
	})
}

// leave takes a group out of another, on which the n sessions from first on rest,
// and gives the milliseconds from the directory's answer to when each one's host
// had it end, and to the broker's record of its end.
func (c *crowd) leave(group, of string, first, n int) (orders, ends []float64, err error) {
	c.mu.Lock()
	clear(c.told)
	c.mu.Unlock()
	began := time.Now() // the first may be over before we read the answer
	m := ldap.NewModifyRequest(places.GroupDN(of), nil)
	m.Delete("member", []string{places.GroupDN(group)})
	if err := c.conn.Modify(m); err != nil {
		return nil, nil, err
	}
	since := time.Now()
	if err := c.s.Soon(patience, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.told) < n {
			return fmt.Errorf("%d of %d sessions were told to end", len(c.told), n)
		}
		return nil
	}); err != nil {
		return nil, nil, err
	}
	if err := c.s.Soon(patience, func() (err error) { ends, err = c.ends(began, since, c.ids[first:first+n]); return err }); err != nil {
		return nil, nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range c.ids[first : first+n] {
		at, ok := c.told[id]
		if !ok || len(c.told) != n {
			return nil, nil, fmt.Errorf("%d sessions were told to end, and not the %d that should", len(c.told), n)
		}
		orders = append(orders, at.Sub(since).Seconds()*1e3)
	}
	return orders, ends, nil
}

// ends reads the broker's audit record of the ends of sessions, from began on.
func (c *crowd) ends(began, since time.Time, ids []broker.SessionID) (out []float64, err error) {
	wanted := map[broker.SessionID]bool{}
	for _, id := range ids {
		wanted[id] = true
	}
	text, err := c.s.Broker.Command(c.s.Ctx, site.Sekisho, "audit", "grep", "--json", "--kind", "session,gap", "--since", began.UTC().Format(time.RFC3339Nano)).Output()
	if err != nil {
		return nil, fmt.Errorf("reading the audit record: %w", err)
	}
	gaps := 0
	for line := range bytes.Lines(text) {
		var r struct {
			Time    time.Time
			Kind    string
			Event   broker.EventKind
			Session broker.SessionID
		}
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, err
		}
		if r.Kind == "gap" {
			gaps++
		}
		if (r.Event == broker.SessionClosed || r.Event == broker.SessionLost) && wanted[r.Session] {
			out = append(out, r.Time.Sub(since).Seconds()*1e3)
		}
	}
	if len(out) != len(ids) {
		away := 0
		for _, m := range c.hosts {
			if m.client.Status().State != feed.Live {
				away++
			}
		}
		err = fmt.Errorf("the broker has recorded the ends of %d of %d sessions, with %d gaps in its record and %d hosts away", len(out), len(ids), gaps, away)
	}
	return out, err
}
