package simnet

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestSenderMayReuseItsBuffer(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		a, b := listen(t, n, port(addrA, 1)), listen(t, n, port(addrB, 2))
		buf := []byte("first")
		if _, err := a.WriteToUDPAddrPort(buf, port(addrB, 2)); err != nil {
			t.Fatal(err)
		}
		copy(buf, "other")
		want(t, b, "192.0.2.1:1 first")
	})
}

func TestErrors(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		a := listen(t, n, port(addrA, 1))
		_, err := n.Listen(port(addrA, 1))
		var op *net.OpError
		if !errors.As(err, &op) || !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("occupied port: %v", err)
		}
		if _, err := a.WriteTo(make([]byte, maxPayload+1), net.UDPAddrFromAddrPort(port(addrB, 1))); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("65508 bytes: %v", err)
		}
		if _, err := a.WriteToUDPAddrPort(nil, port(addrB6, 1)); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("IPv6 from an IPv4 host: %v", err)
		}
		cause := errors.New("cause")
		a.FailWrites(cause)
		if _, err := a.WriteToUDPAddrPort(nil, port(addrB, 1)); !errors.Is(err, cause) {
			t.Errorf("write: %v", err)
		}
		a.FailWrites(nil)
		send(t, a, port(addrB, 1), "")
		a.FailRead(cause)
		if _, _, err := a.ReadFrom(nil); !errors.Is(err, cause) {
			t.Errorf("read: %v", err)
		}
	})
}

func TestCloseUnblocks(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		a := listen(t, n, port(addrA, 1))
		read := make(chan error)
		go func() {
			_, _, err := a.ReadFrom(make([]byte, 1))
			read <- err
		}()
		synctest.Wait()
		a.Close()
		a.Close()
		if err := <-read; !errors.Is(err, net.ErrClosed) {
			t.Errorf("blocked read: %v", err)
		}
		if _, err := a.WriteToUDPAddrPort(nil, port(addrB, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		if err := a.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("deadline: %v", err)
		}
		listen(t, n, port(addrA, 1))
	})
}

func TestDeadlines(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		a := listen(t, n, port(addrA, 1))
		read := func() error {
			_, _, err := a.ReadFrom(make([]byte, 10))
			return err
		}
		start := time.Now()
		a.SetReadDeadline(start.Add(time.Second))
		err := read()
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("read: %v", err)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("read ended after %v", d)
		}

		send(t, a, port(addrA, 1), "x")
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a passed deadline did not come before data: %v", err)
		}
		a.SetReadDeadline(time.Time{})
		if err := read(); err != nil {
			t.Errorf("after clearing: %v", err)
		}

		time.AfterFunc(time.Second, func() { a.SetReadDeadline(time.Now()) })
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("deadline set while reading: %v", err)
		}
		a.SetReadDeadline(time.Now().Add(time.Second))
		a.SetReadDeadline(time.Now().Add(3 * time.Second))
		start = time.Now()
		if read(); time.Since(start) != 3*time.Second {
			t.Errorf("the former deadline still counts: %v", time.Since(start))
		}

		a.SetWriteDeadline(time.Now().Add(-1))
		if _, err := a.WriteToUDPAddrPort(nil, port(addrB, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
	})
}
