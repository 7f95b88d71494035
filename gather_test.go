package wireguard

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/netstack"
)

// newStreamTestbed returns a device in the middle of a stream: the next packet
// begins a batch that gathers. Batches are sealed only by sealWaiting, not by
// other goroutines.
func newStreamTestbed(t *testing.T) (b *streamTestbed) {
	t.Helper()
	b = &streamTestbed{T: t}
	b.dev, b.peer, b.pair, b.conn, _ = newSteadyDevice(t)
	b.sent = make(chan []byte, 4096)
	b.conn.watch = func(msg []byte) { b.sent <- bytes.Clone(msg) }
	b.dev.sealers.maxWorkers = 0
	b.beginStream()
	return b
}

type streamTestbed struct {
	*testing.T
	dev     *Device
	peer    *peer
	pair    *keypair
	conn    *sinkConn
	sent    chan []byte
	counter uint64 // of the next message
}

// beginStream makes the next packet part of a stream, whatever time has passed.
func (b *streamTestbed) beginStream() {
	b.peer.mu.Lock()
	defer b.peer.mu.Unlock()
	b.peer.gathering.streamLength = streamPackets
}

// setTimeSinceLatest sets the time since the latest packet to d.
func (b *streamTestbed) setTimeSinceLatest(d time.Duration) {
	b.peer.mu.Lock()
	defer b.peer.mu.Unlock()
	b.peer.gathering.lastPacket = b.dev.now().Add(-d)
}

// outputPayload sends a packet as part of a stream.
func (b *streamTestbed) outputPayload(payload string) {
	b.Helper()
	b.outputPacket(packet(devInner, farInner, payload))
}

func (b *streamTestbed) outputPacket(pkt []byte) {
	b.Helper()
	b.setTimeSinceLatest(-time.Hour) // part of the stream even on a slow machine
	if err := b.dev.output(netstack.NewPacket(pkt)); err != nil {
		b.Error(err)
	}
}

// waitingBatches returns how many batches of packets wait to be sealed. The
// initiation that a packet without usable keys starts waits in the same queue,
// at any time after the packet.
func (b *streamTestbed) waitingBatches() (n int) {
	s := &b.dev.sealers
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, batch := range s.jobs[s.head:] {
		if !batch.isHandshake() {
			n++
		}
	}
	return n
}

// sealWaiting seals and sends the waiting batches.
func (b *streamTestbed) sealWaiting() { sealQueuedBatches(b.dev) }

// sealQueuedBatches seals and sends the batches that wait in the queue of a device
// whose sealing pool has no workers.
func sealQueuedBatches(d *Device) {
	s := &d.sealers
	for s.queuedJobs() > 0 {
		s.mu.Lock()
		batch := s.jobs[s.head]
		s.head++
		s.mu.Unlock()
		d.sealBatch(batch)
	}
}

// wantPayload expects that the next message sent holds a packet with the given
// payload.
func (b *streamTestbed) wantPayload(payload string) {
	b.Helper()
	select {
	case msg := <-b.sent:
		if n := dataCounter(msg); n != b.counter {
			b.Errorf("counter %d, want %d", n, b.counter)
		}
		b.counter++
		plain := openVector(b.T, newAEAD(&[32]byte{1}), msg)
		pkt, ok := trimPacket(plain)
		if want := packet(devInner, farInner, payload); !ok || string(pkt) != string(want) {
			b.Errorf("packet % x..., want % x...", pkt[:min(len(pkt), 40)], want[:min(len(want), 40)])
		}
		if len(plain)%paddingMultiple != 0 || strings.Trim(string(plain[len(pkt):]), "\x00") != "" {
			b.Errorf("padding % x", plain[len(pkt):])
		}
	default:
		b.Errorf("no message with %.20q", payload)
	}
}

func (b *streamTestbed) wantNothingSent() {
	b.Helper()
	select {
	case msg := <-b.sent:
		b.Errorf("%d bytes sent", len(msg))
	default:
	}
}

// A packet that is not part of a stream is sent when output returns.
func TestPacketsAloneAreSentAtOnce(t *testing.T) {
	b := newStreamTestbed(t)
	for i := range 3 * streamPackets {
		b.setTimeSinceLatest(streamInterval + time.Nanosecond)
		if err := b.dev.output(netstack.NewPacket(packet(devInner, farInner, fmt.Sprint(i)))); err != nil {
			t.Error(err)
		}
		b.wantPayload(fmt.Sprint(i))
	}
	// A few packets are not a stream either.
	for i := range streamPackets - 1 {
		b.outputPayload(fmt.Sprint(i))
		b.wantPayload(fmt.Sprint(i))
	}
}

func TestStreamGathers(t *testing.T) {
	b := newStreamTestbed(t)
	var sent []string
	for i := range 100 {
		sent = append(sent, fmt.Sprintf("%02d%s", i, strings.Repeat("x", 1200)))
		b.outputPayload(sent[i])
	}
	b.wantNothingSent()
	// The first batch has room for the bytes of two packets, or for as much as
	// the buffer class for that size holds.
	if n := b.waitingBatches(); n < 2 || n > 8 {
		t.Errorf("%d batches for %d packets", n, len(sent))
	}
	b.sealWaiting()
	for _, payload := range sent {
		b.wantPayload(payload)
	}
	// Packets that arrive after sealing began do not change the batch.
	b.outputPayload("later")
	b.wantNothingSent()
	b.sealWaiting()
	b.wantPayload("later")
	b.wantNothingSent()
}

// A batch grows with the stream, but a stream of packets that do not fit into
// one batch does not use 64 KiB for each.
func TestStreamRoomFollows(t *testing.T) {
	b := newStreamTestbed(t)
	payload := strings.Repeat("x", 1200)
	before := 1
	for _, want := range []int{1, 12, 51, 51, 1, 12} {
		b.beginStream()
		for range want {
			b.outputPayload(payload)
		}
		if n := b.waitingBatches(); n != 1 {
			t.Errorf("%d batches for %d packets after %d", n, want, before)
		}
		b.sealWaiting()
		for range want {
			b.wantPayload(payload)
		}
		before = want
	}
	b = newStreamTestbed(t)
	for i := range 5 {
		b.outputPayload(strings.Repeat("x", i))    // smaller, so it is appended to the batch
		b.outputPayload(strings.Repeat("x", 1200)) // larger, so it needs a new batch
	}
	memory := 0
	for _, batch := range b.dev.sealers.jobs {
		memory += len(batch.buf.bytes)
	}
	if n := b.waitingBatches(); n > 6 || memory > 6*16384 || b.peer.outbound.bytes != memory {
		t.Errorf("%d batches of 10 packets take %d bytes and weigh %d", n, memory, b.peer.outbound.bytes)
	}
	b.sealWaiting()
}

// A batch stays below the limit of one system call.
func TestStreamSize(t *testing.T) {
	b := newStreamTestbed(t)
	const size = 1024 // of a message
	payload := strings.Repeat("x", size-dataOverhead-28)
	b.peer.gathering.lastSize = maxBatchBytes
	for range maxBatchBytes/size + 1 {
		b.outputPayload(payload)
	}
	if n := b.waitingBatches(); n != 2 {
		t.Errorf("%d batches, want 2", n)
	}
	b.sealWaiting()
}

// sealHook is called by the first Seal.
type sealHook struct {
	cipher.AEAD
	first func()
}

func (h *sealHook) Seal(dst, nonce, plaintext, additional []byte) []byte {
	if f := h.first; f != nil {
		h.first = nil
		f()
	}
	return h.AEAD.Seal(dst, nonce, plaintext, additional)
}

// Packets that arrive while a batch is being sealed do not change it.
func TestStreamIsSealedAsItWas(t *testing.T) {
	b := newStreamTestbed(t)
	waiting := 0
	b.pair.send = &sealHook{b.pair.send, func() {
		b.outputPayload("three")
		waiting = b.waitingBatches()
	}}
	b.outputPayload("one..")
	b.outputPayload("two..")
	b.sealWaiting()
	if waiting != 1 {
		t.Errorf("%d batches wait while the first is sealed", waiting)
	}
	for _, payload := range []string{"one..", "two..", "three"} {
		b.wantPayload(payload)
	}
}

func TestStreamEnds(t *testing.T) {
	const first = "first, of some length"
	long := first + strings.Repeat("x", 100)
	mark := func(pkt []byte) []byte {
		setInnerECN(pkt, ecnECT0)
		return pkt
	}
	for _, test := range []struct {
		name    string
		between func(b *streamTestbed)
		batches int // including the next packet; -1: the first was sent, and all others wait for a session
	}{
		{"", func(b *streamTestbed) {}, 1},
		{"larger packet", func(b *streamTestbed) { b.outputPayload(long) }, 2},
		{"smaller packet", func(b *streamTestbed) { b.outputPayload("") }, 2},
		{"other ECN", func(b *streamTestbed) { b.outputPacket(mark(packet(devInner, farInner, first))) }, 3},
		{"sealing", func(b *streamTestbed) { b.peer.endGathering(b.peer.gathering.batch) }, 2},
		{"keepalive", func(b *streamTestbed) {
			b.peer.mu.Lock()
			defer b.peer.mu.Unlock()
			b.peer.sendKeepalive(b.dev.now())
		}, 3},
		{"new keys", func(b *streamTestbed) {
			b.peer.mu.Lock()
			defer b.peer.mu.Unlock()
			b.peer.keys.current = newKeypair(&transportKeys{}, b.dev.now(), false, 1, 2)
		}, 2},
		{"no keys", func(b *streamTestbed) {
			b.peer.mu.Lock()
			defer b.peer.mu.Unlock()
			b.peer.keys.current = nil
		}, -1},
		{"keys used up", func(b *streamTestbed) { b.pair.counter = rejectAfterMessages }, -1},
		{"old keys", func(b *streamTestbed) { b.pair.createdAt = b.dev.now().Add(-rejectAfterTime) }, -1},
		{"removal", func(b *streamTestbed) {
			b.peer.mu.Lock()
			defer b.peer.mu.Unlock()
			b.peer.stopped = true
		}, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newStreamTestbed(t)
			b.outputPayload(first)
			if b.waitingBatches() != 1 {
				t.Fatal("the first packet does not wait")
			}
			test.between(b)
			b.outputPayload(first)
			if n := b.waitingBatches(); n != max(test.batches, 1) {
				t.Errorf("%d batches, want %d", n, test.batches)
			}
			if n := b.peer.staged.packets; test.batches > 0 && n > 0 {
				t.Errorf("%d packets are staged", n)
			}
			for _, batch := range b.peer.staged.batches {
				if batch.growLimit > 0 {
					t.Errorf("a packet that is staged has room for %d bytes", batch.growLimit)
				}
			}
			if test.batches < 0 && b.peer.gathering.batch != nil && b.peer.gathering.batch.count > 1 {
				t.Error("a packet was added")
			}
			b.peer.mu.Lock()
			b.peer.stopped = false
			b.peer.mu.Unlock()
		})
	}
}

// At most 64 messages are sent in one batch, however small.
func TestStreamSegments(t *testing.T) {
	b := newStreamTestbed(t)
	for range 3 {
		b.beginStream()
		for range 2 * maxBatchSegments {
			b.outputPayload("x")
		}
		b.sealWaiting()
	}
	for range 3 * 2 * maxBatchSegments {
		b.wantPayload("x")
	}
	b.beginStream()
	for range 2*maxBatchSegments + 1 {
		b.outputPayload("x")
	}
	if n := b.waitingBatches(); n != 3 {
		t.Errorf("%d batches for %d packets", n, 2*maxBatchSegments+1)
	}
	b.sealWaiting()
}

// A stream is charged for the memory that it occupies, and its sender waits for
// room.
func TestStreamWaitsForRoom(t *testing.T) {
	b := newStreamTestbed(t)
	done := make(chan struct{})
	var sent atomic.Int64
	go func() {
		defer close(done)
		for range 1000 {
			b.outputPayload(strings.Repeat("x", 1200))
			sent.Add(1)
		}
	}()
	for b.waitingBatches() == 0 || !b.peer.outbound.isFull(b.dev.outboundLaneLimit()) {
		runtime.Gosched()
	}
	for {
		select {
		case <-done:
			if n := sent.Load(); n != 1000 {
				t.Errorf("%d packets sent", n)
			}
			b.sealWaiting()
			for range 1000 {
				b.wantPayload(strings.Repeat("x", 1200))
			}
			return
		default:
			b.peer.outbound.mu.Lock()
			if n := b.peer.outbound.bytes; n > b.dev.outboundLaneLimit()+maxBatchBytes {
				t.Errorf("%d bytes in the lane", n)
			}
			b.peer.outbound.mu.Unlock()
			b.sealWaiting()
		}
	}
}

// Streams of many senders, sealed on other cores, keep their order.
func TestStreamsInOrder(t *testing.T) {
	const senders, packets = 4, 500
	d, _, _, conn, _ := newSteadyDevice(t)
	type message struct {
		counter uint64
		sender  uint32
		number  uint32
	}
	var (
		got  []message
		done = make(chan struct{})
	)
	written := make(chan []byte)
	conn.watch = func(b []byte) { written <- bytes.Clone(b) }
	go func() {
		defer close(done)
		for range senders * packets {
			msg := <-written
			counter := dataCounter(msg)
			var nonce [12]byte
			binary.LittleEndian.PutUint64(nonce[4:], counter)
			plain, err := newAEAD(&[32]byte{1}).Open(nil, nonce[:], msg[dataHeaderSize:], nil)
			if err != nil {
				t.Errorf("message %d: %v", counter, err)
				plain = make([]byte, 36)
			}
			got = append(got, message{counter, binary.BigEndian.Uint32(plain[28:]), binary.BigEndian.Uint32(plain[32:])})
		}
	}()
	var wg sync.WaitGroup
	for sender := range senders {
		wg.Go(func() {
			for i := range packets {
				payload := binary.BigEndian.AppendUint32(nil, uint32(sender))
				payload = binary.BigEndian.AppendUint32(payload, uint32(i))
				payload = append(payload, make([]byte, i%3*sender*100)...)
				b := fakepeer.UDP(netip.AddrPortFrom(devInner, 1), netip.AddrPortFrom(farInner, 2), payload)
				if err := d.output(netstack.NewPacket(b)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	<-done
	var next [senders]uint32
	for i, m := range got {
		if m.counter != uint64(i) {
			t.Fatalf("counter %d, want %d", m.counter, i)
		}
		if m.sender >= senders || m.number != next[m.sender] {
			t.Fatalf("packet %d of sender %d, want %v", m.number, m.sender, next)
		}
		next[m.sender]++
	}
}

// yieldsCore reports whether another goroutine ran during f, with one core for
// both. f must not block for long.
func yieldsCore(f func()) bool {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var ran atomic.Bool
	runtime.Gosched() // start with a full time slice
	go ran.Store(true)
	f()
	return ran.Load()
}

// A goroutine that sends a stream yields its core to others regularly.
func TestStreamsTakeTurns(t *testing.T) {
	most := 0
	b := newStreamTestbed(t)
	for range 10 { // other goroutines of the process may cause an earlier yield
		b.beginStream()
		pkt := netstack.NewPacket(packet(devInner, farInner, "x"))
		sent := 0
		yieldsCore(func() {
			var ran atomic.Bool
			go ran.Store(true)
			for !ran.Load() && sent < 10*yieldPackets {
				b.setTimeSinceLatest(-time.Hour)
				if err := b.dev.output(pkt); err != nil {
					t.Error(err)
				}
				if sent++; sent%maxBatchSegments == 0 {
					b.sealWaiting()
					for len(b.sent) > 0 {
						<-b.sent
					}
				}
			}
		})
		most = max(most, sent)
	}
	if most > 4*yieldPackets || most < yieldPackets/2 {
		t.Errorf("others ran after %d packets of a stream, at the latest", most)
	}
}
