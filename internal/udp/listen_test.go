package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// fakeSocket has an address and can be closed.
type fakeSocket struct {
	Socket
	local  netip.AddrPort
	closed bool
}

func (s *fakeSocket) LocalAddr() netip.AddrPort { return s.local }

func (s *fakeSocket) Close() error { s.closed = true; return nil }

// fakeHost assigns ports from 40000 up and fails as fails decides.
type fakeHost struct {
	fails  func(family string, port uint16) error
	opened []*fakeSocket
	opens  int
}

func (h *fakeHost) open(family string, port uint16) (Socket, error) {
	h.opens++
	if port == 0 {
		port = 40000 + uint16(len(h.opened))
	}
	if err := h.fails(family, port); err != nil {
		return nil, listenError(family, port, err)
	}
	ip := netip.IPv4Unspecified()
	if family == "udp6" {
		ip = netip.IPv6Unspecified()
	}
	s := &fakeSocket{local: netip.AddrPortFrom(ip, port)}
	h.opened = append(h.opened, s)
	return s, nil
}

func (h *fakeHost) serving() (addrs []string) {
	for _, s := range h.opened {
		if !s.closed {
			addrs = append(addrs, s.local.String())
		}
	}
	return addrs
}

// Covers P80, M20.
func TestListenOnHosts(t *testing.T) {
	for _, test := range []struct {
		name  string
		port  uint16
		fails func(family string, port uint16) error
		want  []string
		err   error
	}{
		{
			name: "both families", port: 0,
			fails: func(string, uint16) error { return nil },
			want:  []string{"0.0.0.0:40000", "[::]:40000"},
		}, {
			name: "fixed port", port: 51820,
			fails: func(string, uint16) error { return nil },
			want:  []string{"0.0.0.0:51820", "[::]:51820"},
		}, {
			name: "random ports taken by others", port: 0,
			fails: func(family string, port uint16) error {
				if family == "udp6" && port < 40005 {
					return syscall.EADDRINUSE
				}
				return nil
			},
			want: []string{"0.0.0.0:40005", "[::]:40005"},
		}, {
			name: "every random port taken", port: 0,
			fails: func(family string, port uint16) error {
				if family == "udp6" {
					return syscall.EADDRINUSE
				}
				return nil
			},
			err: syscall.EADDRINUSE,
		}, {
			name: "fixed port taken in one family", port: 51820,
			fails: func(family string, port uint16) error {
				if family == "udp6" {
					return syscall.EADDRINUSE
				}
				return nil
			},
			err: syscall.EADDRINUSE,
		}, {
			name: "IPv4 only", port: 0,
			fails: func(family string, port uint16) error {
				if family == "udp6" {
					return missingFamily[0]
				}
				return nil
			},
			want: []string{"0.0.0.0:40000"},
		}, {
			name: "IPv6 only", port: 51820,
			fails: func(family string, port uint16) error {
				if family == "udp4" {
					return missingFamily[0]
				}
				return nil
			},
			want: []string{"[::]:51820"},
		}, {
			name: "no family", port: 51820,
			fails: func(string, uint16) error { return missingFamily[0] },
			err:   missingFamily[0],
		}, {
			name: "out of files", port: 0,
			fails: func(family string, port uint16) error {
				if family == "udp6" {
					return syscall.EMFILE
				}
				return nil
			},
			err: syscall.EMFILE,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := &fakeHost{fails: test.fails}
			socks, err := listenWith(test.port, h.open)
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Fatalf("error %v, want %v", err, test.err)
			}
			if got := h.serving(); !slices.Equal(got, test.want) || len(socks) != len(test.want) {
				t.Errorf("serving %q in %d sockets, want %q", got, len(socks), test.want)
			}
			if test.port != 0 && h.opens > len(families) {
				t.Errorf("%d attempts at a fixed port", h.opens)
			}
		})
	}
}

func TestListen(t *testing.T) {
	socks, err := Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(socks)
	if len(socks) == 0 || socks[0].LocalAddr().Port() == 0 {
		t.Fatalf("Listen(0) = %d sockets", len(socks))
	}
	port := socks[0].LocalAddr().Port()
	seen := map[bool]bool{}
	for _, s := range socks {
		local := s.LocalAddr()
		if local.Port() != port || seen[local.Addr().Is4()] {
			t.Errorf("socket at %v, want one per family on port %d", local, port)
		}
		seen[local.Addr().Is4()] = true
		ip := loopback6
		if local.Addr().Is4() {
			ip = loopback4
		}
		writeAll(t, s, Message{Buf: []byte("to myself"), Addr: netip.AddrPortFrom(ip, port)})
		if m := readMessage(t, s); string(m.Buf) != "to myself" || m.Addr != netip.AddrPortFrom(ip, port) {
			t.Errorf("got %q from %v", m.Buf, m.Addr)
		}
	}

	_, err = Listen(port)
	if !errors.Is(err, syscall.EADDRINUSE) || strings.Count(err.Error(), fmt.Sprint(port)) != 1 || strings.Count(err.Error(), "listen") != 1 {
		t.Errorf("Listen on an occupied port: %v", err)
	}
	closeAll(socks)
	again, err := Listen(port)
	if err != nil || again[0].LocalAddr().Port() != port {
		t.Fatalf("Listen(%d) after Close: %v", port, err)
	}
	closeAll(again)
}

func TestListenLeavesNothingBehind(t *testing.T) {
	pc := listenPlain(t, "udp6", ":0")
	port := addrOf(pc).Port()
	if socks, err := Listen(port); !errors.Is(err, syscall.EADDRINUSE) {
		closeAll(socks)
		t.Fatalf("Listen where IPv6 has the port taken: %v", err)
	}
	// The IPv4 socket of the failed attempt must be closed.
	v4, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	v4.Close()
}

func TestRelisten(t *testing.T) {
	old, err := Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { closeAll(old) }()
	port := old[0].LocalAddr().Port()
	for round := range 3 {
		fresh, err := Relisten(old)
		if errors.Is(err, errors.ErrUnsupported) && !canReusePort {
			t.Skip("not on this system")
		}
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if len(fresh) != len(old) {
			t.Fatalf("round %d: %d sockets, want %d", round, len(fresh), len(old))
		}
		wantPortTaken(t, port)
		for _, s := range old {
			writeAll(t, s, Message{Buf: []byte("still here"), Addr: addrOn(s, loopbackOf(s))})
		}
		closeAll(old)
		old = fresh
		wantPortTaken(t, port)
		for _, s := range fresh {
			if s.LocalAddr().Port() != port {
				t.Fatalf("round %d: at %v, want port %d", round, s.LocalAddr(), port)
			}
			writeAll(t, s, Message{Buf: fmt.Append(nil, round), Addr: addrOn(s, loopbackOf(s))})
			readUntil(t, s, func(got []Message) bool {
				return len(got) > 0 && string(got[len(got)-1].Buf) == fmt.Sprint(round)
			})
		}
	}
}

// Covers P82.
func TestRelistenFailureLeavesOldServing(t *testing.T) {
	old, err := Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(old)
	port := old[0].LocalAddr().Port()
	generic := Wrap(struct{ net.PacketConn }{listenPlain(t, "udp4", "127.0.0.1:0")})
	if _, err := Relisten(append(old[:len(old):len(old)], generic)); !errors.Is(err, errors.ErrUnsupported) {
		t.Fatalf("Relisten with a generic PacketConn: %v", err)
	}
	// The port of a closed socket cannot be shared.
	closed, err := Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	closed[len(closed)-1].Close()
	if fresh, err := Relisten(closed); err == nil {
		closeAll(fresh)
		t.Fatal("Relisten of a closed socket succeeded")
	}
	closeAll(closed[:len(closed)-1])
	for _, s := range old {
		writeAll(t, s, Message{Buf: []byte("old"), Addr: netip.AddrPortFrom(loopbackOf(s), port)})
		if m := readMessage(t, s); string(m.Buf) != "old" {
			t.Errorf("got %q", m.Buf)
		}
	}
	wantPortTaken(t, port)
}

// wantPortTaken checks that no other socket can bind the port, even with
// SO_REUSEPORT.
func wantPortTaken(t *testing.T, port uint16) {
	t.Helper()
	socks, err := Listen(port)
	if !errors.Is(err, syscall.EADDRINUSE) {
		closeAll(socks)
		t.Fatalf("Listen on a port in use: %v", err)
	}
	for _, family := range families {
		c, err := listen(family, port, func(raw syscall.RawConn) error {
			if !canReusePort {
				return nil
			}
			return reusePort(raw, true)
		})
		if err == nil {
			c.Close()
			t.Fatalf("%s: a second socket shares the port", family)
		}
	}
}
