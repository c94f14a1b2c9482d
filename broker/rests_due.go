package broker

import (
	"container/heap"
	"slices"
	"strings"
	"time"
)

// setDue says when a session is looked at again; zero: never by itself.
func (r *rests) setDue(t *tracked, at time.Time) {
	if at.IsZero() {
		t.due = 0
		if t.place >= 0 {
			heap.Remove(&r.due, int(t.place))
		}
		return
	}
	t.due = at.Add(time.Microsecond - 1).UnixMicro()
	if t.place >= 0 {
		heap.Fix(&r.due, int(t.place))
	} else {
		heap.Push(&r.due, t)
	}
}

// popDue takes out the next session that is due.
func (r *rests) popDue(now time.Time) *tracked {
	if len(r.due) == 0 || r.due[0].due > now.UnixMicro() {
		return nil
	}
	return heap.Pop(&r.due).(*tracked)
}

// dueHeap has the session that is due next in front (container/heap).
type dueHeap []*tracked

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = int32(i), int32(j)
}
func (h *dueHeap) Push(x any) {
	t := x.(*tracked)
	t.place = int32(len(*h))
	*h = append(*h, t)
}
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h, t.place = (*h)[:last], -1
	return t
}

// words keeps one copy of each text that sessions have in common.
type words map[string]*word

type word struct {
	text string
	uses int
}

func (w words) take(s string) string {
	if s == "" {
		return ""
	}
	x := w[s]
	if x == nil {
		x = &word{text: strings.Clone(s)}
		w[x.text] = x
	}
	x.uses++
	return x.text
}

func (w words) drop(s string) {
	if x := w[s]; x != nil {
		if x.uses--; x.uses == 0 {
			delete(w, s)
		}
	}
}

// own makes a session's lists its own and its texts those of all, so that it
// keeps no message in memory.
func (r *rests) own(s *Session) {
	s.ID = SessionID(strings.Clone(string(s.ID)))
	s.Proofs, s.Request.Recent = slices.Clip(slices.Clone(s.Proofs)), slices.Clip(slices.Clone(s.Request.Recent))
	for _, p := range s.texts() {
		*p = r.words.take(*p)
	}
}

func (r *rests) disown(s *Session) {
	for _, p := range s.texts() {
		r.words.drop(*p)
	}
}

// texts are the session's texts but its ID and its rules.
func (s *Session) texts() []*string {
	q := &s.Request
	ps := []*string{(*string)(&q.User), (*string)(&q.Login), (*string)(&q.Door), (*string)(&q.Target.Host),
		&q.Key, &s.Keeper, (*string)(&s.Place), &s.Service, &s.TTY}
	for i := range s.Proofs {
		ps = append(ps, (*string)(&s.Proofs[i]))
	}
	for i := range q.Recent {
		ps = append(ps, (*string)(&q.Recent[i].Proof))
	}
	return ps
}
