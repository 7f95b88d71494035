package udp

import (
	"testing"

	"github.com/wgstack/wireguard/internal/inlinetest"
)

// TestInlining names the small functions that each message or system call
// passes.
func TestInlining(t *testing.T) {
	inlinetest.Check(t,
		"firstSegment", "(*position).advance", "(*reader).growHeaders", "(*writer).growHeaders", "recvmmsg", "sendmmsg",
	)
}
