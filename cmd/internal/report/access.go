package report

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sekisho/sekisho/wire"
)

// VerbAccess asks who may enter what now: for one user all hosts, or for one host
// all users. Its fields are user or host, and after.
const VerbAccess = "access"

// Access is one way in that the directory allows as it is now, to somebody with
// all the proofs that a rule asks for.
type Access struct {
	User   string   `json:"user"`
	Host   string   `json:"host"`
	Door   string   `json:"door"`
	Logins []string `json:"logins"`         // accounts on the host
	From   []string `json:"from,omitempty"` // networks; empty: anywhere
	Rules  []string `json:"rules"`
	Until  string   `json:"until,omitempty"` // RFC 3339
}

// AccessPage is one answer to the verb access.
type AccessPage struct {
	// After is the host or user that the next page begins after; empty: this was
	// the last.
	After string `json:"after,omitempty"`
	// TooMany is how many users a host's rules are for, when they are too many to
	// be gone through; 0 else.
	TooMany    int      `json:"too_many,omitempty"`
	Generation uint64   `json:"generation"`
	AgeSeconds int64    `json:"age_seconds"`
	Access     []Access `json:"-"` // a line each
}

// EncodeAccess puts a page into a body: a head, then one line for each way in.
func EncodeAccess(p AccessPage) ([]string, error) {
	body := make([]string, 0, len(p.Access)+1)
	head, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("writing the answer: %w", err)
	}
	body = append(body, string(head))
	for _, a := range p.Access {
		b, err := json.Marshal(a)
		if err != nil {
			return nil, fmt.Errorf("writing the answer: %w", err)
		}
		body = append(body, string(b))
	}
	return body, nil
}

// DecodeAccess reads what EncodeAccess wrote.
func DecodeAccess(a wire.Answer) (p AccessPage, err error) {
	if len(a.Body) == 0 {
		return p, errors.New("the answer is empty: install the same release of sekisho and sekishod")
	}
	if err := json.Unmarshal([]byte(a.Body[0]), &p); err != nil {
		return p, fmt.Errorf("reading the answer: %w", err)
	}
	for _, l := range a.Body[1:] {
		var x Access
		if err := json.Unmarshal([]byte(l), &x); err != nil {
			return p, fmt.Errorf("reading the answer: %w", err)
		}
		p.Access = append(p.Access, x)
	}
	return p, nil
}
