package feed

import (
	"time"

	"github.com/sekisho/sekisho/broker"
)

// State is what a Client is doing.
type State string

// The states.
const (
	Loading    State = "loading"    // reading the last good snapshot from disk
	Connecting State = "connecting" // dialing, TLS, hello
	Live       State = "live"       // following, and proven up to date a moment ago
	Lagging    State = "lagging"    // following, without a recent proof
	Waiting    State = "waiting"    // no broker can be followed; see LastError and RetryAt
	Stopped    State = "stopped"    // Run has not begun or has ended
)

// Status is how a Client is doing.
type Status struct {
	State State
	// Broker is that in use or last tried.
	Broker string
	// Generation, AsOf and the counts are those of the published snapshot;
	// Loaded says that there is one. BrokerGeneration is that of the broker's.
	Loaded                       bool
	Generation, BrokerGeneration uint64
	AsOf                         time.Time
	Users, Groups, Hosts, Rules  int
	LastChange                   time.Time
	// LastError is why a broker was last left, at LastErrorAt; empty once live
	// again. RetryAt is the next try while Waiting.
	LastError   string
	LastErrorAt time.Time
	RetryAt     time.Time
	// DiskError is why the snapshot cannot be written; empty when it can, and
	// DiskBytes its size there.
	DiskError string
	DiskBytes int64
}

// HostStatus is one host that follows, has followed, or may.
type HostStatus struct {
	Host      broker.HostName
	Connected bool
	// From is its address while it is connected. Since is when it came or went; zero
	// when it has not been connected since this broker began.
	From  string
	Since time.Time
	// Applied and Judged are the broker's generations that it has confirmed last.
	Applied, Judged uint64
	// Behind is for how long it has been owing the oldest confirmation that it owes,
	// while it is connected; zero: none.
	Behind time.Duration
	// Sessions are those that it has, or had when it was last heard.
	Sessions int
	// Users, Groups and Rules are how many its view has.
	Users, Groups, Rules int
}

// Confirmation is what Confirm found out of one host.
type Confirmation struct {
	Host broker.HostName
	// OK: the host has judged its sessions by the generation, and all that it had
	// to end are gone. Otherwise Why says what is missing.
	OK  bool
	Why string
	// Took is from the call of Confirm to the confirmation; zero for a host that had
	// confirmed before.
	Took time.Duration
}
