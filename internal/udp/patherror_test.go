package udp

import (
	"errors"
	"net"
	"net/netip"
	"testing"
)

// TestPathsOfOtherSocketsAreUnknown asks a socket that is no UDP socket of this
// host.
func TestPathsOfOtherSocketsAreUnknown(t *testing.T) {
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := Wrap(struct{ net.PacketConn }{pc})
	defer s.Close()
	HandlePathErrors(s, func(e PathError) { t.Errorf("path error %+v", e) })
	mtu, err := PathMTU(s, netip.MustParseAddrPort("127.0.0.1:9"))
	if mtu != 0 || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("path MTU %d, %v; want an error wrapping ErrUnsupported", mtu, err)
	}
}
