package ldapsync

// BER encoding (ITU-T X.690) as RFC 4511 §5.1 restricts it: definite lengths.

// appendTLV appends tag, length and the parts' bytes as value.
func appendTLV(b []byte, tag byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b = append(b, tag)
	switch {
	case n < 0x80:
		b = append(b, byte(n))
	case n < 1<<8:
		b = append(b, 0x81, byte(n))
	case n < 1<<16:
		b = append(b, 0x82, byte(n>>8), byte(n))
	default:
		b = append(b, 0x84, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// tlv is appendTLV to nothing.
func tlv(tag byte, parts ...[]byte) []byte { return appendTLV(nil, tag, parts...) }

// integer is an INTEGER or ENUMERATED of a small value that is not negative.
func integer(tag byte, v int) []byte {
	var b []byte
	for shift := 24; shift > 0; shift -= 8 {
		if v>>shift != 0 || len(b) > 0 {
			b = append(b, byte(v>>shift))
		}
	}
	b = append(b, byte(v))
	if b[0]&0x80 != 0 {
		b = append([]byte{0}, b...)
	}
	return tlv(tag, b)
}

// text is an OCTET STRING.
func text(s string) []byte { return tlv(tagOctetString, []byte(s)) }

// boolean is a BOOLEAN; RFC 4511 §5.1 wants 0xff for TRUE.
func boolean(v bool) []byte {
	if v {
		return []byte{tagBoolean, 1, 0xff}
	}
	return []byte{tagBoolean, 1, 0}
}
