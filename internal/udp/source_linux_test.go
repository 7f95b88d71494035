package udp

import (
	"net/netip"
	"testing"
	"time"
)

// The default route moves to the other uplink while the old one stays up.
// Answers must leave by the new route and from its address, although the
// questions keep arriving at the old address.
func TestAnswersFollowTheRoute(t *testing.T) {
	host, router := twoUplinks(t)
	indices := map[string]int{"eth0": router.interfaceIndex("eth0"), "eth1": router.interfaceIndex("eth1")}
	host.run("addr add 198.51.100.7/32 dev lo", "addr add 10.1.0.7/24 dev eth0", "addr add fd01::7/64 dev eth0 nodad")
	router.run("route add 198.51.100.7 via 10.1.0.2")
	for _, test := range []struct {
		network       string
		far           netip.Addr
		asked         string // address of the host
		before, after string // source of the answer
	}{
		{"udp4", beyond4, "10.1.0.2", "10.1.0.2", "10.2.0.2"},
		{"udp", beyond4, "10.1.0.2", "10.1.0.2", "10.2.0.2"},
		{"udp4", beyond4, "10.1.0.7", "10.1.0.7", "10.2.0.2"},
		{"udp4", beyond4, "198.51.100.7", "198.51.100.7", "198.51.100.7"},
		{"udp6", beyond6, "fd01::2", "fd01::2", "fd02::2"},
		{"udp6", beyond6, "fd01::7", "fd01::7", "fd02::2"},
	} {
		asked := netip.MustParseAddr(test.asked)
		s := host.open(test.network, ":0")
		peer := router.open(test.network, ":0")
		ask := func() Message {
			writeAll(t, peer, Message{Buf: []byte("ask"), Addr: addrOn(s, asked), Local: Local{Addr: test.far}})
			m := readMessage(t, s)
			if m.Addr != addrOn(peer, test.far) || m.Local.Addr != asked {
				t.Fatalf("asked by %v at %v", m.Addr, m.Local.Addr)
			}
			return m
		}
		wantAnswer := func(m Message, what, device, source string) {
			t.Helper()
			s.recheckSources()
			for _, segmentSize := range []int{0, 2} {
				m.SegmentSize = segmentSize
				host.do(func() { writeAll(t, s, m) })
				got := readMessage(t, peer)
				if got.Local.IfIndex != indices[device] || got.Addr != addrOn(s, netip.MustParseAddr(source)) {
					t.Errorf("%s %s, %s: answer from %v by interface %d, want %s by %s (%d)",
						test.network, test.asked, what, got.Addr, got.Local.IfIndex, source, device, indices[device])
				}
			}
		}
		m := ask()
		wantAnswer(m, "before", "eth0", test.before)
		host.run("route replace default via 10.2.0.1 dev eth1", "-6 route replace default via fd02::1 dev eth1")
		wantAnswer(m, "after", "eth1", test.after)
		wantAnswer(ask(), "asked again", "eth1", test.after)
		host.run("route replace default via 10.1.0.1 dev eth0", "-6 route replace default via fd01::1 dev eth0")
		wantAnswer(m, "moved back", "eth0", test.before)
	}
}

// A source whose address is removed is replaced by the kernel's choice.
func TestAddressRemoved(t *testing.T) {
	host, router := twoUplinks(t)
	host.run("addr add 10.1.0.7/24 dev eth0")
	s, peer := host.open("udp4", ":0"), router.open("udp4", ":0")
	writeAll(t, peer, Message{Buf: []byte("ask"), Addr: addrOn(s, netip.MustParseAddr("10.1.0.7"))})
	m := readMessage(t, s)
	wantAnswerFrom := func(source string) {
		t.Helper()
		host.do(func() { writeAll(t, s, m) })
		if got := readMessage(t, peer); got.Addr.Addr().String() != source {
			t.Errorf("answer from %v, want %v", got.Addr.Addr(), source)
		}
	}
	wantAnswerFrom("10.1.0.7")
	host.run("addr flush dev eth0", "addr add 10.1.0.2/24 dev eth0")
	wantAnswerFrom("10.1.0.2") // what is remembered of the kernel is out of date
	s.recheckSources()
	wantAnswerFrom("10.1.0.2")
}

func TestSourcesAreBounded(t *testing.T) {
	var s sourceCache
	now := time.Now()
	to := loopback4
	for i := range maxSourceAnswers + 10 {
		a := s.addAnswer(sourceKey{to: to}, i%2 == 0, now)
		if got := s.answerFor(sourceKey{to: to}); got != a || got.usable != (i%2 == 0) {
			t.Fatalf("answer %d is %+v", i, got)
		}
		if lifetime, want := a.expires.Sub(now), max(time.Second, time.Duration(i%maxSourceAnswers)*5*time.Millisecond); lifetime != want {
			t.Fatalf("answer %d lives for %v, want %v", i, lifetime, want)
		}
		to = to.Next()
	}
	if len(s.answers) != 10 {
		t.Errorf("%d answers", len(s.answers))
	}
	if s.answerFor(sourceKey{to: loopback4}) != nil {
		t.Error("a forgotten answer was found")
	}
}
