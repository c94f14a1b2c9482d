package broker

import "slices"

// Recall is the request with the caller's older proofs in it, unless it has some
// already. A session that is opened with it rests on them for good: their ages are
// of the time of asking, and do not grow.
//
// Without a known address nothing is recalled: what somebody has proved on one
// console is none of another's business.
func (b *Broker) Recall(r Request) Request {
	if b.c.Recent != nil && r.Recent == nil && r.User != "" && r.From.IsValid() {
		r.Recent = b.c.Recent(r.User, r.From.Unmap().WithZone(""))
	}
	return r
}

// remember notes what a sign-in has shown that counts later. Only SignIn's provers
// can have proved a code: a door's peer never has.
func (b *Broker) remember(r Request, e Evidence) {
	if b.c.Remember != nil && r.From.IsValid() && slices.Contains(e.Proofs, ProofOTP) {
		b.c.Remember(r.User, r.From.Unmap().WithZone(""), ProofOTP)
	}
}
