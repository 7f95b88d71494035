package wireguard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/wgstack/wireguard/internal/udp"
)

// binding is the set of outer sockets of a device. It is immutable once
// published, except for failed and replies.
type binding struct {
	sockets []udp.Socket
	v4, v6  udp.Socket // the socket of each family; nil: none
	port    uint16
	// patience is the number of laneTicks that a sender waits while writes block.
	patience int
	replies  atomic.Int32 // cookie replies that wait for a socket
	failed   atomic.Bool  // a socket failed, and others are being opened
}

const (
	// systemPatience is how long senders wait for a UDP socket of the system, in
	// laneTicks: 100 ms. A full buffer of such a socket is the rule on a slow link,
	// and then makes room at intervals that depend on its size.
	systemPatience = 40
	// foreignPatience is the same for a socket of Config.ListenPacket that is not
	// the system's: 5 ms, as it may block for any time.
	foreignPatience = 2
	// maxWaitingReplies is the number of cookie replies that may wait for a socket.
	maxWaitingReplies = 1024
)

// openBinding opens the sockets for a port, with Config.ListenPacket if it is
// set. It does not wait for that after ctx has ended.
func (d *Device) openBinding(ctx context.Context, port uint16) (*binding, error) {
	if d.listenPacket == nil {
		sockets, err := udp.Listen(port)
		if err != nil {
			return nil, err
		}
		return newBinding(sockets), nil
	}
	pc, err := d.callListenPacket(ctx, net.JoinHostPort("", strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("ListenPacket: %w", err)
	}
	s := udp.Wrap(pc)
	b := &binding{sockets: []udp.Socket{s}, v4: s, v6: s, port: s.LocalAddr().Port(), patience: foreignPatience}
	if udp.IsSystemSocket(s) {
		b.patience = systemPatience
	}
	if _, ok := pc.(*net.UDPConn); ok && s.LocalAddr().Addr().Is4() {
		b.v6 = nil
	}
	return b, nil
}

// callListenPacket calls Config.ListenPacket. If ctx ends first it returns, and the
// socket is closed when it is there.
func (d *Device) callListenPacket(ctx context.Context, address string) (net.PacketConn, error) {
	type result struct {
		pc  net.PacketConn
		err error
	}
	results := make(chan result, 1)
	go func() {
		pc, err := d.listenPacket(ctx, "udp", address)
		results <- result{pc, err}
	}()
	select {
	case r := <-results:
		return r.pc, r.err
	case <-ctx.Done():
		go func() {
			if r := <-results; r.err == nil {
				r.pc.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// newBinding returns the binding of sockets of the system, of one family each.
func newBinding(sockets []udp.Socket) *binding {
	b := &binding{sockets: sockets, port: sockets[0].LocalAddr().Port(), patience: systemPatience}
	for _, s := range sockets {
		if s.LocalAddr().Addr().Is4() {
			b.v4 = s
		} else {
			b.v6 = s
		}
	}
	return b
}

// socketFor returns the socket of the family of a, nil if there is none.
func (b *binding) socketFor(a netip.Addr) udp.Socket {
	if a.Is4() {
		return b.v4
	}
	return b.v6
}

func (b *binding) close() error {
	var err error
	for _, s := range b.sockets {
		err = errors.Join(err, s.Close())
	}
	return err
}

// setMark sets the firewall mark of every socket.
func (b *binding) setMark(mark uint32) error {
	for _, s := range b.sockets {
		if err := s.SetMark(mark); err != nil {
			return fmt.Errorf("firewall mark %#x: %w", mark, err)
		}
	}
	return nil
}

// writeMessage sends a message that does not go through a lane, which is a
// cookie reply. It does not wait. An error is only counted, as the sender of the
// initiation will repeat it.
func (d *Device) writeMessage(m udp.Message) {
	b := d.binding.Load()
	s := b.socketFor(m.Addr.Addr())
	if s == nil {
		d.drop(DropSendRefused, 1, m.Addr)
		return
	}
	ms := []udp.Message{m}
	if _, err := s.TryWriteBatch(ms); err != udp.ErrWouldBlock {
		if err != nil {
			d.drop(DropSendRefused, 1, m.Addr)
		}
		return
	}
	if b.replies.Add(1) > maxWaitingReplies {
		b.replies.Add(-1)
		d.drop(DropSendQueueFull, 1, m.Addr)
		return
	}
	d.replies.Go(func() {
		defer b.replies.Add(-1)
		s.WriteBatch(ms)
	})
}

// waitForReplies waits for the cookie replies that wait for a socket, which is
// closed. It does not wait long, as a socket of Config.ListenPacket may be blocked
// all the same. No handshakes are handled any more.
func (d *Device) waitForReplies() {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		d.replies.Wait()
	}()
	patience := time.NewTimer(closePatience * laneTick)
	defer patience.Stop()
	select {
	case <-sent:
	case <-patience.C:
	}
}

// writeBatch sends messages, all to one address, as WriteBatch of udp.Socket does,
// or TryWriteBatch unless it may wait. If Rebind replaces the sockets meanwhile,
// the rest is sent by the new ones.
func (d *Device) writeBatch(ms []udp.Message, mayWait bool) (int, error) {
	b := d.binding.Load()
	for sent := 0; ; {
		s := b.socketFor(ms[0].Addr.Addr())
		if s == nil {
			return sent, syscall.EAFNOSUPPORT
		}
		write := s.TryWriteBatch
		if mayWait {
			write = s.WriteBatch
		}
		n, err := write(ms[sent:])
		sent += n
		if err == nil || !errors.Is(err, net.ErrClosed) {
			return sent, err
		}
		latest := d.binding.Load()
		if latest == b {
			return sent, err
		}
		b = latest
		for i := range ms[sent:] {
			ms[sent+i].Local = udp.Local{}
		}
	}
}

// rebind replaces the sockets by new ones on the given port, 0 for any. If that
// fails the old ones stay in use. d.socketMu is held.
func (d *Device) rebind(ctx context.Context, port uint16) error {
	old := d.binding.Load()
	var (
		b   *binding
		err error
	)
	if port == old.port && d.listenPacket == nil {
		var sockets []udp.Socket
		if sockets, err = udp.Relisten(old.sockets); err == nil {
			b = newBinding(sockets)
		}
	} else {
		b, err = d.openBinding(ctx, port)
	}
	if err == nil {
		err = d.replaceBinding(b)
	}
	if err != nil {
		return fmt.Errorf("rebind: %w", err)
	}
	return nil
}

// replaceBinding puts b in the place of the present sockets, which it closes. If
// that fails, or the device is closed, it closes b. d.socketMu is held.
func (d *Device) replaceBinding(b *binding) error {
	if err := d.markBinding(b); err != nil {
		b.close()
		return err
	}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		b.close()
		return errClosed
	}
	old := d.binding.Swap(b)
	d.startReaders(b) // under the lock: Close must not be waiting already
	peers := slices.Collect(maps.Values(d.peers))
	d.mu.Unlock()
	old.close()
	for _, p := range peers {
		p.mu.Lock()
		p.forgetSourceAddress()
		p.mu.Unlock()
	}
	d.tellRebound(b.port)
	return nil
}

// markBinding sets the firewall mark of new sockets. It is no error if that is
// not permitted: without privilege there are no routing rules that depend on it.
// d.socketMu is held, so warnMarkRefused logs it later.
func (d *Device) markBinding(b *binding) error {
	err := b.setMark(d.fwmark)
	if errors.Is(err, os.ErrPermission) {
		refused := err
		d.markRefused.Store(&refused)
		err = nil
	}
	return err
}

// warnMarkRefused logs that markBinding was not permitted to set the mark.
func (d *Device) warnMarkRefused() {
	if err := d.markRefused.Swap(nil); err != nil {
		d.log.Warn("packets carry no firewall mark", "err", *err)
	}
}

func (d *Device) startReaders(b *binding) {
	for _, s := range b.sockets {
		udp.HandlePathErrors(s, d.handlePathError)
		d.background.Go(func() { d.readSocket(s) })
	}
}
