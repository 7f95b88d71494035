package wireguard

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/cryptotest"

	"github.com/wgstack/wireguard/internal/fakepeer"
)

func TestP01IndexIsUniqueAmongLiveOnes(t *testing.T) {
	var table indexTable
	var indices []uint32
	for range 3 {
		cryptotest.SetGlobalRandom(t, 1) // draws the same numbers again
		indices = append(indices, table.reserveIndex(nil))
		table.assignKeypair(&keypair{localIndex: indices[0]})
	}
	if table.count() != 3 {
		t.Errorf("indices %#x", indices)
	}
}

func TestP20IndexOfTheHandshakeIsThatOfTheKeys(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "hello")
		hs := b.far.wantInitiation("initiation")
		index := hs.RemoteIndex
		b.wantIndices("handshake", 1)
		early := fakepeer.Session{RemoteIndex: index}
		b.far.writeMessage(early.SealRaw(0, packet(farInner, devInner, "early")))
		b.wantDelivered("data to the index of a handshake")
		s := b.far.respondTo(hs)
		if s.RemoteIndex != index {
			b.Fatalf("session's index %#x, want %#x", s.RemoteIndex, index)
		}
		b.far.wantData("session", s, "hello")
		b.far.sendData(s, "answer")
		b.wantDelivered("data to the index of the handshake", "answer")
		b.wantIndices("session", 1)

		// The same as responder.
		msg, ours := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.writeMessage(msg)
		msg = b.far.wantMessage("response", fakepeer.Response)
		index = fakepeer.Sender(msg)
		if e, ok := b.dev.indices.entryOf(index); !ok || e.pair == nil {
			b.Error("responded before the index was that of the keys")
		}
		s, err := b.far.ConsumeResponse(ours, msg)
		if err != nil {
			b.Fatal(err)
		}
		b.far.sendData(s, "confirms")
		b.wantDelivered("data to the index of the response", "confirms")
	})
}

func TestP20IndexIsNeverFreeInBetween(t *testing.T) {
	var (
		table    indexTable
		wg       sync.WaitGroup
		assigned atomic.Bool
	)
	index := table.reserveIndex(nil)
	wg.Go(func() {
		for !assigned.Load() {
			if _, ok := table.entryOf(index); !ok {
				t.Error("the index was free for a while")
				return
			}
		}
	})
	for range 20000 {
		table.assignKeypair(&keypair{localIndex: index})
	}
	assigned.Store(true)
	wg.Wait()
}
