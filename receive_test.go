package wireguard

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/replay"
	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/internal/udp"
)

func TestP66ForgeryMovesNoWindow(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		forged := s.SealRaw(100_000, packet(b.far.ip, devInner, "forged"))
		forged[len(forged)-1] ^= 1
		b.far.writeMessage(forged)
		b.far.sendDataWithCounter(s, 0, "genuine")
		b.wantDelivered("a low counter after a forged high one", "genuine")
		forged = s.SealRaw(1, packet(b.far.ip, devInner, "forged"))
		forged[len(forged)-1] ^= 1
		b.far.writeMessage(forged)
		b.far.sendDataWithCounter(s, 1, "genuine")
		b.wantDelivered("a counter that was forged", "genuine")
	})
}

func TestP66ReplayHasNoEffect(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.far.sendDataWithCounter(s, 5, "once")
		b.wantDelivered("first", "once")
		b.far.wantData("passive keepalive", s, "")
		b.outputTo(b.far, "unanswered")
		b.far.wantData("data", s, "unanswered")
		at := time.Now()
		rx := b.far.stats().RxBytes
		time.Sleep(time.Second)
		b.far.sendDataWithCounter(s, 5, "once")
		b.wantDelivered("replay")
		if n := b.far.stats().RxBytes; n != rx {
			t.Errorf("%d bytes counted for a replay", n-rx)
		}
		b.far.wantMessageAfter("no keepalive, no sign of life", fakepeer.Initiation, at, minLostDataDelay, minLostDataDelay+maxJitter)
	})
}

// Covers M16.
func TestP66RefusedCounterConfirmsNothing(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.initiateSession("initiation")
		b.outputTo(b.far, "staged")
		b.far.sendDataWithCounter(s, rejectAfterMessages, "beyond the limit")
		b.wantDelivered("beyond the limit")
		b.far.wantSilence("not confirmed", time.Second)
		b.far.sendDataWithCounter(s, rejectAfterMessages-1, "the last one")
		b.wantDelivered("the last counter", "the last one")
		b.far.wantData("confirmed", s, "staged")
	})
}

func TestP67WindowReaches8128Back(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		const top = 20_000
		b.far.sendDataWithCounter(s, top, "top")
		b.far.sendDataWithCounter(s, top-8128, "oldest")
		b.far.sendDataWithCounter(s, top-8129, "too old")
		b.wantDelivered("behind the greatest", "top", "oldest")
		b.far.sendDataWithCounter(s, top+8191, "jump")
		b.far.sendDataWithCounter(s, top+8190, "behind the jump")
		b.far.sendDataWithCounter(s, top+63, "oldest")
		b.far.sendDataWithCounter(s, top, "seen, and out of the window")
		b.wantDelivered("a jump of the whole window", "jump", "behind the jump", "oldest")
		b.far.sendDataWithCounter(s, top+8191+3*8192, "farther")
		b.far.sendDataWithCounter(s, top+8191+3*8192-64, "a word behind")
		b.wantDelivered("bits of former rounds are cleared", "farther", "a word behind")
	})
}

func TestP67WindowMovesWordByWord(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		const words = 8192 / 64
		for i := range uint64(2*words + 1) {
			b.far.sendDataWithCounter(s, 64*i+5, "new")
			b.far.sendDataWithCounter(s, 64*i+5, "replay")
			if i > 0 {
				b.far.sendDataWithCounter(s, 64*(i-1)+5, "replay of the word before")
			}
			if got := len(b.stack.takeDelivered()); got != 1 {
				t.Fatalf("word %d: %d packets accepted", i, got)
			}
		}
	})
}

// The sequence of the Linux kernel's self-test of its window.
func TestP68KernelReplaySequence(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		const (
			past  = replay.Size + 1
			limit = rejectAfterMessages
		)
		s := b.far.connectFromDevice()
		for i, step := range []struct {
			counter uint64
			want    bool
		}{
			{0, true}, {1, true}, {1, false}, {9, true}, {8, true}, {7, true}, {7, false},
			{past, true}, {past - 1, true}, {past - 1, false}, {past - 2, true}, {2, true}, {2, false},
			{past + 16, true}, {3, false}, {past + 16, false},
			{4 * past, true}, {4*past - (past - 1), true}, {10, false},
			{4*past - past, false}, {4*past - (past + 1), false}, {4*past - (past - 2), true}, {4*past + 1 - past, false}, {0, false},
			{limit, false}, {limit - 1, true}, {limit, false}, {limit - 1, false}, {limit - 2, true},
			{limit + 1, false}, {limit + 2, false}, {limit - 2, false}, {limit - 3, true}, {0, false},
		} {
			b.far.sendDataWithCounter(s, step.counter, "x")
			if got := len(b.stack.takeDelivered()) == 1; got != step.want {
				t.Fatalf("step %d, counter %d: accepted %v", i, step.counter, got)
			}
		}
	})
}

// Covers M22.
func TestP71SourceMustBelongToTheSendingPeer(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		other := b.addRemote("192.0.2.3:1", "10.0.0.3")
		b.far.setAllowedIPs("10.0.0.0/24", "fd00::/64")
		other.setAllowedIPs("10.0.0.3/32", "fd00::3/128")
		s, so := b.far.connectToDevice(), other.connectToDevice()
		send := func(r *remote, s *fakepeer.Session, src, payload string) {
			from, to := netip.MustParseAddr(src), devInner
			if from.Is6() {
				to = devInner6
			}
			r.writeMessage(s.Seal(packet(from, to, payload)))
		}
		send(b.far, s, "10.0.0.4", "own")
		send(b.far, s, "fd00::4", "own6")
		b.wantDelivered("own sources", "own", "own6")
		send(b.far, s, "10.0.0.3", "of a more specific owner")
		send(b.far, s, "fd00::3", "of a more specific owner")
		send(b.far, s, "10.0.1.1", "of no peer")
		send(other, so, "10.0.0.4", "of the other")
		b.wantDelivered("foreign sources")
		send(other, so, "10.0.0.3", "own")
		send(other, so, "fd00::3", "own6")
		b.wantDelivered("own sources of the other", "own", "own6")

		if err := b.dev.RemovePeer(other.Public); err != nil {
			t.Fatal(err)
		}
		send(b.far, s, "10.0.0.3", "restored")
		b.wantDelivered("without the more specific owner", "restored")
	})
}

func TestP84MalformedMessagesAreDropped(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectToDevice()
		time.Sleep(time.Second)
		rx := b.far.stats().RxBytes
		initiation, hs := b.far.Initiation(fakepeer.InitiationOptions{})
		response, _ := b.far.Response(hs, fakepeer.ResponseOptions{})
		data := s.Seal(packet(b.far.ip, devInner, "malformed"))
		for _, msg := range [][]byte{initiation, response, data} {
			for i := 1; i < 4; i++ {
				reserved := slices.Clone(msg)
				reserved[i] = 1
				if len(msg) != len(data) {
					b.far.Stamp(reserved)
				}
				b.far.writeMessage(reserved)
			}
			for _, kind := range []byte{0, 5, 6, 255} {
				other := slices.Clone(msg)
				other[0] = kind
				b.far.writeMessage(other)
			}
		}
		for kind, size := range map[byte]int{typeInitiation: initiationSize, typeResponse: responseSize, typeCookieReply: cookieReplySize} {
			for _, n := range []int{1, 3, 4, size - 1, size + 1} {
				msg := make([]byte, n)
				msg[0] = kind
				b.far.writeMessage(msg)
			}
		}
		// Under load a valid mac1 would suffice for a cookie reply.
		b.setUnderLoad()
		for _, msg := range [][]byte{initiation, response} {
			b.far.writeMessage(b.far.Stamp(append(slices.Clone(msg), 0)))
			b.far.writeMessage(b.far.Stamp(slices.Clone(msg[:len(msg)-1])))
		}
		b.far.writeMessage(data[:keepaliveSize-1])
		b.far.wantSilence("malformed", 5*time.Second)
		b.wantDelivered("malformed")
		if got := b.far.stats().RxBytes; got != rx {
			t.Errorf("%d bytes counted", got-rx)
		}
		b.far.writeMessage(data)
		b.wantDelivered("as it was", "malformed")
	})
}

func TestP84UnpaddedDataIsAccepted(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		for n := range 17 {
			payload := "0123456789abcdefg"[:n]
			b.far.sendRawData(s, packet(b.far.ip, devInner, payload))
			b.wantDelivered("unpadded", payload)
		}
	})
}

// TestP85MessagesReadTogetherAreSorted receives, in one system call, messages
// of several keys, endpoints and ECN marks, some of them coalesced.
func TestP85MessagesReadTogetherAreSorted(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		first := b.far.connectFromDevice()
		second := b.far.rekeySession(first)
		seal := func(s *fakepeer.Session, payload string) []byte { return s.Seal(packet(farInner, devInner, payload)) }
		there := netip.MustParseAddrPort("192.0.2.77:7")
		r := reader{device: b.dev}
		r.sortCopyOf(udp.Message{Addr: farOuter}, seal(first, "one"))
		r.sortCopyOf(udp.Message{Addr: farOuter}, seal(second, "two"))
		r.sortCopyOf(udp.Message{Addr: there}, seal(second, "three"))
		r.sortCopyOf(udp.Message{Addr: there, TOS: ecnCE}, seal(second, "dropped for its mark"))
		four, five := seal(second, "4444"), seal(second, "5")
		r.sortCopyOf(udp.Message{Addr: there, SegmentSize: len(four)}, append(four, five...))
		r.sortCopyOf(udp.Message{Addr: farOuter}, seal(second, "six"))
		r.dispatchBatch()
		b.wantDelivered("read together", "one", "two", "three", "4444", "5", "six")
		b.far.wantEndpoint("the latest", farOuter)
	})
}

// Covers M13.
func TestP85NothingStopsAReceiver(t *testing.T) {
	var outer *simnet.Conn
	withTestbed(t, captureSocket(&outer), func(b *testbed) {
		s := b.far.connectFromDevice()
		alive := func(after string) {
			t.Helper()
			b.far.sendData(s, after)
			synctest.Wait()
			time.Sleep(time.Second) // the reader backs off after an error
			b.wantDelivered(after, after)
		}
		for _, n := range []int{0, 1, 3, 65507} {
			b.far.writeMessage(make([]byte, n))
			alive(fmt.Sprintf("%d bytes", n))
		}
		huge := make([]byte, 65507)
		huge[0] = typeData
		binary.LittleEndian.PutUint32(huge[4:], s.RemoteIndex)
		b.far.writeMessage(huge)
		alive("a forged jumbogram")
		for range 3 {
			outer.FailRead(errors.New("transient"))
		}
		alive("errors")
	})
}

func TestP85WholeJumbogramIsReceived(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		payload := string(make([]byte, 65507-dataOverhead-28))
		b.far.sendRawData(s, packet(b.far.ip, devInner, payload))
		b.wantDelivered("the largest datagram", payload)
	})
}

// TestGarbage floods a device with random datagrams, some of which have the
// type and length of a message.
func TestGarbage(t *testing.T) {
	near, far := newDevicePair(t)
	flood, err := net.Dial("udp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), far.Stats().ListenPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer flood.Close()
	for i := range 3000 {
		b := make([]byte, []int{0, 1, 3, 31, 32, 64, 92, 148, 149, 1452, 9000}[i%11])
		rand.Read(b)
		if len(b) > 3 {
			copy(b, []byte{byte(1 + i%4), 0, 0, 0})
		}
		flood.Write(b)
	}
	if _, err := near.Ping(contextWithTimeout(t, 20*time.Second), netip.MustParseAddr("10.0.0.2")); err != nil {
		t.Error(err)
	}
	for _, p := range far.Stats().Peers {
		if p.RxBytes == 0 || p.LastHandshake.IsZero() {
			t.Errorf("peer %+v", p)
		}
	}
}

// TestWaitingMessagesPinLittle compacts datagrams that arrived one by one, each
// in a buffer of 64 KiB.
func TestWaitingMessagesPinLittle(t *testing.T) {
	b := new(recvBatch)
	var sent [][]byte
	for i := range 40 {
		buf := newBuffer(maxMessage)
		msg := buf.bytes[:100+10*i]
		rand.Read(msg)
		sent = append(sent, bytes.Clone(msg))
		b.bufs, b.msgs, b.bytes = append(b.bufs, buf), append(b.msgs, msg), b.bytes+len(msg)
	}
	b.compactMessages()
	if b.pinnedBytes() > 4*b.bytes {
		t.Errorf("%d bytes pin %d", b.bytes, b.pinnedBytes())
	}
	for i := range sent {
		if !bytes.Equal(b.msgs[i], sent[i]) {
			t.Errorf("message %d changed", i)
		}
	}
	// Messages that are compact already are not moved.
	msg, bufs := &b.msgs[0][0], len(b.bufs)
	b.compactMessages()
	if &b.msgs[0][0] != msg || len(b.bufs) != bufs {
		t.Error("compacted again")
	}
	b.free()
}

func TestSmallMessageThatWaitsPinsLittle(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectToDevice()
		b.stack.block = make(chan struct{})
		b.far.sendData(s, "holds up the stack")
		before := b.dev.heldBytes.Load()

		buf := newBuffer(maxMessage)
		m := udp.Message{Buf: buf.bytes, N: copy(buf.bytes, s.Seal(packet(farInner, devInner, "waits"))), Addr: farOuter}
		r := reader{device: b.dev}
		r.sortDatagrams(&m, buf)
		r.dispatchBatch()
		buf.release()
		if n := b.dev.heldBytes.Load() - before; n != int64(bufferSizes[0]) {
			t.Errorf("a message of %d bytes pins %d", m.N, n)
		}
		close(b.stack.block)
		b.wantDelivered("in the end", "holds up the stack", "waits")
	})
}

// scriptedSocket is a socket that returns the given number of messages from
// each read, all empty, and is closed after the last.
type scriptedSocket struct {
	udp.Socket
	messages []int
	room     []int // the size of the slice passed to each read
}

func (s *scriptedSocket) ReadBatch(ms []udp.Message) (int, error) {
	if len(s.messages) == 0 {
		return 0, net.ErrClosed
	}
	s.room = append(s.room, len(ms))
	n := s.messages[0]
	s.messages = s.messages[1:]
	for i := range ms {
		if len(ms[i].Buf) < maxMessage {
			return 0, errors.New("a message has no buffer")
		}
	}
	for i := range ms[:n] {
		ms[i].N = 0
	}
	return n, nil
}

func TestReaderFollowsTheLoad(t *testing.T) {
	var (
		s    scriptedSocket
		want []int
	)
	for _, c := range []struct{ reads, room, messages int }{
		{1, 2, 1},
		{1, 2, 2}, {1, 4, 4}, {1, 8, 8}, {2, 16, 16},
		{sparseReads - 1, 16, 4}, {1, 16, 5}, // the count restarts
		{sparseReads, 16, 4}, {sparseReads, 8, 2}, {sparseReads, 4, 1}, {2 * sparseReads, 2, 1},
		{1, 2, 2}, {1, 4, 1},
	} {
		for range c.reads {
			s.messages, want = append(s.messages, c.messages), append(want, c.room)
		}
	}
	d := newDevice(Config{})
	d.readSocket(&s)
	if !slices.Equal(s.room, want) {
		t.Errorf("asked for %d\nwant %d", s.room, want)
	}
}

// Covers M13.
func TestP85NothingStopsAReceiverOnTheHost(t *testing.T) {
	h := newHostPeer(t, "127.0.0.1", nil)
	s, dev := h.connectFromDevice()
	for _, n := range []int{0, 1, 65507} {
		h.writeMessage(make([]byte, n), dev)
		h.exchangeData(fmt.Sprintf("%d bytes", n), s, dev)
	}
	// Sending to a closed port causes an error on the socket, on some systems
	// in a read.
	closed, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	to := closed.LocalAddr().(*net.UDPAddr).AddrPort()
	closed.Close()
	for range 3 {
		h.dev.writeMessage(udp.Message{Buf: []byte{1}, Addr: netip.AddrPortFrom(to.Addr().Unmap(), to.Port())})
		h.exchangeData("port unreachable", s, dev)
	}
}

func TestOpeningTakesTurns(t *testing.T) {
	d, _, pair, _, _ := newSteadyDevice(t)
	plain := packet(farInner, devInner, strings.Repeat("x", 1000))
	run := sealRun(pair, 0, 16, plain)
	e, _ := d.indices.entryOf(pair.localIndex)
	newBatch := func(messages int) *recvBatch {
		buf := newBuffer(maxMessage)
		copy(buf.bytes, run)
		b := recvBatches.Get().(*recvBatch)
		b.peer, b.pair, b.bufs = e.peer, e.pair, append(b.bufs, buf)
		size := dataOverhead + len(plain)
		for m := range slices.Chunk(buf.bytes[:messages*size], size) {
			b.msgs = append(b.msgs, m)
			b.bytes += len(m)
		}
		e.peer.inbound.pushBatch(b, b.pinnedBytes())
		d.heldBytes.Add(int64(b.pinnedBytes()))
		return b
	}
	// Another goroutine may run by chance, but not in most tries.
	const tries = 10
	large, small := 0, 0
	for range tries {
		if b := newBatch(16); yieldsCore(func() { d.openBatch(b) }) {
			large++
		}
		if b := newBatch(1); yieldsCore(func() { d.openBatch(b) }) {
			small++
		}
	}
	if large < tries/2 {
		t.Errorf("others ran after %d of %d large batches", large, tries)
	}
	if small > tries/2 {
		t.Errorf("others ran after %d of %d small batches", small, tries)
	}
}
