package udp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"
)

var (
	loopback4 = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.IPv6Loopback()
)

const patience = 10 * time.Second

// open returns the batched socket of a fresh UDPConn.
func open(t testing.TB, network, address string) Socket {
	t.Helper()
	s := Wrap(plain(t, network, address))
	if _, ok := s.(*conn); !ok {
		t.Fatalf("Wrap made a %T of a UDPConn", s)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// plain returns a UDPConn without any of this package's doing, which does not wait for ever.
func plain(t testing.TB, network, address string) *net.UDPConn {
	t.Helper()
	pc, err := net.ListenPacket(network, address)
	if err != nil {
		if network == "udp6" {
			t.Skipf("no IPv6 here: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc.(*net.UDPConn)
}

func addrOf(pc net.PacketConn) netip.AddrPort { return addrPortOf(pc.LocalAddr()) }

// at returns the address of s as seen from this host.
func at(s Socket, ip netip.Addr) netip.AddrPort { return netip.AddrPortFrom(ip, s.LocalAddr().Port()) }

// pattern returns n bytes that differ wherever they are cut.
func pattern(n, seed int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8*13 + seed*31)
	}
	return b
}

// wantDatagrams reads from pc what the messages amount to, one datagram after the other.
func wantDatagrams(t *testing.T, pc *net.UDPConn, ms []Message) (from netip.AddrPort) {
	t.Helper()
	pc.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 1<<16)
	for i, m := range ms {
		for j, want := range datagrams(m.Buf, m.SegmentSize) {
			n, addr, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				t.Fatalf("message %d, datagram %d: %v", i, j, err)
			}
			if !bytes.Equal(buf[:n], want) {
				t.Fatalf("message %d, datagram %d: got %d bytes %.8x…, want %d bytes %.8x…", i, j, n, buf[:n], len(want), want)
			}
			from = addr
		}
	}
	return from
}

// wantNothing checks that all that was sent has been read. On loopback a datagram is delivered before the send returns.
func wantNothing(t *testing.T, pc *net.UDPConn) {
	t.Helper()
	pc.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	n, err := pc.Read(make([]byte, 1<<16))
	if err == nil {
		t.Errorf("a datagram of %d bytes too many", n)
	}
}

func datagrams(b []byte, segmentSize int) [][]byte {
	if segmentSize == 0 || len(b) == 0 {
		return [][]byte{b}
	}
	var ds [][]byte
	for len(b) > 0 {
		n := min(segmentSize, len(b))
		ds = append(ds, b[:n])
		b = b[n:]
	}
	return ds
}

func write(t *testing.T, s Socket, ms ...Message) {
	t.Helper()
	if n, err := s.WriteBatch(ms); n != len(ms) || err != nil {
		t.Fatalf("WriteBatch of %d = %d, %v", len(ms), n, err)
	}
}

func newBatch(n int) []Message {
	ms := make([]Message, n)
	for i := range ms {
		ms[i].Buf = make([]byte, 1<<16)
	}
	return ms
}

// readUntil reads until done says so of the messages so far, whose contents it keeps.
func readUntil(t *testing.T, s Socket, done func([]Message) bool) []Message {
	t.Helper()
	watchdog := time.AfterFunc(patience, func() { s.Close() })
	defer watchdog.Stop()
	var got []Message
	ms := newBatch(4)
	for !done(got) {
		n, err := s.ReadBatch(ms)
		if err != nil {
			t.Fatalf("ReadBatch after %d messages: %v", len(got), err)
		}
		for _, m := range ms[:n] {
			m.Buf = bytes.Clone(m.Buf[:m.N])
			got = append(got, m)
		}
	}
	return got
}

func readOne(t *testing.T, s Socket) Message {
	t.Helper()
	return readUntil(t, s, func(got []Message) bool { return len(got) > 0 })[0]
}

// kinds are the ways a socket can carry a family.
var kinds = []struct {
	name    string
	network string
	address string
	ip      netip.Addr // where a peer finds it
	peer    string     // the network of that peer
}{
	{"IPv4", "udp4", "127.0.0.1:0", loopback4, "udp4"},
	{"IPv6", "udp6", "[::1]:0", loopback6, "udp6"},
	{"IPv4 wildcard", "udp4", ":0", loopback4, "udp4"},
	{"IPv6 wildcard", "udp6", ":0", loopback6, "udp6"},
	{"IPv4 on dual-stack", "udp", ":0", loopback4, "udp4"},
	{"IPv6 on dual-stack", "udp", ":0", loopback6, "udp6"},
}

// batch is a bit of everything that a UDP socket can send.
func batch(to netip.AddrPort) []Message {
	ms := []Message{
		{Buf: pattern(100, 0)},
		{Buf: pattern(10*1400, 1), SegmentSize: 1400},
		{Buf: pattern(10*1400+1, 2), SegmentSize: 1400},
		{Buf: pattern(1, 3)},
		{Buf: nil},
		{Buf: pattern(1400, 4), SegmentSize: 1400},
		{Buf: pattern(99, 5), SegmentSize: 1400},
		{Buf: nil, SegmentSize: 1400},
		{Buf: pattern(65507, 6)},
		{Buf: pattern(2*32000, 7), SegmentSize: 32000},
		{Buf: pattern(150, 8), SegmentSize: 1}, // more than 64 segments, more than 128 pieces
		{Buf: pattern(65535, 9), SegmentSize: 1420},
		{Buf: pattern(1452, 10)},
	}
	for i := range ms {
		ms[i].Addr = to
	}
	return ms
}

func TestWriteIsReadIntactAndInOrder(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			s := open(t, k.network, k.address)
			pc := plain(t, k.peer, net.JoinHostPort(k.ip.String(), "0"))
			pc.SetReadBuffer(4 << 20)
			ms := batch(addrOf(pc))
			for i := range ms { // one at a time: a small receive buffer must do
				write(t, s, ms[i])
				from := wantDatagrams(t, pc, ms[i:i+1])
				if want := at(s, k.ip); from != want {
					t.Fatalf("from %v, want %v", from, want)
				}
			}
			small := ms[:7]
			write(t, s, small...)
			wantDatagrams(t, pc, small)
			wantNothing(t, pc)
		})
	}
}

func TestReadSegments(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			s := open(t, k.network, k.address)
			peer := open(t, k.peer, net.JoinHostPort(k.ip.String(), "0"))
			for _, sent := range batch(at(s, k.ip)) {
				want := datagrams(sent.Buf, sent.SegmentSize)
				write(t, peer, sent)
				var got [][]byte
				readUntil(t, s, func(ms []Message) bool {
					got = nil
					for _, m := range ms {
						if m.Addr != peer.LocalAddr() {
							t.Fatalf("from %v, want %v", m.Addr, peer.LocalAddr())
						}
						if m.SegmentSize != 0 && m.SegmentSize >= m.N {
							t.Fatalf("segment size %d of a message of %d bytes", m.SegmentSize, m.N)
						}
						got = append(got, datagrams(m.Buf, m.SegmentSize)...)
					}
					return len(got) >= len(want)
				})
				for i := range want {
					if !bytes.Equal(got[i], want[i]) {
						t.Fatalf("datagram %d of %d bytes differs, want %d bytes", i, len(got[i]), len(want[i]))
					}
				}
			}
		})
	}
}

func TestWriteError(t *testing.T) {
	s := open(t, "udp4", "127.0.0.1:0")
	pc := plain(t, "udp4", "127.0.0.1:0")
	for _, bad := range []struct {
		name string
		m    Message
		want error
	}{
		{"too long", Message{Buf: make([]byte, 65508), Addr: addrOf(pc)}, syscall.EMSGSIZE},
		{"no address", Message{}, nil},
		{"wrong family", Message{Addr: netip.AddrPortFrom(loopback6, 1)}, nil},
	} {
		t.Run(bad.name, func(t *testing.T) {
			good := Message{Buf: []byte("good"), Addr: addrOf(pc)}
			ms := []Message{good, good, bad.m, good}
			n, err := s.WriteBatch(ms)
			if n != 2 || err == nil || bad.want != nil && !errors.Is(err, bad.want) {
				t.Fatalf("WriteBatch = %d, %v, want 2, %v", n, err, bad.want)
			}
			write(t, s, ms[n+1:]...)
			wantDatagrams(t, pc, []Message{good, good, good})
			wantNothing(t, pc)
		})
	}
}

func TestReadTruncates(t *testing.T) {
	s := open(t, "udp4", "127.0.0.1:0")
	pc := plain(t, "udp4", "127.0.0.1:0")
	for _, size := range []int{200, 1} {
		if _, err := pc.WriteToUDPAddrPort(pattern(size, 0), s.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	ms := []Message{{Buf: make([]byte, 100)}}
	if n, err := s.ReadBatch(ms); err == nil && runtime.GOOS == "windows" {
		return // the long one is gone
	} else if n != 1 || err != nil || !bytes.Equal(ms[0].Buf[:ms[0].N], pattern(200, 0)[:100]) {
		t.Fatalf("ReadBatch = %d, %v, %+v", n, err, ms[0])
	}
	if n, err := s.ReadBatch(ms); n != 1 || err != nil || ms[0].N != 1 {
		t.Fatalf("ReadBatch = %d, %v, %+v", n, err, ms[0])
	}
}

func TestListen(t *testing.T) {
	socks, port, err := Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(socks)
	if port == 0 || len(socks) == 0 {
		t.Fatalf("Listen(0) = %d sockets on port %d", len(socks), port)
	}
	seen := map[bool]bool{}
	for _, s := range socks {
		local := s.LocalAddr()
		if local.Port() != port || seen[local.Addr().Is4()] {
			t.Errorf("socket at %v, want one per family on port %d", local, port)
		}
		seen[local.Addr().Is4()] = true
		ip := loopback6
		if local.Addr().Is4() {
			ip = loopback4
		}
		write(t, s, Message{Buf: []byte("to myself"), Addr: netip.AddrPortFrom(ip, port)})
		if m := readOne(t, s); string(m.Buf) != "to myself" || m.Addr != netip.AddrPortFrom(ip, port) {
			t.Errorf("got %q from %v", m.Buf, m.Addr)
		}
	}

	_, _, err = Listen(port)
	if !errors.Is(err, syscall.EADDRINUSE) || !bytes.Contains([]byte(err.Error()), fmt.Append(nil, port)) {
		t.Errorf("Listen on an occupied port: %v", err)
	}
	closeAll(socks)
	again, bound, err := Listen(port)
	if err != nil || bound != port {
		t.Fatalf("Listen(%d) after Close = port %d, %v", port, bound, err)
	}
	closeAll(again)
}

func TestListenLeavesNothingBehind(t *testing.T) {
	pc := plain(t, "udp6", ":0")
	port := addrOf(pc).Port()
	if socks, _, err := Listen(port); !errors.Is(err, syscall.EADDRINUSE) {
		closeAll(socks)
		t.Fatalf("Listen where IPv6 has the port taken: %v", err)
	}
	// The IPv4 socket of the failed attempt must be gone.
	v4, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	v4.Close()
}

func TestRelisten(t *testing.T) {
	old, port, err := Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { closeAll(old) }()
	for round := range 3 {
		fresh, err := Relisten(old)
		if errors.Is(err, errors.ErrUnsupported) && !canReusePort {
			t.Skip("not on this system")
		}
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if len(fresh) != len(old) {
			t.Fatalf("round %d: %d sockets, want %d", round, len(fresh), len(old))
		}
		wantPortTaken(t, port)
		for _, s := range old {
			write(t, s, Message{Buf: []byte("still here"), Addr: at(s, loopbackOf(s))})
		}
		closeAll(old)
		old = fresh
		wantPortTaken(t, port)
		for _, s := range fresh {
			if s.LocalAddr().Port() != port {
				t.Fatalf("round %d: at %v, want port %d", round, s.LocalAddr(), port)
			}
			write(t, s, Message{Buf: fmt.Append(nil, round), Addr: at(s, loopbackOf(s))})
			readUntil(t, s, func(got []Message) bool {
				return len(got) > 0 && string(got[len(got)-1].Buf) == fmt.Sprint(round)
			})
		}
	}
}

// Covers P82.
func TestRelistenFailureLeavesOldServing(t *testing.T) {
	old, port, err := Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(old)
	generic := Wrap(struct{ net.PacketConn }{plain(t, "udp4", "127.0.0.1:0")})
	if _, err := Relisten(append(old[:len(old):len(old)], generic)); !errors.Is(err, errors.ErrUnsupported) {
		t.Fatalf("Relisten with a PacketConn of unknown making: %v", err)
	}
	// A closed socket cannot lend its port, nor can it be bound beside the other family's.
	closed, _, err := Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	closed[len(closed)-1].Close()
	if fresh, err := Relisten(closed); err == nil {
		closeAll(fresh)
		t.Fatal("Relisten of a closed socket succeeded")
	}
	closeAll(closed[:len(closed)-1])
	for _, s := range old {
		write(t, s, Message{Buf: []byte("old"), Addr: netip.AddrPortFrom(loopbackOf(s), port)})
		if m := readOne(t, s); string(m.Buf) != "old" {
			t.Errorf("got %q", m.Buf)
		}
	}
	wantPortTaken(t, port)
}

// wantPortTaken checks that nobody else gets the port, not even who is ready to share it.
func wantPortTaken(t *testing.T, port uint16) {
	t.Helper()
	socks, _, err := Listen(port)
	if !errors.Is(err, syscall.EADDRINUSE) {
		closeAll(socks)
		t.Fatalf("Listen on a port in use: %v", err)
	}
	for _, family := range families {
		c, err := listen(family, port, func(raw syscall.RawConn) error {
			if !canReusePort {
				return nil
			}
			return reusePort(raw, true)
		})
		if err == nil {
			c.Close()
			t.Fatalf("%s: a second socket shares the port", family)
		}
	}
}

func loopbackOf(s Socket) netip.Addr {
	if s.LocalAddr().Addr().Is4() {
		return loopback4
	}
	return loopback6
}

func TestClose(t *testing.T) {
	for name, s := range map[string]Socket{
		"batched": open(t, "udp4", "127.0.0.1:0"),
		"generic": Wrap(struct{ net.PacketConn }{plain(t, "udp4", "127.0.0.1:0")}),
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan error)
			go func() {
				_, err := s.ReadBatch(newBatch(2))
				got <- err
			}()
			for range 2 {
				if err := s.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			}
			select {
			case err := <-got:
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("ReadBatch: %v", err)
				}
			case <-time.After(patience):
				t.Fatal("ReadBatch still blocks")
			}
			if _, err := s.ReadBatch(newBatch(1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("ReadBatch after Close: %v", err)
			}
			if n, err := s.WriteBatch([]Message{{Buf: []byte{1}, Addr: s.LocalAddr()}}); n != 0 || !errors.Is(err, net.ErrClosed) {
				t.Errorf("WriteBatch after Close: %d, %v", n, err)
			}
		})
	}
}

// A host that answers with port unreachable must not end the reader: a connected socket hears of each.
func TestReadSurvivesRefusals(t *testing.T) {
	gone := plain(t, "udp4", "127.0.0.1:0")
	goneAddr := addrOf(gone)
	gone.Close()
	dialed, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(goneAddr))
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]Socket{
		"unconnected": open(t, "udp4", "127.0.0.1:0"),
		"connected":   Wrap(dialed),
	} {
		t.Run(name, func(t *testing.T) {
			defer s.Close()
			got := make(chan error)
			go func() {
				_, err := s.ReadBatch(newBatch(2))
				got <- err
			}()
			for range 200 {
				write(t, s, Message{Buf: []byte("anyone?"), Addr: goneAddr})
			}
			back, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(goneAddr))
			if err != nil {
				t.Skipf("another program has the port now: %v", err)
			}
			defer back.Close()
			back.SetWriteDeadline(time.Now().Add(patience))
			if _, err := back.WriteToUDPAddrPort([]byte("here"), s.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-got:
				if err != nil {
					t.Fatal(err)
				}
			case <-time.After(patience):
				t.Fatal("the reader got nothing")
			}
		})
	}
}

func TestConcurrentWrites(t *testing.T) {
	const writers, each = 4, 50
	s := open(t, "udp4", "127.0.0.1:0")
	pc := plain(t, "udp4", "127.0.0.1:0")
	pc.SetReadBuffer(4 << 20)
	for w := range writers {
		go func() {
			for i := range each {
				b := make([]byte, 8, 1024)
				binary.BigEndian.PutUint64(b, uint64(w)<<32|uint64(i))
				b = append(b, bytes.Repeat([]byte{byte(w)}, 100*(w+1))...)
				if _, err := s.WriteBatch([]Message{{Buf: b, Addr: addrOf(pc)}}); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	var next [writers]uint32
	buf := make([]byte, 2048)
	pc.SetReadDeadline(time.Now().Add(patience))
	for range writers * each {
		n, err := pc.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		w, i := binary.BigEndian.Uint32(buf), binary.BigEndian.Uint32(buf[4:])
		if i != next[w] || n != 8+100*(int(w)+1) || bytes.Count(buf[8:n], []byte{byte(w)}) != n-8 {
			t.Fatalf("datagram %d of writer %d, %d bytes, want number %d", i, w, n, next[w])
		}
		next[w]++
	}
}
