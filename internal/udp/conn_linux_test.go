package udp

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var raceEnabled bool // sync.Pool then forgets things at random

// refuse makes the kernel seem to fail with errno whatever broken says of the message about to be sent.
func refuse(s Socket, errno syscall.Errno, broken func(h *mmsghdr) bool) (calls *int) {
	calls = new(int)
	s.(*conn).send = func(fd uintptr, hs []mmsghdr) (int, syscall.Errno) {
		*calls++
		if i := slices.IndexFunc(hs, func(h mmsghdr) bool { return broken(&h) }); i == 0 {
			return 0, errno
		} else if i > 0 {
			hs = hs[:i]
		}
		return sendmmsg(fd, hs)
	}
	return calls
}

// carries reports whether the message has a control message of that kind.
func carries(h *mmsghdr, level, kind int32) bool {
	if h.Control == nil {
		return false
	}
	b := unsafe.Slice(h.Control, h.Controllen)
	for len(b) > 0 {
		header, _, rest, err := unix.ParseOneSocketControlMessage(b)
		if err != nil {
			panic(err)
		}
		if header.Level == level && header.Type == kind {
			return true
		}
		b = rest
	}
	return false
}

func segmented(h *mmsghdr) bool { return carries(h, unix.SOL_UDP, unix.UDP_SEGMENT) }

func sourced(h *mmsghdr) bool { return carries(h, unix.SOL_IP, unix.IP_PKTINFO) }

func TestSegmentationFallsBack(t *testing.T) {
	const size = 1400
	for _, errno := range []syscall.Errno{unix.EIO, unix.EINVAL, unix.EMSGSIZE} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			s := open(t, "udp4", ":0")
			if !s.(*conn).gso.Load() {
				t.Skip("no UDP_SEGMENT in this kernel")
			}
			pc := plain(t, "udp4", "127.0.0.1:0")
			pc.SetReadBuffer(4 << 20)
			calls := refuse(s, errno, segmented)
			to := addrOf(pc)
			source := Local{Addr: netip.MustParseAddr("127.0.0.2")}
			ms := []Message{
				{Buf: pattern(100, 0), Addr: to},
				{Buf: pattern(10*size+1, 1), SegmentSize: size, Addr: to},
				{Buf: pattern(100, 2), Addr: to},
				{Buf: pattern(200*2, 3), SegmentSize: 2, Addr: to}, // more pieces than one call takes
				{Buf: pattern(5*size, 4), SegmentSize: size, Addr: to, Local: source},
			}
			for range 5 {
				write(t, s, ms...)
				if from := wantDatagrams(t, pc, ms); from != at(s, source.Addr) {
					t.Fatalf("the last from %v, want %v", from, source.Addr)
				}
				wantNothing(t, pc)
			}
			if on := s.(*conn).gso.Load(); on != (errno == unix.EMSGSIZE) {
				t.Errorf("segmentation still tried: %v", on)
			}
			*calls = 0
			write(t, s, ms[3])
			if want := map[bool]int{true: 3, false: 2}[errno == unix.EMSGSIZE]; *calls != want {
				t.Errorf("%d system calls, want %d", *calls, want)
			}
		})
	}
}

// A kernel says EINVAL too if one path cannot take the segments: others go on as before.
func TestSegmentationSurvivesOnePath(t *testing.T) {
	s := open(t, "udp4", "127.0.0.1:0")
	if !s.(*conn).gso.Load() {
		t.Skip("no UDP_SEGMENT in this kernel")
	}
	pc := plain(t, "udp4", "127.0.0.1:0")
	pc.SetReadBuffer(4 << 20)
	refuse(s, unix.EINVAL, func(h *mmsghdr) bool { return segmented(h) && h.Iov.Len > 2000 })
	for range 3 * gsoTries {
		ms := []Message{
			{Buf: pattern(3000, 1), SegmentSize: 1000, Addr: addrOf(pc)},
			{Buf: pattern(2000, 2), SegmentSize: 1000, Addr: addrOf(pc)},
		}
		write(t, s, ms...)
		wantDatagrams(t, pc, ms)
	}
	if !s.(*conn).gso.Load() {
		t.Error("segmentation no longer tried")
	}
}

func TestSegmentedMessagesStayBelowTheLimits(t *testing.T) {
	s := open(t, "udp4", "127.0.0.1:0")
	pc := plain(t, "udp4", "127.0.0.1:0")
	pc.SetReadBuffer(4 << 20)
	var sent []int
	s.(*conn).send = func(fd uintptr, hs []mmsghdr) (int, syscall.Errno) {
		for i := range hs {
			sent = append(sent, int(hs[i].Iov.Len))
		}
		return sendmmsg(fd, hs)
	}
	for _, m := range []Message{
		{Buf: pattern(130, 0), SegmentSize: 1},
		{Buf: pattern(46*1424, 1), SegmentSize: 1424},
		{Buf: pattern(130*1000, 2), SegmentSize: 1000},
		{Buf: pattern(3*33000, 3), SegmentSize: 33000},
	} {
		m.Addr = addrOf(pc)
		sent = nil
		write(t, s, m)
		wantDatagrams(t, pc, []Message{m})
		for _, n := range sent {
			if n > m.SegmentSize && (n > 65000 || n > 64*m.SegmentSize) {
				t.Errorf("%d bytes in segments of %d went as %v", len(m.Buf), m.SegmentSize, sent)
				break
			}
		}
	}
}

func TestCoalescedMessageBeyondTheBuffer(t *testing.T) {
	for size, segmentSize := range map[int]int{1000: 0, 1400: 0, 3000: 1400} {
		s, peer := open(t, "udp4", "127.0.0.1:0"), open(t, "udp4", "127.0.0.1:0")
		write(t, peer, Message{Buf: pattern(4*1400, 0), SegmentSize: 1400, Addr: s.LocalAddr()})
		ms := []Message{{Buf: make([]byte, size)}}
		if n, err := s.ReadBatch(ms); n != 1 || err != nil || ms[0].SegmentSize != segmentSize || ms[0].N > size {
			t.Errorf("ReadBatch into %d bytes = %d, %v: %d bytes in segments of %d", size, n, err, ms[0].N, ms[0].SegmentSize)
		}
	}
}

func TestSegmentsAreCoalesced(t *testing.T) {
	s, peer := open(t, "udp4", "127.0.0.1:0"), open(t, "udp4", "127.0.0.1:0")
	if !s.(*conn).gso.Load() {
		t.Skip("no UDP_SEGMENT in this kernel")
	}
	write(t, peer, Message{Buf: pattern(20*1400+5, 0), SegmentSize: 1400, Addr: s.LocalAddr()})
	if m := readOne(t, s); m.N != 20*1400+5 || m.SegmentSize != 1400 {
		t.Errorf("got %d bytes in segments of %d", m.N, m.SegmentSize)
	}
}

func TestAnswerFromTheAddressAddressed(t *testing.T) {
	for _, network := range []string{"udp4", "udp"} {
		t.Run(network, func(t *testing.T) {
			s := open(t, network, ":0")
			pc := plain(t, "udp4", "127.0.0.1:0")
			for _, ip := range []string{"127.0.0.2", "127.0.0.3"} {
				to := at(s, netip.MustParseAddr(ip))
				if _, err := pc.WriteToUDPAddrPort([]byte("ping"), to); err != nil {
					t.Fatal(err)
				}
				m := readOne(t, s)
				if m.Local.Addr != to.Addr() || m.Local.IfIndex == 0 {
					t.Fatalf("arrived at %+v, want %v", m.Local, to.Addr())
				}
				for _, segmentSize := range []int{0, 3} {
					m.SegmentSize = segmentSize
					write(t, s, m)
					if from := wantDatagrams(t, pc, []Message{m}); from != to {
						t.Fatalf("answered from %v, want %v", from, to)
					}
				}
			}
		})
	}
	t.Run("udp6", func(t *testing.T) {
		s := open(t, "udp6", ":0")
		pc := plain(t, "udp6", "[::1]:0")
		if _, err := pc.WriteToUDPAddrPort([]byte("ping"), at(s, loopback6)); err != nil {
			t.Fatal(err)
		}
		m := readOne(t, s)
		if m.Local.Addr != loopback6 || m.Local.IfIndex == 0 {
			t.Fatalf("arrived at %+v, want %v", m.Local, loopback6)
		}
		write(t, s, m)
		wantDatagrams(t, pc, []Message{m})
	})
}

// What was broadcast is answered from an address that can be one.
func TestAnswerBroadcast(t *testing.T) {
	s := open(t, "udp4", ":0")
	pc := plain(t, "udp4", "127.0.0.1:0")
	if _, err := pc.WriteToUDPAddrPort([]byte("anyone?"), at(s, netip.MustParseAddr("127.255.255.255"))); err != nil {
		t.Skipf("no broadcast on the loopback interface: %v", err)
	}
	if m := readOne(t, s); m.Local.Addr != loopback4 {
		t.Errorf("arrived at %v, want %v", m.Local.Addr, loopback4)
	}
}

func TestControlMessages(t *testing.T) {
	for _, want := range []Message{
		{Addr: netip.AddrPortFrom(loopback4, 1)},
		{Addr: netip.AddrPortFrom(loopback4, 1), Local: Local{netip.MustParseAddr("192.0.2.1"), 7}, TOS: 0xff},
		{Addr: netip.AddrPortFrom(loopback6, 1), Local: Local{netip.MustParseAddr("2001:db8::1"), 7}, TOS: 0xff},
		{Addr: netip.AddrPortFrom(loopback6, 1), TOS: 1},
	} {
		for _, segment := range []int{0, 1400} {
			var h mmsghdr
			for i := range 2 { // the second time over what the first left
				var c writeControl
				for j := range c {
					c[j] = uint64(i) * 0xfefefefefefefefe
				}
				c.encode(&h, want.Local, &want, segment)
				got := Message{Addr: want.Addr}
				for b := unsafe.Slice(h.Control, h.Controllen); len(b) > 0; {
					header, data, rest, err := unix.ParseOneSocketControlMessage(b)
					if err != nil {
						t.Fatal(err)
					}
					got.control(header.Level, header.Type, data)
					b = rest
				}
				if got.Local != want.Local || got.TOS != want.TOS || segmented(&h) != (segment > 0) {
					t.Errorf("got %+v, segmented %v, want %+v", got, segmented(&h), want)
				}
			}
		}
	}
}

func TestSockaddr(t *testing.T) {
	interfaces, err := net.Interfaces()
	if err != nil || len(interfaces) == 0 {
		t.Skipf("no interfaces: %v", err)
	}
	zoned := netip.MustParseAddr("fe80::1").WithZone(interfaces[0].Name)
	var name unix.RawSockaddrInet6
	for _, ip := range []netip.Addr{loopback4, zoned, loopback4, loopback6, netip.MustParseAddr("2001:db8::1"), zoned} {
		for _, inet6 := range []bool{true, false} {
			want := netip.AddrPortFrom(ip, 51820)
			if _, err := encodeSockaddr(&name, want, inet6); err != nil {
				if inet6 || ip.Is4() || !isErrno(err, unix.EAFNOSUPPORT) {
					t.Errorf("%v: %v", want, err)
				}
				continue
			}
			if got := decodeSockaddr(&name); got != want {
				t.Errorf("got %v, want %v", got, want)
			}
			if inet6 && ip == zoned && name.Scope_id != uint32(interfaces[0].Index) {
				t.Errorf("scope of %v is %d, want %d", ip, name.Scope_id, interfaces[0].Index)
			}
		}
	}
}

// A source that is no longer an address of this host is given up for the OS's choice, segments and all.
func TestSourceGone(t *testing.T) {
	gone := map[string]Local{
		"udp4": {Addr: netip.MustParseAddr("192.0.2.77")},
		"udp6": {Addr: netip.MustParseAddr("2001:db8::77")},
	}
	for network, local := range gone {
		for _, local := range []Local{local, {local.Addr, 1}, {local.Addr, 1 << 20}} {
			s := open(t, network, ":0")
			pc := plain(t, network, net.JoinHostPort(loopbackOf(s).String(), "0"))
			ms := []Message{
				{Buf: pattern(10, 0), Addr: addrOf(pc)},
				{Buf: pattern(11, 1), Addr: addrOf(pc), Local: local},
				{Buf: pattern(3000, 2), Addr: addrOf(pc), Local: local, SegmentSize: 1000},
				{Buf: pattern(12, 3), Addr: addrOf(pc)},
			}
			write(t, s, ms...)
			wantDatagrams(t, pc, ms)
			wantNothing(t, pc)
			if s.(*conn).gsoInvalid.Load() != 0 {
				t.Error("segmentation was blamed")
			}
		}
	}
}

func TestSourceOfOtherFamilyIsIgnored(t *testing.T) {
	s := open(t, "udp", ":0")
	pc := plain(t, "udp4", "127.0.0.1:0")
	calls := refuse(s, unix.EINVAL, sourced)
	m := Message{Buf: []byte("x"), Addr: addrOf(pc), Local: Local{Addr: loopback6}}
	write(t, s, m)
	wantDatagrams(t, pc, []Message{m})
	if *calls != 1 {
		t.Errorf("%d system calls, want 1", *calls)
	}
}

// What is wrong with neither the source nor the segments is the caller's to know, and is not tried for ever.
func TestPersistentErrorIsReported(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.EINVAL, unix.ENETUNREACH, unix.ECONNREFUSED, unix.EPERM, unix.EIO, unix.EMSGSIZE, unix.ENOBUFS} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			s := open(t, "udp4", "127.0.0.1:0")
			pc := plain(t, "udp4", "127.0.0.1:0")
			bad := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.99"), 99)
			refuse(s, errno, func(h *mmsghdr) bool { return decodeSockaddr((*unix.RawSockaddrInet6)(unsafe.Pointer(h.Name))) == bad })
			good := Message{Buf: []byte("good"), Addr: addrOf(pc)}
			ms := []Message{good, {Buf: pattern(3000, 0), SegmentSize: 1000, Addr: bad, Local: Local{Addr: loopback4}}, good}
			if n, err := s.WriteBatch(ms); n != 1 || err == nil || !isErrno(err, errno) {
				t.Fatalf("WriteBatch = %d, %v", n, err)
			}
			write(t, s, ms[2:]...)
			wantDatagrams(t, pc, []Message{good, good})
			wantNothing(t, pc)
		})
	}
}

func isErrno(err error, errno syscall.Errno) bool { return errors.Is(err, errno) }

func TestTOS(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			s := open(t, k.network, k.address)
			peer := open(t, k.peer, net.JoinHostPort(k.ip.String(), "0"))
			for _, tos := range []uint8{0, 1, 2, 3, 0x88, 0xff, 0} {
				for _, segmentSize := range []int{0, 10} {
					write(t, peer, Message{Buf: pattern(25, 0), Addr: at(s, k.ip), TOS: tos, SegmentSize: segmentSize})
					m := readOne(t, s)
					if m.TOS != tos {
						t.Errorf("got %#x, want %#x", m.TOS, tos)
					}
					m.Buf = m.Buf[:m.N]
					write(t, s, m)
					if m := readOne(t, peer); m.TOS != tos {
						t.Errorf("answered with %#x, want %#x", m.TOS, tos)
					}
				}
			}
		})
	}
}

func TestOuterFragmentationIsAllowed(t *testing.T) {
	for _, k := range kinds {
		s := open(t, k.network, k.address).(*conn)
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

func TestZoneIsKept(t *testing.T) {
	local := linkLocal(t)
	s, peer := open(t, "udp6", ":0"), open(t, "udp6", ":0")
	write(t, peer, Message{Buf: []byte("ping"), Addr: at(s, local)})
	m := readOne(t, s)
	if want := at(peer, local); m.Addr != want {
		t.Fatalf("from %v, want %v", m.Addr, want)
	}
	if m.Local.Addr != local.WithZone("") {
		t.Errorf("arrived at %v, want %v", m.Local.Addr, local.WithZone(""))
	}
	write(t, s, m)
	if m, want := readOne(t, peer), at(s, local); m.Addr != want {
		t.Errorf("answer from %v, want %v", m.Addr, want)
	}
	batch := []Message{m}
	if allocs := testing.AllocsPerRun(100, func() {
		batch[0].Addr = at(peer, local)
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
	s := open(t, "udp6", ":0")
	to := netip.AddrPortFrom(netip.MustParseAddr("fe80::1%nosuch0"), 9)
	if n, err := s.WriteBatch([]Message{{Addr: to}}); n != 0 || !isErrno(err, unix.ENODEV) {
		t.Errorf("WriteBatch to %v = %d, %v", to, n, err)
	}
}

func TestNumericZone(t *testing.T) {
	if i, err := zones.index("1"); i != 1 || err != nil {
		t.Errorf("index of zone 1 = %d, %v", i, err)
	}
	if i, err := net.InterfaceByIndex(1); err == nil && zones.name(1) != i.Name {
		t.Errorf("name of interface 1 = %q, want %q", zones.name(1), i.Name)
	}
	if name := zones.name(1 << 30); name != "1073741824" {
		t.Errorf("name of an unknown index = %q", name)
	}
}

func TestFirewallMark(t *testing.T) {
	s := open(t, "udp4", "127.0.0.1:0")
	if err := s.SetMark(0); err != nil {
		t.Errorf("clearing no mark: %v", err)
	}
	err := s.SetMark(0xfffffffe)
	if isErrno(err, unix.EPERM) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	old, _, err := Listen(0)
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
	for _, s := range fresh {
		s.(*conn).raw.Control(func(fd uintptr) {
			if got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK); uint32(got) != 0xfffffffe || err != nil {
				t.Errorf("mark of a fresh socket = %#x, %v", uint32(got), err)
			}
		})
		if err := s.SetMark(0); err != nil {
			t.Error(err)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("not under the race detector")
	}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			s := open(t, k.network, k.address)
			peer := open(t, k.peer, net.JoinHostPort(k.ip.String(), "0"))
			out := []Message{
				{Buf: pattern(100, 0)},
				{Buf: pattern(14000, 1), SegmentSize: 1400, TOS: 1, Local: Local{Addr: k.ip}},
				{Buf: pattern(99, 1)},
			}
			for i := range out {
				out[i].Addr = at(s, k.ip)
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

// A full socket buffer makes WriteBatch wait, not fail.
func TestWriteWaitsForRoom(t *testing.T) {
	s := open(t, "udp4", "127.0.0.1:0")
	pc := plain(t, "udp4", "127.0.0.1:0")
	full := true
	send := make(chan struct{}, 1)
	s.(*conn).send = func(fd uintptr, hs []mmsghdr) (int, syscall.Errno) {
		if full {
			full = false
			send <- struct{}{}
			return 0, unix.EAGAIN
		}
		return sendmmsg(fd, hs[:1]) // and then takes one at a time
	}
	ms := []Message{{Buf: []byte("a"), Addr: addrOf(pc)}, {Buf: []byte("b"), Addr: addrOf(pc)}}
	write(t, s, ms...)
	<-send
	wantDatagrams(t, pc, ms)
}

func TestReadErrors(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.EMSGSIZE, unix.ENOBUFS, unix.ENOMEM, unix.EBADF} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			s := open(t, "udp4", "127.0.0.1:0")
			failures := backoffAfter + 3
			s.(*conn).recv = func(fd uintptr, hs []mmsghdr) (int, syscall.Errno) {
				if failures--; failures >= 0 {
					return 0, errno
				}
				return recvmmsg(fd, hs)
			}
			write(t, s, Message{Buf: []byte("alive"), Addr: s.LocalAddr()})
			ms := newBatch(2)
			n, err := s.ReadBatch(ms)
			if errno == unix.EBADF {
				if n != 0 || !isErrno(err, errno) {
					t.Errorf("ReadBatch of a dead socket = %d, %v", n, err)
				}
			} else if n != 1 || err != nil || string(ms[0].Buf[:ms[0].N]) != "alive" {
				t.Errorf("ReadBatch = %d, %v", n, err)
			}
		})
	}
}

func TestReaderBacksOff(t *testing.T) {
	s := open(t, "udp4", "127.0.0.1:0")
	calls := 0
	start := time.Now()
	s.(*conn).recv = func(fd uintptr, hs []mmsghdr) (int, syscall.Errno) {
		calls++
		if time.Since(start) < 30*time.Millisecond {
			return 0, unix.ENOMEM
		}
		return recvmmsg(fd, hs)
	}
	write(t, s, Message{Buf: []byte("alive"), Addr: s.LocalAddr()})
	readOne(t, s)
	if calls > 2*backoffAfter {
		t.Errorf("%d system calls in 30 ms", calls)
	}
}

func TestDeadlineOfTheMakerIsOutwaited(t *testing.T) {
	pc := plain(t, "udp4", "127.0.0.1:0")
	pc.SetReadDeadline(time.Now().Add(-time.Second))
	s := Wrap(pc)
	later := time.AfterFunc(20*time.Millisecond, func() {
		pc.SetReadDeadline(time.Time{})
		s.WriteBatch([]Message{{Buf: []byte("now"), Addr: s.LocalAddr()}})
	})
	defer later.Stop()
	if m := readOne(t, s); string(m.Buf) != "now" {
		t.Errorf("got %q", m.Buf)
	}
}

func BenchmarkLoopback(b *testing.B) {
	for _, bench := range []struct {
		name    string
		size    int
		segment int
		gso     bool
	}{
		{"bulk/segmented", 45 * 1424, 1424, true},
		{"bulk/singly", 45 * 1424, 1424, false},
		{"one/1424", 1424, 0, true},
		{"one/32", 32, 0, true},
	} {
		b.Run(bench.name, func(b *testing.B) {
			s, peer := open(b, "udp4", "127.0.0.1:0"), open(b, "udp4", "127.0.0.1:0")
			s.(*conn).gso.Store(bench.gso)
			in := newBatch(64)
			out := []Message{{Buf: pattern(bench.size, 0), SegmentSize: bench.segment, Addr: peer.LocalAddr()}}
			b.SetBytes(int64(bench.size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.WriteBatch(out); err != nil {
					b.Fatal(err)
				}
				for got := 0; got < bench.size; {
					n, err := peer.ReadBatch(in)
					if err != nil {
						b.Fatal(err)
					}
					for _, m := range in[:n] {
						got += m.N
					}
				}
			}
		})
	}
}

// BenchmarkParallelWrite has several goroutines send through one socket to a sink that nobody reads.
func BenchmarkParallelWrite(b *testing.B) {
	s := open(b, "udp4", "127.0.0.1:0")
	sink := plain(b, "udp4", "127.0.0.1:0")
	to := addrOf(sink)
	const size = 45 * 1424
	b.SetBytes(size)
	b.RunParallel(func(pb *testing.PB) {
		out := []Message{{Buf: pattern(size, 0), SegmentSize: 1424, Addr: to}}
		for pb.Next() {
			if _, err := s.WriteBatch(out); err != nil {
				b.Fatal(err)
			}
		}
	})
}
