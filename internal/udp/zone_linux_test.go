package udp

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestZoneIsKept(t *testing.T) {
	local := linkLocal(t)
	s, peer := openSocket(t, "udp6", ":0"), openSocket(t, "udp6", ":0")
	writeAll(t, peer, Message{Buf: []byte("ping"), Addr: addrOn(s, local)})
	m := readMessage(t, s)
	if want := addrOn(peer, local); m.Addr != want {
		t.Fatalf("from %v, want %v", m.Addr, want)
	}
	if m.Local.Addr != local.WithZone("") {
		t.Errorf("arrived at %v, want %v", m.Local.Addr, local.WithZone(""))
	}
	writeAll(t, s, m)
	if m, want := readMessage(t, peer), addrOn(s, local); m.Addr != want {
		t.Errorf("answer from %v, want %v", m.Addr, want)
	}
	batch := []Message{m}
	if allocs := testing.AllocsPerRun(100, func() {
		batch[0].Addr = addrOn(peer, local)
		s.WriteBatch(batch)
		peer.ReadBatch(batch)
	}); allocs > 0 && !raceEnabled {
		t.Errorf("%v allocations per datagram", allocs)
	}
}

func linkLocal(t *testing.T) netip.Addr {
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Skip(err)
	}
	for _, i := range interfaces {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if ip, _ := netip.ParsePrefix(a.String()); ip.Addr().Is6() && ip.Addr().IsLinkLocalUnicast() && i.Flags&net.FlagUp != 0 {
				return ip.Addr().WithZone(i.Name)
			}
		}
	}
	t.Skip("no interface has a link-local address")
	return netip.Addr{}
}

func TestUnknownZone(t *testing.T) {
	s := openSocket(t, "udp6", ":0")
	to := netip.AddrPortFrom(netip.MustParseAddr("fe80::1%nosuch0"), 9)
	if n, err := s.WriteBatch([]Message{{Addr: to}}); n != 0 || !isErrno(err, unix.ENODEV) {
		t.Errorf("WriteBatch to %v = %d, %v", to, n, err)
	}
}

func TestNumericZone(t *testing.T) {
	if i, err := zones.indexOf("1"); i != 1 || err != nil {
		t.Errorf("index of zone 1 = %d, %v", i, err)
	}
	if i, err := net.InterfaceByIndex(1); err == nil && zones.nameOf(1) != i.Name {
		t.Errorf("name of interface 1 = %q, want %q", zones.nameOf(1), i.Name)
	}
	if name := zones.nameOf(1 << 30); name != "1073741824" {
		t.Errorf("name of an unknown index = %q", name)
	}
}
