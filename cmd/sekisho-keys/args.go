package main

import (
	"errors"
	"strconv"

	"github.com/sekisho/sekisho/wire"
)

// Limits of the arguments, in bytes. A request with all of them, percent-
// encoded, fits in wire.MaxLine.
const (
	maxUser = 256      // LOGIN_NAME_MAX of Linux
	maxType = 64       // RFC 4251 §6
	maxKey  = 12 << 10 // base64; an RSA key of 16384 bits has 2.8 KiB
)

// command is the command line, judged.
type command struct {
	help, version bool
	socket        string
	request       wire.Request
}

// parseArgs reads the command line. Flags stand before USER and only there,
// so that no user's name can be taken for one.
func parseArgs(args []string) (command, error) {
	c := command{socket: defaultSocket}
	for len(args) > 0 && len(args[0]) > 0 && args[0][0] == '-' {
		switch {
		case args[0] == "--help" && len(args) == 1:
			return command{help: true}, nil
		case args[0] == "--version" && len(args) == 1:
			return command{version: true}, nil
		case args[0] == "--socket" && len(args) > 1 && c.socket == defaultSocket:
			c.socket, args = args[1], args[2:]
		default:
			return command{}, errors.New("the command line is wrong: see sekisho-keys --help")
		}
	}
	if len(args) < 1 || len(args) > 4 {
		return command{}, errors.New("1 to 4 arguments are needed, %u %f %t %k of sshd: see sekisho-keys --help")
	}
	c.request.Verb = wire.VerbKeys
	for i, rule := range []struct {
		field, name string
		good        func(string) bool
		want        string
	}{
		{wire.FieldUser, "USER", isUser, "1 to 256 bytes without control characters, not beginning with a dash"},
		{wire.FieldFingerprint, "FINGERPRINT", isFingerprint, `"SHA256:" and 43 characters: set FingerprintHash sha256 in sshd_config`},
		{wire.FieldType, "TYPE", isType, "1 to 64 characters of A-Z a-z 0-9 - . @ _"},
		{wire.FieldKey, "KEY", isKey, "base64 of at most 12288 characters"},
	} {
		if i == len(args) {
			break
		}
		if !rule.good(args[i]) {
			return command{}, errors.New(rule.name + " must be " + rule.want)
		}
		c.request.Fields = append(c.request.Fields, wire.Field{Name: rule.field, Value: args[i]})
	}
	return c, nil
}

func isUser(s string) bool {
	if s == "" || len(s) > maxUser || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

func isFingerprint(s string) bool {
	const head = "SHA256:"
	return len(s) == len(head)+43 && s[:len(head)] == head && isBase64(s[len(head):])
}

func isType(s string) bool {
	for i := range len(s) {
		if c := s[i]; !alnum(c) && c != '-' && c != '.' && c != '@' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= maxType
}

func isKey(s string) bool {
	if s == "" || len(s) > maxKey || len(s)%4 != 0 {
		return false
	}
	for range 2 {
		if s[len(s)-1] == '=' {
			s = s[:len(s)-1]
		}
	}
	return isBase64(s)
}

func isBase64(s string) bool {
	for i := range len(s) {
		if c := s[i]; !alnum(c) && c != '+' && c != '/' {
			return false
		}
	}
	return true
}

func alnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

func utoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
