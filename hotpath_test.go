package wireguard

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/wgstack/wireguard/internal/udp"
	"github.com/wgstack/wireguard/netstack"
)

// What the steady state costs: no allocation for a packet, nothing for a peer
// that is idle.

var raceEnabled bool // sync.Pool then forgets things at random

// sinkConn is a socket that nothing comes from.
type sinkConn struct {
	net.PacketConn // nil
	written        atomic.Int64
	done           chan struct{}
	closing        sync.Once
}

func (c *sinkConn) ReadFrom([]byte) (int, net.Addr, error) {
	<-c.done
	return 0, nil, net.ErrClosed
}

func (c *sinkConn) WriteTo(b []byte, _ net.Addr) (int, error) {
	c.written.Add(1)
	return len(b), nil
}

func (c *sinkConn) LocalAddr() net.Addr { return &net.UDPAddr{Port: devPort} }

func (c *sinkConn) Close() error {
	c.closing.Do(func() { close(c.done) })
	return nil
}

// sinkStack counts what it is given.
type sinkStack struct{ delivered int }

func (s *sinkStack) Deliver(packets [][]byte) { s.delivered += len(packets) }
func (s *sinkStack) TooBig([]byte, int)       {}
func (s *sinkStack) Close() error             { return nil }

// steadyDevice is a device with a session that lasts and no network.
func steadyDevice(t *testing.T) (d *Device, p *peer, pair *keypair, conn *sinkConn, stack *sinkStack) {
	t.Helper()
	conn, stack = &sinkConn{done: make(chan struct{})}, new(sinkStack)
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
	p = d.peer(remote)
	pair = newKeypair(&transportKeys{send: [32]byte{1}, receive: [32]byte{2}}, d.now(), false, d.indices.reserve(p), 7)
	d.indices.assign(pair)
	p.mu.Lock()
	p.keys.current = pair
	p.mu.Unlock()
	return d, p, pair, conn, stack
}

func TestOutputDoesNotAllocate(t *testing.T) {
	d, _, _, conn, _ := steadyDevice(t)
	pkt := netstack.NewPacket(packet(devInner, farInner, string(make([]byte, 1000))))
	allocs := testing.AllocsPerRun(200, func() {
		if err := d.output(pkt); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 0 && !raceEnabled {
		t.Errorf("%v allocations for a packet out", allocs)
	}
	if n := conn.written.Load(); n != 201 {
		t.Errorf("%d packets sent", n)
	}
}

func TestReceivingDoesNotAllocate(t *testing.T) {
	const runs, segments = 100, 16
	d, p, pair, _, stack := steadyDevice(t)
	plain := packet(farInner, devInner, string(make([]byte, 100)))
	size := dataOverhead + len(plain)
	var (
		sealed [][]byte
		nonce  [12]byte
	)
	aead := newAEAD(&[32]byte{2})
	for i := range uint64((runs + 1) * segments) {
		if i%segments == 0 {
			sealed = append(sealed, nil)
		}
		msg := make([]byte, dataHeaderSize, size)
		putDataHeader(msg, pair.localIndex, i)
		binary.LittleEndian.PutUint64(nonce[4:], i)
		last := &sealed[len(sealed)-1]
		*last = append(*last, aead.Seal(msg, nonce[:], plain, nil)...)
	}
	r := reader{device: d}
	m := udp.Message{SegmentSize: size, Addr: farOuter}
	next := 0
	allocs := testing.AllocsPerRun(runs, func() {
		buf := newBuffer(maxMessage)
		m.N = copy(buf.b, sealed[next])
		next++
		r.sort(&m, buf)
		r.flush()
		buf.release()
	})
	if allocs > 0 && !raceEnabled {
		t.Errorf("%v allocations for %d packets in", allocs, segments)
	}
	if stack.delivered != len(sealed)*segments {
		t.Errorf("%d of %d packets delivered", stack.delivered, len(sealed)*segments)
	}
	if rx := p.rx.Load(); rx != uint64(len(sealed)*segments*size) {
		t.Errorf("%d bytes received", rx)
	}
}

func TestIdlePeersCostLittle(t *testing.T) {
	d, _, _, _, _ := steadyDevice(t)
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
	d, p, _, _, _ := steadyDevice(t)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil || !p.timers.next().IsZero() {
		t.Error("an idle peer has a timer")
	}
	if d.sealers.running+d.openers.running+d.handshakes.running != 0 {
		t.Error("an idle device has workers")
	}
}
