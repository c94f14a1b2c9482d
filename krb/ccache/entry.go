package ccache

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sekisho/sekisho/krb"
)

// Entry is one credential as the cache holds it. Printing it shows no key.
type Entry struct {
	Client, Server Name
	// EType and Key are the session key; any type is kept.
	EType uint16
	Key   []byte
	// The times are seconds since 1970, without a sign; 0 is none.
	AuthTime, StartTime, EndTime, RenewTill uint32
	// IsSKey says that the ticket is sealed with SecondTicket's session key
	// (user-to-user).
	IsSKey               bool
	Flags                krb.TicketFlags
	Addresses            []Typed
	AuthData             []Typed
	Ticket, SecondTicket []byte
}

// Typed is a host address or an element of authorization data.
type Typed struct {
	Type uint16
	Data []byte
}

// The names by which MIT marks entries that are configuration.
const (
	configRealm   = "X-CACHECONF:"
	removedRealm  = "X-RMED-CONF:"
	configService = "krb5_ccache_conf_data"
)

// NewEntry is a ticket as a cache holds it.
func NewEntry(c krb.Credential) Entry {
	return Entry{
		Client: NameOf(c.Client), Server: NameOf(c.Server),
		EType: uint16(c.Key.EType), Key: slices.Clone(c.Key.Value),
		AuthTime: seconds(c.AuthTime), StartTime: seconds(c.StartTime),
		EndTime: seconds(c.EndTime), RenewTill: seconds(c.RenewTill),
		Flags: c.Flags, Ticket: slices.Clone(c.Ticket),
	}
}

// NewConfig is a configuration entry of MIT's: about is the principal it speaks
// of, empty for the cache itself.
func NewConfig(client Name, key, about string, value []byte) Entry {
	server := Name{Type: 1, Realm: configRealm, Components: []string{configService, key}}
	if about != "" {
		server.Components = append(server.Components, about)
	}
	return Entry{Client: client, Server: server, Ticket: slices.Clone(value)}
}

// Config is the key and the principal of a configuration entry; its value is in
// Ticket.
func (e Entry) Config() (key, about string, ok bool) {
	s := e.Server
	if s.Realm != configRealm && s.Realm != removedRealm || len(s.Components) < 2 || s.Components[0] != configService {
		return "", "", false
	}
	if len(s.Components) > 2 {
		about = s.Components[2]
	}
	return s.Components[1], about, true
}

// Removed reports whether MIT's library has struck the entry out: it leaves the
// bytes where they are, without an end and with an impossible beginning.
func (e Entry) Removed() bool { return e.EndTime == 0 && e.AuthTime != 0 }

// IsTGT reports whether the ticket is for the ticket-granting service of realm.
func (e Entry) IsTGT(realm string) bool {
	return e.Server.Equal(Name{Realm: realm, Components: []string{"krbtgt", realm}})
}

// Credential is the strict form of a ticket: names that Sekisho makes, a key of
// an accepted type, an end.
func (e Entry) Credential() (krb.Credential, error) {
	bad := func(err error) (krb.Credential, error) {
		return krb.Credential{}, fmt.Errorf("the ticket for %.200q: %w", e.Server.String(), err)
	}
	if _, _, config := e.Config(); config || e.Removed() || e.EndTime == 0 {
		return bad(errors.New("is no ticket"))
	}
	if e.IsSKey {
		return bad(errors.New("is for a user-to-user exchange, which is not supported"))
	}
	out := krb.Credential{Ticket: slices.Clone(e.Ticket), Flags: e.Flags,
		AuthTime: at(e.AuthTime), StartTime: at(e.StartTime), EndTime: at(e.EndTime), RenewTill: at(e.RenewTill)}
	if e.StartTime == 0 {
		out.StartTime = out.AuthTime
	}
	var err error
	if out.Client, err = e.Client.Principal(); err != nil {
		return bad(err)
	}
	if out.Server, err = e.Server.Principal(); err != nil {
		return bad(err)
	}
	if out.Key, err = krb.NewKey(int32(e.EType), e.Key); err != nil {
		return bad(err)
	}
	if len(out.Ticket) == 0 {
		return bad(errors.New("is empty"))
	}
	return out, nil
}

// Start and End are the times as such, StartTime or else AuthTime; zero is none.
func (e Entry) Start() time.Time {
	if e.StartTime != 0 {
		return at(e.StartTime)
	}
	return at(e.AuthTime)
}

// End is when the ticket expires, and Renewable until when it can be renewed.
func (e Entry) End() time.Time       { return at(e.EndTime) }
func (e Entry) Renewable() time.Time { return at(e.RenewTill) }

// String names the ticket and keeps its key out of logs.
func (e Entry) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "ticket of %s for %s", e.Client, e.Server)
	if e.EndTime != 0 {
		fmt.Fprintf(&b, " until %s", e.End().Format(time.RFC3339))
	}
	return b.String()
}

// GoString is String.
func (e Entry) GoString() string { return e.String() }

func at(s uint32) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(int64(s), 0).UTC()
}

// seconds keeps to what 32 bits without a sign hold.
func seconds(t time.Time) uint32 {
	if t.IsZero() {
		return 0
	}
	return uint32(min(max(t.Unix(), 0), 1<<32-1))
}
