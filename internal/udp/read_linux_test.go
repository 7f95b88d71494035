package udp

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCoalescedMessageBeyondTheBuffer(t *testing.T) {
	for size, segmentSize := range map[int]int{1000: 0, 1400: 0, 3000: 1400} {
		s, peer := openSocket(t, "udp4", "127.0.0.1:0"), openSocket(t, "udp4", "127.0.0.1:0")
		writeAll(t, peer, Message{Buf: pattern(4*1400, 0), SegmentSize: 1400, Addr: s.LocalAddr()})
		ms := []Message{{Buf: make([]byte, size)}}
		if n, err := s.ReadBatch(ms); n != 1 || err != nil || ms[0].SegmentSize != segmentSize || ms[0].N > size {
			t.Errorf("ReadBatch into %d bytes = %d, %v: %d bytes in segments of %d", size, n, err, ms[0].N, ms[0].SegmentSize)
		}
	}
}

func TestSegmentsAreCoalesced(t *testing.T) {
	s, peer := openSocket(t, "udp4", "127.0.0.1:0"), openSocket(t, "udp4", "127.0.0.1:0")
	if !s.(*conn).gso.Load() {
		t.Skip("no UDP_SEGMENT in this kernel")
	}
	writeAll(t, peer, Message{Buf: pattern(20*1400+5, 0), SegmentSize: 1400, Addr: s.LocalAddr()})
	if m := readMessage(t, s); m.N != 20*1400+5 || m.SegmentSize != 1400 {
		t.Errorf("got %d bytes in segments of %d", m.N, m.SegmentSize)
	}
}

// A broadcast is answered from an address that can be a source.
func TestAnswerBroadcast(t *testing.T) {
	s := openSocket(t, "udp4", ":0")
	pc := listenPlain(t, "udp4", "127.0.0.1:0")
	if _, err := pc.WriteToUDPAddrPort([]byte("anyone?"), addrOn(s, netip.MustParseAddr("127.255.255.255"))); err != nil {
		t.Skipf("no broadcast on the loopback interface: %v", err)
	}
	if m := readMessage(t, s); m.Local.Addr != loopback4 {
		t.Errorf("arrived at %v, want %v", m.Local.Addr, loopback4)
	}
}

func TestReadErrors(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.EMSGSIZE, unix.ENOBUFS, unix.ENOMEM, unix.EBADF} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			s := openSocket(t, "udp4", "127.0.0.1:0")
			failures := freeFailures + 3
			s.(*conn).calls.recvmmsg = func(fd uintptr, hs []mmsghdr, flags int) (int, syscall.Errno) {
				if failures--; failures >= 0 {
					return 0, errno
				}
				return recvmmsg(fd, hs, flags)
			}
			writeAll(t, s, Message{Buf: []byte("alive"), Addr: s.LocalAddr()})
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
	s := openSocket(t, "udp4", "127.0.0.1:0")
	calls := 0
	start := time.Now()
	s.(*conn).calls.recvmmsg = func(fd uintptr, hs []mmsghdr, flags int) (int, syscall.Errno) {
		calls++
		if time.Since(start) < 30*time.Millisecond {
			return 0, unix.ENOMEM
		}
		return recvmmsg(fd, hs, flags)
	}
	writeAll(t, s, Message{Buf: []byte("alive"), Addr: s.LocalAddr()})
	readMessage(t, s)
	if calls > 2*freeFailures {
		t.Errorf("%d system calls in 30 ms", calls)
	}
}

func TestDeadlineOfTheMakerIsOutwaited(t *testing.T) {
	pc := listenPlain(t, "udp4", "127.0.0.1:0")
	pc.SetReadDeadline(time.Now().Add(-time.Second))
	s := Wrap(pc)
	later := time.AfterFunc(20*time.Millisecond, func() {
		pc.SetReadDeadline(time.Time{})
		s.WriteBatch([]Message{{Buf: []byte("now"), Addr: s.LocalAddr()}})
	})
	defer later.Stop()
	if m := readMessage(t, s); string(m.Buf) != "now" {
		t.Errorf("got %q", m.Buf)
	}
}
