package report

import (
	"time"

	"github.com/sekisho/sekisho/wire"
)

// VerbHosts asks a broker for all hosts that follow it, or may. Its field is after,
// a host.
const VerbHosts = "hosts"

// Feed is the hosts that follow a broker.
type Feed struct {
	Following int `json:"following"` // those that are behind too
	Behind    int `json:"behind"`
	Gone      int `json:"gone"`
	Absent    int `json:"absent"`
	Sessions  int `json:"sessions"` // of all hosts
	// Hosts, in sekishod's answer to status, are the first MostHosts: all, if that
	// is all there are, or else of those alone that are not well. What sekisho prints
	// as JSON has all of them.
	Hosts []FeedHost `json:"hosts"`
}

// MostHosts is how many hosts are told without being asked for.
const MostHosts = 20

// What a host is doing.
const (
	HostFollowing = "following"
	HostBehind    = "behind" // it follows, and has owed its word about a change for too long
	HostGone      = "gone"   // it followed since sekishod began, and is not connected
	HostAbsent    = "absent" // it may follow, and has not since sekishod began
)

// FeedHost is one host.
type FeedHost struct {
	Host  string     `json:"host"`
	State string     `json:"state"`
	From  string     `json:"from,omitempty"`
	Since *time.Time `json:"since,omitempty"` // when it came or went
	// Generation is the last by which it has said that its sessions are judged, 0
	// for none; BehindSeconds for how long it has owed its word about the next.
	Generation    uint64 `json:"generation"`
	BehindSeconds int64  `json:"behind_seconds"`
	Sessions      int    `json:"sessions"`
}

// HostPage is one answer to the verb hosts.
type HostPage struct {
	Hosts []FeedHost
	// More says that there are others after the last of these.
	More bool
}

// EncodeHosts puts hosts, in the order of their names, into a body.
func EncodeHosts(all []FeedHost) ([]string, error) { return encodeFirst(pageHead{}, all) }

// DecodeHosts reads what EncodeHosts wrote.
func DecodeHosts(a wire.Answer) (p HostPage, err error) {
	var head pageHead
	p.Hosts, err = decodePage[FeedHost](a, &head)
	p.More = head.More
	return p, err
}
