package udp

import (
	"errors"
	"net"
	"net/netip"
	"testing"
)

func TestRouteOfOtherTransportsIsUnknown(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := Wrap(struct{ net.PacketConn }{pc})
	defer s.Close()
	if RecheckSources(s) {
		t.Error("it claims to check sources")
	}
	if r, err := RouteTo(s, netip.MustParseAddr("127.0.0.1")); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("route %+v, error %v", r, err)
	}
}
