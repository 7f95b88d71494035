package netstack

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
)

func TestPacketConn(t *testing.T) {
	p := join(t, nil)
	server := listenPacket(t, p.b, "udp", ":53")
	if got := server.LocalAddr().String(); got != "[::]:53" {
		t.Errorf("listening on %s, want [::]:53", got)
	}
	buf := make([]byte, 3000)
	for _, host := range []netip.Addr{b4, b6} {
		client := dial(t, p.a, "udp", netip.AddrPortFrom(host, 53).String())
		// An empty datagram, a small one, and one that needs fragments.
		for _, data := range [][]byte{nil, []byte("hello"), bytes.Repeat([]byte("x"), 3000)} {
			if n, err := client.Write(data); n != len(data) || err != nil {
				t.Fatalf("Write of %d bytes = %d, %v", len(data), n, err)
			}
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(buf[:n], data) {
				t.Errorf("got %d bytes, want %d", n, len(data))
			}
			if from.String() != client.LocalAddr().String() {
				t.Errorf("datagram is from %v, want %v", from, client.LocalAddr())
			}
			ua := from.(*net.UDPAddr)
			if got, want := len(ua.IP), host.BitLen()/8; got != want {
				t.Errorf("address from %v has %d bytes, want %d", ua, got, want)
			}
			// An IPv4-mapped address is as good.
			ua.IP = ua.IP.To16()
			if _, err := server.WriteTo(buf[:n], ua); err != nil {
				t.Fatal(err)
			}
			client.SetReadDeadline(time.Now().Add(5 * time.Second))
			if n, err = client.Read(buf); err != nil || !bytes.Equal(buf[:n], data) {
				t.Errorf("answer has %d bytes, %v, want %d", n, err, len(data))
			}
		}
	}
}

func TestPacketTruncated(t *testing.T) {
	p := join(t, nil)
	server := listenPacket(t, p.b, "udp4", ":53")
	client := dial(t, p.a, "udp", "10.0.0.2:53")
	client.Write([]byte("hello"))
	client.Write([]byte("again"))
	buf := make([]byte, 2)
	if n, _, err := server.ReadFrom(buf); n != 2 || err != nil {
		t.Errorf("ReadFrom into 2 bytes = %d, %v", n, err)
	}
	if n, from, err := server.ReadFrom(nil); n != 0 || err != nil || from == nil {
		t.Errorf("ReadFrom into nothing = %d, %v, %v", n, from, err)
	}
}

func TestPacketConnFamilies(t *testing.T) {
	s := join(t, nil).a
	to4 := &net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 1}
	to6 := &net.UDPAddr{IP: net.ParseIP("fd00::2"), Port: 1}
	for _, c := range []struct {
		network, address string
		v4, v6           bool
	}{
		{"udp", ":0", true, true},
		{"udp4", ":0", true, false},
		{"udp6", ":0", false, true},
		{"udp", "10.0.0.1:0", true, false},
		{"udp", "[fd00::1]:0", false, true},
	} {
		pc := listenPacket(t, s, c.network, c.address)
		for to, want := range map[*net.UDPAddr]bool{to4: c.v4, to6: c.v6} {
			_, err := pc.WriteTo([]byte("x"), to)
			if (err == nil) != want {
				t.Errorf("%s %s: writing to %v: %v", c.network, c.address, to, err)
			}
			if err != nil {
				wantOpError(t, err, "write", "udp", nil)
			}
		}
		_, err := pc.WriteTo(nil, &net.TCPAddr{IP: to4.IP, Port: 1})
		wantOpError(t, err, "write", "udp", syscall.EINVAL)
	}
}

func TestPacketErrors(t *testing.T) {
	p := join(t, nil)
	c := dial(t, p.a, "udp", "10.0.0.2:1")
	c.SetDeadline(time.Now().Add(5 * time.Second))
	c.Write([]byte("x"))
	_, err := c.Read(make([]byte, 1))
	wantOpError(t, err, "read", "udp", syscall.ECONNREFUSED)

	_, err = c.Write(make([]byte, 70000))
	wantOpError(t, err, "write", "udp", syscall.EMSGSIZE)

	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err = c.Read(make([]byte, 1))
	wantOpError(t, err, "read", "udp", os.ErrDeadlineExceeded)

	// A socket that is not connected is not told of one destination's trouble.
	pc := listenPacket(t, p.a, "udp", ":0")
	pc.WriteTo([]byte("x"), &net.UDPAddr{IP: b4.AsSlice(), Port: 1})
	pc.SetDeadline(time.Now().Add(50 * time.Millisecond))
	_, _, err = pc.ReadFrom(make([]byte, 1))
	wantOpError(t, err, "read", "udp", os.ErrDeadlineExceeded)

	pc.SetDeadline(time.Time{})
	time.AfterFunc(10*time.Millisecond, func() { pc.Close() })
	_, _, err = pc.ReadFrom(make([]byte, 1))
	wantOpError(t, err, "read", "udp", net.ErrClosed)
	_, err = pc.WriteTo([]byte("x"), &net.UDPAddr{IP: b4.AsSlice(), Port: 1})
	wantOpError(t, err, "write", "udp", net.ErrClosed)
	wantOpError(t, pc.Close(), "close", "udp", net.ErrClosed)

	listenPacket(t, p.a, "udp", ":99")
	if _, err := p.a.ListenPacket(testContext(t), "udp", ":99"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listening twice: %v, want EADDRINUSE", err)
	}
}
