package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestAmbiguous compares with counting, over random directories in which few
// names and numbers stand twice, edits and removals included.
func TestAmbiguous(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		var s *Snapshot
		now := map[EntryID]User{}
		for range 3 {
			e := s.Edit()
			for range 400 {
				id := EntryID{byte(r.IntN(250)), byte(r.IntN(2))}
				if r.IntN(5) == 0 {
					e.RemoveUser(id)
					delete(now, id)
					continue
				}
				u := User{ID: id, DN: DN(fmt.Sprintf("uid=%x", id)), Name: UserName(fmt.Sprint("u", r.IntN(3000))), UID: uint32(2000 + r.IntN(3000))}
				e.PutUser(u)
				now[id] = u
			}
			s = e.Commit()
			names, uids := map[UserName]int{}, map[uint32]int{}
			for _, u := range now {
				names[u.Name]++
				uids[u.UID]++
			}
			var want []EntryID
			for id, u := range now {
				if names[u.Name] > 1 || uids[u.UID] > 1 {
					want = append(want, id)
				}
			}
			var got []EntryID
			for _, u := range s.Ambiguous(1000) {
				got = append(got, u.ID)
				if _, ambiguous := s.User(u.Name); !ambiguous {
					t.Fatalf("seed %d: %s is not ambiguous to User", seed, u.Name)
				}
			}
			byID := func(a, b EntryID) int { return slices.Compare(a[:], b[:]) }
			slices.SortFunc(want, byID)
			slices.SortFunc(got, byID)
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: %d users, want %d", seed, len(got), len(want))
			}
			if some := s.Ambiguous(1); len(want) > 0 && (len(some) < 1 || len(some) > 2) {
				t.Fatalf("a limit of one of each kind gives %d", len(some))
			}
		}
	}
}
