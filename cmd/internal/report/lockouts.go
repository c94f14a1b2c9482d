package report

// The verbs about wrong passwords, and their fields.
const (
	VerbLockouts = "lockouts"
	VerbUnlock   = "unlock"

	FieldSource = "source" // as in Lockout.Name
	FieldAll    = "all"    // yes
)

// Lockout is a counter of wrong passwords and codes whose free ones are used up.
type Lockout struct {
	// Kind is user, source (a network), pair (a user at a network from which he
	// has signed in before) or spray (all networks that are not known).
	Kind string `json:"kind"`
	User string `json:"user,omitempty"`
	// Source is 203.0.113.0/24, 2001:db8::/64 or "on HOST".
	Source string `json:"source,omitempty"`
	// Wrong is what is counted; it decays.
	Wrong float64 `json:"wrong"`
	Last  string  `json:"last"`  // RFC 3339
	Until string  `json:"until"` // the next may be tried then
}

// Lockouts is the answer to the verb lockouts.
type Lockouts struct {
	Lockouts []Lockout `json:"lockouts"`
	// More says that there are others.
	More bool `json:"more,omitempty"`
}

// Unlocked is the answer to the verb unlock.
type Unlocked struct {
	Cleared int `json:"cleared"`
}
