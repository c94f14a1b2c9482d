package clock

import (
	"fmt"
	"strings"
	"time"
)

// Span prints how long d is, whatever its sign, for people: "8 ms", "2.5 s",
// "42 s", "7 min 12 s", "3 h 5 min", "12 d 4 h".
func Span(d time.Duration) string {
	d = d.Abs()
	switch {
	case d.Round(time.Millisecond) < time.Second:
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond)/time.Millisecond)
	case d.Round(time.Second/10) < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Round(time.Second/10).Seconds())
	case d.Round(time.Second) < time.Minute:
		return fmt.Sprintf("%d s", d.Round(time.Second)/time.Second)
	case d.Round(time.Second) < time.Hour:
		return two(d.Round(time.Second), time.Minute, time.Second, "min", "s")
	case d.Round(time.Minute) < day:
		return two(d.Round(time.Minute), time.Hour, time.Minute, "h", "min")
	}
	return two(d.Round(time.Hour), day, time.Hour, "d", "h")
}

const day = 24 * time.Hour

func two(d, big, small time.Duration, bigName, smallName string) string {
	return fmt.Sprintf("%d %s %d %s", d/big, bigName, d%big/small, smallName)
}

// ahead is "7 min 12 s ahead" or "7 min 12 s behind".
func ahead(d time.Duration) string {
	if d < 0 {
		return Span(d) + " behind"
	}
	return Span(d) + " ahead"
}

// give is "+/- 8 ms": ssh shows a user no other characters than ASCII.
func give(bound time.Duration) string { return "+/- " + Span(max(bound, time.Millisecond)) }

// owner is a clock as a sentence begins with it.
func (c Clock) owner() string {
	switch c.Kind {
	case Host:
		return "this host's clock"
	case KDC:
		return "the clock of KDC " + c.Name
	case Directory:
		return "the clock of the directory " + c.Name
	case Client:
		return "the clock of the client"
	}
	return "the clock of " + c.Name
}

// witnesses says by whom a clock was judged.
type witnesses struct {
	servers, kdcs, directories int
	host                       bool
}

// String is "3 time servers, the KDC and this host".
func (w witnesses) String() string {
	var parts []string
	add := func(n int, one, many string) {
		switch {
		case n == 1:
			parts = append(parts, one)
		case n > 1:
			parts = append(parts, fmt.Sprintf("%d %s", n, many))
		}
	}
	add(w.servers, "1 time server", "time servers")
	add(w.kdcs, "the KDC", "KDCs")
	add(w.directories, "the directory", "directory servers")
	if w.host {
		parts = append(parts, "this host")
	}
	if n := len(parts); n > 1 {
		return strings.Join(parts[:n-1], ", ") + " and " + parts[n-1]
	}
	return strings.Join(parts, "")
}

// clean keeps a name from a peer or from DNS to what a host name or an address
// has, so that it can stand in a sentence.
func clean(name string) string {
	const most = 255
	name = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '?'
		}
		return r
	}, name)
	return name[:min(len(name), most)]
}
