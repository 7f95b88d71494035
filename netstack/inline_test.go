package netstack

import (
	"testing"

	"github.com/wgstack/wireguard/internal/inlinetest"
)

// TestInlining names the small methods that are called for each packet sent.
func TestInlining(t *testing.T) {
	inlinetest.Check(t,
		"(*Packet).Source", "(*Packet).Destination", "(*Packet).TOS", "(*Packet).Len", "(*Packet).Segments",
		"(*Packet).SegmentLen",
	)
}
