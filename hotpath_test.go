package wireguard

import (
	"context"
	"crypto/cipher"
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/udp"
	"github.com/wgstack/wireguard/netstack"
)

// The cost of the steady state: no allocation per packet, one copy per outgoing
// packet, none per incoming one, and no goroutine or timer per idle peer.

var raceEnabled bool // the race detector makes sync.Pool drop items at random

// sinkConn is a socket that discards what is written and never receives.
type sinkConn struct {
	net.PacketConn // nil
	written        atomic.Int64
	watch          func([]byte)  // called with each write; may be nil
	reading        chan struct{} // closed once there is a reader
	readers        sync.Once
	done           chan struct{}
	closing        sync.Once
}

func newSinkConn() *sinkConn {
	return &sinkConn{reading: make(chan struct{}), done: make(chan struct{})}
}

func (c *sinkConn) ReadFrom([]byte) (int, net.Addr, error) {
	c.readers.Do(func() { close(c.reading) })
	<-c.done
	return 0, nil, net.ErrClosed
}

func (c *sinkConn) WriteTo(b []byte, _ net.Addr) (int, error) {
	c.written.Add(1)
	if c.watch != nil {
		c.watch(b)
	}
	return len(b), nil
}

func (c *sinkConn) LocalAddr() net.Addr { return &net.UDPAddr{Port: devPort} }

func (c *sinkConn) Close() error {
	c.closing.Do(func() { close(c.done) })
	return nil
}

// promptSocket is a socket whose writes never block, as those of the system hardly
// ever do.
type promptSocket struct{ udp.Socket }

func (s *promptSocket) TryWriteBatch(ms []udp.Message) (int, error) { return s.WriteBatch(ms) }

// sinkStack counts the delivered packets.
type sinkStack struct {
	delivered int
	watch     chan [][]byte // receives them; may be nil
}

func (s *sinkStack) Deliver(packets [][]byte) {
	s.delivered += len(packets)
	if s.watch != nil {
		s.watch <- slices.Clone(packets)
	}
}

func (s *sinkStack) TooBig([]byte, int) {}

func (s *sinkStack) Retransmit(func(netip.Addr) bool) {}
func (s *sinkStack) Close() error                     { return nil }

// newSteadyDevice returns a device that has an established session and no
// network.
func newSteadyDevice(t *testing.T) (d *Device, p *peer, pair *keypair, conn *sinkConn, stack *sinkStack) {
	t.Helper()
	conn, stack = newSinkConn(), new(sinkStack)
	remote := NewPrivateKey().PublicKey()
	cfg, err := (&Config{
		PrivateKey:   NewPrivateKey(),
		ListenPacket: func(context.Context, string, string) (net.PacketConn, error) { return conn, nil },
		Peers:        []PeerConfig{{PublicKey: remote, Endpoint: farOuter.String(), AllowedIPs: []netip.Prefix{netip.PrefixFrom(farInner, 32)}}},
	}).canonical()
	if err != nil {
		t.Fatal(err)
	}
	d = newDevice(cfg)
	if err := d.start(cfg, stack); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	b := d.binding.Load()
	s := &promptSocket{b.v4}
	d.binding.Store(&binding{sockets: b.sockets, v4: s, v6: s, port: b.port, patience: 1 << 20})
	p = d.peer(remote)
	pair = newKeypair(&transportKeys{send: [32]byte{1}, receive: [32]byte{2}}, d.now(), false, d.indices.reserveIndex(p), 7)
	d.indices.assignKeypair(pair)
	p.mu.Lock()
	p.keys.current = pair
	p.mu.Unlock()
	return d, p, pair, conn, stack
}

func TestOutputDoesNotAllocate(t *testing.T) {
	for name, c := range map[string]struct {
		since  time.Duration
		blocks bool // the socket may
	}{
		"alone":                      {streamInterval + 1, false},
		"in a stream":                {-time.Hour, false},
		"to a transport that blocks": {streamInterval + 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			const packets = 50
			d, p, _, conn, _ := newSteadyDevice(t)
			if b := d.binding.Load(); c.blocks {
				b.v4 = b.sockets[0]
			}
			pkt := netstack.NewPacket(packet(devInner, farInner, string(make([]byte, 1000))))
			p.gathering.streamLength = streamPackets
			allocs := testing.AllocsPerRun(200, func() {
				for range packets {
					p.mu.Lock()
					p.gathering.lastPacket = d.now().Add(-c.since)
					p.mu.Unlock()
					if err := d.output(pkt); err != nil {
						t.Fatal(err)
					}
				}
				p.outbound.waitForRoom(1, 1<<20)
			})
			// A stream may start a worker goroutine.
			if allocs > packets/10 && !raceEnabled {
				t.Errorf("%v allocations for %d packets out", allocs, packets)
			}
			if n := conn.written.Load(); n != 201*packets {
				t.Errorf("%d packets sent", n)
			}
		})
	}
}

func TestReceivingDoesNotAllocate(t *testing.T) {
	const runs, segments = 100, 16
	d, p, pair, _, stack := newSteadyDevice(t)
	plain := packet(farInner, devInner, string(make([]byte, 100)))
	size := dataOverhead + len(plain)
	var sealed [][]byte
	for i := range uint64(runs + 1) {
		sealed = append(sealed, sealRun(pair, i*segments, segments, plain))
	}
	r := reader{device: d}
	m := udp.Message{SegmentSize: size, Addr: farOuter}
	next := 0
	allocs := testing.AllocsPerRun(runs, func() {
		buf := newBuffer(maxMessage)
		m.N = copy(buf.bytes, sealed[next])
		next++
		r.sortDatagrams(&m, buf)
		r.dispatchBatch()
		buf.release()
	})
	if allocs > 0 && !raceEnabled {
		t.Errorf("%v allocations for %d packets in", allocs, segments)
	}
	if stack.delivered != len(sealed)*segments {
		t.Errorf("%d of %d packets delivered", stack.delivered, len(sealed)*segments)
	}
	if rx := p.rxBytes.Load(); rx != uint64(len(sealed)*segments*size) {
		t.Errorf("%d bytes received", rx)
	}
}

// sealRun returns what the peer of a steady device sends: n messages with the
// given plaintext, back to back, as a socket with GRO returns them.
func sealRun(pair *keypair, counter uint64, n int, plain []byte) (run []byte) {
	var nonce [12]byte
	aead := newAEAD(&[32]byte{2})
	for ; n > 0; n-- {
		msg := make([]byte, dataHeaderSize, dataOverhead+len(plain))
		putDataHeader(msg, pair.localIndex, counter)
		binary.LittleEndian.PutUint64(nonce[4:], counter)
		run = append(run, aead.Seal(msg, nonce[:], plain, nil)...)
		counter++
	}
	return run
}

// The tests of copies follow a packet by its memory address at each boundary:
// what the cipher reads and writes, and what the socket and the stack are
// given. They also count the buffers used.

// watchedAEAD reports the addresses of the plaintext and the message.
type watchedAEAD struct {
	cipher.AEAD
	sealed chan [2]*byte // plaintext, message
}

func (a *watchedAEAD) Seal(dst, nonce, plaintext, additional []byte) []byte {
	body := a.AEAD.Seal(dst, nonce, plaintext, additional)
	a.sealed <- [2]*byte{&plaintext[0], &body[0]}
	return body
}

// countNewBuffers empties the buffer pools for the duration of the test and
// counts the buffers that are allocated. A copy from one buffer to another
// takes two.
func countNewBuffers(t *testing.T) *atomic.Int64 {
	made := new(atomic.Int64)
	for class, size := range bufferSizes {
		bufferPools[class] = sync.Pool{New: func() any {
			made.Add(1)
			return &buffer{bytes: make([]byte, size), sizeClass: class}
		}}
		t.Cleanup(func() { bufferPools[class] = sync.Pool{} })
	}
	return made
}

// An outgoing packet is written where it is sealed, and is sent from there.
func TestOutputCopiesOnce(t *testing.T) {
	check := func(t *testing.T, pkt *netstack.Packet) {
		n := pkt.Segments()
		d, _, pair, conn, _ := newSteadyDevice(t)
		<-conn.reading // the reader has its buffers
		written := make(chan []byte, n)
		conn.watch = func(b []byte) { written <- b }
		aead := &watchedAEAD{pair.send, make(chan [2]*byte, n)}
		pair.send = aead
		made := countNewBuffers(t)
		if err := d.output(pkt); err != nil {
			t.Error(err)
		}
		for i := range n {
			at, sent := <-aead.sealed, <-written
			if at[0] != at[1] {
				t.Errorf("segment %d is not sealed in place", i)
			}
			if at[1] != &sent[dataHeaderSize] {
				t.Errorf("segment %d is not sent from where it was sealed", i)
			}
		}
		if got := made.Load(); got != 1 {
			t.Errorf("%d buffers for one packet out of the stack", got)
		}
	}
	t.Run("one segment", func(t *testing.T) {
		check(t, netstack.NewPacket(packet(devInner, farInner, string(make([]byte, 1000)))))
	})
	t.Run("many segments", func(t *testing.T) {
		withSegmentedPacket(t, func(pkt *netstack.Packet) { check(t, pkt) })
	})
}

// withSegmentedPacket calls f with a TCP packet of several segments, as a stack
// outputs it while it sends to another stack.
func withSegmentedPacket(t *testing.T, f func(*netstack.Packet)) {
	t.Helper()
	var stacks [2]*netstack.Stack
	large, done := make(chan *netstack.Packet, 1), make(chan struct{})
	for i, addr := range []netip.Addr{devInner, farInner} {
		var err error
		stacks[i], err = netstack.New(netstack.Config{
			Addresses:   []netip.Prefix{netip.PrefixFrom(addr, 32)},
			MaxSegments: maxBatchSegments,
			Output: func(pkt *netstack.Packet) error {
				if pkt.Segments() == 1 {
					b := make([]byte, pkt.SegmentLen(0))
					pkt.CopySegment(b, 0)
					go stacks[1-i].Deliver([][]byte{b})
					return nil
				}
				select {
				case large <- pkt:
				default:
				}
				<-done // the packet is valid until Output returns
				return nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stacks[i].Close()
	}
	l, err := stacks[1].Listen(t.Context(), "tcp", farInner.String()+":7")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := stacks[0].DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go c.Write(make([]byte, 1<<16)) // may call Output itself
	defer close(done)
	f(<-large)
}

// runSocket is a socket that receives one run of messages.
type runSocket struct {
	udp.Socket // nil
	run        []byte
	segment    int
	filled     []byte // the memory into which run was read
}

func (s *runSocket) ReadBatch(ms []udp.Message) (int, error) {
	if s.filled != nil {
		return 0, net.ErrClosed
	}
	m := &ms[0]
	m.N, m.SegmentSize, m.Addr = copy(m.Buf, s.run), s.segment, farOuter
	s.filled = m.Buf[:m.N]
	return 1, nil
}

// An incoming packet is opened and handed to the stack in the memory into which
// the system wrote it.
func TestReceivingDoesNotCopy(t *testing.T) {
	for _, n := range []int{1, 16} { // opened by the reader, and by a worker
		d, _, pair, _, stack := newSteadyDevice(t)
		stack.watch = make(chan [][]byte, 1)
		plain := packet(farInner, devInner, string(make([]byte, 1400)))
		size := dataOverhead + len(plain)
		s := &runSocket{run: sealRun(pair, 0, n, plain), segment: size}
		d.readSocket(s)
		packets := <-stack.watch
		if len(packets) != n {
			t.Errorf("%d of %d packets delivered", len(packets), n)
		}
		for i, pkt := range packets {
			if &pkt[0] != &s.filled[i*size+dataHeaderSize] {
				t.Errorf("packet %d of %d was moved", i, n)
			}
		}
	}
}

func TestIdlePeersCostLittle(t *testing.T) {
	d, _, _, _, _ := newSteadyDevice(t)
	const n = 1000
	cfgs := make([]PeerConfig, n)
	for i := range cfgs {
		binary.BigEndian.PutUint32(cfgs[i].PublicKey[:], uint32(i+1))
		cfgs[i].Endpoint = farOuter.String()
	}
	memory := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	goroutines, before := runtime.NumGoroutine(), memory()
	for _, cfg := range cfgs {
		if err := d.SetPeer(cfg); err != nil {
			t.Fatal(err)
		}
	}
	if got := runtime.NumGoroutine(); got > goroutines {
		t.Errorf("%d goroutines for %d idle peers", got-goroutines, n)
	}
	if per := (int64(memory()) - int64(before)) / n; per > 4096 {
		t.Errorf("%d bytes for an idle peer", per)
	}
	runtime.KeepAlive(cfgs)
}

func TestIdleDeviceHasNoTimers(t *testing.T) {
	d, p, _, _, _ := newSteadyDevice(t)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil || !p.timers.nextDeadline().IsZero() {
		t.Error("an idle peer has a timer")
	}
	if d.sealers.workers+d.openers.workers+d.handshakes.workers != 0 {
		t.Error("an idle device has workers")
	}
}
