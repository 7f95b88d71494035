package netstack

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"runtime/pprof"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/transport"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// TestSilence checks that nothing leaves an idle stack: no neighbour
// discovery, no group membership.
func TestSilence(t *testing.T) {
	s := newStack(t, Config{Addresses: prefixes(a4, a6), Output: func(p *Packet) error {
		t.Errorf("a packet to %v left the stack", p.Destination())
		return nil
	}})
	s.HandleTCP(func(*TCPFlow) {})
	// A neighbour and a router ask for nothing that such a link has.
	for _, typ := range []byte{133, 134, 135, 136} {
		b := icmpError(largeTCP(true, 0, 0, 0, 0), b6, typ, 0, 0)
		b[7] = 255
		s.Deliver([][]byte{b})
	}
	if _, err := s.Ping(testContext(t), a6); err != nil {
		t.Fatal(err)
	}
}

// TestClose closes a stack in the middle of everything.
func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	var wires sync.WaitGroup
	fromA, fromB := newWire(), newWire()
	a, err := New(Config{Addresses: prefixes(a4, a6), DNS: addrs("10.0.0.77"), MaxSegments: 45, Output: fromA.output})
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(Config{Addresses: prefixes(b4, b6), MaxSegments: 45, Output: fromB.output})
	if err != nil {
		t.Fatal(err)
	}
	wires.Go(func() { fromA.run(b) })
	wires.Go(func() { fromB.run(a) })
	p := &pair{a: a, b: b, fromA: fromA, fromB: fromB}

	ctx := testContext(t)
	accepted := make(chan struct{}, 2)
	var blocked sync.WaitGroup
	fails := func(what string, f func() error) {
		blocked.Go(func() {
			if err := f(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: %v, want net.ErrClosed", what, err)
			}
		})
	}
	c, _ := p.connect(t, b4)
	_, told := p.connect(t, b6)
	fails("Read", func() error { _, err := c.Read(make([]byte, 1)); return err })
	fails("Write", func() error {
		for {
			if _, err := c.Write(make([]byte, 1<<20)); err != nil {
				return err
			}
		}
	})
	l := listen(t, a, "tcp", ":80")
	fails("Accept", func() error { _, err := l.Accept(); return err })
	pc := listenPacket(t, a, "udp", ":80")
	pc.SetDeadline(time.Time{})
	fails("ReadFrom", func() error { _, _, err := pc.ReadFrom(make([]byte, 1)); return err })
	fails("DialContext", func() error { _, err := a.DialContext(ctx, "tcp", "10.0.0.77:1"); return err })
	fails("DialContext of a name", func() error { _, err := a.DialContext(ctx, "tcp", "host.example:1"); return err })
	fails("LookupNetIP", func() error { _, err := a.LookupNetIP(ctx, "ip", "host.example"); return err })
	fails("Ping", func() error { _, err := a.Ping(ctx, netip.MustParseAddr("10.0.0.77")); return err })
	a.HandleTCP(func(f *TCPFlow) {
		c, err := f.Accept()
		accepted <- struct{}{}
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("accepted flow: %v", err)
		}
	})
	a.HandleUDP(func(f *UDPFlow) {
		c, err := f.Accept()
		accepted <- struct{}{}
		if err == nil {
			c.Read(make([]byte, 1)) // the datagram
			_, err = c.Read(make([]byte, 1))
		}
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("accepted flow: %v", err)
		}
	})
	dial(t, b, "tcp", "192.0.2.1:1")
	dial(t, b, "udp", "192.0.2.1:1").Write([]byte("x"))
	<-accepted
	<-accepted
	// Some that are closed already, but not over.
	c2, d2 := p.connect(t, b6)
	c2.Close()
	d2.Close()

	time.Sleep(20 * time.Millisecond) // let them block
	start := time.Now()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	blocked.Wait()
	if took := time.Since(start); took > time.Second {
		t.Errorf("Close took %v", took)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}

	// Nothing works afterwards, and nothing breaks.
	fails("DialContext", func() error { _, err := a.DialContext(ctx, "tcp", "10.0.0.2:1"); return err })
	fails("DialContext", func() error { _, err := a.DialContext(ctx, "udp", "10.0.0.2:1"); return err })
	fails("Listen", func() error { _, err := a.Listen(ctx, "tcp", ":0"); return err })
	fails("ListenPacket", func() error { _, err := a.ListenPacket(ctx, "udp", ":0"); return err })
	fails("LookupNetIP", func() error { _, err := a.LookupNetIP(ctx, "ip", "host.example"); return err })
	fails("Ping", func() error { _, err := a.Ping(ctx, b4); return err })
	blocked.Wait()
	a.Deliver([][]byte{largeTCP(false, 0, 0, 0, flagSYN)})
	a.TooBig(largeTCP(false, 0, 0, 0, flagSYN), 1280)

	// The other end of a connection is told.
	told.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err = told.Read(make([]byte, 1))
	wantOpError(t, err, "read", "tcp", syscall.ECONNRESET)
	b.Close()
	close(fromA.done)
	close(fromB.done)
	wires.Wait()

	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			var stacks bytes.Buffer
			pprof.Lookup("goroutine").WriteTo(&stacks, 1)
			t.Fatalf("%d goroutines, there were %d\n%s", runtime.NumGoroutine(), before, stacks.String())
		}
	}
}

// TestCloseDelivers closes connections and then their stack, with much of what
// was written still in its buffers. The other end resets its own open ones.
func TestCloseDelivers(t *testing.T) {
	p := join(t, nil)
	p.fromA.setFilter(func([]byte) bool {
		time.Sleep(time.Millisecond) // a slow link
		return true
	})
	const size = 100 << 10
	data := make([]byte, size)
	rand.Read(data)
	open, toldOpen := p.connect(t, b4)
	var ends []net.Conn
	for _, host := range []netip.Addr{b4, b6} {
		a, b := p.connect(t, host)
		if _, err := a.Write(data); err != nil {
			t.Fatal(err)
		}
		a.Close()
		ends = append(ends, b)
	}
	// One closes after the other end has.
	a, b := p.connect(t, b4)
	b.(halfCloser).CloseWrite()
	io.ReadAll(a)
	a.Write(data)
	a.Close()
	ends = append(ends, b)

	p.a.Close()
	if err := open.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closing an open connection: %v", err)
	}
	for i, b := range ends {
		b.SetReadDeadline(testDeadline())
		if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, data) {
			t.Errorf("connection %d: %d of %d bytes, %v", i, len(got), size, err)
		}
	}
	wantReset(t, "an open connection", toldOpen)
}

// TestCloseUndeliverable closes a stack with data that nobody acknowledges.
func TestCloseUndeliverable(t *testing.T) {
	p := join(t, nil)
	a, _ := p.connect(t, b4)
	p.fromA.setFilter(func([]byte) bool { return false })
	a.Write([]byte("x"))
	a.Close()
	over := make(chan struct{})
	go func() {
		p.a.Close()
		close(over)
	}()
	select {
	case <-over:
	case <-time.After(10 * time.Second):
		t.Error("Close does not return")
	}
}

// TestCloseTwice closes a stack while it is being closed, which Output holds
// up.
func TestCloseTwice(t *testing.T) {
	p := join(t, nil)
	p.connect(t, b4)
	began, gate := make(chan struct{}), make(chan struct{})
	var goodbye sync.Once
	p.fromA.setFilter(func([]byte) bool {
		goodbye.Do(func() { close(began) })
		<-gate
		return true
	})
	var wg sync.WaitGroup
	wg.Go(func() { p.a.Close() })
	<-began
	time.AfterFunc(50*time.Millisecond, func() { close(gate) })
	p.a.Close()
	select {
	case <-gate:
	default:
		t.Error("Close returned before the stack was closed")
	}
	wg.Wait()
}

// TestCloseLate makes sockets of endpoints that were there before the stack was
// closed.
func TestCloseLate(t *testing.T) {
	s := newStack(t, Config{Addresses: prefixes(a4), Output: func(*Packet) error { return nil }})
	wq := new(waiter.Queue)
	stream, err := s.gvisor.NewEndpoint(tcp.ProtocolNumber, networkProtocol(a4), wq)
	if err != nil {
		t.Fatal(err)
	}
	datagram, err := s.gvisor.NewEndpoint(udp.ProtocolNumber, networkProtocol(a4), wq)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := s.newTCPConn(stream, wq, netip.AddrPort{}); err != net.ErrClosed {
		t.Errorf("TCP: %v, want net.ErrClosed", err)
	}
	if state := tcp.EndpointState(stream.State()); state != tcp.StateClose {
		t.Errorf("TCP: state %v", state)
	}
	if _, err := s.newUDPConn(datagram, wq, true, false, nil); err != net.ErrClosed {
		t.Errorf("UDP: %v, want net.ErrClosed", err)
	}
	if state := transport.DatagramEndpointState(datagram.State()); state != transport.DatagramEndpointStateClosed {
		t.Errorf("UDP: state %v", state)
	}
	if !wq.IsEmpty() {
		t.Error("somebody still waits for events")
	}
}

// TestCloseEarly closes stacks that have just begun, with packets coming in.
//
// Covers M08.
func TestCloseEarly(t *testing.T) {
	for range 20 {
		s, err := New(Config{Addresses: prefixes(b4), Output: func(*Packet) error { return nil }})
		if err != nil {
			t.Fatal(err)
		}
		s.HandleTCP(func(f *TCPFlow) { f.Accept() })
		var wg sync.WaitGroup
		wg.Go(func() {
			for port := range uint16(50) {
				s.Deliver([][]byte{seg{port: port, flags: flagSYN}.packet()})
			}
		})
		wg.Go(func() { s.Listen(t.Context(), "tcp", ":80") })
		wg.Go(func() { s.Close() })
		wg.Wait()
	}
}
