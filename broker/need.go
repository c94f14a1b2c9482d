package broker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ProofNeed is one needed proof: any one of the list will do.
type ProofNeed []ProofChoice

// ProofChoice is one way to meet a need.
type ProofChoice struct {
	Proof Proof
	// Within lets an older proof do as well (Request.Recent), as long as its age is
	// less; 0: it must be shown now. Only for one-time codes.
	Within time.Duration
}

// MaxProofAge is the greatest Within: older proofs need not be remembered.
const MaxProofAge = 31 * day

const day = 24 * time.Hour

// String prints the need as its attribute value: key|otp<12h.
func (n ProofNeed) String() string { return join(n, "|") }

// String prints the choice: otp, otp<12h, otp<7d.
func (c ProofChoice) String() string {
	if c.Within == 0 {
		return string(c.Proof)
	}
	for _, u := range ageUnits {
		if c.Within%u.length == 0 {
			return fmt.Sprintf("%s<%d%c", c.Proof, c.Within/u.length, u.letter)
		}
	}
	return fmt.Sprintf("%s<%s", c.Proof, c.Within)
}

var ageUnits = []struct {
	letter byte
	length time.Duration
}{{'d', day}, {'h', time.Hour}, {'m', time.Minute}}

func parseNeed(v string) (ProofNeed, error) {
	var need ProofNeed
	for s := range strings.SplitSeq(v, "|") {
		kind, age, aged := strings.Cut(s, "<")
		c := ProofChoice{Proof: Proof(kind)}
		switch c.Proof {
		case ProofKey, ProofCertificate, ProofPassword, ProofTicket, ProofOTP:
		default:
			return nil, fmt.Errorf("want key, certificate, password, ticket or otp, or several joined by |")
		}
		if aged {
			if c.Proof != ProofOTP {
				return nil, fmt.Errorf("only a one-time code may be an older one: otp<12h")
			}
			var ok bool
			if c.Within, ok = parseAge(age); !ok {
				return nil, fmt.Errorf("want an age like otp<30m, otp<12h or otp<7d, at most 31d")
			}
		}
		need = append(need, c)
	}
	return need, nil
}

// parseAge reads a number and one unit: 30m, 12h, 7d.
func parseAge(s string) (time.Duration, bool) {
	for _, u := range ageUnits {
		digits, ok := strings.CutSuffix(s, string(u.letter))
		n, err := strconv.ParseUint(digits, 10, 16)
		if ok && err == nil && n > 0 && digits[0] != '0' && time.Duration(n)*u.length <= MaxProofAge {
			return time.Duration(n) * u.length, true
		}
	}
	return 0, false
}

// met reports whether what was shown, now or lately, is one of the choices.
func (n ProofNeed) met(shown []Proof, recent []RecentProof) bool {
	return slices.ContainsFunc(n, func(c ProofChoice) bool {
		return slices.Contains(shown, c.Proof) || c.Within > 0 && slices.ContainsFunc(recent, func(r RecentProof) bool {
			return r.Proof == c.Proof && r.Age >= 0 && r.Age < c.Within
		})
	})
}
