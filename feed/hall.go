package feed

import (
	"bytes"
	"net/netip"

	"github.com/sekisho/sekisho/broker"
)

// hall is what the server's loop keeps: the classes, and who follows which. It
// is used by the loop's goroutine alone.
type hall struct {
	s       *Server
	cur     *broker.Snapshot // nil until there is one
	classes map[string]*class
	conns   map[*conn]struct{}
}

// idleRounds is for how many of tidy's rounds a class without hosts is kept.
const idleRounds = 10

// tidy forgets what nobody has needed for a while.
func (h *hall) tidy() {
	for key, c := range h.classes {
		if c.whole = nil; len(c.conns) > 0 {
			c.idle = 0
		} else if c.idle++; c.idle > idleRounds {
			delete(h.classes, key)
		}
	}
}

func (c *class) commitFrame(generation uint64) []byte {
	return newFrame(kindCommit, commit{c.stream, c.seq, generation, c.digest})
}

// enter lets a host in, or says why not.
func (h *hall) enter(k *conn) error {
	if h.cur == nil {
		return &refusal{"this broker has no snapshot yet", true}
	}
	host, err := admit(h.cur, k.name, k.pin, h.s.c.Unpinned)
	if err != nil {
		return &refusal{err.Error(), false}
	}
	k.host = host
	key, rules, groups := kin(h.cur, host)
	c := h.classes[key]
	if c == nil {
		c, _ = newClass(h.cur, key, rules, groups)
		h.classes[key] = c
	}
	k.class = c
	c.conns[k] = struct{}{}
	k.self = newFrame(kindSelf, selfOf(h.cur, host))
	h.conns[k] = struct{}{}
	age := h.s.register(k)
	welcome := newFrame(kindWelcome, welcome{Version, host.Names[0], age, h.cur.Generation()})
	frames := [][]byte{welcome, k.self}
	if missed, ok := c.since(k.hello.Stream, k.hello.Seq); ok {
		frames = append(frames, missed...)
	} else if k.hello.Digest != c.digest {
		frames = append(frames, c.all(h.cur)...)
	}
	h.s.changing(k)
	k.link.send(append(frames, c.commitFrame(h.cur.Generation()))...)
	return nil
}

// leave forgets a connection.
func (h *hall) leave(k *conn) {
	if _, has := h.conns[k]; has {
		delete(h.conns, k)
		delete(k.class.conns, k)
	}
}

// give sends a change to one host.
func (h *hall) give(k *conn, frames ...[]byte) {
	h.s.changing(k)
	k.link.send(frames...)
}

// move is a host that goes from one class to another.
type move struct {
	k     *conn
	self  bool // its own entry has changed
	to    string
	rules []broker.TargetRule
	group []broker.EntryID
}

// publish brings all hosts to a new snapshot.
func (h *hall) publish(v broker.View) {
	was := h.cur
	h.cur = v.Snapshot
	if was == nil {
		h.s.published(v)
		return
	}
	n := newNews(was, h.cur)
	rulesChanged := false
	n.changes.Rules(func(_, _ *broker.Rule) bool { rulesChanged = true; return false })
	nested := false
	n.changes.TouchedGroups(func(*broker.Group) bool { nested = true; return false })
	names, addrs := map[broker.HostName]bool{}, map[netip.Addr]bool{}
	n.changes.TouchedHosts(func(n broker.HostName, a netip.Addr) bool {
		if n != "" {
			names[n] = true
		} else {
			addrs[a] = true
		}
		return true
	})
	isTouched := func(x *broker.Host) bool {
		for _, n := range x.Names {
			if names[n] {
				return true
			}
		}
		for _, a := range x.Addrs {
			if addrs[a] {
				return true
			}
		}
		return false
	}

	// Whose class is another now? rules are those of each class that goes on.
	var moves []move
	rules := map[*class][]broker.TargetRule{}
	stays := map[*class]bool{}
	for k := range h.conns {
		touched := isTouched(k.host)
		if touched {
			host, err := admit(h.cur, k.name, k.pin, h.s.c.Unpinned)
			if err != nil || host.ID != k.host.ID {
				h.cut(k, err)
				continue
			}
			h.s.rename(k, host)
		} else if !rulesChanged && !nested {
			continue
		}
		m := move{k: k}
		if m.to, m.rules, m.group = kin(h.cur, k.host); m.to == k.class.key {
			stays[k.class] = true
			if rulesChanged {
				rules[k.class] = m.rules
			}
		} else {
			moves = append(moves, m)
			k.leaving = true
		}
		if self := newFrame(kindSelf, selfOf(h.cur, k.host)); !bytes.Equal(self, k.self) {
			k.self, k.selfNew = self, true
		}
	}

	// A class that is new is reached by a difference, while the old one is still
	// as its hosts have it. One that is there already is sent whole.
	type pair struct{ a, b *class }
	bridges := map[pair][][]byte{}
	fresh := map[*class]bool{}
	for _, m := range moves {
		to := h.classes[m.to]
		if to == nil {
			to, _ = newClass(h.cur, m.to, m.rules, m.group)
			h.classes[m.to], fresh[to] = to, true
		}
		if fresh[to] {
			p := pair{m.k.class, to}
			if _, done := bridges[p]; !done {
				bridges[p] = from(m.k.class, to, h.cur).frames(false)
			}
			h.enterClass(m.k, to, bridges[p])
		}
	}
	for key, c := range h.classes {
		if fresh[c] {
			continue
		}
		if (rulesChanged || nested) && !stays[c] {
			// Nobody stays with it who could say what its rules and groups are now.
			delete(h.classes, key)
			continue
		}
		ch := c.update(n, rules[c])
		if ch.empty() {
			continue
		}
		frames := ch.frames(false)
		c.record(frames)
		frames = append(frames, c.commitFrame(h.cur.Generation()))
		for k := range c.conns {
			switch {
			case k.leaving:
			case k.selfNew:
				k.selfNew = false
				h.give(k, append([][]byte{k.self}, frames...)...)
			default:
				h.give(k, frames...)
			}
		}
	}
	for _, m := range moves {
		if !m.k.leaving {
			continue
		}
		to := h.classes[m.to]
		if to == nil { // it was dropped above
			to, _ = newClass(h.cur, m.to, m.rules, m.group)
			h.classes[m.to] = to
		}
		h.enterClass(m.k, to, to.all(h.cur))
	}
	for k := range h.conns {
		if k.selfNew {
			k.selfNew = false
			h.give(k, k.self, k.class.commitFrame(h.cur.Generation()))
		}
	}
	h.s.published(v)
}

// enterClass has a host follow another class, which these frames lead to.
func (h *hall) enterClass(k *conn, to *class, frames [][]byte) {
	delete(k.class.conns, k)
	k.class, k.leaving, k.selfNew = to, false, false
	to.conns[k] = struct{}{}
	all := append([][]byte{k.self}, frames...)
	h.give(k, append(all, to.commitFrame(h.cur.Generation()))...)
}

// cut ends a host's connection for good.
func (h *hall) cut(k *conn, why error) {
	text := "another host has its name now"
	if why != nil {
		text = why.Error()
	}
	h.leave(k)
	h.s.c.Log.WithField("host", string(k.host.Names[0])).WithField("from", k.from).Warn("a host is cut off: " + text)
	h.s.c.Note(Note{Kind: HostCut, Host: k.host.Names[0], From: k.from, Text: short(text)})
	k.link.close(&refusal{text, false})
}

// has tells whether a host's view has a user.
func (h *hall) has(host broker.HostName, user broker.UserName) bool {
	for k := range h.conns {
		if k.host.Names[0] == host {
			return k.class.has(h.cur, user)
		}
	}
	return false
}
