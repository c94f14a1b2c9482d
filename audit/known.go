package audit

import (
	"fmt"
	"strings"
)

// wanted is a seal that must be there.
type wanted struct {
	seq   uint64
	time  string
	given bool // it comes from elsewhere, and not from the copy in the folder
}

// want reads which seals must be there.
func (v *verifier) want() error {
	// Anybody may have put a line into a syslog.
	junk := 0
	for _, s := range v.c.Seals {
		line, h, ok := findSeal(s)
		if !ok || v.v.Trusted && !v.sealed(h) {
			junk++
			continue
		}
		v.wanted[line] = wanted{h.seq, string(h.time), true}
	}
	v.given = len(v.wanted)
	what := "is a seal"
	if v.v.Trusted {
		what = "is a seal that the given key has made"
	}
	if v.given == 0 && junk > 0 {
		return fmt.Errorf("none of the %d lines that were given %s", junk, what)
	}
	if junk > 0 {
		v.v.Notes = append(v.v.Notes, fmt.Sprintf("%d of the lines that were given count for nothing: none of them %s", junk, what))
	}
	copied, h, err := readHead(v.c.Dir)
	if err != nil {
		return fmt.Errorf("reading the copy of the last seal: %w", err)
	}
	if h.seq > 0 {
		if _, ok := v.wanted[string(copied)]; !ok {
			v.wanted[string(copied)] = wanted{h.seq, string(h.time), false}
		}
	}
	return nil
}

// findSeal takes a seal's line out of a line of syslog.
func findSeal(s string) (line string, h head, ok bool) {
	at, end := strings.Index(s, `{"seq":`), strings.LastIndexByte(s, '}')
	if at >= 0 && end > at {
		line := s[at:end+1] + "\n"
		if h, err := parse([]byte(line)); err == nil && h.kind == KindSeal {
			return line, h, true
		}
	}
	return "", head{}, false
}

// unseen tells of the seals that were not there.
func (v *verifier) unseen() {
	older, newest := 0, wanted{}
	for _, w := range v.wanted {
		switch {
		case w.seq < v.v.First.Seq && w.given:
			if older++; w.seq > newest.seq {
				newest = w
			}
		case w.seq < v.v.First.Seq:
			v.v.Notes = append(v.v.Notes, fmt.Sprintf("the copy of the last seal, of record %d, is older than what is here", w.seq))
		case w.seq > v.v.Last.Seq:
			v.wrong(Problem{What: fmt.Sprintf("the seal of record %d was written, and the record ends with %d: what followed was cut off", w.seq, v.v.Last.Seq)})
		default:
			what := fmt.Sprintf("the seal of record %d that is known from elsewhere is not the one here: the record was written anew", w.seq)
			if w.given && !v.v.Trusted {
				what += ", or somebody has made that seal up: give the key, and only seals that it has made count"
			}
			v.wrong(Problem{What: what})
		}
	}
	if older > 0 {
		v.v.Notes = append(v.v.Notes, fmt.Sprintf("%d of the seals that are known from elsewhere are older than what is here, the last of them of record %d, %s: if that is younger than files are kept, records were removed", older, newest.seq, newest.time))
	}
	if older > 0 && older == v.given {
		v.wrong(Problem{What: "none of the seals that are known from elsewhere stands in what is here: they prove nothing of it"})
	}
}
