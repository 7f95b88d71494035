package netstack

import (
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

func TestErrors(t *testing.T) {
	a, b := join(t, nil).connect(t, b6)
	buf := make([]byte, 1)

	a.SetReadDeadline(time.Now().Add(-time.Second))
	_, err := a.Read(buf)
	oe := wantOpError(t, err, "read", "tcp", os.ErrDeadlineExceeded)
	if !oe.Timeout() {
		t.Errorf("%v is no timeout", err)
	}
	if oe.Source.String() != a.LocalAddr().String() || oe.Addr.String() != b.LocalAddr().String() {
		t.Errorf("error is from %v to %v, want from %v to %v", oe.Source, oe.Addr, a.LocalAddr(), b.LocalAddr())
	}
	a.SetReadDeadline(time.Time{})

	// Closing with unread data resets the connection.
	a.Write([]byte("unread"))
	if n, err := b.Read(buf); n != 1 {
		t.Fatal(err)
	}
	b.Close()
	_, err = a.Read(buf)
	wantOpError(t, err, "read", "tcp", syscall.ECONNRESET)

	if err := a.Close(); err != nil {
		t.Error(err)
	}
	wantOpError(t, a.Close(), "close", "tcp", net.ErrClosed)
	_, err = a.Read(buf)
	wantOpError(t, err, "read", "tcp", net.ErrClosed)
	_, err = a.Write(buf)
	wantOpError(t, err, "write", "tcp", net.ErrClosed)
	wantOpError(t, a.SetDeadline(time.Now()), "set", "tcp", net.ErrClosed)
}
