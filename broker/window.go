package broker

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Window is a weekly time window in a time zone, such as
// "Mon-Fri 08:00-18:00 Europe/Berlin". An end that is not after its start is
// on the next day; the days are those on which the window begins. Hours are
// those of the zone's wall clock: on a day on which clocks change, the window
// begins and ends at the same readings as on any other.
type Window struct {
	days       [7]bool // by time.Weekday
	start, end int     // minutes of the day, 0..1440
	zone       *time.Location
	text       string
}

var weekdays = [7]string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"} // immutable

// ParseWindow reads "[DAYS] HH:MM-HH:MM ZONE". DAYS is a list by comma of
// days and ranges: Mon, Tue … Sun; without it every day. ZONE is UTC or a name
// of the IANA time zone database.
func ParseWindow(s string) (Window, error) {
	f := strings.Fields(s)
	w := Window{text: strings.Join(f, " ")}
	switch {
	case len(f) == 2 && !strings.Contains(f[1], ":"):
		for i := range w.days {
			w.days[i] = true
		}
	case len(f) == 3:
		if err := w.parseDays(f[0]); err != nil {
			return Window{}, err
		}
		f = f[1:]
	default:
		return Window{}, fmt.Errorf("want DAYS HH:MM-HH:MM ZONE, like Mon-Fri 08:00-18:00 Europe/Berlin")
	}
	from, to, ok := strings.Cut(f[0], "-")
	var err1, err2 error
	w.start, err1 = parseClock(from)
	w.end, err2 = parseClock(to)
	if !ok || err1 != nil || err2 != nil || w.start == 1440 || w.start == w.end {
		return Window{}, fmt.Errorf("want hours like 08:00-18:00, the start before 24:00 and not the end")
	}
	if strings.HasPrefix(strings.ToLower(f[1]), "local") { // Debian has a zone file "localtime"
		return Window{}, fmt.Errorf("name the time zone: local time is another on each machine")
	}
	zone, err := time.LoadLocation(f[1])
	if err != nil {
		return Window{}, fmt.Errorf("time zone %q is not known here; use UTC or a name like Europe/Berlin", clip(f[1]))
	}
	w.zone = zone
	return w, nil
}

func (w *Window) parseDays(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		a := slices.Index(weekdays[:], from)
		b := a
		if isRange {
			b = slices.Index(weekdays[:], to)
		}
		if a < 0 || b < 0 {
			return fmt.Errorf("want days like Mon-Fri or Sat,Sun")
		}
		for d := a; ; d = (d + 1) % 7 {
			w.days[d] = true
			if d == b {
				break
			}
		}
	}
	return nil
}

func parseClock(s string) (minutes int, err error) {
	var h, m int
	if len(s) != 5 || s[2] != ':' {
		return 0, fmt.Errorf("want HH:MM")
	}
	for i, p := range []*int{&h, &h, nil, &m, &m} {
		if p == nil {
			continue
		}
		if s[i] < '0' || s[i] > '9' {
			return 0, fmt.Errorf("want HH:MM")
		}
		*p = *p*10 + int(s[i]-'0')
	}
	if m > 59 || h > 24 || h == 24 && m != 0 {
		return 0, fmt.Errorf("no such time of day")
	}
	return h*60 + m, nil
}

// String prints the window as it was read, with single spaces.
func (w Window) String() string { return w.text }

// open reports whether t is inside, and the next time at which that changes.
// The zero Window is never open.
func (w Window) open(t time.Time) (bool, time.Time) {
	if w.zone == nil {
		return false, time.Time{}
	}
	y, m, d := t.In(w.zone).Date()
	var next time.Time
	for i := -1; i <= 8; i++ {
		if !w.days[time.Date(y, m, d+i, 12, 0, 0, 0, time.UTC).Weekday()] {
			continue
		}
		end := w.end
		if w.end <= w.start {
			end += 1440
		}
		a := time.Date(y, m, d+i, 0, w.start, 0, 0, w.zone)
		b := time.Date(y, m, d+i, 0, end, 0, 0, w.zone)
		switch {
		case !a.Before(b): // all of it is in the hour that the clocks skip
		case t.Before(a):
			if next.IsZero() || a.Before(next) {
				next = a
			}
		case t.Before(b):
			return true, b
		}
	}
	return false, next
}
