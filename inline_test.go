package wireguard

import (
	"testing"

	"github.com/wgstack/wireguard/internal/inlinetest"
)

// TestPacketPathIsInlined checks the small functions that run for each packet
// or each segment, where a call would cost more than the work.
func TestPacketPathIsInlined(t *testing.T) {
	inlinetest.Check(t,
		// sending
		"(*sendBatch).isKeepalive",
		"(*sendBatch).packetCount",
		"(*sendBatch).message",
		"(*sendBatch).isHandshake",
		"(*sendBatch).isGathering",
		"(*Device).outboundLaneLimit",
		"putDataHeader",
		"padded",
		"innerECN",
		"(*keypair).expired",
		"(*keypair).staleOnSend",
		"(*timers).authenticatedSent",
		"(*timers).isAwaitingReply",
		"(*timers).authenticatedTraversal",
		"(*binding).socketFor",
		// receiving
		"messageType",
		"dataReceiver",
		"dataCounter",
		"sourceAddress",
		"(*keyring).contains",
		"(*keypair).staleOnReceive",
		"(*recvBatch).pinnedBytes",
		"(*recvBatch).isWake",
		"(*resequencer).isIdle",
		// both
		"(*Device).captureOuter",
		"(*Device).captureSent",
		"(*Device).captureReceived",
		// buffers and lanes
		"(*buffer).retain",
		"(*buffer).release",
		"(*laneItem).item",
		// looking up the peer of an address
		"trieKey.commonBits",
		"trieKey.nextBits",
		"trieKey.masked",
		"(*trieNode).contains",
		"rank",
		// the time of a packet
		"(*Device).now",
		"(*clock).slept",
	)
}
