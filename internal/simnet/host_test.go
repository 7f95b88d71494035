package simnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"syscall"
	"testing"
)

func TestHost(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		ctx := context.Background()
		bind := n.ListenPacket(addrA, addrA6)
		pc, err := bind(ctx, "udp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		a := pc.(*Conn)
		if a.AddrPort().Port() == 0 || !reflect.DeepEqual(a.AddrPorts(), []netip.AddrPort{port(addrA, a.port), port(addrA6, a.port)}) {
			t.Errorf("bound %v: %v", a.LocalAddr(), a.AddrPorts())
		}
		b, b6 := listen(t, n, port(addrB, 1)), listen(t, n, port(addrB6, 1))
		send(t, a, port(addrB, 1), "4")
		send(t, a, port(addrB6, 1), "6")
		send(t, a, netip.MustParseAddrPort("[::ffff:192.0.2.2]:1"), "mapped")
		want(t, b, fmt.Sprintf("192.0.2.1:%d 4", a.port), fmt.Sprintf("192.0.2.1:%d mapped", a.port))
		want(t, b6, fmt.Sprintf("[2001:db8::1]:%d 6", a.port))
		send(t, b, port(addrA, a.port), "4")
		send(t, b6, port(addrA6, a.port), "6")
		want(t, a, "192.0.2.2:1 4", "[2001:db8::2]:1 6")

		for _, test := range []struct {
			network, address string
			err              error
		}{
			{"udp", a.LocalAddr().String(), syscall.EADDRINUSE},
			{"udp4", fmt.Sprintf(":%d", a.port), syscall.EADDRINUSE},
			{"udp", fmt.Sprintf("192.0.2.1:%d", a.port), syscall.EADDRINUSE},
			{"udp4", ":77", nil},
			{"udp6", ":77", nil},
			{"udp", ":77", syscall.EADDRINUSE},
			{"udp", "0.0.0.0:78", nil},
			{"udp6", "[::]:78", nil},
			{"udp", "192.0.2.1:79", nil},
			{"udp", "[2001:db8::1]:79", nil},
			{"udp", ":79", syscall.EADDRINUSE},
			{"udp", "192.0.2.9:0", syscall.EADDRNOTAVAIL},
			{"udp6", "0.0.0.0:0", syscall.EAFNOSUPPORT},
			{"tcp", ":0", net.UnknownNetworkError("tcp")},
		} {
			if pc, err := bind(ctx, test.network, test.address); !errors.Is(err, test.err) || err != nil && pc != nil {
				t.Errorf("%s %s: %v, want %v", test.network, test.address, err, test.err)
			}
		}
		if _, err := n.ListenPacket(addrC)(ctx, "udp6", ":0"); !errors.Is(err, syscall.EAFNOSUPPORT) {
			t.Errorf("IPv6 on an IPv4 host: %v", err)
		}
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := bind(ended, "udp", ":0"); !errors.Is(err, context.Canceled) {
			t.Errorf("ended context: %v", err)
		}
	})
}

func TestHostMoves(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		h := n.Host(addrA)
		pc, err := h.ListenPacket(context.Background(), "udp", ":5")
		if err != nil {
			t.Fatal(err)
		}
		a, b := pc.(*Conn), listen(t, n, port(addrB, 1))
		if err := h.SetAddrs(addrB); err == nil {
			t.Error("took an address of another host")
		}
		send(t, a, port(addrB, 1), "before")
		if err := h.SetAddrs(addrC, addrA6); err != nil {
			t.Fatal(err)
		}
		send(t, a, port(addrB, 1), "after")
		want(t, b, "192.0.2.1:5 before", "198.51.100.3:5 after")
		send(t, b, port(addrA, 5), "old")
		send(t, b, port(addrC, 5), "new")
		want(t, a, "192.0.2.2:1 new")
	})
}
