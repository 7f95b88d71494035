package wireguard

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
)

// A testnet is a simulated network of several devices, in virtual time with
// fake stacks or in real time with real ones.
type testnet struct {
	*testing.T
	*simnet.Network
	virtual bool
}

// A testNode is a device in a testnet and its host. Node n has the outer
// addresses 192.0.2.n and 2001:db8::n and the inner addresses 10.0.0.n and
// fd00::n.
type testNode struct {
	*Device
	net    *testnet
	number byte
	key    PrivateKey
	host   *simnet.Host
	stack  *fakeStack // in virtual time
}

// withTestnet runs a transcript between devices in virtual time.
func withTestnet(t *testing.T, transcript func(w *testnet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &testnet{t, simnet.New(1), true}
		defer w.Network.Close()
		transcript(w)
	})
}

// newRealTimeTestnet returns a testnet in real time.
func newRealTimeTestnet(t *testing.T, options ...simnet.Option) *testnet {
	w := &testnet{t, simnet.New(1, options...), false}
	t.Cleanup(w.Network.Close)
	return w
}

func outerIPv4(n byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, n}) }

func innerIPv4(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, n}) }

func innerIPv6(n byte) netip.Addr { return netip.AddrFrom16([16]byte{0xfd, 15: n}) }

func outerIPv6(n byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: n})
}

// innerPrefixes returns the inner addresses of node n as prefixes.
func innerPrefixes(n byte) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(innerIPv4(n), 32), netip.PrefixFrom(innerIPv6(n), 128)}
}

// addNode makes node n. edit changes its configuration and may be nil.
func (w *testnet) addNode(n byte, edit func(*Config)) *testNode {
	w.Helper()
	return w.addNodeOn(w.Host(outerIPv4(n), outerIPv6(n)), n, edit)
}

// addNodeOn makes node n on the given host.
func (w *testnet) addNodeOn(host *simnet.Host, n byte, edit func(*Config)) *testNode {
	w.Helper()
	s := &testNode{net: w, number: n, key: NewPrivateKey(), host: host}
	cfg := Config{
		PrivateKey:   s.key,
		ListenPort:   devPort,
		Address:      innerPrefixes(n),
		ListenPacket: host.ListenPacket,
	}
	if edit != nil {
		edit(&cfg)
	}
	var err error
	if !w.virtual {
		if s.Device, err = New(cfg); err != nil {
			w.Fatal(err)
		}
	} else {
		if cfg, err = cfg.canonical(); err != nil {
			w.Fatal(err)
		}
		s.Device, s.stack = newDevice(cfg), new(fakeStack)
		if err := s.start(cfg, s.stack); err != nil {
			w.Fatal(err)
		}
	}
	w.Cleanup(func() { s.Close() })
	return s
}

// peerConfig returns the configuration of s as a peer; endpoint may be empty.
func (s *testNode) peerConfig(endpoint string) PeerConfig {
	return PeerConfig{PublicKey: s.key.PublicKey(), Endpoint: endpoint, AllowedIPs: innerPrefixes(s.number)}
}

// endpoint returns the outer IPv4 or IPv6 endpoint of s.
func (s *testNode) endpoint(v6 bool) string {
	a := outerIPv4(s.number)
	if v6 {
		a = outerIPv6(s.number)
	}
	return netip.AddrPortFrom(a, s.Stats().ListenPort).String()
}

func (s *testNode) setPeer(cfg PeerConfig) {
	s.net.Helper()
	if err := s.SetPeer(cfg); err != nil {
		s.net.Fatal(err)
	}
}

// addPeer configures other as a peer of s, with its IPv4 endpoint.
func (s *testNode) addPeer(other *testNode) {
	s.net.Helper()
	s.setPeer(other.peerConfig(other.endpoint(false)))
}

// statsOf returns the statistics that s has of other.
func (s *testNode) statsOf(other *testNode) PeerStats {
	s.net.Helper()
	if s.net.virtual {
		synctest.Wait()
	}
	for _, p := range s.Stats().Peers {
		if p.PublicKey == other.key.PublicKey() {
			return p
		}
	}
	s.net.Fatal("no such peer")
	return PeerStats{}
}

// sendPayload has the stack of s send a packet to node n.
func (s *testNode) sendPayload(n byte, payload string) {
	s.net.Helper()
	if err := s.outputPacket(packet(innerIPv4(s.number), innerIPv4(n), payload)); err != nil {
		s.net.Fatalf("site %d sends %q: %v", s.number, payload, err)
	}
}

func (s *testNode) outputPacket(pkt []byte) error {
	return (&testbed{dev: s.Device}).outputPacket(pkt)
}

// takePayloads returns the payloads delivered to s since the last call.
func (s *testNode) takePayloads() (payloads []string) {
	s.net.Helper()
	synctest.Wait()
	for _, p := range s.stack.takeDelivered() {
		pkt, err := fakepeer.ParseIP(p)
		if err != nil {
			s.net.Fatal(err)
		}
		_, _, payload, err := pkt.UDP()
		if err != nil {
			s.net.Fatal(err)
		}
		payloads = append(payloads, string(payload))
	}
	return payloads
}

// wantPayloads expects that exactly these payloads were delivered to s since
// the last call.
func (s *testNode) wantPayloads(what string, payloads ...string) {
	s.net.Helper()
	if got := s.takePayloads(); !slices.Equal(got, payloads) {
		s.net.Fatalf("%s: site %d got %q, want %q", what, s.number, got, payloads)
	}
}

// Traffic between real stacks.

// wantPing expects an answer from addr within a second.
func wantPing(t testing.TB, what string, d *Device, addr netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(background, time.Second)
	defer cancel()
	if _, err := d.Ping(ctx, addr); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// wantNoPing expects no answer from addr.
func wantNoPing(t testing.TB, what string, d *Device, addr netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(background, 200*time.Millisecond)
	defer cancel()
	if _, err := d.Ping(ctx, addr); err == nil {
		t.Fatalf("%s: the ping was answered", what)
	}
}

// startEchoServer starts a TCP echo server inside the tunnel of d and returns
// its port.
func startEchoServer(t testing.TB, d *Device) string {
	t.Helper()
	l, err := d.Listen(background, "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
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
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// exchangeStream sends n bytes to an echo server and compares what returns.
func exchangeStream(t testing.TB, d *Device, host netip.Addr, port string, n int) error {
	c, err := d.DialContext(contextWithTimeout(t, 20*time.Second), "tcp", net.JoinHostPort(host.String(), port))
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	sent := make([]byte, n)
	rand.Read(sent)
	go func() {
		c.Write(sent)
		c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(got, sent) {
		err = fmt.Errorf("%d of %d bytes came back", len(got), n)
	}
	return err
}

// exchangeDatagrams sends datagrams of many sizes from one device to the other
// and back.
func exchangeDatagrams(t testing.TB, from, to *Device, host netip.Addr) error {
	server, err := to.ListenPacket(background, "udp", net.JoinHostPort(host.String(), "0"))
	if err != nil {
		return err
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, addr, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			server.WriteTo(buf[:n], addr)
		}
	}()
	client, err := from.DialContext(contextWithTimeout(t, 10*time.Second), "udp", server.LocalAddr().String())
	if err != nil {
		return err
	}
	defer client.Close()
	buf := make([]byte, 1<<16)
	for i, size := range []int{0, 1, 15, 16, 17, 500, 1372, 1400, 3000, 20000} {
		sent := bytes.Repeat([]byte(strconv.Itoa(i)), size)
		// A datagram may be lost.
		for try := 0; ; try++ {
			if _, err := client.Write(sent); err != nil {
				return err
			}
			client.SetReadDeadline(time.Now().Add(time.Second))
			n, err := client.Read(buf)
			if err == nil && bytes.Equal(buf[:n], sent) {
				break
			}
			if try == 5 {
				return errors.Join(err, fmt.Errorf("no answer to %d bytes", size))
			}
		}
	}
	return nil
}

// Devices with the real stack and real sockets, over loopback.

// newDevicePair returns two devices, of which the first has an endpoint for the
// second, and takes it for its DNS server.
func newDevicePair(t testing.TB) (near, far *Device) {
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
		DNS:        []netip.Addr{netip.MustParseAddr("10.0.0.2")},
		Peers: []PeerConfig{{
			PublicKey:  farKey.PublicKey(),
			Endpoint:   netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), far.Stats().ListenPort).String(),
			AllowedIPs: addresses("2"),
		}},
	})
	return near, far
}

func contextWithTimeout(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// newSimulatedPair returns two devices on a simulated network, each with an
// endpoint for the other. Their inner addresses are 10.0.0.1 and 10.0.0.2.
func newSimulatedPair(t *testing.T, net *simnet.Network) (near, far *Device) {
	t.Helper()
	keys := [2]PrivateKey{NewPrivateKey(), NewPrivateKey()}
	outer := [2]netip.Addr{devOuter, farOuter.Addr()}
	var devs [2]*Device
	for i := range devs {
		d, err := New(Config{
			PrivateKey: keys[i], ListenPort: devPort, ListenPacket: net.ListenPacket(outer[i]),
			Address: prefixes(fmt.Sprintf("10.0.0.%d/32", 1+i)),
			Peers: []PeerConfig{{
				PublicKey: keys[1-i].PublicKey(), Endpoint: netip.AddrPortFrom(outer[1-i], devPort).String(),
				AllowedIPs: prefixes(fmt.Sprintf("10.0.0.%d/32", 2-i)),
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		devs[i] = d
	}
	return devs[0], devs[1]
}
