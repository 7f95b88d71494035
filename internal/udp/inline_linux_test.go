package udp

import (
	"testing"

	"github.com/wgstack/wireguard/internal/inlinetest"
)

// TestPacketPathIsInlined checks the small functions that run for each datagram
// or each segment, where a call would cost more than the work.
func TestPacketPathIsInlined(t *testing.T) {
	inlinetest.Check(t,
		"firstSegment",
		"(*position).advance",
	)
}
