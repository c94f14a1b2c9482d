package accept

import (
	"encoding/binary"

	"github.com/sekisho/sekisho/krb"
	"github.com/sekisho/sekisho/krb/der"
)

// A PAC (MS-PAC §2.3) is a table of buffers; that of type 6 is a checksum of the
// whole with the service key, those of type 6 and 7 taken as zeros (§2.8.1).
const (
	pacServerSum  = 6
	pacKDCSum     = 7
	maxPACBuffers = 32
	usagePAC      = 17 // KERB_NON_KERB_CKSUM_SALT
)

// findPAC gives the ticket's PAC if the KDC signed it for us. The client can make
// a KDC copy authorization data into a ticket, so the seal of the ticket alone
// does not say that the KDC wrote a PAC.
func findPAC(data []der.Typed, key krb.Key) ([]byte, *Error) {
	var pac []byte
	for _, d := range data {
		inner, refused := relevant(d)
		if refused != nil {
			return nil, refused
		}
		for _, e := range inner {
			if e.Type != adPAC {
				continue
			}
			if pac != nil {
				return nil, refuse(NotAllowed, codePolicy, "the ticket has more than one PAC")
			}
			pac = e.Value
		}
	}
	if pac != nil && !signedPAC(pac, key) {
		return nil, refuse(Forged, codeBadIntegrity, "the ticket's PAC is not signed with our key, or cannot be read")
	}
	return pac, nil
}

func signedPAC(pac []byte, key krb.Key) bool {
	const head, entry = 8, 16
	if len(pac) < head || binary.LittleEndian.Uint32(pac[4:]) != 0 {
		return false
	}
	count := binary.LittleEndian.Uint32(pac)
	if count > maxPACBuffers || len(pac) < head+int(count)*entry {
		return false
	}
	blank := append([]byte(nil), pac...)
	var sum []byte
	seen := make(map[uint32]bool)
	for i := range int(count) {
		e := pac[head+i*entry:]
		kind, size, at := binary.LittleEndian.Uint32(e), uint64(binary.LittleEndian.Uint32(e[4:])), binary.LittleEndian.Uint64(e[8:])
		if at > uint64(len(pac)) || size > uint64(len(pac))-at || at < uint64(head+int(count)*entry) || seen[kind] {
			return false
		}
		seen[kind] = true
		if kind != pacServerSum && kind != pacKDCSum {
			continue
		}
		n, ok := sumSize(pac[at : at+size])
		if !ok {
			return false
		}
		clear(blank[at+4 : at+4+uint64(n)])
		if kind == pacServerSum {
			if int32(binary.LittleEndian.Uint32(pac[at:])) != key.ChecksumType() {
				return false
			}
			sum = pac[at+4 : at+4+uint64(n)]
		}
	}
	return sum != nil && key.VerifyChecksum(usagePAC, blank, sum)
}

// sumSize is the length of the checksum in a signature buffer, whose type is in
// its first 4 bytes; an identifier of an RODC may follow it.
func sumSize(b []byte) (int, bool) {
	if len(b) < 4 {
		return 0, false
	}
	n := 0
	switch binary.LittleEndian.Uint32(b) {
	case 15, 16: // HMAC-SHA1-96 with AES
		n = 12
	case 19: // HMAC-SHA256-128 with AES128
		n = 16
	case 20: // HMAC-SHA384-192 with AES256
		n = 24
	case 0xffffff76: // HMAC-MD5, which some KDCs still sign for themselves with
		n = 16
	default:
		return 0, false
	}
	return n, len(b) >= 4+n
}
