package clock

import (
	"math/rand/v2"
	"testing"
	"time"
)

func ms(lo, hi int) interval {
	return interval{time.Duration(lo) * time.Millisecond, time.Duration(hi) * time.Millisecond}
}

func TestIntersect(t *testing.T) {
	for _, tc := range []struct {
		name string
		all  []interval
		want interval
		ok   bool
	}{
		{"nobody", nil, interval{}, false},
		{"one", []interval{ms(-5, 7)}, ms(-5, 7), true},
		{"two that agree", []interval{ms(0, 10), ms(5, 20)}, ms(5, 10), true},
		{"two that touch", []interval{ms(0, 10), ms(10, 20)}, ms(10, 10), true},
		{"two that do not", []interval{ms(0, 10), ms(11, 20)}, interval{}, false},
		{"one liar of three", []interval{ms(0, 10), ms(2, 12), ms(500, 510)}, ms(2, 10), true},
		{"two liars that agree, of three", []interval{ms(0, 10), ms(500, 510), ms(501, 512)}, ms(501, 510), true},
		{"two against two", []interval{ms(0, 10), ms(1, 11), ms(500, 510), ms(501, 511)}, interval{}, false},
		{"two liars apart, of four", []interval{ms(0, 10), ms(1, 11), ms(500, 510), ms(-900, -890)}, interval{}, false},
		{"two liars apart, of five", []interval{ms(0, 10), ms(1, 11), ms(2, 12), ms(500, 510), ms(-900, -890)}, ms(2, 10), true},
		{"all contradict", []interval{ms(0, 10), ms(20, 30), ms(40, 50)}, interval{}, false},
		{"an unsure one", []interval{ms(0, 10), ms(2, 12), ms(9, 200)}, ms(9, 10), true},
		{"a wide one", []interval{ms(0, 10), ms(2, 12), ms(-900, 900)}, ms(2, 10), true},
	} {
		got, ok := intersect(tc.all)
		if ok != tc.ok || got != tc.want {
			t.Errorf("%s: %v %v, want %v %v", tc.name, got, ok, tc.want, tc.ok)
		}
	}
}

// With fewer than half of liars there always is an answer; more than half touch
// it, so an honest one does; and without liars the right time is in it.
func TestIntersectHoldsTheTruth(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for n := range 20_000 {
		m := 1 + rnd.IntN(9)
		liars := rnd.IntN((m + 1) / 2)
		truth := time.Duration(rnd.IntN(2000)-1000) * time.Millisecond
		var all []interval
		for i := range m {
			bound := time.Duration(1+rnd.IntN(100)) * time.Millisecond
			offset := truth + time.Duration(rnd.Int64N(int64(2*bound+1))) - bound
			if i < liars {
				offset += time.Duration(rnd.IntN(800)-400) * time.Millisecond
			}
			all = append(all, around(offset, bound))
		}
		got, ok := intersect(all)
		if !ok || got.lo > got.hi {
			t.Fatalf("%d: %v %v of %v, with %d liars", n, got, ok, all, liars)
		}
		touch, honest := 0, false
		for i, x := range all {
			if x.overlaps(got) {
				touch++
				honest = honest || i >= liars
			}
		}
		if 2*touch <= m || !honest {
			t.Fatalf("%d: %v has %d of %v", n, got, touch, all)
		}
		if liars == 0 && (truth < got.lo || truth > got.hi) {
			t.Fatalf("%d: all are honest, and %v has not %s: %v", n, got, truth, all)
		}
	}
}

// Nobody is missed: where a point lies in more than half, there is an answer.
func TestIntersectFindsEveryMajority(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 20_000 {
		var all []interval
		for range 1 + rnd.IntN(7) {
			lo := rnd.IntN(40)
			all = append(all, interval{time.Duration(lo), time.Duration(lo + rnd.IntN(12))})
		}
		most := 0
		for x := range time.Duration(60) {
			n := 0
			for _, i := range all {
				if i.lo <= x && x <= i.hi {
					n++
				}
			}
			most = max(most, n)
		}
		got, ok := intersect(all)
		if ok != (2*most > len(all)) {
			t.Fatalf("%v: %v %v, and %d of %d have a point", all, got, ok, most, len(all))
		}
		for _, x := range []time.Duration{got.lo, got.hi} {
			n := 0
			for _, i := range all {
				if i.lo <= x && x <= i.hi {
					n++
				}
			}
			if ok && n != most {
				t.Fatalf("%v: %v has %d at %d, and %d are to be had", all, got, n, x, most)
			}
		}
	}
}

// The order of the servers does not matter.
func TestIntersectOrder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		var all []interval
		for range 1 + rnd.IntN(7) {
			all = append(all, around(time.Duration(rnd.IntN(60)), time.Duration(1+rnd.IntN(20))))
		}
		want, ok := intersect(all)
		rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		if got, ok2 := intersect(all); got != want || ok != ok2 {
			t.Fatalf("%v: %v, before %v", all, got, want)
		}
	}
}
