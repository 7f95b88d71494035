package wireguard

import (
	"testing"

	"github.com/wgstack/wireguard/internal/inlinetest"
)

// TestInlining names the small functions that each packet, batch or datagram
// passes.
func TestInlining(t *testing.T) {
	inlinetest.Check(t,
		// Device and allowed IPs.
		"(*Device).now", "(*Device).outboundLaneLimit", "rank", "trieKey.nextBits", "(*trieNode).contains",
		// Sending.
		"padded", "putDataHeader", "(*buffer).retain", "(*gathering).close", "(*laneItem).item",
		"(*pool).hasOneWorker", "(*sendBatch).isGathering", "(*sendBatch).isHandshake", "(*sendBatch).isKeepalive",
		"(*sendBatch).message", "(*sendBatch).packetCount", "(*binding).socketFor",
		// Receiving.
		"messageType", "dataReceiver", "dataCounter", "innerECN", "sourceAddress", "(*recvBatch).wasInLane",
		"(*recvBatch).pinnedBytes",
		// Key pairs and timers.
		"(*keypair).expired", "(*keypair).staleOnSend", "(*keypair).staleOnReceive", "(*keyring).contains",
		"(*timers).authenticatedTraversal", "(*timers).authenticatedSent", "(*timers).isAwaitingReply",
	)
}
