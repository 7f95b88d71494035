package udp

import (
	"errors"
	"net/netip"
	"slices"
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
func (s *fakeSocket) Close() error              { s.closed = true; return nil }

// fakeHost gives out ports from 40000 up and fails as told.
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
		return nil, listenError(port, err)
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
			socks, port, err := listenWith(test.port, h.open)
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Fatalf("error %v, want %v", err, test.err)
			}
			if got := h.serving(); !slices.Equal(got, test.want) || len(socks) != len(test.want) {
				t.Errorf("serving %q in %d sockets, want %q", got, len(socks), test.want)
			}
			if test.port != 0 && h.opens > len(families) {
				t.Errorf("%d attempts at a fixed port", h.opens)
			}
			if len(socks) > 0 && port != socks[0].LocalAddr().Port() {
				t.Errorf("port %d, want that of %v", port, socks[0].LocalAddr())
			}
		})
	}
}
