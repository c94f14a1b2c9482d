package keys

import "testing"

// Public keys made with ssh-keygen for the benchmarks.
const (
	benchED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILRnaaa4jmfpjlx5ISjT1CjGP89yWxbZ4lsdpo69WiEy alice@example.org"
	benchECDSA   = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBCRdjE+kLjJxRXBLk8n2zDNpUzQUxuEfS2I999OHLeOgh3yZLstBvTkJvMgOIWhQFpkK2Xhs/OeiVnpRvB7hcQ0= bob@example.org"
	benchRSA     = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQDBqDd97ifA4TSsm1iAj6untme/NtmQe1+V6sXo9uGBkTdaDomDBwTKahGrLM+41ZQKtxAUpR1vQOY/d2SQtVajD2LxWFfPVwqOFiX5NRHdsfnq9Hvs+LYE2Uc1F/TFXbjGwKoMg8+HiY300Gas0zwjFGMbqEqO8ITiHdxLghwu1XrtYBcg5eqY4YAbasHapKqXhzOO6CNoMyXwuG0cgE4c7vDwlNbgFP1Gkg4fICcKCDNYIJwEY+uMXiyeO/8xs5/c68BJiQ5N3PKCqEozlSzd13kQyoduKGTD/Nx3ibu4Q0uAoIXwaW28In3ltkR50bLjfbv9Sig3ms8wSTEtLTSYADNgumo3/Juh8XOgcK36JkNrd85FRV4lDDUqITAmrerbP8HzKZqUygaSJSteL6z2RPGMEkXm3nktDkYNR3imn4hbW62La6p6X1o0zbRTERJg3IoH+h59xgwv/LzGl3Us6cXyQM8/4q8VRkixJTqo9qnJCjszMj5sa1ul/PiwKlE= carol@example.org"
)

var benchLines = []struct{ name, line string }{
	{"ed25519", benchED25519},
	{"ecdsa", benchECDSA},
	{"rsa3072", benchRSA},
	{"options", `restrict,pty,from="192.0.2.0/24,2001:db8::/32",permitopen="db.example.org:5432" ` + benchED25519},
}

func BenchmarkParseLine(b *testing.B) {
	for _, l := range benchLines {
		b.Run(l.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseLine(l.line); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkFingerprint(b *testing.B) {
	for _, l := range benchLines[:3] {
		p, err := ParseLine(l.line)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(l.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if p.Key.Fingerprint() == "" {
					b.Fatal("no fingerprint")
				}
			}
		})
	}
}

func BenchmarkFormat(b *testing.B) {
	for _, l := range benchLines {
		p, err := ParseLine(l.line)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(l.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Format(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPolicyCheck(b *testing.B) {
	for _, l := range benchLines[:3] {
		p, err := ParseLine(l.line)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(l.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := (Policy{}).Check(p.Key); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The first sync of a large directory parses hundreds of thousands of plain
// lines: the cost of one is part of the contract.
func TestParseLineAllocations(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		if _, err := ParseLine(benchED25519); err != nil {
			t.Fatal(err)
		}
	}); n > 4 {
		t.Errorf("ParseLine of a plain Ed25519 line: %v allocations, at most 4 are allowed", n)
	}
}
