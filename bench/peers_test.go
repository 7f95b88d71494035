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

// BenchmarkPeers has a thousand peers send a little each, in turns, to one
// device, which has idle peers beside them. wireguard-go takes no more than
// 65,536 peers.
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
				s := newSwarm(b, k, 1000, false)
				s.enlist()
				s.addIdle(test.idle)
				s.shake()
				cs = append(cs, contestant{k.name, func() []metric { return s.round(20) }})
			}
			compare(b, cs)
		})
	}
}

const (
	// swarmWindow is how many packets of a swarm are under way at a time, few
	// enough for every queue to hold.
	swarmWindow  = 256
	swarmPayload = 128
	// swarmPatience is for how long nothing arrives until what is under way is
	// taken for lost.
	swarmPatience = 200 * time.Millisecond
)

// A swarm is a device and its many peers, which are no devices: each is a key,
// a socket and, once there was a handshake, a session.
type swarm struct {
	b       *testing.B
	end     end
	members []*member
	inside  net.PacketConn // of the device, where packets go
	answers bool           // they are sent back
	arrived atomic.Int64
	news    chan struct{} // something arrived
}

type member struct {
	*fakepeer.Peer
	socket  net.Conn
	addr    netip.Addr // inside
	session *fakepeer.Session
	sealed  [][]byte // to be sent
}

// newSwarm starts a device, which knows no peer yet, and n members.
func newSwarm(b *testing.B, k kind, n int, answers bool) *swarm {
	b.Helper()
	private := wireguard.NewPrivateKey()
	s := &swarm{b: b, end: startAlone(b, k, private), answers: answers, news: make(chan struct{}, 1)}
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

// close ends the device and its peers, which the end of the benchmark does too.
func (s *swarm) close() {
	s.end.Close()
	for _, m := range s.members {
		m.socket.Close()
	}
}

// enlist makes the members peers of the device.
func (s *swarm) enlist() {
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

// memberAddr is the inner address of peer i.
func memberAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(1 + i>>16), byte(i >> 8), byte(i)})
}

// addIdle gives the device n more peers, which never speak.
func (s *swarm) addIdle(n int) {
	s.b.Helper()
	for i := range n {
		if err := s.end.SetPeer(idlePeer(len(s.members) + i)); err != nil {
			s.b.Fatal(err)
		}
	}
}

// idlePeer is a peer that nobody has the private key of.
func idlePeer(i int) wireguard.PeerConfig {
	p := wireguard.PeerConfig{
		Endpoint:   "127.0.0.1:9",
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(memberAddr(i), 32)},
	}
	rand.Read(p.PublicKey[:])
	return p
}

// shake makes a session for each member. They begin one after the other: a
// device that has many handshakes to answer would ask for cookies.
func (s *swarm) shake() {
	s.b.Helper()
	for i, m := range s.members {
		var err error
		for tries := 0; m.session == nil; tries++ {
			if m.session, err = m.shake(); err != nil && tries == 5 {
				s.b.Fatalf("handshake of peer %d: %v", i, err)
			}
		}
	}
}

func (m *member) shake() (*fakepeer.Session, error) {
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

// receive reads inside the device what has arrived.
func (s *swarm) receive() {
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

// round sends each packets of every member and waits for them. Its metrics are
// how many packets the device accepted, and what it cost to send them and to
// accept them.
func (s *swarm) round(each int) []metric {
	for _, m := range s.members {
		m.seal(each)
	}
	sent, arrived := int64(0), s.arrived.Load()
	cpu, start := cpuTime(), time.Now()
	var idle time.Duration // waited for what was lost
	lost := int64(0)
	wait := func(most int64) {
		for sent-lost-(s.arrived.Load()-arrived) > most {
			select {
			case <-s.news:
			case <-time.After(swarmPatience):
				idle += swarmPatience
				lost = sent - (s.arrived.Load() - arrived)
			}
		}
	}
	for i := range each {
		for _, m := range s.members {
			wait(swarmWindow - 1)
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

// seal prepares n packets, so that it costs nothing later.
func (m *member) seal(n int) {
	m.sealed = m.sealed[:0]
	pkt := datagram(m.addr, inner(0, 4), make([]byte, swarmPayload))
	for range n {
		m.sealed = append(m.sealed, m.session.Seal(pkt))
	}
}

// datagram is an IPv4 packet with UDP for port.
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
	udp := b[ipHeader:] // without a checksum, which IPv4 allows
	binary.BigEndian.PutUint16(udp, port)
	binary.BigEndian.PutUint16(udp[2:], port)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	return b
}
