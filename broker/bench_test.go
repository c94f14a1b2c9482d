package broker

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/sekisho/sekisho/keys"
)

// benchUser is a user as directories have them: one in ten has three keys.
func benchUser(i int) User {
	name := fmt.Sprintf("user%07d", i)
	u := User{DN: DN("uid=" + name + ",ou=people,dc=sekisho,dc=internal"), Name: UserName(name), UID: uint32(10000 + i), GID: 5000,
		Gecos: fmt.Sprintf("Given Family %d", i), Home: "/home/" + name, Shell: "/bin/" + strings.Clone("bash")}
	u.ID[0], u.ID[1], u.ID[2], u.ID[3] = byte(i>>24), byte(i>>16), byte(i>>8), byte(i)
	if i%10 == 0 {
		for k := range 3 {
			blob := make([]byte, 51) // an ssh-ed25519 key's size
			r := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8), byte(i >> 16), byte(k)})
			r.Read(blob)
			u.Keys = append(u.Keys, keys.Line{Key: keys.Key{Type: "ssh-ed25519", Blob: string(blob)}, Comment: strings.Clone(name + "@host")})
		}
	}
	return u
}

// benchDirectory has n users, each in one of n/100 groups of a hundred, which
// are nested ten to one.
func benchDirectory(n int) *Snapshot {
	e := (*Snapshot)(nil).Edit()
	for i := range n {
		e.PutUser(benchUser(i))
	}
	dn := func(kind string, i int) DN {
		return DN(fmt.Sprintf("cn=%s%d,ou=groups,dc=sekisho,dc=internal", kind, i))
	}
	for i := 0; i < n; i += 100 {
		g := Group{DN: dn("team", i/100), Name: GroupName(fmt.Sprintf("team%d", i/100)), GID: uint32(2000000 + i/100)}
		g.ID = entryID("group", string(g.Name))
		for j := range 100 {
			name := fmt.Sprintf("user%07d", i+j)
			g.Members = append(g.Members, DN("uid="+name+",ou=people,dc=sekisho,dc=internal"))
		}
		e.PutGroup(g)
	}
	for i := 0; i < n; i += 1000 {
		g := Group{DN: dn("dept", i/1000), Name: GroupName(fmt.Sprintf("dept%d", i/1000))}
		g.ID = entryID("group", string(g.Name))
		for j := range 10 {
			g.Members = append(g.Members, dn("team", i/100+j))
		}
		e.PutGroup(g)
	}
	e.PutHost(Host{ID: EntryID{0xff}, DN: "cn=web1", Names: []HostName{"web1"}})
	return e.Commit()
}

var benchSizes = []int{10_000, 100_000, 1_000_000}

// BenchmarkEditUser: one user's change, published. The bound: at a million
// users at most twice the cost at ten thousand.
func BenchmarkEditUser(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := benchDirectory(n)
			i := 0
			for b.Loop() {
				i = (i + 7919) % n
				u := *s.UserByDN(benchUser(i).DN)
				u.Gecos = "changed"
				e := s.Edit()
				e.PutUser(u)
				s = e.Commit()
			}
		})
	}
}

// BenchmarkMember: one user in and out of a group of a hundred.
func BenchmarkMember(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := benchDirectory(n)
			i := 0
			for b.Loop() {
				i = (i + 7919) % (n / 100)
				id := entryID("group", fmt.Sprintf("team%d", i))
				g := *s.GroupByID(id)
				if len(g.Members) == 100 {
					g.Members = g.Members[1:]
				} else {
					g.Members = append(g.Members[:len(g.Members):len(g.Members)], DN(fmt.Sprintf("uid=extra%d", i)))
				}
				e := s.Edit()
				e.PutGroup(g)
				s = e.Commit()
			}
		})
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprintf("%d-rules", n), func(b *testing.B) {
			e := benchDirectory(10_000).Edit()
			for i := range n {
				r, err := ParseRule(RuleAttributes{Name: fmt.Sprintf("r%04d", i), Subject: []string{fmt.Sprintf("group:dept%d", i%10)},
					Door: []string{"keys"}, Target: []string{"host:web*"}})
				if err != nil {
					b.Fatal(err)
				}
				r.ID = entryID("rule", string(r.Name))
				e.PutRule(r)
			}
			v := View{Snapshot: e.Commit(), AsOf: testNow}
			i := 0
			for b.Loop() {
				i = (i + 7919) % 10_000
				if d := Decide(v, Request{User: UserName(fmt.Sprintf("user%07d", i)), Door: "keys", Target: Target{Host: "web1"}}, nil, testNow); d.Outcome != Allow {
					b.Fatalf("%+v", d)
				}
			}
		})
	}
}

// BenchmarkMemory loads a million users and reports what each costs: the live
// heap, and the process's resident memory once the garbage is given back to
// the system, which the runtime does by itself only after minutes.
func BenchmarkMemory(b *testing.B) {
	const n = 1_000_000
	for range b.N {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		s := benchDirectory(n)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "heap-B/user")
		debug.FreeOSMemory()
		b.ReportMetric(float64(resident(b))/n, "rss-B/user")
		runtime.KeepAlive(s)
	}
}

// resident is VmRSS of this process.
func resident(b *testing.B) int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	var kb int
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		b.Fatal(err)
	}
	return kb * 1024
}
