package bench

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/internal/fakepeer"
)

// BenchmarkStorm has many clients make handshakes with a device that has no
// session with them, as after a restart: each sends an initiation at some time
// within two seconds, and again five seconds later unless it is answered, with a
// cookie if it was given one. Its metrics are the times until a half, 99 % and all
// of them have a response, and round trips in a session that exists, of a small
// packet every 5 ms.
//
// The clients have addresses of their own. That they make their first initiations
// does not count, but that they make others takes time from the device.
func BenchmarkStorm(b *testing.B) {
	for _, test := range []struct {
		clients int
		kinds   []kind
	}{
		{2000, []kind{kindOwn, kindGo}},
		{10_000, []kind{kindOwn, kindGo}},
		{50_000, []kind{kindOwn}}, // wireguard-go needs 80 KB for each
	} {
		b.Run(fmt.Sprintf("clients=%d", test.clients), func(b *testing.B) {
			n := test.clients
			if runsOnce() {
				n /= 50
			}
			var cs []contestant
			for _, k := range test.kinds {
				cs = append(cs, contestant{k.name, func() []metric { return newStorm(b, k, n).round() }})
			}
			compare(b, cs)
		})
	}
}

const (
	stormPeriod = 2 * time.Second
	stormRetry  = 5 * time.Second // REKEY_TIMEOUT
	stormLimit  = 90 * time.Second
	stormPing   = 5 * time.Millisecond
)

// A storm is a device and its clients, which share a socket.
type storm struct {
	*peerLoad
	socket  *net.UDPConn
	device  *net.UDPAddr
	clients []*stormClient
}

type stormClient struct {
	*fakepeer.Peer
	first  []byte // the first initiation
	source []byte // the control message with its address

	mu   sync.Mutex // guards Cookie too
	mac1 [16]byte   // of the latest initiation
	at   atomic.Int64
}

func newStorm(b *testing.B, k kind, n int) *storm {
	b.Helper()
	s := &storm{peerLoad: newPeerLoad(b, k, 1, true)}
	s.addMembers()
	s.handshake()
	socket, err := net.ListenUDP("udp4", nil)
	if err != nil {
		b.Fatal(err)
	}
	socket.SetReadBuffer(8 << 20)
	s.socket = socket
	s.device = net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.end.Port()))
	s.clients = make([]*stormClient, n)
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				c := &stormClient{
					Peer:   fakepeer.New(wireguard.NewPrivateKey(), s.members[0].Remote),
					source: unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte{127, byte(1 + i>>16), byte(i >> 8), byte(i)}}),
				}
				c.first = c.initiation(i)
				s.clients[i] = c
			}
		})
	}
	wg.Wait()
	for i, c := range s.clients {
		err := s.end.SetPeer(wireguard.PeerConfig{
			PublicKey:  c.Public,
			AllowedIPs: []netip.Prefix{netip.PrefixFrom(memberAddr(1+i), 32)},
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return s
}

// initiation returns an initiation of client i, whose index tells which it is.
func (c *stormClient) initiation(i int) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	msg, hs := c.Initiation(fakepeer.InitiationOptions{Index: uint32(1 + i)})
	c.mac1 = hs.MAC1
	return msg
}

// round has all clients come. It closes the device.
func (s *storm) round() []metric {
	defer s.close()
	defer s.socket.Close()
	var answered atomic.Int64
	begun := time.Now()
	go s.readAnswers(begun, &answered)
	stop, pinged := make(chan struct{}), make(chan []time.Duration)
	go func() { pinged <- s.members[0].pings(stop) }()

	n, period := len(s.clients), stormPeriod
	if runsOnce() {
		period /= 20
	}
	type turn struct {
		client int
		at     time.Time
	}
	turns := make([]turn, n, 2*n)
	for i := range n {
		turns[i] = turn{i, begun.Add(period * time.Duration(i) / time.Duration(n))}
	}
	// Turns of clients that try again follow those that came first.
	for len(turns) > 0 && time.Since(begun) < stormLimit && answered.Load() < int64(n) {
		t := turns[0]
		turns = turns[1:]
		for time.Until(t.at) > 0 && answered.Load() < int64(n) {
			time.Sleep(min(time.Until(t.at), 10*time.Millisecond))
		}
		c := s.clients[t.client]
		if c.at.Load() != 0 {
			continue
		}
		msg := c.first
		if t.at.Sub(begun) >= stormRetry {
			msg = c.initiation(t.client)
		}
		s.socket.WriteMsgUDP(msg, c.source, s.device)
		turns = append(turns, turn{t.client, t.at.Add(stormRetry)})
	}
	close(stop)
	rtts := <-pinged
	if int(answered.Load()) < n {
		s.b.Logf("%d of %d clients have a response", answered.Load(), n)
	}
	var times []time.Duration
	for _, c := range s.clients {
		at := time.Duration(c.at.Load())
		if at == 0 {
			at = stormLimit
		}
		times = append(times, at)
	}
	return []metric{
		{"p50-s", quantile(times, 0.5) / 1e6},
		{"p99-s", quantile(times, 0.99) / 1e6},
		{"all-s", quantile(times, 1) / 1e6},
		{"ping-p50-us", quantile(rtts, 0.5)},
		{"ping-p99-us", quantile(rtts, 0.99)},
	}
}

// readAnswers notes when responses arrive, and cookies.
func (s *storm) readAnswers(begun time.Time, answered *atomic.Int64) {
	buf := make([]byte, 2048)
	for {
		n, err := s.socket.Read(buf)
		if err != nil {
			return
		}
		msg := buf[:n]
		i := int(fakepeer.Receiver(msg)) - 1
		if i < 0 || i >= len(s.clients) {
			continue
		}
		c := s.clients[i]
		switch fakepeer.KindOf(msg) {
		case fakepeer.Response:
			if c.at.CompareAndSwap(0, int64(time.Since(begun))) {
				answered.Add(1)
			}
		case fakepeer.CookieReply:
			c.mu.Lock()
			if cookie, err := c.ConsumeCookieReply(msg, c.mac1); err == nil {
				c.Cookie = cookie[:]
			}
			c.mu.Unlock()
		}
	}
}

// pings sends a packet through the member's session every stormPing, and returns
// how long the answers took; a second for those that did not come within that.
func (m *member) pings(stop <-chan struct{}) (rtts []time.Duration) {
	buf := make([]byte, 2048)
	pkt := datagram(m.addr, inner(0, 4), make([]byte, 32))
	for {
		select {
		case <-stop:
			return rtts
		case <-time.After(stormPing):
		}
		begun := time.Now()
		m.socket.Write(m.session.Seal(pkt))
		m.socket.SetReadDeadline(begun.Add(time.Second))
		for {
			n, err := m.socket.Read(buf)
			if err != nil || fakepeer.KindOf(buf[:n]) == fakepeer.Data && !fakepeer.IsKeepalive(buf[:n]) {
				break
			}
		}
		rtts = append(rtts, time.Since(begun))
	}
}
