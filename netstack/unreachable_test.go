package netstack

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
)

// TestWatchers reports an ICMP error to the watchers of its flow only.
func TestWatchers(t *testing.T) {
	syn := seg{flags: flagSYN}.packet()
	p := NewPacket(syn)
	local := netip.AddrPortFrom(p.Source(), uint16(syn[20])<<8|uint16(syn[21]))
	remote := netip.AddrPortFrom(p.Destination(), uint16(syn[22])<<8|uint16(syn[23]))
	unreachable := icmpError(syn, b4, icmp4Unreachable, icmp4HostCode, 0)

	var w watchers
	var got []string
	watch := func(name string, f flow) (stop func()) {
		return w.watchFlow(f, func(at netip.AddrPort, err error) {
			if at != local || !errors.Is(err, syscall.EHOSTUNREACH) {
				t.Errorf("%s: %v at %v", name, err, at)
			}
			got = append(got, name)
		})
	}
	want := func(names ...string) {
		t.Helper()
		got = nil
		w.reportError(unreachable, nil)
		if len(got) != len(names) {
			t.Fatalf("told %q, want %q", got, names)
		}
		for i, name := range names {
			if got[i] != name {
				t.Fatalf("told %q, want %q", got, names)
			}
		}
	}
	want()
	stopOther := watch("other port", flow{protoTCP, local, netip.AddrPortFrom(remote.Addr(), remote.Port()+1)})
	stopUDP := watch("UDP", flow{protoUDP, local, remote})
	want()
	stopFlow := watch("flow", flow{protoTCP, local, remote})
	stopRemote := watch("remote", flow{proto: protoTCP, remote: remote})
	want("flow", "remote")
	stopFlow()
	want("remote")

	w.reportError(syn, nil)
	w.reportError(icmpError(syn, b4, icmp4Unreachable, icmp4TooBigCode, 1280), nil)
	if len(got) != 1 {
		t.Error("told of a packet that is not about an unreachable destination")
	}
	for _, stop := range []func(){stopOther, stopUDP, stopRemote} {
		stop()
	}
	want()
	if len(w.flows) != 0 {
		t.Errorf("%d flows are still watched", len(w.flows))
	}
}

func TestParseUnreachableCodes(t *testing.T) {
	syn4, syn6 := largeTCP(false, 0, 0, 0, flagSYN), largeTCP(true, 0, 0, 0, flagSYN)
	for _, c := range []struct {
		packet    []byte
		typ, code uint8
		want      syscall.Errno
	}{
		{syn4, 3, 0, syscall.ENETUNREACH},
		{syn4, 3, 1, syscall.EHOSTUNREACH},
		{syn4, 3, 2, syscall.ENOPROTOOPT},
		{syn4, 3, 3, syscall.ECONNREFUSED},
		{syn4, 3, 4, 0},
		{syn4, 3, 13, syscall.EHOSTUNREACH},
		{syn4, 11, 0, 0},
		{syn6, 1, 0, syscall.ENETUNREACH},
		{syn6, 1, 3, syscall.EHOSTUNREACH},
		{syn6, 1, 4, syscall.ECONNREFUSED},
		{syn6, 2, 0, 0},
	} {
		b := icmpError(c.packet, netip.Addr{}, c.typ, c.code, 0)
		f, errno := parseUnreachable(b)
		if errno != c.want {
			t.Errorf("type %d, code %d means %v, want %v", c.typ, c.code, errno, c.want)
		}
		if p := NewPacket(c.packet); errno != 0 && (f.local.Addr() != p.Source() || f.remote.Addr() != p.Destination() || f.proto != protoTCP) {
			t.Errorf("type %d, code %d is about %v", c.typ, c.code, f)
		}
		for n := range b { // no prefix of it is read beyond its end
			if n > 0 {
				parseUnreachable(b[:n])
			}
		}
	}
}
