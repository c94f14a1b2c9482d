package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sekisho/sekisho/otp"
)

// TestQRCode: what is drawn for the terminal is read by an app: ZXing, from a
// picture of it.
func TestQRCode(t *testing.T) {
	for _, tok := range []otp.Token{
		{Issuer: "sekisho.internal", Account: "alice", Secret: otp.NewSecret(otp.SHA1), Params: otp.Default()},
		{Issuer: "Example Org & Söhne", Account: "a.long-user_name.of.thirty-two.c", Secret: otp.NewSecret(otp.SHA512),
			Params: otp.Params{Algorithm: otp.SHA512, Digits: 8, Period: time.Minute}},
	} {
		uri, err := tok.URI()
		if err != nil {
			t.Fatal(err)
		}
		drawn, err := drawQR(uri)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "qr.pgm")
		if err := os.WriteFile(file, picture(t, drawn), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("ZXingReader", "-format", "QRCode", file).CombinedOutput()
		if err != nil || !strings.Contains(string(out), `"`+uri+`"`) {
			t.Errorf("ZXingReader: %v: %s\nwant %s", err, out, uri)
		}
		if tok.Account == "alice" {
			for i, line := range strings.Split(strings.TrimSuffix(drawn, "\n"), "\n") {
				if w := len([]rune(bare(line))); w > 60 {
					t.Errorf("line %d is %d wide: it does not fit beside anything on a terminal", i, w)
				}
			}
		}
	}
}

func bare(line string) string {
	return strings.TrimSuffix(strings.TrimPrefix(line, "\x1b[30;107m"), "\x1b[0m")
}

// picture is what a terminal shows, four pixels a module, as a grey map (PGM). It
// is on black, so that the margin must be the code's own.
func picture(t *testing.T, drawn string) []byte {
	t.Helper()
	var rows [][]byte
	for line := range strings.Lines(drawn) {
		var up, down []byte
		for _, r := range bare(strings.TrimSuffix(line, "\n")) {
			ink, ok := map[rune][2]byte{'█': {0, 0}, '▀': {0, 255}, '▄': {255, 0}, ' ': {255, 255}}[r]
			if !ok {
				t.Fatalf("%q is drawn", r)
			}
			for range 4 {
				up, down = append(up, ink[0]), append(down, ink[1])
			}
		}
		for range 4 {
			rows = append(rows, up)
		}
		for range 4 {
			rows = append(rows, down)
		}
	}
	const edge = 40
	width := len(rows[0]) + 2*edge
	out := fmt.Appendf(nil, "P5\n%d %d\n255\n", width, len(rows)+2*edge)
	out = append(out, make([]byte, width*edge)...)
	for _, r := range rows {
		if len(r) != len(rows[0]) {
			t.Fatal("the lines differ in length")
		}
		out = append(out, make([]byte, edge)...)
		out = append(out, r...)
		out = append(out, make([]byte, edge)...)
	}
	return append(out, make([]byte, width*edge)...)
}
