package clock

import (
	"cmp"
	"slices"
	"time"
)

// interval is where a clock is against this machine's: somewhere in [lo, hi],
// by its own account, most likely in the middle.
type interval struct{ lo, hi time.Duration }

func around(offset, bound time.Duration) interval { return interval{offset - bound, offset + bound} }

func (i interval) mid() time.Duration { return i.lo + (i.hi-i.lo)/2 }

func (i interval) bound() time.Duration { return (i.hi - i.lo + 1) / 2 }

func (i interval) overlaps(o interval) bool { return i.lo <= o.hi && o.lo <= i.hi }

// intersect is Marzullo's algorithm as NTP's selection has it (RFC 5905
// §11.2.1): the interval from the lowest to the highest point that at least m-f
// of the m given intervals have, for the least f < m/2 for which there is one. No
// majority: false. RFC 5905 also wants the middles of the intervals in it, which
// serves who sets a clock to the millisecond; here it would make liars of honest
// servers that are not equally far away.
//
// More than half of the intervals touch what is found; so if more than half of
// the servers know their own error, it is right within the error of one of them.
func intersect(all []interval) (interval, bool) {
	type edge struct {
		at   time.Duration
		kind int // low before high where both are at one point: touching is enough
	}
	const low, high = 0, 1
	var edges []edge
	for _, i := range all {
		edges = append(edges, edge{i.lo, low}, edge{i.hi, high})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.kind, b.kind))
	})
	m := len(all)
	for liars := 0; 2*liars < m; liars++ {
		within, found := 0, false
		var out interval
		for _, e := range edges {
			if e.kind == low {
				if within++; within >= m-liars && !found {
					out.lo, found = e.at, true
				}
				continue
			}
			if within >= m-liars {
				out.hi = e.at // the last one stays
			}
			within--
		}
		if found {
			return out, true
		}
	}
	return interval{}, false
}
