package krb

import (
	"fmt"
	"time"
)

// TicketFlags are the flags of RFC 4120 §5.3, the first in the highest bit.
type TicketFlags uint32

// The flags that something here looks at.
const (
	FlagForwardable TicketFlags = 1 << (31 - 1)
	FlagForwarded   TicketFlags = 1 << (31 - 2)
	FlagProxiable   TicketFlags = 1 << (31 - 3)
	FlagProxy       TicketFlags = 1 << (31 - 4)
	FlagPostdated   TicketFlags = 1 << (31 - 6)
	FlagInvalid     TicketFlags = 1 << (31 - 7)
	FlagRenewable   TicketFlags = 1 << (31 - 8)
	FlagInitial     TicketFlags = 1 << (31 - 9)
	FlagPreAuthent  TicketFlags = 1 << (31 - 10)
	FlagHWAuthent   TicketFlags = 1 << (31 - 11)
	FlagOKDelegate  TicketFlags = 1 << (31 - 13)
	FlagAnonymous   TicketFlags = 1 << (31 - 16)
)

// Credential is a ticket with what its holder needs to use it: the session key
// and what the KDC said of it in the reply. Printing it shows no key.
type Credential struct {
	Client, Server Principal
	// Key is the session key.
	Key Key
	// Ticket is the ticket as it is sent, DER.
	Ticket []byte
	Flags  TicketFlags
	// The times are to the second. StartTime is AuthTime when the KDC named
	// none; RenewTill is zero for a ticket that cannot be renewed.
	AuthTime, StartTime, EndTime, RenewTill time.Time
}

// String names the ticket and keeps its key out of logs.
func (c Credential) String() string {
	return fmt.Sprintf("ticket of %s for %s until %s", c.Client, c.Server, c.EndTime.UTC().Format(time.RFC3339))
}

// GoString is String.
func (c Credential) GoString() string { return c.String() }
