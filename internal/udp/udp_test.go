package udp

import (
	"bytes"
	"encoding/binary"
	"errors"
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

const readTimeout = 10 * time.Second

// openSocket returns the batched socket of a fresh UDPConn.
func openSocket(t testing.TB, network, address string) Socket {
	t.Helper()
	s := Wrap(listenPlain(t, network, address))
	if _, ok := s.(*conn); !ok {
		t.Fatalf("Wrap made a %T of a UDPConn", s)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// listenPlain returns a UDPConn that this package has not touched.
func listenPlain(t testing.TB, network, address string) *net.UDPConn {
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

// addrOn returns the address of s as seen from this host.
func addrOn(s Socket, ip netip.Addr) netip.AddrPort {
	return netip.AddrPortFrom(ip, s.LocalAddr().Port())
}

// pattern returns n bytes in which a misplaced part is noticed.
func pattern(n, seed int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8*13 + seed*31)
	}
	return b
}

// wantDatagrams reads the datagrams of the messages from pc one by one. It
// returns the source of the last.
func wantDatagrams(t *testing.T, pc *net.UDPConn, ms []Message) (from netip.AddrPort) {
	t.Helper()
	pc.SetReadDeadline(time.Now().Add(readTimeout))
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

// wantNothing checks that no datagram is left to read. On loopback a datagram
// is delivered before the send returns.
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

func writeAll(t *testing.T, s Socket, ms ...Message) {
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

// readUntil reads until done returns true for the messages so far, which it
// copies.
func readUntil(t *testing.T, s Socket, done func([]Message) bool) []Message {
	t.Helper()
	watchdog := time.AfterFunc(readTimeout, func() { s.Close() })
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

func readMessage(t *testing.T, s Socket) Message {
	t.Helper()
	return readUntil(t, s, func(got []Message) bool { return len(got) > 0 })[0]
}

// socketKinds are the ways in which a socket can carry a family.
var socketKinds = []struct {
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

// mixedBatch has messages of every kind that a UDP socket can send.
func mixedBatch(to netip.AddrPort) []Message {
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
	for _, k := range socketKinds {
		t.Run(k.name, func(t *testing.T) {
			s := openSocket(t, k.network, k.address)
			pc := listenPlain(t, k.peer, net.JoinHostPort(k.ip.String(), "0"))
			pc.SetReadBuffer(4 << 20)
			ms := mixedBatch(addrOf(pc))
			for i := range ms { // one at a time, for the sake of a small receive buffer
				writeAll(t, s, ms[i])
				from := wantDatagrams(t, pc, ms[i:i+1])
				if want := addrOn(s, k.ip); from != want {
					t.Fatalf("from %v, want %v", from, want)
				}
			}
			small := ms[:7]
			writeAll(t, s, small...)
			wantDatagrams(t, pc, small)
			wantNothing(t, pc)
		})
	}
}

func TestReadSegments(t *testing.T) {
	for _, k := range socketKinds {
		t.Run(k.name, func(t *testing.T) {
			s := openSocket(t, k.network, k.address)
			peer := openSocket(t, k.peer, net.JoinHostPort(k.ip.String(), "0"))
			for _, sent := range mixedBatch(addrOn(s, k.ip)) {
				want := datagrams(sent.Buf, sent.SegmentSize)
				writeAll(t, peer, sent)
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
	s := openSocket(t, "udp4", "127.0.0.1:0")
	pc := listenPlain(t, "udp4", "127.0.0.1:0")
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
			writeAll(t, s, ms[n+1:]...)
			wantDatagrams(t, pc, []Message{good, good, good})
			wantNothing(t, pc)
		})
	}
}

func TestReadTruncates(t *testing.T) {
	s := openSocket(t, "udp4", "127.0.0.1:0")
	pc := listenPlain(t, "udp4", "127.0.0.1:0")
	for _, size := range []int{200, 1} {
		if _, err := pc.WriteToUDPAddrPort(pattern(size, 0), s.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	ms := []Message{{Buf: make([]byte, 100)}}
	if n, err := s.ReadBatch(ms); err == nil && runtime.GOOS == "windows" {
		return // the long datagram is dropped
	} else if n != 1 || err != nil || !bytes.Equal(ms[0].Buf[:ms[0].N], pattern(200, 0)[:100]) {
		t.Fatalf("ReadBatch = %d, %v, %+v", n, err, ms[0])
	}
	if n, err := s.ReadBatch(ms); n != 1 || err != nil || ms[0].N != 1 {
		t.Fatalf("ReadBatch = %d, %v, %+v", n, err, ms[0])
	}
}

// ICMP port unreachable messages must not end the reader. A connected socket
// receives each as an error.
func TestReadSurvivesRefusals(t *testing.T) {
	closed := listenPlain(t, "udp4", "127.0.0.1:0")
	closedAddr := addrOf(closed)
	closed.Close()
	dialed, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(closedAddr))
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]Socket{
		"unconnected": openSocket(t, "udp4", "127.0.0.1:0"),
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
				writeAll(t, s, Message{Buf: []byte("lost"), Addr: closedAddr})
			}
			back, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(closedAddr))
			if err != nil {
				t.Skipf("another program has the port now: %v", err)
			}
			defer back.Close()
			back.SetWriteDeadline(time.Now().Add(readTimeout))
			if _, err := back.WriteToUDPAddrPort([]byte("here"), s.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-got:
				if err != nil {
					t.Fatal(err)
				}
			case <-time.After(readTimeout):
				t.Fatal("the reader got nothing")
			}
		})
	}
}

func TestConcurrentWrites(t *testing.T) {
	const writers, each = 4, 50
	s := openSocket(t, "udp4", "127.0.0.1:0")
	pc := listenPlain(t, "udp4", "127.0.0.1:0")
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
	pc.SetReadDeadline(time.Now().Add(readTimeout))
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
