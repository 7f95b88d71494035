package netstack

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
)

func TestDialOrder(t *testing.T) {
	s := join(t, nil).a
	got, err := s.dialOrder(addrs("10.0.0.1", "10.0.0.2", "fd00::1", "10.0.0.3", "fd00::2"))
	if want := addrs("fd00::1", "10.0.0.1", "fd00::2", "10.0.0.2", "10.0.0.3"); err != nil || !slices.Equal(got, want) {
		t.Errorf("order is %v, %v, want %v", got, err, want)
	}
}

// raceConn is a connection in a race.
type raceConn struct {
	net.Conn
	closed bool
}

func (c *raceConn) Close() error {
	c.closed = true
	return nil
}

// TestRaceClosesTheLosers has connections come about after the race is won.
func TestRaceClosesTheLosers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := map[netip.Addr]*raceConn{a4: {}, a6: {}, b4: {}}
		c, err := raceDials(t.Context(), []netip.Addr{a4, a6, b4}, func(ctx context.Context, addr netip.Addr) (net.Conn, error) {
			if addr != b4 {
				<-ctx.Done()
			}
			return conns[addr], nil
		})
		if err != nil || c != conns[b4] {
			t.Fatalf("won: %v, %v", c, err)
		}
		for addr, c := range conns {
			if c.closed != (addr != b4) {
				t.Errorf("connection to %v closed: %v", addr, c.closed)
			}
		}
	})
}
