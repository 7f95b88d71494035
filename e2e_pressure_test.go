package wireguard

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
)

// Backpressure: senders wait for a slow socket, and received packets are
// dropped when the stack is slow.

// gatedConn is a socket whose writes block until the gate is closed.
type gatedConn struct {
	net.PacketConn
	gate atomic.Pointer[chan struct{}] // nil: open
}

func (c *gatedConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if gate := c.gate.Load(); gate != nil {
		<-*gate
	}
	return c.PacketConn.WriteTo(b, to)
}

func (c *gatedConn) wrapSocket(cfg *Config) {
	listen := cfg.ListenPacket
	cfg.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
		pc, err := listen(ctx, network, address)
		c.PacketConn = pc
		return c, err
	}
}

func TestFastSenderWaitsForTheSocket(t *testing.T) {
	const packets = 100 // of 10 KB, and the same number of 1 KB
	conn := new(gatedConn)
	withTestbed(t, conn.wrapSocket, func(b *testbed) {
		other := b.addRemote("192.0.2.3:1", "10.0.0.3")
		s, so := b.far.connectFromDevice(), other.connectFromDevice()
		gate := make(chan struct{})
		conn.gate.Store(&gate)
		var sent atomic.Int32
		go func() {
			for range packets {
				b.outputPacket(packet(devInner, farInner, fmt.Sprintf("%10000s", "")))
				sent.Add(1)
			}
		}()
		// The first sender drains the lane itself and blocks in the socket. The
		// second one waits for room in the lane.
		go func() {
			for range packets {
				b.outputPacket(packet(devInner, farInner, fmt.Sprintf("%1000s", "")))
				sent.Add(1)
			}
		}()
		synctest.Wait()
		p := b.far.peer()
		p.outbound.mu.Lock()
		bytes := p.outbound.bytes
		p.outbound.mu.Unlock()
		// Each of the two senders may find room for one more batch at the same time.
		if bytes < b.dev.outboundLaneLimit() || bytes > b.dev.outboundLaneLimit()+2*maxMessage {
			t.Errorf("%d bytes wait in the lane, limit %d", bytes, b.dev.outboundLaneLimit())
		}
		if n := sent.Load(); n >= 2*packets {
			t.Error("no sender had to wait")
		}
		conn.gate.Store(nil)
		close(gate)
		next := uint64(1) // counter 0 was the packet of connectFromDevice
		for range 2 * packets {
			msg, _, ok := b.far.readMessage(time.Second)
			if !ok {
				t.Fatalf("message %d is lost", next)
			}
			counter, _, err := s.Open(msg)
			if err != nil || counter != next {
				t.Fatalf("counter %d, error %v, want %d", counter, err, next)
			}
			next++
		}
		b.far.sendKeepalive(s)
		b.outputTo(other, "others are not held up")
		other.wantData("other peer", so, "others are not held up")
	})
}

func TestSlowStackDropsWhatArrives(t *testing.T) {
	const size = 60_000
	withTestbed(t, nil, func(b *testbed) {
		b.dev.openers.maxWorkers = 2 // with one worker the reader itself would wait for the stack
		other := b.addRemote("192.0.2.3:1", "10.0.0.3")
		s, so := b.far.connectToDevice(), other.connectToDevice()
		b.stack.block = make(chan struct{})
		for i := range 2 * inboundLaneBytes / size {
			b.far.sendData(s, fmt.Sprintf("%04d%*s", i, size, ""))
		}
		p := b.far.peer()
		p.inbound.mu.Lock()
		bytes := p.inbound.bytes
		p.inbound.mu.Unlock()
		if bytes < inboundLaneBytes || bytes > inboundLaneBytes+maxMessage {
			t.Errorf("%d bytes wait in the lane, limit %d", bytes, inboundLaneBytes)
		}
		if n := b.dev.heldBytes.Load(); n != int64(bytes) {
			t.Errorf("%d bytes are held, %d wait in the lane", n, bytes)
		}
		// The memory queued for all peers together is bounded too.
		b.dev.heldBytes.Add(inboundHeldBytes - int64(bytes))
		other.sendData(so, "out")
		b.dev.heldBytes.Add(int64(bytes) - inboundHeldBytes)
		close(b.stack.block)
		synctest.Wait()
		b.stack.mu.Lock()
		b.stack.block = nil
		b.stack.mu.Unlock()
		delivered := b.stack.takeDelivered()
		// Each datagram occupies a whole buffer.
		if n, want := len(delivered), inboundLaneBytes/maxMessage; n < want || n > want+2 {
			t.Errorf("%d packets delivered, want %d", n, want)
		}
		for i, pkt := range delivered {
			ip, err := fakepeer.ParseIP(pkt)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, payload, err := ip.UDP(); err != nil || string(payload[:4]) != fmt.Sprintf("%04d", i) {
				t.Fatalf("packet %d: out of order, error %v", i, err)
			}
		}
		b.far.sendData(s, "in")
		other.sendData(so, "in too")
		b.wantDelivered("afterwards", "in", "in too")
		if n := b.dev.heldBytes.Load(); n != 0 {
			t.Errorf("%d bytes are held, nothing waits", n)
		}
	})
}
