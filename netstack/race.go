package netstack

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// Dialling the addresses of a name (RFC 8305).

// attemptDelay is the Connection Attempt Delay of RFC 8305, section 5.
const attemptDelay = 250 * time.Millisecond

// dialOrder returns those of addrs that the stack can dial, alternating between
// the families, IPv6 first. It fails if there is none.
func (s *Stack) dialOrder(addrs []netip.Addr) ([]netip.Addr, error) {
	var v4, v6 []netip.Addr
	for _, addr := range addrs {
		if addr.Is4() {
			v4 = append(v4, addr)
		} else {
			v6 = append(v6, addr)
		}
	}
	var missing *noAddressError
	if len(v4) > 0 && !s.firstIPv4.IsValid() {
		v4, missing = nil, &noAddressError{"IPv4"}
	}
	if len(v6) > 0 && !s.firstIPv6.IsValid() {
		v6, missing = nil, &noAddressError{"IPv6"}
	}
	var order []netip.Addr
	for i := range max(len(v4), len(v6)) {
		if i < len(v6) {
			order = append(order, v6[i])
		}
		if i < len(v4) {
			order = append(order, v4[i])
		}
	}
	if len(order) == 0 {
		return nil, missing
	}
	return order, nil
}

// dialFirst dials the addresses in order until one succeeds. It returns the
// first error if all fail.
func dialFirst(ctx context.Context, addrs []netip.Addr, dial func(context.Context, netip.Addr) (net.Conn, error)) (net.Conn, error) {
	var first error
	for _, addr := range addrs {
		c, err := dial(ctx, addr)
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// raceDials dials the addresses in order, each when the one before has failed
// or attemptDelay has passed. It returns the first connection made, or the
// first error if all fail. It waits for all attempts, and closes the
// connections that they make after the first.
func raceDials(ctx context.Context, addrs []netip.Addr, dial func(context.Context, netip.Addr) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	delay := time.NewTimer(attemptDelay)
	defer delay.Stop()

	var conn net.Conn
	var first error
	running := 0
	start := func() {
		addr := addrs[0]
		addrs = addrs[1:]
		running++
		go func() {
			c, err := dial(ctx, addr)
			results <- result{c, err}
		}()
		delay.Reset(attemptDelay)
	}
	for start(); running > 0; {
		next := delay.C
		if len(addrs) == 0 {
			next = nil
		}
		select {
		case <-next:
			start()
		case r := <-results:
			running--
			switch {
			case r.err == nil && conn == nil:
				conn, addrs = r.conn, nil
				cancel()
			case r.err == nil:
				r.conn.Close()
			default:
				if first == nil {
					first = r.err
				}
				if len(addrs) > 0 && ctx.Err() == nil {
					start()
				}
			}
		}
	}
	if conn != nil {
		return conn, nil
	}
	return nil, first
}
