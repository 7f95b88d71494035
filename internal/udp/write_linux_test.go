package udp

import (
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// failSends makes sending a header fail with errno if broken returns true for
// it. It counts the calls.
func failSends(s Socket, errno syscall.Errno, broken func(h *mmsghdr) bool) (calls *int) {
	calls = new(int)
	s.(*conn).calls.sendmmsg = func(fd uintptr, hs []mmsghdr, flags int) (int, syscall.Errno) {
		*calls++
		if i := slices.IndexFunc(hs, func(h mmsghdr) bool { return broken(&h) }); i == 0 {
			return 0, errno
		} else if i > 0 {
			hs = hs[:i]
		}
		return sendmmsg(fd, hs, flags)
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
			s := openSocket(t, "udp4", ":0")
			if !s.(*conn).gso.Load() {
				t.Skip("no UDP_SEGMENT in this kernel")
			}
			pc := listenPlain(t, "udp4", "127.0.0.1:0")
			pc.SetReadBuffer(4 << 20)
			calls := failSends(s, errno, segmented)
			to := addrOf(pc)
			source := Local{Addr: netip.MustParseAddr("127.0.0.2")}
			ms := []Message{
				{Buf: pattern(100, 0), Addr: to},
				{Buf: pattern(10*size+1, 1), SegmentSize: size, Addr: to},
				{Buf: pattern(100, 2), Addr: to},
				{Buf: pattern(200*2, 3), SegmentSize: 2, Addr: to}, // more pieces than one call sends
				{Buf: pattern(5*size, 4), SegmentSize: size, Addr: to, Local: source},
			}
			for range 5 {
				writeAll(t, s, ms...)
				if from := wantDatagrams(t, pc, ms); from != addrOn(s, source.Addr) {
					t.Fatalf("the last from %v, want %v", from, source.Addr)
				}
				wantNothing(t, pc)
			}
			if on := s.(*conn).gso.Load(); on != (errno == unix.EMSGSIZE) {
				t.Errorf("segmentation still tried: %v", on)
			}
			*calls = 0
			writeAll(t, s, ms[3])
			if want := map[bool]int{true: 3, false: 2}[errno == unix.EMSGSIZE]; *calls != want {
				t.Errorf("%d system calls, want %d", *calls, want)
			}
		})
	}
}

// Older kernels return EINVAL also if a segment exceeds the path MTU:
// segmentation continues on other paths.
func TestSegmentationSurvivesOnePath(t *testing.T) {
	s := openSocket(t, "udp4", "127.0.0.1:0")
	if !s.(*conn).gso.Load() {
		t.Skip("no UDP_SEGMENT in this kernel")
	}
	pc := listenPlain(t, "udp4", "127.0.0.1:0")
	pc.SetReadBuffer(4 << 20)
	failSends(s, unix.EINVAL, func(h *mmsghdr) bool { return segmented(h) && h.Iov.Len > 2000 })
	for range 3 * gsoTries {
		ms := []Message{
			{Buf: pattern(3000, 1), SegmentSize: 1000, Addr: addrOf(pc)},
			{Buf: pattern(2000, 2), SegmentSize: 1000, Addr: addrOf(pc)},
		}
		writeAll(t, s, ms...)
		wantDatagrams(t, pc, ms)
	}
	if !s.(*conn).gso.Load() {
		t.Error("segmentation no longer tried")
	}
}

func TestSegmentedMessagesStayBelowTheLimits(t *testing.T) {
	s := openSocket(t, "udp4", "127.0.0.1:0")
	pc := listenPlain(t, "udp4", "127.0.0.1:0")
	pc.SetReadBuffer(4 << 20)
	var sent []int
	s.(*conn).calls.sendmmsg = func(fd uintptr, hs []mmsghdr, flags int) (int, syscall.Errno) {
		for i := range hs {
			sent = append(sent, int(hs[i].Iov.Len))
		}
		return sendmmsg(fd, hs, flags)
	}
	for _, m := range []Message{
		{Buf: pattern(130, 0), SegmentSize: 1},
		{Buf: pattern(46*1424, 1), SegmentSize: 1424},
		{Buf: pattern(130*1000, 2), SegmentSize: 1000},
		{Buf: pattern(3*33000, 3), SegmentSize: 33000},
	} {
		m.Addr = addrOf(pc)
		sent = nil
		writeAll(t, s, m)
		wantDatagrams(t, pc, []Message{m})
		for _, n := range sent {
			if n > m.SegmentSize && (n > 65000 || n > 64*m.SegmentSize) {
				t.Errorf("%d bytes in segments of %d went as %v", len(m.Buf), m.SegmentSize, sent)
				break
			}
		}
	}
}

func TestAnswerFromTheAddressAddressed(t *testing.T) {
	for _, network := range []string{"udp4", "udp"} {
		t.Run(network, func(t *testing.T) {
			s := openSocket(t, network, ":0")
			pc := listenPlain(t, "udp4", "127.0.0.1:0")
			for _, ip := range []string{"127.0.0.2", "127.0.0.3"} {
				to := addrOn(s, netip.MustParseAddr(ip))
				if _, err := pc.WriteToUDPAddrPort([]byte("ping"), to); err != nil {
					t.Fatal(err)
				}
				m := readMessage(t, s)
				if m.Local.Addr != to.Addr() || m.Local.IfIndex == 0 {
					t.Fatalf("arrived at %+v, want %v", m.Local, to.Addr())
				}
				for _, segmentSize := range []int{0, 3} {
					m.SegmentSize = segmentSize
					writeAll(t, s, m)
					if from := wantDatagrams(t, pc, []Message{m}); from != to {
						t.Fatalf("answered from %v, want %v", from, to)
					}
				}
			}
		})
	}
	t.Run("udp6", func(t *testing.T) {
		s := openSocket(t, "udp6", ":0")
		pc := listenPlain(t, "udp6", "[::1]:0")
		if _, err := pc.WriteToUDPAddrPort([]byte("ping"), addrOn(s, loopback6)); err != nil {
			t.Fatal(err)
		}
		m := readMessage(t, s)
		if m.Local.Addr != loopback6 || m.Local.IfIndex == 0 {
			t.Fatalf("arrived at %+v, want %v", m.Local, loopback6)
		}
		writeAll(t, s, m)
		wantDatagrams(t, pc, []Message{m})
	})
}

func TestControlMessages(t *testing.T) {
	for _, want := range []Message{
		{Addr: netip.AddrPortFrom(loopback4, 1)},
		{Addr: netip.AddrPortFrom(loopback4, 1), Local: Local{netip.MustParseAddr("192.0.2.1"), 7}, TOS: 0xff},
		{Addr: netip.AddrPortFrom(loopback4, 1), Local: Local{netip.MustParseAddr("169.254.1.1"), 7}},
		{Addr: netip.AddrPortFrom(loopback6, 1), Local: Local{netip.MustParseAddr("2001:db8::1"), 7}, TOS: 0xff},
		{Addr: netip.AddrPortFrom(loopback6, 1), Local: Local{netip.MustParseAddr("fe80::1"), 7}, TOS: 0xff},
		{Addr: netip.AddrPortFrom(loopback6, 1), TOS: 1},
	} {
		for _, segment := range []int{0, 1400} {
			var h mmsghdr
			for i := range 2 { // the second time over other content
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
					got.setFromControl(header.Level, header.Type, data)
					b = rest
				}
				wantLocal := Local{want.Local.Addr, 0} // routes choose the interface
				if want.Local.Addr.IsLinkLocalUnicast() && want.Local.Addr.Is6() {
					wantLocal = want.Local
				}
				if got.Local != wantLocal || got.TOS != want.TOS || segmented(&h) != (segment > 0) {
					t.Errorf("got %+v, segmented %v, want %+v", got, segmented(&h), want)
				}
			}
		}
	}
}

// A source that is no longer an address of this host is replaced by the OS's
// choice, for segmented messages too.
func TestSourceGone(t *testing.T) {
	foreign := map[string]Local{
		"udp4": {Addr: netip.MustParseAddr("192.0.2.77")},
		"udp6": {Addr: netip.MustParseAddr("2001:db8::77")},
	}
	for network, local := range foreign {
		for _, local := range []Local{local, {local.Addr, 1}, {local.Addr, 1 << 20}} {
			s := openSocket(t, network, ":0")
			pc := listenPlain(t, network, net.JoinHostPort(loopbackOf(s).String(), "0"))
			ms := []Message{
				{Buf: pattern(10, 0), Addr: addrOf(pc)},
				{Buf: pattern(11, 1), Addr: addrOf(pc), Local: local},
				{Buf: pattern(3000, 2), Addr: addrOf(pc), Local: local, SegmentSize: 1000},
				{Buf: pattern(12, 3), Addr: addrOf(pc)},
			}
			writeAll(t, s, ms...)
			wantDatagrams(t, pc, ms)
			wantNothing(t, pc)
			if s.(*conn).gsoInvalid.Load() != 0 {
				t.Error("segmentation was blamed")
			}
		}
	}
}

func TestSourceOfOtherFamilyIsIgnored(t *testing.T) {
	s := openSocket(t, "udp", ":0")
	pc := listenPlain(t, "udp4", "127.0.0.1:0")
	calls := failSends(s, unix.EINVAL, sourced)
	m := Message{Buf: []byte("x"), Addr: addrOf(pc), Local: Local{Addr: loopback6}}
	writeAll(t, s, m)
	wantDatagrams(t, pc, []Message{m})
	if *calls != 1 {
		t.Errorf("%d system calls, want 1", *calls)
	}
}

// An error that neither the source nor segmentation explains is reported to the
// caller after a bounded number of attempts.
func TestPersistentErrorIsReported(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.EINVAL, unix.ENETUNREACH, unix.ECONNREFUSED, unix.EPERM, unix.EIO, unix.EMSGSIZE, unix.ENOBUFS} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			s := openSocket(t, "udp4", "127.0.0.1:0")
			pc := listenPlain(t, "udp4", "127.0.0.1:0")
			bad := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.99"), 99)
			failSends(s, errno, func(h *mmsghdr) bool { return decodeSockaddr((*unix.RawSockaddrInet6)(unsafe.Pointer(h.Name))) == bad })
			good := Message{Buf: []byte("good"), Addr: addrOf(pc)}
			ms := []Message{good, {Buf: pattern(3000, 0), SegmentSize: 1000, Addr: bad, Local: Local{Addr: loopback4}}, good}
			if n, err := s.WriteBatch(ms); n != 1 || err == nil || !isErrno(err, errno) {
				t.Fatalf("WriteBatch = %d, %v", n, err)
			}
			writeAll(t, s, ms[2:]...)
			wantDatagrams(t, pc, []Message{good, good})
			wantNothing(t, pc)
		})
	}
}

// A full socket buffer makes WriteBatch wait, not fail.
func TestWriteWaitsForRoom(t *testing.T) {
	s := openSocket(t, "udp4", "127.0.0.1:0")
	pc := listenPlain(t, "udp4", "127.0.0.1:0")
	full := true
	send := make(chan struct{}, 1)
	s.(*conn).calls.sendmmsg = func(fd uintptr, hs []mmsghdr, flags int) (int, syscall.Errno) {
		if full {
			full = false
			send <- struct{}{}
			return 0, unix.EAGAIN
		}
		return sendmmsg(fd, hs[:1], flags) // and then takes one at a time
	}
	ms := []Message{{Buf: []byte("a"), Addr: addrOf(pc)}, {Buf: []byte("b"), Addr: addrOf(pc)}}
	writeAll(t, s, ms...)
	<-send
	wantDatagrams(t, pc, ms)
}

// TryWriteBatch does not wait for a full socket buffer, and says what it has not
// sent.
func TestTryWriteDoesNotWait(t *testing.T) {
	s := openSocket(t, "udp4", "127.0.0.1:0")
	pc := listenPlain(t, "udp4", "127.0.0.1:0")
	s.(*conn).gso.Store(false)
	room := 4
	s.(*conn).calls.sendmmsg = func(fd uintptr, hs []mmsghdr, flags int) (int, syscall.Errno) {
		if room == 0 {
			return 0, unix.EAGAIN
		}
		n, errno := sendmmsg(fd, hs[:min(room, len(hs))], flags)
		room -= n
		return n, errno
	}
	ms := []Message{{Buf: []byte("a"), Addr: addrOf(pc)}, {Buf: []byte("bbccddee"), SegmentSize: 2, Addr: addrOf(pc)}, {Buf: []byte("f"), Addr: addrOf(pc)}}
	all := slices.Clone(ms)
	n, err := s.TryWriteBatch(ms)
	if n != 1 || err != ErrWouldBlock || string(ms[1].Buf) != "ee" {
		t.Fatalf("TryWriteBatch = %d, %v, and leaves %q", n, err, ms[1].Buf)
	}
	room = 10
	if n, err := s.TryWriteBatch(ms[1:]); n != 2 || err != nil {
		t.Fatalf("TryWriteBatch = %d, %v", n, err)
	}
	wantDatagrams(t, pc, all)
}

// Each datagram sent to a closed port leaves an error pending, which the next call
// meets in place of its own result. Several may arrive between two calls.
func TestSeveralPendingErrors(t *testing.T) {
	for _, pending := range []int{1, 3, pendingTries, pendingTries + 1} {
		s := openSocket(t, "udp4", "127.0.0.1:0").(*conn)
		pc := listenPlain(t, "udp4", "127.0.0.1:0")
		left := pending
		s.calls.sendmmsg = func(fd uintptr, hs []mmsghdr, flags int) (int, syscall.Errno) {
			if left > 0 {
				left--
				return 0, unix.ECONNREFUSED
			}
			return sendmmsg(fd, hs, flags)
		}
		ms := []Message{{Buf: []byte("x"), Addr: addrOf(pc)}}
		n, err := s.WriteBatch(ms)
		if pending > pendingTries {
			if n != 0 || !isErrno(err, unix.ECONNREFUSED) {
				t.Errorf("%d errors: WriteBatch = %d, %v", pending, n, err)
			}
			continue
		}
		if n != 1 || err != nil {
			t.Errorf("%d errors: WriteBatch = %d, %v", pending, n, err)
			continue
		}
		wantDatagrams(t, pc, ms)
	}
}
