package udp

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

func loopbackOf(s Socket) netip.Addr {
	if s.LocalAddr().Addr().Is4() {
		return loopback4
	}
	return loopback6
}

func TestClose(t *testing.T) {
	for name, s := range map[string]Socket{
		"batched": openSocket(t, "udp4", "127.0.0.1:0"),
		"generic": Wrap(struct{ net.PacketConn }{listenPlain(t, "udp4", "127.0.0.1:0")}),
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan error)
			go func() {
				_, err := s.ReadBatch(newBatch(2))
				got <- err
			}()
			for range 2 {
				if err := s.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			}
			select {
			case err := <-got:
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("ReadBatch: %v", err)
				}
			case <-time.After(readTimeout):
				t.Fatal("ReadBatch still blocks")
			}
			if _, err := s.ReadBatch(newBatch(1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("ReadBatch after Close: %v", err)
			}
			if n, err := s.WriteBatch([]Message{{Buf: []byte{1}, Addr: s.LocalAddr()}}); n != 0 || !errors.Is(err, net.ErrClosed) {
				t.Errorf("WriteBatch after Close: %d, %v", n, err)
			}
		})
	}
}
