package audit

import (
	"fmt"
	"time"
)

// VerifyConfig says what to verify, and by what.
type VerifyConfig struct {
	Dir string
	// Keys are the public keys that seals may have been made with, from a place
	// that nobody on the machine can write to. Empty: the folder's own key.pub,
	// else what its first seal says.
	Keys []string
	// Seals are lines of seals that were kept elsewhere, a copy in a central
	// syslog for instance, with anything before and after them. Each must stand in
	// the record as it is, unless it is older; one of them at least must. Lines
	// that are no seals, or not made with one of Keys if there are any, are left
	// out.
	Seals []string
	// Progress is told now and then how many bytes of how many are done; nil:
	// nobody is.
	Progress func(done, total int64)
}

// Point is one record.
type Point struct {
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	File string    `json:"file"`
}

// Problem is one thing that is wrong.
type Problem struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"` // 0: the file as a whole
	What string `json:"what"`
}

func (p Problem) String() string {
	switch {
	case p.File == "":
		return p.What
	case p.Line == 0:
		return p.File + ": " + p.What
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.What)
}

// Verdict is what Verify found.
type Verdict struct {
	Files   int    `json:"files"`
	Records uint64 `json:"records"` // lines, seals and all
	Bytes   int64  `json:"bytes"`
	First   Point  `json:"first"`
	Last    Point  `json:"last"`
	// Prev is the hash that the first record names of the one before it; empty
	// when it is the first of all. Deleted is the record that says that those
	// before the first were deleted for their age.
	Prev    string `json:"prev,omitempty"`
	Deleted uint64 `json:"deleted,omitempty"`
	// Seals are good ones, LastSeal is the last of them, and LastSealLine its
	// line, to be kept elsewhere. Unsealed is how many records follow it.
	Seals        uint64 `json:"seals"`
	LastSeal     Point  `json:"last_seal,omitzero"`
	LastSealLine string `json:"last_seal_line,omitempty"`
	Unsealed     uint64 `json:"unsealed"`
	// Key is the public key that the seals were verified with; Trusted says that
	// it was given, and not found in the folder.
	Key     string `json:"key,omitempty"`
	Trusted bool   `json:"trusted"`
	// Mended are places where a crash or a disk fault left bytes that do not
	// count, as a later record says; Gaps are records of times without a record.
	Mended []Problem `json:"mended,omitempty"`
	Gaps   []Problem `json:"gaps,omitempty"`
	// Notes are what could not be looked at.
	Notes []string `json:"notes,omitempty"`
	// Problems are what is wrong, the first maxProblems of Wrong.
	Problems []Problem `json:"problems,omitempty"`
	Wrong    int       `json:"wrong"`
}

// Good tells whether nothing is wrong.
func (v *Verdict) Good() bool { return v.Wrong == 0 }

const maxProblems = 100
