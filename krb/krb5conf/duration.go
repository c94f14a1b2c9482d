package krb5conf

import (
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// The forms of krb5_string_to_deltat, by the number of their groups: days, hours,
// minutes, seconds.
var (
	unitForm    = regexp.MustCompile(`^[ \t\n]*(?:([0-9]+)d)?(?:[ \t\n]*([0-9]+)h)?(?:[ \t\n]*([0-9]+)m)?(?:[ \t\n]*([0-9]+)s|[ \t\n]*)$`)
	dayForm     = regexp.MustCompile(`^[ \t\n]*([0-9]+)-([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})$`)
	clockForm   = regexp.MustCompile(`^[ \t\n]*()([0-9]+):([0-9]{1,2})(?::([0-9]{1,2}))?$`)
	secondsForm = regexp.MustCompile(`^[ \t\n]*()()()([0-9]+)$`)
)

const maxSeconds = 1<<31 - 1

// ParseDuration reads a span of time as krb5.conf(5) has it, "Duration": N (that
// many seconds), NdNhNmNs with any of them left out, h:m, h:m:s, or d-h:m:s. Other
// than MIT it takes nothing negative and nothing behind the end.
func ParseDuration(s string) (time.Duration, error) {
	for _, form := range []*regexp.Regexp{unitForm, dayForm, clockForm, secondsForm} {
		m := form.FindStringSubmatch(s)
		if m == nil {
			continue
		}
		total, any := int64(0), false
		for i, unit := range []int64{24 * 3600, 3600, 60, 1} {
			if m[i+1] == "" {
				continue
			}
			n, err := strconv.ParseInt(m[i+1], 10, 32)
			if err != nil || n > (maxSeconds-total)/unit {
				return 0, fmt.Errorf("%.40q is longer than 68 years", s)
			}
			total, any = total+n*unit, true
		}
		if any {
			return time.Duration(total) * time.Second, nil
		}
	}
	return 0, fmt.Errorf("%.40q is no span of time: write it like 10h, 1d12h, 36000 or 10:00:00", s)
}
