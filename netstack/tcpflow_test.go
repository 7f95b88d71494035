package netstack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

func TestHandleTCP(t *testing.T) {
	p := join(t, nil)
	// Wildcard listeners must not see what is for others.
	listen(t, p.b, "tcp", ":80")
	p.b.HandleTCP(func(f *TCPFlow) {
		if f.Destination.Port() != 80 {
			return // neither accepted nor rejected
		}
		c, err := f.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if got, want := c.LocalAddr().String(), f.Destination.String(); got != want {
			t.Errorf("accepted at %s, want %s", got, want)
		}
		if got, want := c.RemoteAddr().String(), f.Source.String(); got != want {
			t.Errorf("accepted from %s, want %s", got, want)
		}
		if _, err := f.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accepting again: %v", err)
		}
		f.Reject() // too late
		io.WriteString(c, f.Destination.String()+"\n")
		io.Copy(c, c)
	})
	for _, host := range foreignHosts {
		address := net.JoinHostPort(host, "80")
		c := dial(t, p.a, "tcp", address)
		data := append([]byte(address+"\n"), bytes.Repeat([]byte("echo"), 50000)...)
		go func() {
			c.Write(data[len(address)+1:])
			c.(halfCloser).CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if !bytes.Equal(got, data) || err != nil {
			t.Errorf("through %s came %d bytes, %v, want %d", address, len(got), err, len(data))
		}
	}
	// The stack's own address, on a port without a listener.
	for _, host := range []netip.Addr{b4, b6} {
		_, err := p.a.DialContext(testContext(t), "tcp", netip.AddrPortFrom(host, 81).String())
		wantOpError(t, err, "dial", "tcp", syscall.ECONNREFUSED)
	}
	for _, host := range foreignHosts {
		_, err := p.a.DialContext(testContext(t), "tcp", net.JoinHostPort(host, "81"))
		wantOpError(t, err, "dial", "tcp", syscall.ECONNREFUSED)
	}
}

// synFrom returns a SYN from a port of the third peer to a foreign address.
func synFrom(third netip.Addr, port uint16) []byte {
	syn := seg{v6: third.Is6(), port: port, flags: flagSYN}.packet()
	if third.Is6() {
		copy(syn[8:], third.AsSlice())
		copy(syn[24:], netip.MustParseAddr(foreignHosts[1]).AsSlice())
	} else {
		copy(syn[12:], third.AsSlice())
		copy(syn[16:], netip.MustParseAddr(foreignHosts[0]).AsSlice())
		setIPv4Checksum(syn[:20])
	}
	return syn
}

// A peer that opens connections and never completes them has its share of places
// only, and its latest connections get them.
func TestHandshakesOfOnePeer(t *testing.T) {
	for i, third := range []netip.Addr{third4, third6} {
		refused := make(chan error, 100)
		p := join(t, func(_, b *Config) {
			b.Peer = peerOf
			b.Refused = func(peer any, cause error) {
				if peer != "third" {
					t.Errorf("%v was refused something: %v", peer, cause)
				}
				refused <- cause
			}
		})
		f := &p.b.forwarder
		f.requestShares.size = 16
		answered := make(chan uint16, 100)
		p.fromB.setFilter(func(b []byte) bool {
			h, ok := readTCP(b)
			if ok && NewPacket(b).Destination() == third {
				if h.flags()&flagRST == 0 {
					answered <- binary.BigEndian.Uint16(b[h.ipLen+2:])
				}
				return false
			}
			return true
		})
		p.b.HandleTCP(func(f *TCPFlow) {
			if c, err := f.Accept(); err == nil {
				c.Close()
			}
		})
		for port := range uint16(30) {
			p.b.Deliver([][]byte{synFrom(third, 1000+port)})
			for got := uint16(0); got != 1000+port; { // or an earlier one, sent again
				select {
				case got = <-answered:
				case <-time.After(20 * time.Second):
					t.Fatalf("connection %d was not answered", port)
				}
			}
		}
		f.mu.Lock()
		if n := f.requestShares.held["third"]; n != 8 {
			t.Errorf("the peer has %d places, want 8", n)
		}
		f.mu.Unlock()
		if len(refused) != 30-8 {
			t.Errorf("%d connections gave way, want %d", len(refused), 30-8)
		}
		dial(t, p.a, "tcp", net.JoinHostPort(foreignHosts[i], "80"))
		f.mu.Lock()
		for _, r := range f.requests {
			if !r.placed && r.peer != "third" {
				t.Errorf("a connection of %v gave way", r.peer)
			}
		}
		f.mu.Unlock()
	}
}

// A peer whose flows the handler does not decide on has its share of places only.
func TestUndecidedOfOnePeer(t *testing.T) {
	p := join(t, func(_, b *Config) { b.Peer = peerOf })
	f := &p.b.forwarder
	f.requestShares.size = 16
	decide := make(chan struct{})
	p.b.HandleTCP(func(f *TCPFlow) {
		if f.Source.Addr() == third4 {
			<-decide
			return
		}
		if c, err := f.Accept(); err == nil {
			c.Close()
		}
	})
	for port := range uint16(30) {
		p.b.Deliver([][]byte{synFrom(third4, 1000+port)})
	}
	f.mu.Lock()
	if n := f.requestShares.held["third"]; n != 8 || len(f.requests) != 8 {
		t.Errorf("the peer has %d places of %d, want 8", n, len(f.requests))
	}
	f.mu.Unlock()
	for range 2 {
		dial(t, p.a, "tcp", net.JoinHostPort(foreignHosts[0], "80"))
	}
	close(decide)
	waitUntil(t, "all flows are forgotten", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.requests) == 0 && f.requestShares.used == 0 && len(f.handshakes.oldest) == 0
	})
}
