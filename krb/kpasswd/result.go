package kpasswd

import (
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/sekisho/sekisho/krb"
)

// Result codes of RFC 3244 §2.
const (
	resultSuccess       = 0
	resultMalformed     = 1
	resultHardError     = 2
	resultAuthError     = 3
	resultSoftError     = 4
	resultAccessDenied  = 5
	resultBadVersion    = 6
	resultInitialNeeded = 7
)

// Service is the principal that tickets for this protocol are for.
func Service(realm string) krb.Principal {
	return krb.Principal{Components: []string{"kadmin", "changepw"}, Realm: realm}
}

// Refused says that the policy does not take a new password (soft error).
type Refused struct {
	// Words are the policy's own, fit to be shown; empty when it gave none.
	Words string
}

func (e *Refused) Error() string {
	if e.Words == "" {
		return "the new password is refused"
	}
	return "the new password is refused: " + e.Words
}

// Denied says that this user may not change his password, whatever the new one
// is: the account is locked, for example.
type Denied struct {
	// Words say why, fit to be shown; may be empty.
	Words string
}

func (e *Denied) Error() string {
	if e.Words == "" {
		return "the password may not be changed"
	}
	return "the password may not be changed: " + e.Words
}

// ErrUnsure says that a request was sent and no answer came: the password may or
// may not have been changed.
var ErrUnsure = errors.New("no answer came: the password may have been changed, try the new one first")

// ErrFailed says that the server could not change the password now (hard error).
var ErrFailed = errors.New("the server could not change the password: try again later")

const maxWords = 512

// clean makes what a peer said fit for a terminal and a log: valid UTF-8 without
// control characters, bounded; empty when it is not text at all.
func clean(s string) string {
	if !utf8.ValidString(s) {
		return ""
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069:
			return -1
		}
		return r
	}, s)
	for len(s) > maxWords {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return strings.TrimSpace(s)
}
