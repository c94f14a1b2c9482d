package otp

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Token is what an authenticator app is told.
type Token struct {
	// Issuer and Account are what it shows: the site, and the user's name there.
	Issuer, Account string
	Secret          []byte
	Params          Params
}

const (
	maxName = 128
	maxURI  = 2048
)

// CheckName says what is wrong with an issuer or an account.
func CheckName(s string) error {
	if s == "" || len(s) > maxName || !utf8.ValidString(s) || strings.ContainsRune(s, ':') ||
		strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%.40q must be 1 to %d bytes of text without a colon", s, maxName)
	}
	return nil
}

func (t Token) check() error {
	if err := CheckName(t.Issuer); err != nil {
		return fmt.Errorf("issuer %w", err)
	}
	if err := CheckName(t.Account); err != nil {
		return fmt.Errorf("account %w", err)
	}
	if err := CheckSecret(t.Secret); err != nil {
		return err
	}
	return t.Params.Check()
}

// URI is the token as otpauth://totp/ISSUER:ACCOUNT?secret=…, by the "Key Uri
// Format" of Google Authenticator, which all apps read from a QR code. It holds
// the secret.
func (t Token) URI() (string, error) {
	if err := t.check(); err != nil {
		return "", err
	}
	return "otpauth://totp/" + url.PathEscape(t.Issuer) + ":" + url.PathEscape(t.Account) +
		"?secret=" + Text(t.Secret) + "&issuer=" + strings.ReplaceAll(url.QueryEscape(t.Issuer), "+", "%20") +
		"&algorithm=" + string(t.Params.Algorithm) + "&digits=" + strconv.Itoa(t.Params.Digits) +
		"&period=" + strconv.FormatInt(int64(t.Params.Period/time.Second), 10), nil
}

// ParseURI reads what URI wrote, or another program: algorithm, digits and period
// may be absent, and so may the issuer in one of its two places. An error tells
// nothing of the secret.
func ParseURI(text string) (Token, error) {
	t := Token{Params: Default()}
	bad := func(what string) (Token, error) { return Token{}, errors.New("the otpauth URI " + what) }
	if len(text) > maxURI {
		return bad("is too long")
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "otpauth" || u.Host != "totp" || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return bad("does not begin with otpauth://totp/")
	}
	label := strings.TrimPrefix(u.Path, "/")
	if issuer, account, ok := strings.Cut(label, ":"); ok {
		t.Issuer, t.Account = issuer, strings.TrimLeft(account, " ")
	} else {
		t.Account = label
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return bad("has a query that cannot be read")
	}
	for name, values := range q {
		if len(values) != 1 {
			return bad("has a parameter twice")
		}
		v := values[0]
		switch name {
		case "secret":
			if t.Secret, err = ParseText(v); err != nil {
				return Token{}, err
			}
		case "issuer":
			if t.Issuer != "" && t.Issuer != v {
				return bad("names two issuers")
			}
			t.Issuer = v
		case "algorithm":
			t.Params.Algorithm = Algorithm(strings.ToUpper(v))
		case "digits":
			if t.Params.Digits, err = strconv.Atoi(v); err != nil {
				return bad("has digits that are no number")
			}
		case "period":
			n, err := strconv.ParseUint(v, 10, 16)
			if err != nil {
				return bad("has a period that is no number")
			}
			t.Params.Period = time.Duration(n) * time.Second
		case "image":
		default:
			return bad("has a parameter that nobody knows")
		}
	}
	if err := t.check(); err != nil {
		return Token{}, fmt.Errorf("the otpauth URI: %w", err)
	}
	return t, nil
}
