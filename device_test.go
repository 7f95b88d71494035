package wireguard

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/udp"
	"golang.org/x/net/nettest"
)

// Devices with the real stack and real sockets, over loopback.

// devices returns two devices of which the first knows where the second is.
func devices(t testing.TB) (near, far *Device) {
	t.Helper()
	start := func(cfg Config) *Device {
		d, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d
	}
	addresses := func(host string) []netip.Prefix {
		return []netip.Prefix{netip.MustParsePrefix("10.0.0." + host + "/32"), netip.MustParsePrefix("fd00::" + host + "/128")}
	}
	nearKey, farKey := NewPrivateKey(), NewPrivateKey()
	far = start(Config{
		PrivateKey: farKey,
		Address:    addresses("2"),
		Peers:      []PeerConfig{{PublicKey: nearKey.PublicKey(), AllowedIPs: addresses("1")}},
	})
	near = start(Config{
		PrivateKey: nearKey,
		Address:    addresses("1"),
		Peers: []PeerConfig{{
			PublicKey:  farKey.PublicKey(),
			Endpoint:   netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), far.Stats().ListenPort).String(),
			AllowedIPs: addresses("2"),
		}},
	})
	return near, far
}

func timeout(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestConnections holds TCP connections through a tunnel to what package net
// promises of connections.
func TestConnections(t *testing.T) {
	near, far := devices(t)
	for _, host := range []string{"10.0.0.2", "fd00::2"} {
		l, err := far.Listen(background, "tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
			if c1, err = near.DialContext(background, "tcp", l.Addr().String()); err != nil {
				return nil, nil, nil, err
			}
			if c2, err = l.Accept(); err != nil {
				c1.Close()
				return nil, nil, nil, err
			}
			return c1, c2, func() { c1.Close(); c2.Close() }, nil
		})
	}
}

// TestBothWays echoes a stream in each family at once, and ends it by halves.
//
// Covers N01.
func TestBothWays(t *testing.T) {
	near, far := devices(t)
	l, err := far.Listen(background, "tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	var wg sync.WaitGroup
	for _, host := range []string{"10.0.0.2:7", "[fd00::2]:7"} {
		wg.Go(func() {
			c, err := near.DialContext(timeout(t, 20*time.Second), "tcp", host)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			sent := make([]byte, 4<<20)
			rand.Read(sent)
			go func() {
				c.Write(sent)
				c.(interface{ CloseWrite() error }).CloseWrite()
			}()
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%s: %d of %d bytes came back, %v", host, len(got), len(sent), err)
			}
		})
	}
	wg.Wait()
	for _, host := range []string{"10.0.0.2", "fd00::2"} {
		if _, err := near.Ping(timeout(t, 10*time.Second), netip.MustParseAddr(host)); err != nil {
			t.Error(err)
		}
	}
}

func TestOccupiedPort(t *testing.T) {
	_, far := devices(t)
	port := far.Stats().ListenPort
	if _, err := New(Config{ListenPort: port}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("error %v, want EADDRINUSE", err)
	}
}

// TestSilentPeer dials through a peer that never answers.
func TestSilentPeer(t *testing.T) {
	hole, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	near, _ := devices(t)
	peer := PeerConfig{
		PublicKey:  NewPrivateKey().PublicKey(),
		Endpoint:   hole.LocalAddr().String(),
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")},
	}
	if err := near.SetPeer(peer); err != nil {
		t.Fatal(err)
	}
	_, err = near.DialContext(timeout(t, 300*time.Millisecond), "tcp", "10.9.0.1:80")
	var op *net.OpError
	if !errors.As(err, &op) || !errors.Is(err, ErrNoHandshake) || !errors.Is(err, context.DeadlineExceeded) || !op.Timeout() {
		t.Errorf("error %v", err)
	}
	// The device goes on.
	if _, err := near.Ping(timeout(t, 10*time.Second), netip.MustParseAddr("10.0.0.2")); err != nil {
		t.Error(err)
	}
}

// TestGarbage storms a device with datagrams that are no messages, or claim to
// be.
func TestGarbage(t *testing.T) {
	near, far := devices(t)
	storm, err := net.Dial("udp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), far.Stats().ListenPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer storm.Close()
	for i := range 3000 {
		b := make([]byte, []int{0, 1, 3, 31, 32, 64, 92, 148, 149, 1452, 9000}[i%11])
		rand.Read(b)
		if len(b) > 3 {
			copy(b, []byte{byte(1 + i%4), 0, 0, 0})
		}
		storm.Write(b)
	}
	if _, err := near.Ping(timeout(t, 20*time.Second), netip.MustParseAddr("10.0.0.2")); err != nil {
		t.Error(err)
	}
	for _, p := range far.Stats().Peers {
		if p.RxBytes == 0 || p.LastHandshake.IsZero() {
			t.Errorf("peer %+v", p)
		}
	}
}

// TestCloseDuringRebind closes a device whose socket factory waits, as one may
// that waits for a network.
func TestCloseDuringRebind(t *testing.T) {
	waiting := make(chan struct{})
	first := true
	d, err := New(Config{ListenPacket: func(ctx context.Context, network, address string) (net.PacketConn, error) {
		if first {
			first = false
			return net.ListenPacket("udp4", "127.0.0.1:0")
		}
		close(waiting)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	if err != nil {
		t.Fatal(err)
	}
	rebound := make(chan error)
	go func() { rebound <- d.Rebind() }()
	<-waiting
	closed := make(chan struct{})
	go func() {
		d.Close()
		close(closed)
	}()
	if err := <-rebound; !errors.Is(err, context.Canceled) {
		t.Errorf("Rebind: %v", err)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("Close hangs")
	}
	if err := d.RemovePeer(PublicKey{1}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("RemovePeer: %v", err)
	}
	if err := d.Handshake(background, PublicKey{1}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Handshake: %v", err)
	}
}

// TestWaitingMessagesPinLittle fills a lane with datagrams that came one by
// one, each in a buffer that could hold 64 KiB.
func TestWaitingMessagesPinLittle(t *testing.T) {
	b := new(recvBatch)
	var sent [][]byte
	for i := range 40 {
		buf := newBuffer(maxMessage)
		msg := buf.b[:100+10*i]
		rand.Read(msg)
		sent = append(sent, bytes.Clone(msg))
		b.bufs, b.msgs, b.bytes = append(b.bufs, buf), append(b.msgs, msg), b.bytes+len(msg)
	}
	b.compact()
	if b.pinned() > 4*b.bytes {
		t.Errorf("%d bytes pin %d", b.bytes, b.pinned())
	}
	for i := range sent {
		if !bytes.Equal(b.msgs[i], sent[i]) {
			t.Errorf("message %d changed", i)
		}
	}
	// What is dense already stays where it is.
	msg, bufs := &b.msgs[0][0], len(b.bufs)
	b.compact()
	if &b.msgs[0][0] != msg || len(b.bufs) != bufs {
		t.Error("compacted again")
	}
	b.free()
}

func TestSmallMessageThatWaitsPinsLittle(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.accept()
		b.stack.block = make(chan struct{})
		b.far.data(s, "holds up the stack")
		before := b.dev.held.Load()

		buf := newBuffer(maxMessage)
		m := udp.Message{Buf: buf.b, N: copy(buf.b, s.Seal(packet(farInner, devInner, "waits"))), Addr: farOuter}
		r := reader{device: b.dev}
		r.sort(&m, buf)
		r.flush()
		buf.release()
		if n := b.dev.held.Load() - before; n != int64(bufferSizes[0]) {
			t.Errorf("a message of %d bytes pins %d", m.N, n)
		}
		close(b.stack.block)
		b.wantDelivered("in the end", "holds up the stack", "waits")
	})
}

// tide is a socket that gives each read as many messages as it is told to, all
// empty, and then is closed.
type tide struct {
	udp.Socket
	messages []int
	room     []int // that each read had
}

func (s *tide) ReadBatch(ms []udp.Message) (int, error) {
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
		s    tide
		want []int
	)
	for _, c := range []struct{ reads, room, messages int }{
		{1, 2, 1},
		{1, 2, 2}, {1, 4, 4}, {1, 8, 8}, {2, 16, 16},
		{sparseReads - 1, 16, 4}, {1, 16, 5}, // the count begins anew
		{sparseReads, 16, 4}, {sparseReads, 8, 2}, {sparseReads, 4, 1}, {2 * sparseReads, 2, 1},
		{1, 2, 2}, {1, 4, 1},
	} {
		for range c.reads {
			s.messages, want = append(s.messages, c.messages), append(want, c.room)
		}
	}
	d := newDevice(Config{})
	d.read(&s)
	if !slices.Equal(s.room, want) {
		t.Errorf("asked for %d\nwant %d", s.room, want)
	}
}
