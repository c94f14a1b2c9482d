package main

import (
	"fmt"
	"strings"

	"rsc.io/qr"
)

// quiet is the light margin of a QR code, in modules (ISO/IEC 18004 §5.3.8).
const quiet = 4

// drawQR is a text as a QR code for a terminal of UTF-8: two modules a character,
// one above the other, dark on bright white whatever the terminal's own colours.
func drawQR(text string) (string, error) {
	c, err := qr.Encode(text, qr.L)
	if err != nil {
		return "", fmt.Errorf("drawing the QR code: %w", err)
	}
	var b strings.Builder
	for y := -quiet; y < c.Size+quiet; y += 2 {
		b.WriteString("\x1b[30;107m")
		for x := -quiet; x < c.Size+quiet; x++ {
			switch up, down := c.Black(x, y), c.Black(x, y+1); {
			case up && down:
				b.WriteRune('█')
			case up:
				b.WriteRune('▀')
			case down:
				b.WriteRune('▄')
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteString("\x1b[0m\n")
	}
	return b.String(), nil
}
