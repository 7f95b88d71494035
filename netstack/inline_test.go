package netstack

import (
	"testing"

	"github.com/wgstack/wireguard/internal/inlinetest"
)

// TestPacketPathIsInlined checks the small functions that run for each packet
// or each segment, where a call would cost more than the work.
func TestPacketPathIsInlined(t *testing.T) {
	inlinetest.Check(t,
		// sending
		"(*Packet).Source",
		"(*Packet).Destination",
		"(*Packet).TOS",
		"(*Packet).Len",
		"(*Packet).Segments",
		"(*Packet).SegmentLen",
		"(*Packet).seekSegment",
		"(*Packet).release",
		// receiving
		"statedLength",
		"(*tcpHeaders).seq",
		"(*tcpHeaders).payloadLen",
		"(*tcpHeaders).hasPush",
		"(*tcpHeaders).ports",
		"(*tcpHeaders).addresses",
		"(*coalescer).emitPacket",
		"(*coalescedPacket).headLen",
	)
}
