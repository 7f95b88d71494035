package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// ICMP echo.

// echoDataLen is the length of the data in an echo request, in bytes. With its
// headers an IPv4 packet has the 84 bytes that ping(8) sends.
const echoDataLen = 56

// Ping sends one ICMP echo request to addr and returns the round-trip time. It
// does not repeat the request, and waits until ctx ends: give that a deadline.
//
// An error is a *net.OpError that wraps one of
//
//   - *net.AddrError, if addr is not valid,
//   - a syscall.Errno: ENETUNREACH without an own address of the family, or the
//     meaning of an ICMP error, such as EHOSTUNREACH,
//   - the error of [Config.Reach] or [Config.Output],
//   - the error of ctx, whose deadline is also a timeout of net.Error,
//   - [net.ErrClosed], if the stack is closed.
func (s *Stack) Ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	addr = addr.Unmap().WithZone("")
	d, err := s.ping(ctx, addr)
	if err != nil {
		return 0, &net.OpError{Op: "ping", Net: "ip", Addr: &net.IPAddr{IP: addr.AsSlice()}, Err: s.closedError(err)}
	}
	return d, nil
}

// ping is Ping with bare errors.
func (s *Stack) ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	if ctx.Err() != nil {
		return 0, contextError(ctx)
	}
	if !addr.IsValid() {
		return 0, &net.AddrError{Err: "missing address"}
	}
	if _, err := s.dialOrder([]netip.Addr{addr}); err != nil {
		return 0, err
	}
	number, proto, request := icmp.ProtocolNumber4, uint8(protoICMP), byte(8)
	if addr.Is6() {
		number, proto, request = icmp.ProtocolNumber6, protoICMPv6, 128
	}

	wq := new(waiter.Queue)
	ep, err := s.gvisor.NewEndpoint(number, networkProtocol(addr), wq)
	if err != nil {
		return 0, syscallError("socket", err)
	}
	defer ep.Close()
	answered := make(eventSignal, 1)
	var entry waiter.Entry
	entry.Init(answered, waiter.ReadableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if err := ep.Connect(fullAddress(netip.AddrPortFrom(addr, 0))); err != nil {
		return 0, syscallError("connect", err)
	}
	local, err := ep.GetLocalAddress()
	if err != nil {
		return 0, syscallError("getsockname", err)
	}

	refused := make(chan error, 1)
	defer s.watchers.watchFlow(flow{proto, addrPortFromFull(local), netip.AddrPortFrom(addr, 0)}, func(_ netip.AddrPort, err error) {
		select {
		case refused <- err:
		default:
		}
	})()
	failed, stop := s.startReach(ctx, addr)
	defer stop()

	// gVisor sets the checksum, and the identifier, by which it finds the
	// endpoint of a reply. The endpoint sends a single request, so the sequence
	// number tells nothing apart.
	var message [8 + echoDataLen]byte
	message[0] = request
	binary.BigEndian.PutUint16(message[6:], 1)
	start := time.Now()
	if _, err := ep.Write(bytes.NewReader(message[:]), tcpip.WriteOptions{}); err != nil {
		return 0, syscallError("sendto", err)
	}
	select {
	case <-answered:
		return time.Since(start), nil
	case err := <-refused:
		return 0, wrapErrno("recvfrom", err)
	case err := <-failed:
		return 0, err
	case <-ctx.Done():
		stop()
		return 0, endReason(ctx, failed)
	case <-s.done:
		return 0, net.ErrClosed
	}
}
