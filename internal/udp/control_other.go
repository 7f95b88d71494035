//go:build !linux && !darwin && !freebsd

package udp

// controlSpace is zero: control messages are left alone here.
const controlSpace = 0

func setupControl(uintptr, bool) {}

func decodeControl([]byte, *Message) {}

func encodeControl([]byte, *Message, bool) []byte { return nil }

func setMark(uintptr, uint32) error { return nil }
