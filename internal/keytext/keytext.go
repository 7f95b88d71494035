// Package keytext encodes and decodes 32-byte keys as base64 and hexadecimal
// text in constant time: the time depends on the length and the validity of the
// text, never on the key. It uses neither tables nor branches on secret values,
// because an index into a table leaves a trace of the secret in the cache.
package keytext

const (
	// KeyLen is the length of a key in bytes.
	KeyLen = 32
	// Base64Len is the length of a key in base64, with padding.
	Base64Len = 44
	// HexLen is the length of a key in hexadecimal.
	HexLen = 2 * KeyLen
)

// DecodeBase64 decodes the canonical base64 form of a key. It reports false for
// any other length, another alphabet, missing padding, or unused bits that are
// not zero, and then returns the zero key.
func DecodeBase64[T string | []byte](text T) (key [KeyLen]byte, ok bool) {
	if len(text) != Base64Len || text[Base64Len-1] != '=' {
		return key, false
	}
	var invalid int32 // negative once a digit is invalid or an unused bit is set
	var bits uint32
	n := 0
	for i := range Base64Len - 1 {
		v := base64Value(text[i])
		invalid |= v
		bits = bits<<6 | uint32(v)&63
		if i%4 == 3 {
			key[n], key[n+1], key[n+2] = byte(bits>>16), byte(bits>>8), byte(bits)
			n += 3
		}
	}
	// The last three digits hold 18 bits, of which 16 belong to the key.
	key[30], key[31] = byte(bits>>10), byte(bits>>2)
	invalid |= -int32(bits & 3)
	if invalid < 0 {
		return [KeyLen]byte{}, false
	}
	return key, true
}

// EncodeBase64 returns the base64 form of a key.
func EncodeBase64(key *[KeyLen]byte) (text [Base64Len]byte) {
	for i := range 10 {
		v := uint32(key[3*i])<<16 | uint32(key[3*i+1])<<8 | uint32(key[3*i+2])
		text[4*i], text[4*i+1] = base64Digit(v>>18), base64Digit(v>>12)
		text[4*i+2], text[4*i+3] = base64Digit(v>>6), base64Digit(v)
	}
	v := uint32(key[30])<<10 | uint32(key[31])<<2
	text[40], text[41], text[42], text[43] = base64Digit(v>>12), base64Digit(v>>6), base64Digit(v), '='
	return text
}

// DecodeHex decodes the 64 hexadecimal digits of a key, in either case. It
// reports false for any other text, and then returns the zero key.
func DecodeHex[T string | []byte](text T) (key [KeyLen]byte, ok bool) {
	if len(text) != HexLen {
		return key, false
	}
	var invalid int32 // negative once a digit is invalid
	for i := range key {
		high, low := hexValue(text[2*i]), hexValue(text[2*i+1])
		invalid |= high | low
		key[i] = byte(high<<4 | low)
	}
	if invalid < 0 {
		return [KeyLen]byte{}, false
	}
	return key, true
}

// EncodeHex returns the lower-case hexadecimal form of a key.
func EncodeHex(key *[KeyLen]byte) (text [HexLen]byte) {
	for i, b := range key {
		text[2*i], text[2*i+1] = hexDigit(b>>4), hexDigit(b&0xf)
	}
	return text
}

// maskWithin returns all ones if low <= x <= high, otherwise 0.
func maskWithin(x, low, high int32) int32 { return ((low - 1 - x) & (x - high - 1)) >> 31 }

// base64Value returns the value of the base64 digit c, -1 if c is not one.
func base64Value(c byte) int32 {
	x := int32(c)
	return maskWithin(x, 'A', 'Z')&(x-'A'+1) +
		maskWithin(x, 'a', 'z')&(x-'a'+27) +
		maskWithin(x, '0', '9')&(x-'0'+53) +
		maskWithin(x, '+', '+')&63 +
		maskWithin(x, '/', '/')&64 - 1
}

// base64Digit returns the base64 digit of the low six bits of v.
func base64Digit(v uint32) byte {
	x := int32(v & 63)
	return byte(maskWithin(x, 0, 25)&(x+'A') |
		maskWithin(x, 26, 51)&(x-26+'a') |
		maskWithin(x, 52, 61)&(x-52+'0') |
		maskWithin(x, 62, 62)&'+' |
		maskWithin(x, 63, 63)&'/')
}

// hexValue returns the value of the hexadecimal digit c, -1 if c is not one.
func hexValue(c byte) int32 {
	x := int32(c)
	return maskWithin(x, '0', '9')&(x-'0'+1) +
		maskWithin(x, 'a', 'f')&(x-'a'+11) +
		maskWithin(x, 'A', 'F')&(x-'A'+11) - 1
}

// hexDigit returns the lower-case hexadecimal digit of v, 0 to 15.
func hexDigit(v byte) byte {
	x := int32(v)
	return byte('0' + x + maskWithin(x, 10, 15)&('a'-'0'-10))
}
