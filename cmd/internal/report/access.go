package report

import "github.com/sekisho/sekisho/wire"

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

// EncodeAccess puts a page into a body.
func EncodeAccess(p AccessPage) ([]string, error) { return encodePage(p, p.Access) }

// DecodeAccess reads what EncodeAccess wrote.
func DecodeAccess(a wire.Answer) (p AccessPage, err error) {
	p.Access, err = decodePage[Access](a, &p)
	return p, err
}
