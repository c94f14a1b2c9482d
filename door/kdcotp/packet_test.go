package kdcotp

import (
	"bytes"
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"strings"
	"testing"
)

// packet builds an Access-Request as libkrad does: attributes and then its length.
func packet(t testing.TB, id byte, auth [16]byte, user, typed string, more ...byte) []byte {
	t.Helper()
	p := append([]byte{codeRequest, id, 0, 0}, auth[:]...)
	p = append(append(p, 32, 6), "dir1"...)
	p = append(p, 6, 6, 0, 0, 0, 8) // Authenticate Only
	p = append(append(p, attrUserPassword, byte(2+len(sealed(typed, auth)))), sealed(typed, auth)...)
	p = append(append(p, attrUserName, byte(2+len(user))), user...)
	p = append(p, more...)
	p[2], p[3] = byte(len(p)>>8), byte(len(p))
	return p
}

// sealed is a User-Password under the empty secret, by the words of RFC 2865 §5.2.
func sealed(typed string, auth [16]byte) []byte {
	plain := []byte(typed)
	for len(plain) == 0 || len(plain)%16 != 0 {
		plain = append(plain, 0)
	}
	var out []byte
	before := auth[:]
	for at := 0; at < len(plain); at += 16 {
		b := md5.Sum(before)
		for i := range 16 {
			b[i] ^= plain[at+i]
		}
		out = append(out, b[:]...)
		before = out[at:]
	}
	return out
}

func randomAuth() (a [16]byte) {
	rand.Read(a[:])
	return a
}

// kradPacket is one of libkrad 1.20's, from the socket of a KDC that was asked for
// alice with "correct horse" and 123456.
const kradPacket = "01f8004cc27f026b3d24737f980e76830badd93f200973616e64626f78060600000008" +
	"0222b9156ab8901c209e62d8fb63f903c3451f5810f066b4839bd0db43840ed434970107616c696365"

func TestKrad(t *testing.T) {
	b, err := hex.DecodeString(kradPacket)
	if err != nil {
		t.Fatal(err)
	}
	r, err := parse(b)
	if err != nil || r.user != "alice" || r.typed != "correct horse123456" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestParse(t *testing.T) {
	auth := randomAuth()
	for _, typed := range []string{"", "x", "123456", "correct horse123456", strings.Repeat("x", 16), strings.Repeat("x", 128), "a\x00b", "pässwörd 関所000000"} {
		r, err := parse(packet(t, 7, auth, "alice", typed))
		if err != nil || r.user != "alice" || r.typed != typed || r.id != 7 || r.auth != auth {
			t.Errorf("%q: %+v, %v", typed, r, err)
		}
	}
	good := packet(t, 7, auth, "alice", "123456")
	if _, err := parse(packet(t, 7, auth, "alice", "123456", 80, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)); err != nil {
		t.Errorf("an attribute of no meaning here: %v", err)
	}
	change := func(at int, b byte) []byte {
		p := bytes.Clone(good)
		p[at] = b
		return p
	}
	for name, p := range map[string][]byte{
		"nothing":             {},
		"a header alone":      good[:20],
		"too short":           good[:len(good)-1],
		"too long":            append(bytes.Clone(good), 0),
		"another code":        change(0, 12),
		"an answer":           change(0, codeAccept),
		"an attribute of 0":   change(21, 0),
		"an attribute of 1":   change(21, 1),
		"beyond the end":      change(21, 255),
		"two names":           packet(t, 7, auth, "alice", "123456", attrUserName, 5, 'b', 'o', 'b'),
		"two passwords":       packet(t, 7, auth, "alice", "123456", append([]byte{attrUserPassword, 18}, make([]byte, 16)...)...),
		"an empty name":       packet(t, 7, auth, "", "123456"),
		"a password of 17":    packet(t, 7, auth, "alice", "123456", append([]byte{attrUserPassword, 19}, make([]byte, 17)...)...),
		"a password of 144":   packet(t, 7, auth, "alice", strings.Repeat("x", 144)),
		"half an attribute":   packet(t, 7, auth, "alice", "123456", 1),
		"a name without more": {1, 7, 0, 27, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 7, 'a', 'l', 'i', 'c', 'e'},
	} {
		if r, err := parse(p); err == nil || r != (request{}) && r.typed != "" {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// TestReply: the Response Authenticator is MD5 of the whole reply with the request's
// authenticator in it and the (empty) secret behind it.
func TestReply(t *testing.T) {
	auth := randomAuth()
	b := (request{id: 9, auth: auth}).reply(codeReject)
	want := append([]byte{3, 9, 0, 20}, auth[:]...)
	sum := md5.Sum(want)
	if !bytes.Equal(b, append([]byte{3, 9, 0, 20}, sum[:]...)) {
		t.Errorf("% x", b)
	}
}

// FuzzParse: whatever comes, what is taken says the same when it is built anew.
func FuzzParse(f *testing.F) {
	auth := [16]byte{1, 2, 3}
	f.Add(packet(f, 1, auth, "alice", "correct horse123456"))
	f.Add(packet(f, 255, auth, "x", strings.Repeat("y", 128)))
	if b, err := hex.DecodeString(kradPacket); err == nil {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		r, err := parse(b)
		if !bytes.Equal(b, before) {
			t.Fatal("the packet was changed")
		}
		if err != nil {
			if r.user != "" || r.typed != "" {
				t.Fatal("something beside an error")
			}
			return
		}
		if len(r.user) == 0 || len(r.user) > 253 || len(r.typed) > maxPassword || strings.HasSuffix(r.typed, "\x00") {
			t.Fatalf("%q %q", r.user, r.typed)
		}
		if again, err := parse(packet(t, r.id, r.auth, r.user, r.typed)); err != nil || again != r {
			t.Fatalf("%+v becomes %+v, %v", r, again, err)
		}
	})
}
