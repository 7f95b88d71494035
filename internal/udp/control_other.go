//go:build !linux && !darwin && !freebsd

package udp

// controlSpace is zero: this package uses no control messages here.
const controlSpace = 0

func enableControl(uintptr, bool) {}

func decodeControl([]byte, *Message) {}

func encodeControl([]byte, *Message, bool) []byte { return nil }

func setMark(uintptr, uint32) error { return nil }
