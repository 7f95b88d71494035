package wireguard

import (
	"net/netip"

	"github.com/wgstack/wireguard/internal/udp"
	"github.com/wgstack/wireguard/netstack"
)

// The hooks of a capture. While there is none, each costs one load and one
// comparison for a batch of packets, without a call.

// A Capture receives what passes through a device. Its methods are called
// concurrently, by the goroutines that handle packets: they must not block, call
// methods of the device, or keep or change the bytes. One that blocks all the same
// holds up the packets of all peers, and Close for five seconds. Package
// github.com/wgstack/wireguard/capture has one that writes a file for Wireshark.
type Capture interface {
	// OuterPacket receives the payload of an encrypted UDP datagram: one that
	// the device is about to send, which the system may still refuse, or one
	// that arrived, authentic or not. tos is its TOS or traffic class byte. The
	// IP address of local is 0.0.0.0 or :: where the system does not tell it.
	OuterPacket(sent bool, local, remote netip.AddrPort, tos uint8, payload []byte)

	// InnerPacket receives a decrypted IP packet: one that the TCP/IP stack
	// sends to a peer, in the order of the stack and before it may wait for a
	// handshake, or one that the device delivers to the stack.
	InnerPacket(sent bool, packet []byte)

	// HandshakeSecrets receives the lines of [Config.KeyLog]: those of a handshake
	// before its message is sent.
	HandshakeSecrets(lines []byte)
}

// SetCapture has c receive what passes through the device from now on; nil ends
// that. Calls of the former Capture may still be in progress when SetCapture
// returns. Sessions that exist already cannot be decrypted by what c receives: the
// next handshake, within two minutes of use, begins one that can.
func (d *Device) SetCapture(c Capture) {
	if c == nil {
		d.capture.Store(nil)
		return
	}
	if id := d.identity.Load(); id != nil && id.key != nil {
		c.HandshakeSecrets(appendKeyLine(nil, keyLogStatic, (*[32]byte)(id.key.Bytes())))
	}
	d.capture.Store(&c)
	d.log.Warn("capture is on: who reads it can decrypt the traffic and impersonate this device")
}

// captureOuter shows the capture, if there is one, the datagrams in ms.
func (d *Device) captureOuter(sent bool, ms ...udp.Message) {
	if c := d.capture.Load(); c != nil {
		d.showOuter(c, sent, ms)
	}
}

// captureSent shows the capture, if there is one, the segments of pkt.
func (d *Device) captureSent(pkt *netstack.Packet) {
	if c := d.capture.Load(); c != nil {
		d.showSent(c, pkt)
	}
}

// captureReceived shows the capture, if there is one, packets for the stack.
func (d *Device) captureReceived(packets [][]byte) {
	if c := d.capture.Load(); c != nil {
		d.showReceived(c, packets)
	}
}

func (d *Device) showOuter(c *Capture, sent bool, ms []udp.Message) {
	d.program.begin()
	defer d.program.end()
	for i := range ms {
		m := &ms[i]
		rest, size := m.Buf, m.SegmentSize
		if !sent {
			rest = m.Buf[:m.N]
		}
		local := d.outerSource(m)
		for first := true; first || len(rest) > 0; first = false {
			n := len(rest)
			if size > 0 {
				n = min(n, size)
			}
			(*c).OuterPacket(sent, local, m.Addr, m.TOS, rest[:n:n])
			rest = rest[n:]
		}
	}
}

// outerSource returns the local address of m. It is the same for both directions
// of a session, as Wireshark finds the handshake of a packet by its addresses.
// Where the system chooses the address, the route tells which one it takes.
func (d *Device) outerSource(m *udp.Message) netip.AddrPort {
	b := d.binding.Load()
	addr := m.Local.Addr
	if s := b.socketFor(m.Addr.Addr()); s != nil && !addr.IsValid() {
		if bound := s.LocalAddr().Addr(); !bound.IsUnspecified() && bound.Is4() == m.Addr.Addr().Is4() {
			addr = bound
		} else if r, err := d.routeTo(s, m.Addr.Addr()); err == nil {
			addr = r.Source
		}
	}
	if !addr.IsValid() {
		addr = netip.IPv6Unspecified()
		if m.Addr.Addr().Is4() {
			addr = netip.IPv4Unspecified()
		}
	}
	return netip.AddrPortFrom(addr, b.port)
}

// It is not inlined, so that captureReceived can be.
//
//go:noinline
func (d *Device) showReceived(c *Capture, packets [][]byte) {
	d.program.begin()
	defer d.program.end()
	for _, pkt := range packets {
		(*c).InnerPacket(false, pkt)
	}
}

func (d *Device) showSent(c *Capture, pkt *netstack.Packet) {
	d.program.begin()
	defer d.program.end()
	buf := newBuffer(d.mtu)
	defer buf.release()
	for i := range pkt.Segments() {
		(*c).InnerPacket(true, buf.bytes[:pkt.CopySegment(buf.bytes, i)])
	}
}
