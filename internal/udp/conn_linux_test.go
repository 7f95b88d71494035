package udp

import (
	"errors"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// raceEnabled tells that sync.Pool drops items at random.
var raceEnabled bool

func isErrno(err error, errno syscall.Errno) bool { return errors.Is(err, errno) }

func TestTOS(t *testing.T) {
	for _, k := range socketKinds {
		t.Run(k.name, func(t *testing.T) {
			s := openSocket(t, k.network, k.address)
			peer := openSocket(t, k.peer, net.JoinHostPort(k.ip.String(), "0"))
			for _, tos := range []uint8{0, 1, 2, 3, 0x88, 0xff, 0} {
				for _, segmentSize := range []int{0, 10} {
					writeAll(t, peer, Message{Buf: pattern(25, 0), Addr: addrOn(s, k.ip), TOS: tos, SegmentSize: segmentSize})
					m := readMessage(t, s)
					if m.TOS != tos {
						t.Errorf("got %#x, want %#x", m.TOS, tos)
					}
					m.Buf = m.Buf[:m.N]
					writeAll(t, s, m)
					if m := readMessage(t, peer); m.TOS != tos {
						t.Errorf("answered with %#x, want %#x", m.TOS, tos)
					}
				}
			}
		})
	}
}

func TestOuterFragmentationIsAllowed(t *testing.T) {
	for _, k := range socketKinds {
		s := openSocket(t, k.network, k.address).(*conn)
		s.raw.Control(func(fd uintptr) {
			if got, err := unix.GetsockoptInt(int(fd), unix.SOL_IP, unix.IP_MTU_DISCOVER); got != unix.IP_PMTUDISC_DONT || err != nil {
				t.Errorf("%s: IP_MTU_DISCOVER = %d, %v", k.name, got, err)
			}
			if got, err := unix.GetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER); s.inet6 && (got != unix.IPV6_PMTUDISC_DONT || err != nil) {
				t.Errorf("%s: IPV6_MTU_DISCOVER = %d, %v", k.name, got, err)
			}
		})
	}
}

// Without CAP_NET_ADMIN the caller can tell that it lacks the permission.
func TestFirewallMarkWithoutPrivilege(t *testing.T) {
	runtime.LockOSThread() // until the goroutine ends, and the thread with it
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Skipf("capset: %v", err)
	}
	s := openSocket(t, "udp4", "127.0.0.1:0")
	if err := s.SetMark(7); !errors.Is(err, os.ErrPermission) || !isErrno(err, unix.EPERM) {
		t.Errorf("SetMark: %v", err)
	}
	if err := s.SetMark(0); err != nil {
		t.Errorf("clearing the mark that was not set: %v", err)
	}
}

func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("not under the race detector")
	}
	for _, k := range socketKinds {
		t.Run(k.name, func(t *testing.T) {
			s := openSocket(t, k.network, k.address)
			peer := openSocket(t, k.peer, net.JoinHostPort(k.ip.String(), "0"))
			out := []Message{
				{Buf: pattern(100, 0)},
				{Buf: pattern(14000, 1), SegmentSize: 1400, TOS: 1, Local: Local{Addr: k.ip}},
				{Buf: pattern(99, 1)},
			}
			for i := range out {
				out[i].Addr = addrOn(s, k.ip)
			}
			in := newBatch(8)
			allocs := testing.AllocsPerRun(100, func() {
				if _, err := peer.WriteBatch(out); err != nil {
					t.Fatal(err)
				}
				for got := 0; got < len(out); {
					n, err := s.ReadBatch(in)
					if err != nil {
						t.Fatal(err)
					}
					got += n
				}
			})
			if allocs > 0 {
				t.Errorf("%v allocations per batch", allocs)
			}
		})
	}
}

func TestFirewallMark(t *testing.T) {
	s := openSocket(t, "udp4", "127.0.0.1:0")
	if err := s.SetMark(0); err != nil {
		t.Errorf("clearing no mark: %v", err)
	}
	err := s.SetMark(0xfffffffe)
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("needs CAP_NET_ADMIN: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	old, err := Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(old)
	for _, s := range old {
		if err := s.SetMark(0xfffffffe); err != nil {
			t.Fatal(err)
		}
	}
	fresh, err := Relisten(old)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(fresh)
	wantMark := func(s Socket, mark uint32) {
		t.Helper()
		s.(*conn).raw.Control(func(fd uintptr) {
			if got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK); uint32(got) != mark || err != nil {
				t.Errorf("mark = %#x, %v, want %#x", uint32(got), err, mark)
			}
		})
	}
	for _, s := range fresh {
		wantMark(s, 0)
		for _, mark := range []uint32{0xfffffffe, 0} {
			if err := s.SetMark(mark); err != nil {
				t.Error(err)
			}
			wantMark(s, mark)
		}
	}
}
