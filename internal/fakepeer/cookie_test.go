package fakepeer

import (
	"net/netip"
	"testing"
)

func TestMAC2(t *testing.T) {
	i, _ := testPeers(t)
	cookie := Cookie([32]byte{9}, netip.MustParseAddrPort("192.0.2.1:5"))
	if cookie == Cookie([32]byte{9}, netip.MustParseAddrPort("192.0.2.1:6")) {
		t.Error("the cookie ignores the port")
	}
	if cookie != Cookie([32]byte{9}, netip.MustParseAddrPort("[::ffff:192.0.2.1]:5")) {
		t.Error("the cookie knows mapped addresses")
	}
	msg, _ := i.Initiation(InitiationOptions{})
	if MAC2(msg) != [16]byte{} || VerifyMAC2(msg, cookie) {
		t.Error("mac2 without a cookie")
	}
	i.Cookie = cookie[:]
	if !VerifyMAC2(i.Stamp(msg), cookie) || VerifyMAC2(msg, [16]byte{}) {
		t.Error("mac2 with a cookie")
	}
}
