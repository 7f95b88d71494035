package bench

import (
	"bytes"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/udp"
)

// A relay is a NAT between two ends on the loopback interface: the first end
// sends to its front, the second receives from its back, and either side can
// move to another port. It can also delay, lose and reorder datagrams as a real
// path does.
type relay struct {
	t      testing.TB
	host   netip.Addr
	second netip.AddrPort

	forth, home *line // to the second end, and to the first

	mu          sync.Mutex
	front, back udp.Socket
	first       netip.AddrPort // the last source address of the first end
}

// newRelay makes a relay without delay or loss. The losses that setCondition
// asks for are the same for each relay.
func newRelay(t testing.TB, second netip.AddrPort) *relay {
	t.Helper()
	r := &relay{t: t, host: second.Addr(), second: second}
	r.forth = newLine(1, func(ms []udp.Message) {
		r.mu.Lock()
		c := r.back
		r.mu.Unlock()
		writeAll(c, r.second, ms)
	})
	r.home = newLine(2, func(ms []udp.Message) {
		r.mu.Lock()
		c, to := r.front, r.first
		r.mu.Unlock()
		if to.IsValid() {
			writeAll(c, to, ms)
		}
	})
	r.moveFront()
	r.moveBack()
	t.Cleanup(func() {
		r.forth.close()
		r.home.close()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.front.Close()
		r.back.Close()
	})
	return r
}

// writeAll sends messages to an address, and skips those that the system
// refuses.
func writeAll(c udp.Socket, to netip.AddrPort, ms []udp.Message) {
	for i := range ms {
		ms[i].Addr = to
	}
	for len(ms) > 0 {
		n, err := c.WriteBatch(ms)
		if err == nil {
			return
		}
		ms = ms[min(n+1, len(ms)):]
	}
}

// setCondition applies to the datagrams of both directions that are sent from
// now on.
func (r *relay) setCondition(c condition) {
	r.forth.setCondition(c)
	r.home.setCondition(c)
}

// move replaces a socket by one on another port, whose datagrams go to handle.
// It closes the old one: datagrams to it are lost.
func (r *relay) move(socket *udp.Socket, handle func(ms []udp.Message)) netip.AddrPort {
	r.t.Helper()
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.host, 0)))
	if err != nil {
		r.t.Fatal(err)
	}
	c := udp.Wrap(pc)
	r.mu.Lock()
	old := *socket
	*socket = c
	r.mu.Unlock()
	if old != nil {
		old.Close()
	}
	go func() {
		ms := make([]udp.Message, relayBatch)
		for i := range ms {
			ms[i].Buf = make([]byte, 1<<16)
		}
		for {
			n, err := c.ReadBatch(ms)
			if err != nil {
				return
			}
			handle(ms[:n])
		}
	}()
	return c.LocalAddr()
}

// relayBatch is the largest number of messages in a system call.
const relayBatch = 16

// moveFront changes the address of the second end as the first sees it, and
// returns the new one.
func (r *relay) moveFront() netip.AddrPort {
	return r.move(&r.front, func(ms []udp.Message) {
		r.mu.Lock()
		r.first = ms[len(ms)-1].Addr
		r.mu.Unlock()
		r.forth.carry(ms)
	})
}

// moveBack changes the address of the first end as the second sees it, and
// returns the new one.
func (r *relay) moveBack() netip.AddrPort {
	return r.move(&r.back, func(ms []udp.Message) { r.home.carry(ms) })
}

// at returns the address at which the first end reaches the second.
func (r *relay) at() netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.front.LocalAddr()
}

// listenLoopback opens a socket that the test closes.
func listenLoopback(t testing.TB) udp.Socket {
	t.Helper()
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	c := udp.Wrap(pc)
	t.Cleanup(func() { c.Close() })
	return c
}

// Datagrams pass both ways through a path with delay, whole, and no earlier
// than they may.
func TestRelay(t *testing.T) {
	first, second := listenLoopback(t), listenLoopback(t)
	stop := time.AfterFunc(30*time.Second, func() { // so that reading fails
		first.Close()
		second.Close()
	})
	defer stop.Stop()
	r := newRelay(t, second.LocalAddr())
	const delay = 20 * time.Millisecond
	r.setCondition(condition{delay: delay})
	in := []udp.Message{{Buf: make([]byte, 1<<16)}}
	to := r.at()
	from, back := first, second
	for range 2 {
		out := lettered("abcde", 1200)
		out.Addr = to
		out.TOS = 2
		start := time.Now()
		if _, err := from.WriteBatch([]udp.Message{out}); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for len(got) < len(out.Buf) {
			if _, err := back.ReadBatch(in); err != nil {
				t.Fatal(err)
			}
			got = append(got, in[0].Buf[:in[0].N]...)
		}
		if took := time.Since(start); took < delay {
			t.Errorf("arrived after %v", took)
		}
		if !bytes.Equal(got, out.Buf) || in[0].TOS != out.TOS {
			t.Errorf("%d bytes with TOS %d, not what was sent", len(got), in[0].TOS)
		}
		to = in[0].Addr
		from, back = second, first
	}
}

// BenchmarkRelay measures what a relay can carry: messages of one sender, a
// window of them on their way, as segments and as single datagrams.
func BenchmarkRelay(b *testing.B) {
	for _, bench := range []struct {
		name     string
		segments int
	}{{"segmented", 45}, {"single", 1}} {
		b.Run(bench.name, func(b *testing.B) {
			first, second := listenLoopback(b), listenLoopback(b)
			r := newRelay(b, second.LocalAddr())
			const size, window = 1452, 1 << 20
			out := []udp.Message{lettered("abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrs"[:bench.segments], size)}
			out[0].Addr = r.at()
			var arrived atomic.Int64
			news := make(chan struct{}, 1)
			go func() {
				in := make([]udp.Message, relayBatch)
				for i := range in {
					in[i].Buf = make([]byte, 1<<16)
				}
				for {
					n, err := second.ReadBatch(in)
					if err != nil {
						return
					}
					for _, m := range in[:n] {
						arrived.Add(int64(m.N))
					}
					select {
					case news <- struct{}{}:
					default:
					}
				}
			}()
			b.SetBytes(int64(out[0].N))
			sent := int64(0)
			wait := func(most int64) {
				for sent-arrived.Load() > most {
					select {
					case <-news:
					case <-time.After(time.Second):
						b.Fatalf("%d of %d bytes are lost", sent-arrived.Load(), sent)
					}
				}
			}
			for b.Loop() {
				wait(window)
				if _, err := first.WriteBatch(out); err != nil {
					b.Fatal(err)
				}
				sent += int64(out[0].N)
			}
			wait(0)
		})
	}
}
