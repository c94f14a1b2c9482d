package ldapsync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/broker"
)

// Limits of the lag between a proof's question and what the stream brings,
// before the stream is begun anew to find out (some changes, of entries that
// we may not read, are never announced).
const (
	lagLeast     = 10 * time.Second
	lagUnknown   = 30 * time.Second // where contextCSN cannot be read
	cookieEvery  = 5 * time.Second  // between commits of a moved cookie alone
	heartbeat    = time.Minute      // between commits of AsOf alone
	coalesce     = 5 * time.Millisecond
	chunksAhead  = 8
	flushRecords = 128 << 10
)

var errAgain = errors.New("follow again at once")

// session is one search stream.
type session struct {
	s      *Sync
	c      *conn
	suffix string
	syncID int
	e      *entry

	refresh *refresh // nil in the persist stage
	live    bool     // a refresh was completed

	probeID   int // of the question on its way, 0 for none
	probeSent time.Time
	probeAsOf time.Time
	csns      []string // of its answer so far
	open      *proof   // answered, but the stream is not there yet
	nextProbe time.Time

	pending time.Time // first change that is not published; zero: none
	large   int       // of the chunk being taken in
}

// proof waits for the stream to reach csns.
type proof struct {
	asOf  time.Time
	since time.Time
	csns  []string
}

func compileFilter(f string) ([]byte, error) {
	p, err := ldap.CompileFilter(f)
	if err != nil {
		return nil, fmt.Errorf("filter %q: %w", f, err)
	}
	return p.Bytes(), nil
}

// follow connects to one provider and stays with it. live says that a refresh
// was completed, again that the same provider is to be tried at once.
func (s *Sync) follow(ctx context.Context, e endpoint) (live, again bool, err error) {
	s.setState(Connecting, e.url)
	c, err := s.c.connect(ctx, e, s.c.MaxMessage)
	if err != nil {
		return false, false, err
	}
	defer c.close()
	stop := context.AfterFunc(ctx, func() { c.net.Close() })
	defer stop()
	n := &session{s: s, c: c, e: s.plan.newEntry()}
	if n.suffix, err = c.suffixOf(ctx, s.base); err != nil {
		return false, false, err
	}
	full, err := n.wantFull(ctx)
	if err != nil {
		return false, false, err
	}
	err = n.run(ctx, full)
	if n.refresh != nil {
		n.abort()
	}
	switch {
	case errors.Is(err, errAgain):
		return n.live, true, nil
	case IsCode(err, ldap.LDAPResultSyncRefreshRequired), n.refresh != nil && !full && IsCode(err, ldap.LDAPResultUnwillingToPerform, ldap.LDAPResultProtocolError):
		s.c.Log.WithError(err).Info("the provider does not know our cookie any more: reading everything anew")
		s.full = true
		return n.live, !full, err
	}
	return n.live, false, err
}

// wantFull decides whether to go on from the cookie or to read everything.
func (n *session) wantFull(ctx context.Context) (bool, error) {
	s := n.s
	if n.suffix != "" {
		root, err := n.c.readBase(ctx, n.suffix, "contextCSN")
		if err != nil && !IsCode(err, ldap.LDAPResultNoSuchObject, ldap.LDAPResultInsufficientAccessRights) {
			return false, fmt.Errorf("reading the state of %s: %w", n.c.e.url, err)
		}
		csns := root["contextCSN"]
		if !s.full && len(csns) > 0 && s.pos.ahead(csns) {
			now := time.Now()
			if s.behindSince.IsZero() {
				s.behindSince = now
			}
			if left := s.c.RollbackWait - now.Sub(s.behindSince); left > 0 {
				return false, fmt.Errorf("%s is behind what we have seen already (it lags, or a backup was restored); its state is taken as the truth in %s", n.c.e.url, left.Round(time.Second))
			}
			s.c.Log.Warnf("%s is still behind what we had seen: its state is now taken as the truth, by reading everything anew", n.c.e.url)
			s.full = true
		}
	}
	s.behindSince = time.Time{}
	due := !s.dueFull.IsZero() && s.c.Now().After(s.dueFull)
	return s.full || due || s.pos.empty() || s.store.wantsFull(), nil
}

// run sends the sync request and takes in what comes, until the stream ends.
func (n *session) run(ctx context.Context, full bool) error {
	s := n.s
	n.begin(full)
	var cookie []byte
	if !full {
		cookie = text(s.pos.cookie())
	}
	// syncRequestValue: mode refreshAndPersist, the cookie, no reloadHint.
	value := tlv(tagSequence, integer(tagEnumerated, 3), cookie)
	control := tlv(tagSequence, text(oidSyncRequest), boolean(true), tlv(tagOctetString, value))
	var err error
	if n.syncID, err = n.c.send(searchOp(s.c.BaseDN, 2, s.filter, s.plan.names), control); err != nil {
		return err
	}
	n.c.lastRead.Store(time.Now().UnixNano())
	chunks, free := make(chan chunk, chunksAhead), make(chan []byte, chunksAhead+2)
	n.c.stream(chunks, free)
	tick := time.NewTicker(min(s.c.ProbeEvery, time.Second))
	defer tick.Stop()
	for {
		select {
		case k, ok := <-chunks:
			if !ok {
				return n.c.readErr
			}
			n.large = k.large
			if err := n.take(k.msgs); err != nil {
				return err
			}
			n.c.giveBack(k, free)
			if n.refresh == nil && !n.pending.IsZero() && (len(chunks) == 0 || time.Since(n.pending) > coalesce) {
				n.pending = time.Time{}
				s.settle(time.Time{})
				n.checkProof()
			}
		case <-s.wake:
			if n.refresh == nil && n.pending.IsZero() {
				s.takeAccept()
			}
			if s.store.wantsFull() {
				return errAgain
			}
		case <-tick.C:
			if err := n.tick(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tick does what time asks for.
func (n *session) tick() error {
	s, now := n.s, time.Now()
	if n.refresh != nil {
		if quiet := now.Sub(time.Unix(0, n.c.lastRead.Load())); quiet > s.c.StallTimeout {
			return fmt.Errorf("%s has sent nothing for %s in the middle of a refresh", n.c.e.url, quiet.Round(time.Second))
		}
		return nil
	}
	if n.pending.IsZero() {
		s.takeAccept()
	}
	switch {
	case n.probeID != 0 && now.Sub(n.probeSent) > s.c.Timeout:
		return fmt.Errorf("%s does not answer any more (no answer within %s)", n.c.e.url, s.c.Timeout)
	case n.probeID == 0 && !now.Before(n.nextProbe):
		if err := n.probe(); err != nil {
			return err
		}
	}
	if n.open != nil {
		limit := lagLeast
		if len(n.open.csns) == 0 {
			limit = lagUnknown
		}
		if lag := now.Sub(n.open.since); lag > max(limit, 20*s.refreshTook) {
			s.c.Log.Debugf("the stream is %s behind the provider: following anew", lag.Round(time.Second))
			return errAgain
		}
	}
	if due := !s.dueFull.IsZero() && s.c.Now().After(s.dueFull); due || s.store.wantsFull() {
		return errAgain
	}
	if !n.pending.IsZero() {
		return nil
	}
	s.forgetGone()
	since := s.c.Now().Sub(s.committed)
	if s.moved && since >= cookieEvery || since >= heartbeat && !s.isHeld() {
		s.writeCommit()
	}
	return nil
}

// probe asks for the provider's contextCSN, on the stream's own connection:
// an answer proves this connection and this server.
func (n *session) probe() (err error) {
	base := n.suffix
	n.probeSent, n.probeAsOf, n.csns = time.Now(), n.s.c.Now(), nil
	n.nextProbe = n.probeSent.Add(n.s.c.ProbeEvery)
	n.probeID, err = n.c.send(searchOp(base, 0, presentFilter, []string{"contextCSN"}))
	return err
}

// probed takes the probe's answer.
func (n *session) probed(m message) error {
	switch m.op {
	case opSearchEntry:
		vals := map[string][]string{}
		if err := stringValues(m.body, vals); err != nil {
			return err
		}
		n.csns = append(n.csns, vals["contextCSN"]...)
	case opSearchDone:
		n.probeID = 0
		if n.open == nil { // else the older one is still to be reached
			n.open = &proof{n.probeAsOf, time.Now(), n.csns}
		}
		n.checkProof()
	}
	return nil
}

// checkProof sees whether the stream has reached the open proof.
func (n *session) checkProof() {
	if n.open != nil && n.pending.IsZero() && n.s.pos.covers(n.open.csns) {
		n.s.proven(n.open.asOf)
		n.open = nil
	}
}

// take handles a chunk's messages.
func (n *session) take(b []byte) error {
	for len(b) > 0 {
		l, err := frame(b, n.c.max)
		if err != nil {
			return err
		}
		m, err := parseMessage(b[:l])
		if err != nil {
			return err
		}
		b = b[l:]
		switch m.id {
		case 0: // before probeID, which is 0 when there is no question
			err = disconnected(m)
		case n.syncID:
			err = n.message(m)
		case n.probeID:
			err = n.probed(m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// message handles one message of the search.
func (n *session) message(m message) error {
	switch m.op {
	case opSearchEntry:
		v, ok, err := m.control(oidSyncState)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%s sent an entry without its sync state; it does not speak RFC 4533", n.c.e.url)
		}
		st, err := parseSyncState(v)
		if err != nil {
			return err
		}
		return n.entry(m.body, st)
	case opSearchReference:
		return nil
	case opIntermediate:
		i, ok, err := parseSyncInfo(m.body)
		if err != nil || !ok {
			return err
		}
		return n.info(i)
	case opSearchDone:
		return n.done(m)
	}
	return fmt.Errorf("%w: unexpected operation %#x in a search", errBER, m.op)
}

// entry takes an entry in (RFC 4533 §3.3.2).
func (n *session) entry(body ber, st syncState) error {
	s := n.s
	switch st.state {
	case stateAdd, stateModify:
		if err := s.plan.decodeEntry(body, n.e); err != nil {
			return err
		}
		n.e.id, n.e.large = st.id, n.large
		s.m.put(n.e)
		s.recordPut(n.e)
		if n.refresh != nil {
			n.refresh.entries++
		}
		n.see(st.id)
	case statePresent:
		if n.refresh != nil {
			n.refresh.present++
		}
		n.see(st.id)
	case stateDelete:
		n.remove(st.id)
	default:
		return fmt.Errorf("%w: sync state %d", errBER, st.state)
	}
	n.touch()
	n.follow(st.cookie)
	return nil
}

func (n *session) see(id broker.EntryID) {
	if n.refresh != nil && n.refresh.seen != nil {
		n.refresh.seen[id] = struct{}{}
	}
}

func (n *session) remove(id broker.EntryID) {
	n.s.m.remove(id)
	n.s.recordDelete(id)
	if n.refresh != nil && n.refresh.seen != nil {
		delete(n.refresh.seen, id)
	}
}

// follow takes a cookie in. That of a refresh counts only at its end.
func (n *session) follow(cookie ber) {
	if n.refresh != nil {
		n.refresh.pos.merge(cookie)
		return
	}
	if n.s.pos.merge(cookie) {
		n.s.moved = true
		n.checkProof()
	}
}

// info handles a Sync Info message (RFC 4533 §2.5).
func (n *session) info(i syncInfo) error {
	n.follow(i.cookie)
	r := n.refresh
	switch i.choice {
	case infoNewCookie:
		return nil
	case infoIDSet:
		err := i.eachID(func(id broker.EntryID) {
			if i.refreshDeletes {
				n.remove(id)
				return
			}
			if r != nil {
				r.present++
			}
			n.see(id)
		})
		if err == nil && i.refreshDeletes {
			n.touch()
		}
		return err
	}
	if r == nil {
		return fmt.Errorf("%s ends a refresh that was over", n.c.e.url)
	}
	if i.choice == infoRefreshPresent {
		if !r.full && r.present == 0 && r.entries == 0 && !n.s.m.empty() {
			// Nothing present: either all is gone, or nothing was to be said.
			// Find out by reading everything.
			n.s.full = true
			return errAgain
		}
		r.gone = true
	}
	if i.refreshDone {
		n.finish()
	}
	return nil
}

// done handles the end of the search, which in this mode is never wanted.
func (n *session) done(m message) error {
	if v, ok, err := m.control(oidSyncDone); err != nil {
		return err
	} else if ok {
		d, err := parseSyncDone(v)
		if err != nil {
			return err
		}
		if n.refresh == nil {
			n.follow(d.cookie)
		}
	}
	if err := m.result(); err != nil {
		return fmt.Errorf("searching %s at %s: %w", n.s.c.BaseDN, n.c.e.url, err)
	}
	return fmt.Errorf("%s ended the search", n.c.e.url)
}
