package udp

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// errorLog collects PathErrors.
type errorLog struct {
	mu     sync.Mutex
	errors []PathError
	added  chan struct{}
}

// logPathErrors makes s report to a new errorLog.
func logPathErrors(s Socket) *errorLog {
	l := &errorLog{added: make(chan struct{}, 1000)}
	HandlePathErrors(s, func(e PathError) {
		l.mu.Lock()
		defer l.mu.Unlock()
		e.Payload = bytes.Clone(e.Payload)
		l.errors = append(l.errors, e)
		select {
		case l.added <- struct{}{}:
		default:
		}
	})
	return l
}

func (l *errorLog) all() []PathError {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.errors
}

// wantAny waits for an error and returns the latest.
func (l *errorLog) wantAny(t *testing.T) PathError {
	t.Helper()
	select {
	case <-l.added:
	case <-time.After(readTimeout):
		t.Fatal("no path error")
	}
	all := l.all()
	return all[len(all)-1]
}

// closedPort returns an address at which there is no socket.
func closedPort(t *testing.T, network string, ip netip.Addr) netip.AddrPort {
	pc := listenPlain(t, network, net.JoinHostPort(ip.String(), "0"))
	defer pc.Close()
	return addrOf(pc)
}

// readInBackground reads until s is closed and sends what it reads.
func readInBackground(t *testing.T, s Socket) <-chan string {
	got := make(chan string, 10000)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ms := newBatch(4)
		for {
			n, err := s.ReadBatch(ms)
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("ReadBatch: %v", err)
				}
				return
			}
			for _, m := range ms[:n] {
				got <- string(m.Buf[:m.N])
			}
		}
	}()
	t.Cleanup(func() {
		s.Close()
		<-ended
	})
	return got
}

func wantRead(t *testing.T, got <-chan string, want string) {
	t.Helper()
	select {
	case b := <-got:
		if b != want {
			t.Fatalf("read %q, want %q", b, want)
		}
	case <-time.After(readTimeout):
		t.Fatalf("did not read %q", want)
	}
}

func TestPathErrorOfClosedPort(t *testing.T) {
	for _, k := range socketKinds {
		t.Run(k.name, func(t *testing.T) {
			s := openSocket(t, k.network, k.address)
			l := logPathErrors(s)
			got := readInBackground(t, s)
			to := closedPort(t, k.peer, k.ip)
			writeAll(t, s, Message{Buf: []byte("to nobody"), Addr: to})
			e := l.wantAny(t)
			if e.To != to || e.Errno != unix.ECONNREFUSED || e.MTU != 0 || e.Offender != k.ip {
				t.Errorf("error %+v, want ECONNREFUSED of %v", e, to)
			}
			if !bytes.HasPrefix([]byte("to nobody"), e.Payload) || len(e.Payload) == 0 {
				t.Errorf("payload %q", e.Payload)
			}
			writeAll(t, s, Message{Buf: []byte("to itself"), Addr: addrOn(s, k.ip)})
			wantRead(t, got, "to itself")
		})
	}
}

// The errors of one destination must disturb neither what is sent to others nor
// what is read.
func TestPathErrorsConcernTheirDestinationOnly(t *testing.T) {
	for name, blind := range map[string]bool{"reported": false, "queue cannot be read": true} {
		t.Run(name, func(t *testing.T) {
			s := openSocket(t, "udp4", "127.0.0.1:0").(*conn)
			l := logPathErrors(s)
			if blind {
				recv := s.calls.recvmmsg
				s.calls.recvmmsg = func(fd uintptr, hs []mmsghdr, flags int) (int, syscall.Errno) {
					if flags&unix.MSG_ERRQUEUE != 0 {
						return 0, unix.EACCES
					}
					return recv(fd, hs, flags)
				}
			}
			got := readInBackground(t, s)
			to := closedPort(t, "udp4", loopback4)
			const rounds = 2000
			for i := range rounds {
				writeAll(t, s,
					Message{Buf: []byte("to nobody"), Addr: to},
					Message{Buf: []byte{byte(i)}, Addr: s.LocalAddr()},
					Message{Buf: []byte("to nobody"), Addr: to})
				wantRead(t, got, string([]byte{byte(i)}))
			}
			n := len(l.all())
			if blind != (n == 0) {
				t.Errorf("%d path errors", n)
			}
			if blind != (s.handle.Load() == nil) {
				t.Error("wrong whether the queue is in use")
			}
			for _, e := range l.all() {
				if e.To != to || e.Errno != unix.ECONNREFUSED {
					t.Fatalf("error %+v", e)
				}
			}
		})
	}
}

// While datagrams keep arriving the reader does not wait, so nothing wakes it
// for an error. It must learn of one from the call that failed with it.
func TestPathErrorsAreReportedWhileBusy(t *testing.T) {
	for _, failing := range []string{"send", "receive"} {
		t.Run(failing, func(t *testing.T) {
			s, peer := openSocket(t, "udp4", "127.0.0.1:0"), openSocket(t, "udp4", "127.0.0.1:0")
			l := logPathErrors(s)
			writeAll(t, s, Message{Buf: []byte("to nobody"), Addr: closedPort(t, "udp4", loopback4)})
			if failing == "send" {
				writeAll(t, s, Message{Buf: []byte("from itself"), Addr: s.LocalAddr()})
				readMessage(t, s)
			} else {
				for range 2 {
					writeAll(t, peer, Message{Buf: []byte("from a peer"), Addr: s.LocalAddr()})
					if readMessage(t, s); len(l.all()) > 1 {
						t.Fatal("the error was reported twice")
					}
				}
			}
			if n := len(l.all()); n != 1 {
				t.Errorf("%d path errors, want 1", n)
			}
		})
	}
}

// A send that is too big for any path is no error of this path.
func TestTooBigIsComparedWithTheMTU(t *testing.T) {
	s := openSocket(t, "udp4", "127.0.0.1:0")
	l := logPathErrors(s)
	mtu, err := PathMTU(s, s.LocalAddr())
	if err != nil || mtu < 1500 {
		t.Fatalf("PathMTU of the loopback interface = %d, %v", mtu, err)
	}
	s.(*conn).tooBig(s.LocalAddr(), min(mtu, 65535)-28)
	if len(l.all()) != 0 {
		t.Errorf("errors %+v", l.all())
	}
}

// pollErrorConn is a RawConn whose first Reads fail as those of the runtime do
// when epoll reports nothing but an error.
type pollErrorConn struct {
	syscall.RawConn
	failures int
}

func (c *pollErrorConn) Read(f func(uintptr) bool) error {
	if c.failures--; c.failures >= 0 {
		return &net.OpError{Op: "raw-read", Err: errors.New("not pollable")}
	}
	return c.RawConn.Read(f)
}

func TestReaderSurvivesPollErrors(t *testing.T) {
	s := openSocket(t, "udp4", "127.0.0.1:0").(*conn)
	l := logPathErrors(s)
	s.raw = &pollErrorConn{s.raw, freeFailures + 2}
	to := closedPort(t, "udp4", loopback4)
	writeAll(t, s, Message{Buf: []byte("to nobody"), Addr: to}, Message{Buf: []byte("alive"), Addr: s.LocalAddr()})
	if m := readMessage(t, s); string(m.Buf) != "alive" {
		t.Errorf("read %q", m.Buf)
	}
	if e := l.wantAny(t); e.To != to {
		t.Errorf("error %+v", e)
	}
}

// A handler may use the socket, and even close it.
func TestPathErrorHandlerClosesTheSocket(t *testing.T) {
	s := openSocket(t, "udp4", "127.0.0.1:0")
	HandlePathErrors(s, func(PathError) { s.Close() })
	writeAll(t, s, Message{Buf: []byte("to nobody"), Addr: closedPort(t, "udp4", loopback4)})
	watchdog := time.AfterFunc(readTimeout, func() { panic("ReadBatch still blocks") })
	defer watchdog.Stop()
	if n, err := s.ReadBatch(newBatch(1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadBatch = %d, %v", n, err)
	}
}

func TestExtendedErrors(t *testing.T) {
	offender := netip.MustParseAddr("192.0.2.9")
	var name unix.RawSockaddrInet6
	nameLen, err := encodeSockaddr(&name, netip.AddrPortFrom(offender, 1), false)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(e unix.SockExtendedErr) []byte {
		b := bytes.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&e)), unsafe.Sizeof(e)))
		return append(b, unsafe.Slice((*byte)(unsafe.Pointer(&name)), nameLen)...)
	}
	for _, test := range []struct {
		in   unix.SockExtendedErr
		want PathError
		ok   bool
	}{
		{unix.SockExtendedErr{Errno: uint32(unix.EMSGSIZE), Origin: unix.SO_EE_ORIGIN_ICMP, Info: 1280}, PathError{Errno: unix.EMSGSIZE, MTU: 1280, Offender: offender}, true},
		{unix.SockExtendedErr{Errno: uint32(unix.EHOSTUNREACH), Origin: unix.SO_EE_ORIGIN_ICMP6, Info: 7}, PathError{Errno: unix.EHOSTUNREACH, Offender: offender}, true},
		{unix.SockExtendedErr{Errno: uint32(unix.EMSGSIZE), Origin: unix.SO_EE_ORIGIN_LOCAL, Info: 1280}, PathError{}, false},
	} {
		b := encode(test.in)
		var got PathError
		if ok := got.setFromExtended(b); ok != test.ok || got.Errno != test.want.Errno || got.MTU != test.want.MTU || got.Offender != test.want.Offender {
			t.Errorf("%+v: %+v, %v", test.in, got, ok)
		}
		for n := range b { // cut short
			new(PathError).setFromExtended(b[:n])
		}
	}
}

// smallLink returns a socket in a namespace, and addresses behind a link that
// takes IP packets of 1300 bytes.
func smallLink(t *testing.T) (n *namespace, to4, to6 netip.AddrPort) {
	n = newNamespace(t)
	n.run("link add small type veth peer name other", "link set other up", "link set small mtu 1300 up",
		"addr add 10.9.0.1/24 dev small", "addr add fd09::1/64 dev small nodad",
		"neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev small", "neigh add fd09::2 lladdr 02:00:00:00:00:02 dev small")
	return n, netip.MustParseAddrPort("10.9.0.2:9"), netip.MustParseAddrPort("[fd09::2]:9")
}

// Segments that exceed the MTU of the path are sent as fragments, and the MTU
// is reported.
func TestPathErrorOfSmallLink(t *testing.T) {
	n, to4, to6 := smallLink(t)
	for _, to := range []netip.AddrPort{to4, to6} {
		s := n.open("udp", ":0")
		if !s.gso.Load() {
			t.Skip("no UDP_SEGMENT in this kernel")
		}
		l := logPathErrors(s)
		n.do(func() {
			if mtu, err := PathMTU(s, to); mtu != 1300 || err != nil {
				t.Errorf("PathMTU = %d, %v", mtu, err)
			}
			fits := 1300 - headersOf(to.Addr())
			for range 3 {
				writeAll(t, s, Message{Buf: make([]byte, 5*fits), SegmentSize: fits, Addr: to})
			}
			if all := l.all(); len(all) != 0 {
				t.Errorf("errors %+v though the segments fit", all)
			}
			for range 3 { // the rate of reports is limited
				writeAll(t, s, Message{Buf: make([]byte, 5*(fits+1)), SegmentSize: fits + 1, Addr: to})
			}
		})
		all := l.all()
		if len(all) != 1 {
			t.Fatalf("%d errors, want 1", len(all))
		}
		if e := all[0]; e.To != to || e.Errno != unix.EMSGSIZE || e.MTU != 1300 || e.Offender.IsValid() {
			t.Errorf("error %+v", e)
		}
	}
}

// A router says that a packet is too big. The message is forged here, as anyone
// could.
func TestPathErrorOfRouter(t *testing.T) {
	n, _, to := smallLink(t)
	s := n.open("udp6", "[fd09::1]:0")
	l := logPathErrors(s)
	readInBackground(t, s)
	payload := []byte("a datagram that was too big")
	n.do(func() {
		quoted := make([]byte, 48, 100)
		quoted[0], quoted[6] = 6<<4, unix.IPPROTO_UDP
		quoted[5] = byte(8 + len(payload))
		source, dest := s.LocalAddr(), to
		copy(quoted[8:], source.Addr().AsSlice())
		copy(quoted[24:], dest.Addr().AsSlice())
		quoted[40], quoted[41] = byte(source.Port()>>8), byte(source.Port())
		quoted[42], quoted[43] = byte(dest.Port()>>8), byte(dest.Port())
		quoted[45] = byte(8 + len(payload))
		m := icmp.Message{Type: ipv6.ICMPTypePacketTooBig, Body: &icmp.PacketTooBig{MTU: 1290, Data: append(quoted, payload...)}}
		b, err := m.Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		pc, err := icmp.ListenPacket("ip6:ipv6-icmp", "fd09::1")
		if err != nil {
			t.Skipf("needs root for a raw socket: %v", err)
		}
		defer pc.Close()
		if _, err := pc.WriteTo(b, &net.IPAddr{IP: source.Addr().AsSlice()}); err != nil {
			t.Fatal(err)
		}
		e := l.wantAny(t)
		if e.To != dest || e.Errno != unix.EMSGSIZE || e.MTU != 1290 || e.Offender != source.Addr() || !bytes.Equal(e.Payload, payload) {
			t.Errorf("error %+v, payload %q", e, e.Payload)
		}
		if mtu, err := PathMTU(s, to); mtu != 1290 || err != nil {
			t.Errorf("PathMTU = %d, %v", mtu, err)
		}
	})
}
