package signon

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/sekisho/sekisho/wire"
)

// No password makes our door say yes unless MIT's kinit takes it too, and the
// other way round when the door could find out.
func TestYesOnlyWithKinit(t *testing.T) {
	t.Parallel()
	const cases, perUser = 200, 8
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	alphabet := []rune("abcXYZ019 !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~äßéñ漢字🔑")
	type attempt struct {
		p     *person
		typed string
		right bool
	}
	var tries []attempt
	for n := range cases / perUser {
		p, err := calm.admitted("prop" + string(rune('a'+n)))
		need(t, err)
		password := make([]rune, 14+rnd.IntN(50))
		for i := range password {
			password[i] = alphabet[rnd.IntN(len(alphabet))]
		}
		p.password = secret(strings.TrimSpace(string(password)) + "q")
		need(t, calm.sekisho(p.password+"\n", "passwd", p.name, "--password-stdin"))
		for i := range perUser {
			a := attempt{p, p.password, i%2 == 0} // four wrong ones: the fifth would lock him
			if !a.right {
				a.typed = mutate(rnd, p.password)
				a.right = a.typed == p.password
			}
			tries = append(tries, a)
		}
	}
	need(t, calm.caughtUp(calm.web))
	var all sync.WaitGroup
	var mu sync.Mutex
	var yes, yesTrue int
	next := make(chan []attempt)
	for range 4 {
		all.Go(func() {
			for as := range next { // of one user, in turn
				for _, a := range as {
					// The password that is right goes between: it resets the count of failures.
					got, err := calm.web.signIn(a.p.name, a.typed)
					if err != nil {
						t.Errorf("%s: %v", a.p.name, err)
						continue
					}
					out, kerr := a.p.kinit(t.Context(), a.typed)
					mu.Lock()
					if got.Outcome == wire.Yes {
						yes++
						if kerr != nil {
							t.Errorf("%s: we say yes, and kinit: %s", a.p.name, out)
						} else {
							yesTrue++
						}
					}
					if got.Outcome == wire.No && kerr == nil {
						t.Errorf("%s: we say no %s, and kinit says yes", a.p.name, got.Reason)
					}
					if a.right != (got.Outcome == wire.Yes) && got.Outcome != wire.Unknown {
						t.Errorf("%s: right is %v, and we say %v %s", a.p.name, a.right, got.Outcome, got.Reason)
					}
					mu.Unlock()
				}
			}
		})
	}
	for i := 0; i < len(tries); i += perUser {
		next <- tries[i : i+perUser]
	}
	close(next)
	all.Wait()
	t.Logf("%d cases: yes %d times", len(tries), yes)
	if yesTrue < cases/3 {
		t.Errorf("only %d of %d were a yes: the test shows little", yesTrue, len(tries))
	}
}

// mutate changes a password a little. It gives no line ends, which kinit would cut.
func mutate(rnd *rand.Rand, s string) string {
	r := []rune(s)
	i := rnd.IntN(len(r))
	switch rnd.IntN(7) {
	case 0:
		r[i]++
	case 1:
		r = append(r[:i], r[i+1:]...)
	case 2:
		r = append(r, ' ')
	case 3:
		r = append([]rune{' '}, r...)
	case 4:
		if unicode.IsUpper(r[i]) {
			r[i] = unicode.ToLower(r[i])
		} else {
			r[i] = unicode.ToUpper(r[i])
		}
	case 5:
		r = append(r, r...)
	case 6:
		b := []byte(s)
		b[len(b)-1] ^= 1 << rnd.IntN(3) // an ASCII letter: stays one
		return string(bytes.ReplaceAll(b, []byte("\n"), []byte("n")))
	}
	return string(r)
}
