package clock

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// limits are the bounds of the states.
type limits struct {
	near, beyond time.Duration
	slack        time.Duration // how much better than its bound a clock must be to leave a state
}

// classify says what an error of d means, coming from the state before.
func (l limits) classify(d time.Duration, before State) State {
	near, beyond := l.near, l.beyond
	if before >= Near {
		near -= l.slack
	}
	if before == Beyond {
		beyond -= l.slack
	}
	switch {
	case d > beyond || d < -beyond:
		return Beyond
	case d >= near || d <= -near:
		return Near
	}
	return Good
}

// wrongClock is a clock and its error against the right time.
type wrongClock struct {
	Clock
	err, bound time.Duration
	by         witnesses
}

func (w wrongClock) text() string {
	return w.owner() + " is " + ahead(w.err) + " (" + give(w.bound) + ", by " + w.by.String() + ")"
}

// court is one judgement.
type court struct {
	limits
	before  State
	sources []Source // judged in place: Silent and Denied ones come with that verdict, others with none
}

func (c *court) classify(d time.Duration) State { return c.limits.classify(d, c.before) }

// of calls f for all sources of a kind that were heard.
func (c *court) of(k Kind, f func(s *Source)) {
	for i := range c.sources {
		if s := &c.sources[i]; s.Kind == k && s.Verdict != Silent && s.Verdict != Denied {
			f(s)
		}
	}
}

func (c *court) intervals(kinds ...Kind) []interval {
	var out []interval
	for _, k := range kinds {
		c.of(k, func(s *Source) {
			if k == TimeServer || !s.here() {
				out = append(out, around(s.Offset, s.Bound))
			}
		})
	}
	return out
}

// reference is the right time against this machine's clock, as the time servers
// agree on it. When they do not agree, the KDCs may tip the scales, with at
// least one of them. This machine has no vote, nor has a KDC on it.
func (c *court) reference() (interval, bool) {
	servers := c.intervals(TimeServer)
	if r, ok := intersect(servers); ok {
		return r, true
	}
	r, ok := intersect(c.intervals(TimeServer, KDC))
	return r, ok && slices.ContainsFunc(servers, r.overlaps)
}

func judge(l limits, before State, sources []Source) Status {
	c := &court{limits: l, before: before, sources: sources}
	var s Status
	if ref, ok := c.reference(); ok {
		s = c.against(ref)
	} else {
		s = c.alone()
	}
	s.Sources = c.sources
	return s
}

// against judges all clocks by the right time.
func (c *court) against(ref interval) Status {
	theta, bound := ref.mid(), ref.bound()
	var by witnesses
	c.of(TimeServer, func(s *Source) {
		if around(s.Offset, s.Bound).overlaps(ref) {
			s.Verdict = Right
			by.servers++
		} else {
			s.Verdict, s.Why = False, "most of the others contradict it"
		}
	})
	verdicts := map[State]Verdict{Good: Right, Near: Off, Beyond: Wrong}
	host := wrongClock{Clock{Kind: Host}, -theta, bound, by}
	hostState := c.classify(theta)
	var wrong, kdcs, directories []wrongClock
	if hostState != Good {
		wrong = append(wrong, host)
	}
	var states []State
	seen := func(list *[]wrongClock, witness *int) func(s *Source) {
		return func(s *Source) {
			w := wrongClock{s.Clock, s.Offset - theta, s.Bound + bound, by}
			w.by.host = hostState == Good
			state := c.classify(w.err)
			s.Verdict = verdicts[state]
			if !s.here() && around(s.Offset, s.Bound).overlaps(ref) {
				*witness++
			}
			if state != Good && !(s.here() && hostState != Good && c.classify(s.Offset) == Good) { // not this host's once more
				*list = append(*list, w)
			}
		}
	}
	c.of(KDC, func(s *Source) {
		seen(&kdcs, &host.by.kdcs)(s)
		// Tickets need both: the KDC near to the right time, which clients have,
		// and near to us.
		states = append(states, max(c.classify(s.Offset-theta), c.classify(s.Offset)))
	})
	c.of(Directory, func(s *Source) { seen(&directories, &host.by.directories)(s) })
	if len(wrong) > 0 {
		wrong[0] = host // with all witnesses
	}
	slices.SortStableFunc(kdcs, func(a, b wrongClock) int { return cmp.Compare(b.err.Abs(), a.err.Abs()) })
	wrong = append(wrong, kdcs...)
	st := Status{State: max(hostState, ofKDCs(states)), host: &host}
	if st.State != Good && len(wrong) == 0 { // each is bearable, and both together are not
		wrong = append(wrong, host)
		c.of(KDC, func(s *Source) {
			wrong = append(wrong, wrongClock{s.Clock, s.Offset - theta, s.Bound + bound, by})
		})
	}
	wrong = append(wrong, directories...) // no ticket fails by them
	if len(wrong) == 0 {
		st.Offset, st.Bound = host.err, bound
		word := "right"
		if host.err.Abs() > time.Second {
			word = "near enough to the right time"
		}
		st.Text = "this host's clock is " + word + " (" + ahead(host.err) + " " + give(bound) + ", by " + host.by.String() + ")"
		return st
	}
	st.Culprit, st.Offset, st.Bound = wrong[0].Clock, wrong[0].err, wrong[0].bound
	st.Text = sentences(wrong)
	return st
}

// ofKDCs is what several KDCs together mean: tickets can be had as long as one
// of them is well, and somebody should look as soon as one is not.
func ofKDCs(states []State) State {
	if len(states) == 0 {
		return Good
	}
	return max(slices.Min(states), min(slices.Max(states), Near))
}

// sentences names the worst clocks.
func sentences(wrong []wrongClock) string {
	const most = 3
	var texts []string
	for _, w := range wrong[:min(len(wrong), most)] {
		texts = append(texts, w.text())
	}
	return strings.Join(texts, "; ")
}

// elsewhere tells whether one of a kind was heard from another machine.
func (c *court) elsewhere(k Kind) (found bool) {
	c.of(k, func(s *Source) { found = found || !s.here() })
	return found
}

// alone judges without time servers: only differences are known.
func (c *court) alone() Status {
	contradict := false
	c.of(TimeServer, func(s *Source) {
		s.Verdict, s.Why = Alone, "the time servers contradict each other"
		contradict = true
	})
	var states []State
	var worst *Source
	c.of(KDC, func(s *Source) {
		state := c.classify(s.Offset)
		states = append(states, state)
		s.Verdict = Alone
		if state == Good && !s.here() {
			s.Verdict = Right
		}
		if worst == nil || s.Offset.Abs() > worst.Offset.Abs() {
			worst = s
		}
	})
	c.of(Directory, func(s *Source) { s.Verdict = Alone })
	if worst == nil {
		switch {
		case contradict:
			return Status{Text: "the time servers contradict each other, and no KDC has answered: nobody knows whether this host's clock is right"}
		case len(c.sources) == 0:
			return Status{Text: "nobody has told this host the time yet"}
		}
		return Status{Text: "no time server and no KDC has answered: nobody knows whether this host's clock is right"}
	}
	st := Status{State: ofKDCs(states), Offset: worst.Offset, Bound: worst.Bound}
	why := "no time server has answered"
	if contradict {
		why = "the time servers contradict each other"
		st.State = max(st.State, Near)
	}
	which := "KDC " + worst.Name
	if c.classify(worst.Offset) == Good && !c.elsewhere(KDC) {
		return Status{Text: why + ", and the KDC is this host: nobody knows whether its clock is right"}
	}
	if c.classify(worst.Offset) == Good {
		st.Text = "the clocks of this host and of " + which + " agree (" + Span(worst.Offset) + " apart " + give(worst.Bound) + "); " + why
		return st
	}
	side := "ahead"
	if worst.Offset < 0 {
		side = "behind"
	}
	st.Between = worst.Clock
	st.Text = "this host's clock and that of " + which + " are " + Span(worst.Offset) + " apart (the KDC's is " + side + ", " +
		give(worst.Bound) + "); which of them is wrong is not known: " + why
	return st
}
