package wireguard

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/netstack"
)

// A hostPeer is a fake peer with a socket of the host, in real time, and the
// device that it talks to.
type hostPeer struct {
	*testing.T
	*fakepeer.Peer
	sock  *net.UDPConn
	dev   *Device
	stack *fakeStack
}

// newHostPeer makes a device with sockets of the host and a fake peer at the
// loopback address ip. It skips the test if the host has no such address.
func newHostPeer(t *testing.T, ip string, edit func(*Config)) *hostPeer {
	t.Helper()
	sock, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(ip)})
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { sock.Close() })
	private := NewPrivateKey()
	h := &hostPeer{T: t, Peer: fakepeer.New(NewPrivateKey(), private.PublicKey()), sock: sock, stack: new(fakeStack)}
	cfg := Config{
		PrivateKey: private,
		Peers: []PeerConfig{{
			PublicKey:  h.Public,
			Endpoint:   sock.LocalAddr().String(),
			AllowedIPs: []netip.Prefix{netip.PrefixFrom(farInner, 32)},
		}},
	}
	if edit != nil {
		edit(&cfg)
	}
	cfg, err = cfg.canonical()
	if err != nil {
		t.Fatal(err)
	}
	h.dev = newDevice(cfg)
	if err := h.dev.start(cfg, h.stack); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.dev.Close() })
	return h
}

func (h *hostPeer) readMessage() ([]byte, netip.AddrPort) {
	h.Helper()
	h.sock.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 1<<16)
	n, from, err := h.sock.ReadFromUDPAddrPort(buf)
	if err != nil {
		h.Fatal(err)
	}
	return buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

func (h *hostPeer) outputPayload(payload string) {
	h.Helper()
	if err := h.dev.output(netstack.NewPacket(packet(devInner, farInner, payload))); err != nil {
		h.Fatal(err)
	}
}

// connectFromDevice has the device initiate a session and returns the address
// that the device sends from.
func (h *hostPeer) connectFromDevice() (*fakepeer.Session, netip.AddrPort) {
	h.Helper()
	h.outputPayload("hello")
	msg, from := h.readMessage()
	hs, _, err := h.ConsumeInitiation(msg)
	if err != nil {
		h.Fatal(err)
	}
	msg, s := h.Response(hs, fakepeer.ResponseOptions{})
	h.writeMessage(msg, from)
	if msg, _ = h.readMessage(); fakepeer.KindOf(msg) != fakepeer.Data {
		h.Fatalf("got %v, want data", fakepeer.KindOf(msg))
	}
	return s, from
}

func (h *hostPeer) writeMessage(msg []byte, to netip.AddrPort) {
	h.Helper()
	if _, err := h.sock.WriteToUDPAddrPort(msg, to); err != nil {
		h.Fatal(err)
	}
}

// exchangeData sends data in both directions.
func (h *hostPeer) exchangeData(what string, s *fakepeer.Session, dev netip.AddrPort) {
	h.Helper()
	h.writeMessage(s.Seal(packet(farInner, devInner, what)), dev)
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		if got := h.stack.takeDelivered(); len(got) > 0 {
			break
		}
		if time.Since(start) > 10*time.Second {
			h.Fatalf("%s: nothing delivered", what)
		}
	}
	h.outputPayload(what)
	msg, _ := h.readMessage()
	if _, _, err := s.Open(msg); err != nil {
		h.Fatalf("%s: %v", what, err)
	}
}
