package ldapsync

import (
	"fmt"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sekisho/sekisho/broker"
)

// Controls about passwords: the one of draft-behera-ldap-password-policy §6, and
// those that 389 DS sends beside or instead of it (draft-vchu-ldap-pwd-policy).
const (
	oidPasswordPolicy   = "1.3.6.1.4.1.42.2.27.8.5.1"
	oidPasswordExpired  = "2.16.840.1.113730.3.4.4"
	oidPasswordExpiring = "2.16.840.1.113730.3.4.5"
)

// policyError is the error of the password policy's answer.
type policyError int

const (
	policyNone policyError = iota - 1
	policyExpired
	policyLocked
	policyMustChange
	policyNotAllowed
	policyNeedsOld
	policyQuality
	policyTooShort
	policyTooYoung
	policyInHistory
	policyTooLong
)

// policyWords are what a refused new password is told, where the directory says
// no more than a number.
var policyWords = map[policyError]string{
	policyNotAllowed: "you may not change your password",
	policyNeedsOld:   "the directory wants the old password beside it",
	policyQuality:    "it is too easy to guess",
	policyTooShort:   "it is too short",
	policyTooYoung:   "the password was changed too short a time ago",
	policyInHistory:  "it was used before",
	policyTooLong:    "it is too long",
}

// verdict is what a directory answered to a bind or to a password's change.
type verdict struct {
	code    int    // of the LDAPResult
	words   string // its diagnostic message, made fit to be shown
	policy  policyError
	expires time.Duration // until the password does; 0: not said
	grace   int           // sign-ins left with an expired password; -1: not said
}

// readVerdict reads a BindResponse or an ExtendedResponse with its controls.
func readVerdict(m message) (verdict, error) {
	v := verdict{policy: policyNone, grace: -1}
	r := m.body
	var err error
	if v.code, err = r.integer(tagEnumerated); err != nil {
		return v, err
	}
	if _, err := r.expect(tagOctetString); err != nil {
		return v, err
	}
	words, err := r.expect(tagOctetString)
	if err != nil {
		return v, err
	}
	v.words = strings.TrimSpace(printable(strings.ToValidUTF8(string(words), "?"), 300))
	value, ok, err := m.control(oidPasswordPolicy)
	if err != nil {
		return v, err
	}
	if ok {
		if err := v.readPolicy(value); err != nil {
			return v, err
		}
	}
	return v, v.read389(m)
}

// readPolicy reads a PasswordPolicyResponseValue (draft-behera §6.2).
func (v *verdict) readPolicy(value ber) error {
	r, err := value.expect(tagSequence)
	if err != nil {
		return err
	}
	if r.peek() == 0xa0 {
		w, err := r.expect(0xa0)
		if err != nil {
			return err
		}
		switch w.peek() {
		case 0x80:
			n, err := w.integer(0x80)
			if err != nil || n < 0 {
				return errBER
			}
			v.expires = max(time.Duration(n)*time.Second, 1)
		case 0x81:
			if v.grace, err = w.integer(0x81); err != nil || v.grace < 0 {
				return errBER
			}
		}
	}
	if r.peek() == 0x81 {
		n, err := r.integer(0x81)
		if err != nil {
			return err
		}
		v.policy = policyError(n)
	}
	return nil
}

func (v *verdict) read389(m message) error {
	_, expired, err := m.control(oidPasswordExpired)
	if err != nil {
		return err
	}
	if expired && v.policy == policyNone {
		v.policy = policyExpired
		if v.code == ldap.LDAPResultSuccess {
			v.policy = policyMustChange
		}
	}
	left, expiring, err := m.control(oidPasswordExpiring)
	if err != nil || !expiring || v.expires != 0 {
		return err
	}
	seconds := 0
	for _, d := range left {
		if d < '0' || d > '9' || seconds > 1<<27 {
			return nil // a warning that cannot be read is none
		}
		seconds = seconds*10 + int(d-'0')
	}
	v.expires = max(time.Duration(seconds)*time.Second, 1)
	return nil
}

// activeDirectory finds what AD says of a refused bind: the hexadecimal word after
// "data " in its message (error codes of Windows' LogonUser).
func (v verdict) activeDirectory() string {
	if !strings.Contains(v.words, "AcceptSecurityContext error") {
		return ""
	}
	_, rest, _ := strings.Cut(v.words, ", data ")
	word, _, _ := strings.Cut(rest, ",")
	return strings.ToLower(strings.TrimSpace(word))
}

// judgeBind is what a bind proves. mustChange says that the password is right and
// has to be changed before it counts.
func (v verdict) judgeBind() (p broker.Proven, mustChange bool) {
	deny := func(r broker.Reason, text string) (broker.Proven, bool) {
		return broker.Proven{Outcome: broker.Deny, Reason: r, Text: text}, false
	}
	switch v.policy {
	case policyLocked:
		return deny(broker.ReasonLocked, "")
	case policyExpired:
		return deny(broker.ReasonPasswordExpired, textExpired)
	}
	switch v.code {
	case ldap.LDAPResultSuccess:
		if v.policy == policyMustChange {
			return broker.Proven{Outcome: broker.Deny, Reason: broker.ReasonPasswordExpired}, true
		}
		return broker.Proven{Outcome: broker.Allow}, false
	case ldap.LDAPResultInvalidCredentials:
		switch v.activeDirectory() {
		case "532", "773":
			return deny(broker.ReasonPasswordExpired, textExpired)
		case "533", "775":
			return deny(broker.ReasonLocked, "")
		case "701":
			return deny(broker.ReasonKerberosExpired, "")
		}
		return deny(broker.ReasonWrongPassword, "")
	case ldap.LDAPResultNoSuchObject, ldap.LDAPResultInappropriateAuthentication, ldap.LDAPResultInvalidDNSyntax:
		return deny(broker.ReasonWrongPassword, "")
	case ldap.LDAPResultUnwillingToPerform, ldap.LDAPResultConstraintViolation:
		// 389 DS: an account made inactive (nsAccountLock), and too many failures.
		return deny(broker.ReasonLocked, "")
	}
	return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonProver}, false
}

const textExpired = "your password has expired, and the directory lets nobody in with it: have it reset by an administrator"

// warnings are what the caller is told after a bind that was a yes.
func (v verdict) warnings() []broker.Prompt {
	var text string
	switch {
	case v.code != ldap.LDAPResultSuccess:
	case v.grace == 0:
		text = "Your password has expired, and this was the last sign-in with it: change it now (passwd)."
	case v.grace == 1:
		text = "Your password has expired: you can sign in once more. Change it now (passwd)."
	case v.grace > 1:
		text = fmt.Sprintf("Your password has expired: you can sign in %d more times. Change it now (passwd).", v.grace)
	case v.expires > 0 && v.expires <= 24*time.Hour:
		text = "Your password expires within a day: change it now (passwd)."
	case v.expires > 0:
		text = fmt.Sprintf("Your password expires in %d days.", int((v.expires+24*time.Hour-1)/(24*time.Hour)))
	default:
		return nil
	}
	return []broker.Prompt{{Kind: broker.PromptInfo, Text: text}}
}

// judgeChange is what became of a new password.
func (v verdict) judgeChange() broker.Proven {
	switch {
	case v.code == ldap.LDAPResultSuccess:
		return broker.Proven{Outcome: broker.Allow}
	case v.policy > policyMustChange, v.code == ldap.LDAPResultConstraintViolation, v.code == ldap.LDAPResultInsufficientAccessRights,
		v.code == ldap.LDAPResultUnwillingToPerform:
		return broker.Proven{Outcome: broker.Deny, Reason: broker.ReasonPasswordRefused, Text: "the new password is refused: " + v.refusal()}
	}
	return broker.Proven{Outcome: broker.Unknown, Reason: broker.ReasonProver}
}

// refusal is why a new password is not taken: the directory's words, which name
// numbers, or those of the policy's error, which OpenLDAP's words leave out.
func (v verdict) refusal() string {
	plain := policyWords[v.policy]
	switch {
	case plain == "" && v.words == "":
		return "the policy does not allow it"
	case plain == "":
		return v.words
	case v.words == "" || strings.EqualFold(v.words, plain):
		return plain
	}
	return plain + " (" + v.words + ")"
}
