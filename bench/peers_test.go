package bench

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/internal/fakepeer"
)

// BenchmarkPeers has a thousand peers send a little each, in turn, to one
// device, which has idle peers as well. wireguard-go accepts at most 65,536
// peers.
func BenchmarkPeers(b *testing.B) {
	for _, test := range []struct {
		idle  int
		kinds []kind
	}{
		{0, []kind{kindOwn, kindGo}},
		{10_000, []kind{kindOwn, kindGo}},
		{100_000, []kind{kindOwn}},
	} {
		b.Run(fmt.Sprintf("busy=1000/idle=%d", test.idle), func(b *testing.B) {
			var cs []contestant
			for _, k := range test.kinds {
				s := newPeerLoad(b, k, 1000, false)
				s.addMembers()
				s.addIdle(test.idle)
				s.handshake()
				cs = append(cs, contestant{k.name, func() []metric { return s.round(20) }})
			}
			compare(b, cs)
		})
	}
}

const (
	// peerWindow is the number of packets in flight, small enough for every
	// queue on the path.
	peerWindow  = 256
	peerPayload = 128
	// peerLossTimeout is the time without arrivals after which the packets in
	// flight count as lost.
	peerLossTimeout = 200 * time.Millisecond
)

// A peerLoad is a device and its many peers. The peers are not devices: each is
// a key, a socket and, after a handshake, a session.
type peerLoad struct {
	b       *testing.B
	end     end
	members []*member
	inside  net.PacketConn // the device's socket that receives the packets
	answers bool           // whether packets are sent back
	arrived atomic.Int64
	news    chan struct{} // signals an arrival
}

type member struct {
	*fakepeer.Peer
	socket  net.Conn
	addr    netip.Addr // inside the tunnel
	session *fakepeer.Session
	sealed  [][]byte // packets to send
}

// newPeerLoad starts a device without peers, and n members.
func newPeerLoad(b *testing.B, k kind, n int, answers bool) *peerLoad {
	b.Helper()
	private := wireguard.NewPrivateKey()
	s := &peerLoad{b: b, end: startAlone(b, k, private), answers: answers, news: make(chan struct{}, 1)}
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.end.Port()).String()
	for i := range n {
		socket, err := net.Dial("udp", at)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { socket.Close() })
		key := wireguard.NewPrivateKey()
		s.members = append(s.members, &member{
			Peer:   fakepeer.New(key, private.PublicKey()),
			socket: socket,
			addr:   memberAddr(i),
		})
	}
	var err error
	if s.inside, err = s.end.ListenPacket(b.Context(), "udp", netip.AddrPortFrom(inner(0, 4), port).String()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.inside.Close() })
	go s.receive()
	return s
}

// close closes the device and its peers; so does the end of the benchmark.
func (s *peerLoad) close() {
	s.end.Close()
	for _, m := range s.members {
		m.socket.Close()
	}
}

// addMembers adds the members to the device's peers.
func (s *peerLoad) addMembers() {
	s.b.Helper()
	for _, m := range s.members {
		err := s.end.SetPeer(wireguard.PeerConfig{
			PublicKey:  m.Public,
			AllowedIPs: []netip.Prefix{netip.PrefixFrom(m.addr, 32)},
		})
		if err != nil {
			s.b.Fatal(err)
		}
	}
}

// memberAddr returns the inner address of member i.
func memberAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(1 + i>>16), byte(i >> 8), byte(i)})
}

// addIdle adds n peers to the device that never send.
func (s *peerLoad) addIdle(n int) {
	s.b.Helper()
	for i := range n {
		if err := s.end.SetPeer(idlePeer(len(s.members) + i)); err != nil {
			s.b.Fatal(err)
		}
	}
}

// idlePeer returns a peer with a random public key.
func idlePeer(i int) wireguard.PeerConfig {
	p := wireguard.PeerConfig{
		Endpoint:   "127.0.0.1:9",
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(memberAddr(i), 32)},
	}
	rand.Read(p.PublicKey[:])
	return p
}

// handshake establishes a session for each member, one after the other: a
// device with many handshakes to answer at once would demand cookies.
func (s *peerLoad) handshake() {
	s.b.Helper()
	for i, m := range s.members {
		var err error
		for tries := 0; m.session == nil; tries++ {
			if m.session, err = m.handshake(); err != nil && tries == 5 {
				s.b.Fatalf("handshake of peer %d: %v", i, err)
			}
		}
	}
}

func (m *member) handshake() (*fakepeer.Session, error) {
	msg, hs := m.Initiation(fakepeer.InitiationOptions{})
	if _, err := m.socket.Write(msg); err != nil {
		return nil, err
	}
	m.socket.SetReadDeadline(time.Now().Add(time.Second))
	buf := make([]byte, 2048)
	n, err := m.socket.Read(buf)
	if err != nil {
		return nil, err
	}
	return m.ConsumeResponse(hs, buf[:n])
}

// receive reads and counts the packets that arrive inside the tunnel.
func (s *peerLoad) receive() {
	buf := make([]byte, 2048)
	for {
		n, from, err := s.inside.ReadFrom(buf)
		if err != nil {
			return
		}
		if s.answers {
			s.inside.WriteTo(buf[:n], from)
		}
		s.arrived.Add(1)
		select {
		case s.news <- struct{}{}:
		default:
		}
	}
}

// round sends the given number of packets from every member and waits for them.
// Its metrics are the packets per second and the processor time, that of
// sending included.
func (s *peerLoad) round(each int) []metric {
	for _, m := range s.members {
		m.seal(each)
	}
	sent, arrived := int64(0), s.arrived.Load()
	cpu, start := cpuTime(), time.Now()
	var idle time.Duration // time spent waiting for lost packets
	lost := int64(0)
	wait := func(most int64) {
		for sent-lost-(s.arrived.Load()-arrived) > most {
			select {
			case <-s.news:
			case <-time.After(peerLossTimeout):
				idle += peerLossTimeout
				lost = sent - (s.arrived.Load() - arrived)
			}
		}
	}
	for i := range each {
		for _, m := range s.members {
			wait(peerWindow - 1)
			if _, err := m.socket.Write(m.sealed[i]); err != nil {
				s.b.Fatal(err)
			}
			sent++
		}
	}
	wait(0)
	elapsed := time.Since(start) - idle
	cpu = cpuTime() - cpu
	got := s.arrived.Load() - arrived
	if got == 0 {
		s.b.Fatalf("none of %d packets arrived", sent)
	}
	return []metric{
		{"packets/s", float64(got) / elapsed.Seconds()},
		{"CPU-us/packet", float64(cpu.Microseconds()) / float64(got)},
	}
}

// seal seals n packets in advance, so that the measurement excludes it.
func (m *member) seal(n int) {
	m.sealed = m.sealed[:0]
	pkt := datagram(m.addr, inner(0, 4), make([]byte, peerPayload))
	for range n {
		m.sealed = append(m.sealed, m.session.Seal(pkt))
	}
}

// datagram returns an IPv4 packet with a UDP datagram for port.
func datagram(src, dst netip.Addr, payload []byte) []byte {
	const ipHeader, udpHeader = 20, 8
	b := make([]byte, ipHeader+udpHeader, ipHeader+udpHeader+len(payload))
	b = append(b, payload...)
	b[0], b[8], b[9] = 0x45, 64, 17 // version and length, TTL, UDP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	var sum uint32
	for i := 0; i < ipHeader; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	udp := b[ipHeader:] // no checksum, as IPv4 permits
	binary.BigEndian.PutUint16(udp, port)
	binary.BigEndian.PutUint16(udp[2:], port)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	return b
}
