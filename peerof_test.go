package wireguard

import (
	"io"
	"net/netip"
	"testing"
	"time"
)

// wantPeerOf expects addr to belong to the peer with the given key, or to no
// peer if it is zero.
func wantPeerOf(t testing.TB, what string, d *Device, addr string, want PublicKey) {
	t.Helper()
	key, ok := d.PeerOf(netip.MustParseAddr(addr))
	if key != want || ok != !want.IsZero() {
		t.Fatalf("%s: %s belongs to %v, %v, want %v", what, addr, key, ok, want)
	}
}

func TestPeerOfIsTheOwnerOfTheLongestPrefix(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		other := b.addRemote("192.0.2.3:1", "10.0.0.3")
		other.setAllowedIPs("10.0.0.0/24", "fd00::/64", "fe80::/64")
		none := PublicKey{}
		wantPeerOf(t, "address of a peer", b.dev, "10.0.0.2", b.far.Public)
		wantPeerOf(t, "mapped address", b.dev, "::ffff:10.0.0.2", b.far.Public)
		wantPeerOf(t, "address in a shorter prefix", b.dev, "10.0.0.4", other.Public)
		wantPeerOf(t, "IPv6", b.dev, "fd00::2", other.Public)
		wantPeerOf(t, "IPv6 with a zone", b.dev, "fe80::2%1", other.Public)
		wantPeerOf(t, "address of no peer", b.dev, "10.0.1.1", none)
		wantPeerOf(t, "own address, in the prefix of a peer", b.dev, devInner.String(), none)
		wantPeerOf(t, "own IPv6 address, in the prefix of a peer", b.dev, devInner6.String(), none)
		if _, ok := b.dev.PeerOf(netip.Addr{}); ok {
			t.Error("the zero address belongs to a peer")
		}

		b.setPeer(PeerConfig{PublicKey: other.Public, AllowedIPs: prefixes("10.0.0.2/32")})
		wantPeerOf(t, "prefix that moved", b.dev, "10.0.0.2", other.Public)
		if err := b.dev.RemovePeer(other.Public); err != nil {
			t.Fatal(err)
		}
		wantPeerOf(t, "removed peer", b.dev, "10.0.0.2", none)
	})
}

func TestConnectionsAndFlowsTellTheirPeer(t *testing.T) {
	near, far := newDevicePair(t)
	if err := near.SetPeer(PeerConfig{PublicKey: far.Stats().PublicKey, AllowedIPs: prefixes("10.0.0.0/24")}); err != nil {
		t.Fatal(err)
	}
	ctx := contextWithTimeout(t, 20*time.Second)
	want := near.Stats().PublicKey
	peers := make(chan PublicKey, 1)
	answer := func(c io.ReadWriteCloser, err error, peer PublicKey) {
		if err != nil {
			t.Error(err)
		} else {
			c.Close()
		}
		peers <- peer
	}
	l, err := far.Listen(ctx, "tcp", "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			peers <- PublicKey{}
			return
		}
		key, _ := far.PeerOf(addrPortOf(t, c.RemoteAddr()).Addr())
		answer(c, nil, key)
	}()
	far.HandleTCP(func(f *TCPFlow) {
		c, err := f.Accept()
		answer(c, err, f.Peer)
	})
	far.HandleUDP(func(f *UDPFlow) {
		c, err := f.Accept()
		answer(c, err, f.Peer)
	})
	for _, to := range []struct{ network, address string }{
		{"tcp", "10.0.0.2:80"}, {"tcp", "10.0.0.99:80"}, {"udp", "10.0.0.99:80"},
	} {
		c, err := near.DialContext(ctx, to.network, to.address)
		if err != nil {
			t.Fatal(err)
		}
		if to.network == "udp" { // whose flow begins with a datagram
			if _, err := io.WriteString(c, "hello"); err != nil {
				t.Fatal(err)
			}
		}
		if got := <-peers; got != want {
			t.Errorf("%s %s: from %v, want %v", to.network, to.address, got, want)
		}
		c.Close()
	}
}
