package netstack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// summedUDPPacket returns a datagram with a checksum, as an IP packet with the given
// number of bytes of options or extension headers.
func summedUDPPacket(from, to netip.AddrPort, payload []byte, extra int) []byte {
	b := udpPacket(from, to, payload)
	at := len(b) - 8 - len(payload)
	sum := checksum.Checksum(append(from.Addr().AsSlice(), to.Addr().AsSlice()...), protoUDP)
	sum = checksum.Checksum(binary.BigEndian.AppendUint16(nil, uint16(len(b)-at)), sum)
	binary.BigEndian.PutUint16(b[at+6:], ^checksum.Checksum(b[at:], sum))
	if extra == 0 {
		return b
	}
	options := bytes.Repeat([]byte{1}, extra) // no operation
	if from.Addr().Is6() {
		clear(options)
		options[0], options[1] = b[6], byte(extra/8-1)
		options[2], options[3] = 1, byte(extra-4) // padding
		b[6] = protoDestOpts
	}
	b = append(append(bytes.Clone(b[:at]), options...), b[at:]...)
	if from.Addr().Is4() {
		b[0] += byte(extra / 4)
	}
	setLength(b)
	return b
}

// setLength has the IP header of b state the length of b.
func setLength(b []byte) {
	if b[0]>>4 == 4 {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		setIPv4Checksum(b[:int(b[0]&15)*4])
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6HeaderLen))
	}
}

// fragmentOf returns the fragment of an IP packet with the payload from the offset
// from to the offset to.
func fragmentOf(packet []byte, id uint16, from, to int) []byte {
	head := ipv6HeaderLen
	if packet[0]>>4 == 4 {
		head = int(packet[0]&15) * 4
	} else if packet[6] == protoDestOpts {
		head += 8 + int(packet[ipv6HeaderLen+1])*8
	}
	word := uint16(from)
	if more := head+to < len(packet); more {
		word |= 1
	}
	payload := packet[head+from : min(head+to, len(packet))]
	b := bytes.Clone(packet[:head])
	if b[0]>>4 == 4 {
		binary.BigEndian.PutUint16(b[4:], id)
		binary.BigEndian.PutUint16(b[6:], word>>3|word&1<<13)
	} else {
		nextAt := 6
		if head > ipv6HeaderLen {
			nextAt = ipv6HeaderLen
		}
		h := [8]byte{b[nextAt], 0, 2: byte(word >> 8), 3: byte(word)}
		binary.BigEndian.PutUint32(h[4:], uint32(id))
		b[nextAt] = protoFragment
		b = append(b, h[:]...)
	}
	b = append(b, payload...)
	setLength(b)
	return b
}

// fragmentsOf cuts a packet into fragments with size bytes of its payload each.
func fragmentsOf(packet []byte, id uint16, size int) (fragments [][]byte) {
	for from := 0; from < len(packet); from += size {
		f := fragmentOf(packet, id, from, from+size)
		fragments = append(fragments, f)
		if p, ok := parseFragment(f); !ok || !p.more {
			break
		}
	}
	return fragments
}

// newReassembling returns a stack with a socket, and a function that reads from it.
func newReassembling(t *testing.T, cfg Config) (s *Stack, port uint16, read func() []byte) {
	cfg.Addresses = prefixes(a4, a6)
	if cfg.Output == nil {
		cfg.Output = func(*Packet) error { return nil }
	}
	s = newStack(t, cfg)
	c := listenPacket(t, s, "udp", ":1000")
	return s, 1000, func() []byte {
		t.Helper()
		got := make([]byte, 1<<16)
		n, _, err := c.ReadFrom(got)
		if err != nil {
			t.Fatal(err)
		}
		return got[:n]
	}
}

func TestReassembly(t *testing.T) {
	s, port, read := newReassembling(t, Config{})
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range 200 {
		from, to := b4, a4
		if i%2 == 1 {
			from, to = b6, a6
		}
		payload := make([]byte, min(8+rnd.IntN(1<<(4+rnd.IntN(13))), 65400))
		for j := range payload {
			payload[j] = byte(rnd.Uint32())
		}
		packet := summedUDPPacket(netip.AddrPortFrom(from, 1), netip.AddrPortFrom(to, port), payload, 8*rnd.IntN(4))
		blocks := (len(payload) + 8 + 7) / 8
		fragments := fragmentsOf(packet, uint16(i), 8*(1+blocks/300+rnd.IntN(blocks/2)))
		rnd.Shuffle(len(fragments), func(i, j int) { fragments[i], fragments[j] = fragments[j], fragments[i] })
		s.Deliver(fragments[:1]) // twice in all
		s.Deliver(fragments)
		if got := read(); !bytes.Equal(got, payload) {
			t.Fatalf("datagram %d: got %d bytes, want the %d of %d fragments", i, len(got), len(payload), len(fragments))
		}
		if r := &s.reassembly; len(r.datagrams) > 0 || r.shares.used != 0 || len(r.queues.oldest) > 0 {
			t.Fatalf("after datagram %d: %d datagrams have %d bytes", i, len(r.datagrams), r.shares.used)
		}
	}
}

// TestReassemblyRefuses delivers fragments that do not make a datagram, the last of
// which shows it. The socket gets what follows only.
func TestReassemblyRefuses(t *testing.T) {
	s, port, read := newReassembling(t, Config{})
	for _, from := range []netip.Addr{b4, b6} {
		to := a4
		if from.Is6() {
			to = a6
		}
		packet := func(n int) []byte {
			return summedUDPPacket(netip.AddrPortFrom(from, 1), netip.AddrPortFrom(to, port), make([]byte, n-8), 0)
		}
		long, short := packet(1000), packet(800)
		changed := fragmentOf(long, 3, 496, 1000)
		changed[len(changed)-1] ^= 1
		for name, fragments := range map[string][][]byte{
			"overlap":              {fragmentOf(long, 1, 0, 504), fragmentOf(long, 1, 496, 1000)},
			"overlap, in reverse":  {fragmentOf(long, 2, 496, 1000), fragmentOf(long, 2, 0, 504)},
			"two contents":         {fragmentOf(long, 3, 496, 1000), changed},
			"beyond the end":       {fragmentOf(short, 4, 400, 800), fragmentOf(long, 4, 800, 904)},
			"ends early":           {fragmentOf(long, 5, 800, 904), fragmentOf(short, 5, 400, 800)},
			"an end in a gap":      {fragmentOf(long, 6, 904, 1000), fragmentOf(short, 6, 400, 800)},
			"a wrong checksum":     {fragmentOf(long, 3, 0, 496), changed},
			"not a multiple of 8":  {fragmentOf(long, 7, 0, 500)},
			"less than its header": {fragmentOf(long, 8, 0, 504)[:60]},
		} {
			s.Deliver(fragments)
			if r := &s.reassembly; len(r.datagrams) > 0 || r.shares.used != 0 {
				t.Errorf("from %v, %s: %d datagrams wait", from, name, len(r.datagrams))
			}
			s.Deliver([][]byte{summedUDPPacket(netip.AddrPortFrom(from, 1), netip.AddrPortFrom(to, port), []byte(name), 0)})
			if got := read(); string(got) != name {
				t.Errorf("from %v, %s: %d bytes were delivered", from, name, len(got))
			}
		}
	}
	huge := fragmentOf(summedUDPPacket(netip.AddrPortFrom(b4, 1), netip.AddrPortFrom(a4, port), make([]byte, 1000), 0), 8, 0, 800)
	binary.BigEndian.PutUint16(huge[6:], 0x1fff)
	if _, ok := parseFragment(huge); ok {
		t.Error("a fragment ends beyond 65535 bytes")
	}
	binary.BigEndian.PutUint16(huge[6:], 0x2001)
	for n := range huge {
		b := bytes.Clone(huge[:n])
		if n >= ipv4HeaderLen {
			if _, ok := parseFragment(b); ok {
				t.Errorf("%d bytes of %d are a fragment", n, len(huge))
			}
		}
	}
}

// TestReassemblyShares: a peer that sends parts of datagrams only has half of the
// memory, and another one's datagrams arrive.
func TestReassemblyShares(t *testing.T) {
	refused := 0
	s, port, read := newReassembling(t, Config{
		MemoryLimit: MinMemoryLimit,
		Peer:        func(addr netip.Addr) any { return addr },
		Refused: func(peer any, cause error) {
			if peer != b4 || !errors.Is(cause, errManyFragments) {
				t.Errorf("%v was refused: %v", peer, cause)
			}
			refused++
		},
	})
	other := netip.MustParseAddr("10.0.0.77")
	whole := summedUDPPacket(netip.AddrPortFrom(other, 1), netip.AddrPortFrom(a4, port), make([]byte, 8192), 0)
	good := fragmentsOf(whole, 7, 1024)
	s.Deliver(good[:4])
	limit := s.reassembly.shares.size
	for _, size := range []int{8, 1000, 1352} {
		packet := summedUDPPacket(netip.AddrPortFrom(b4, 1), netip.AddrPortFrom(a4, port), make([]byte, 4096), 0)
		for id := range 10_000 {
			s.Deliver([][]byte{fragmentOf(packet, uint16(id), id%2*size, id%2*size+size)})
		}
		if n := s.reassembly.shares.held[b4]; n > limit/2 || n < limit/2-4096 {
			t.Errorf("fragments of %d bytes: a peer has %d bytes of %d", size, n, limit)
		}
	}
	if refused == 0 {
		t.Error("nobody was told")
	}
	s.Deliver(good[4:])
	if got := read(); len(got) != 8192 {
		t.Errorf("got %d bytes", len(got))
	}
	// The greedy peer can still send: its oldest datagrams give way.
	packet := summedUDPPacket(netip.AddrPortFrom(b4, 1), netip.AddrPortFrom(a4, port), make([]byte, 4096), 0)
	s.Deliver(fragmentsOf(packet, 65535, 1024))
	if got := read(); len(got) != 4096 {
		t.Errorf("got %d bytes", len(got))
	}
}

// TestReassemblyWithoutRoom: a fragment that has no room alone is dropped.
func TestReassemblyWithoutRoom(t *testing.T) {
	r := reassembly{shares: shares{size: 1000}}
	packet := summedUDPPacket(netip.AddrPortFrom(b4, 1), netip.AddrPortFrom(a4, 1), make([]byte, 1000), 0)
	f, _ := parseFragment(fragmentOf(packet, 1, 0, 504))
	if d, full := r.addFragment(f, nil, time.Now()); d != nil || !full {
		t.Errorf("addFragment = %v, %v", d, full)
	}
	if len(r.datagrams) > 0 || r.shares.used != 0 {
		t.Errorf("%d datagrams have %d bytes", len(r.datagrams), r.shares.used)
	}
}

// TestReassemblyTimeout: a datagram that is not whole is dropped after a while, and
// its sender is told if the first fragment has arrived.
func TestReassemblyTimeout(t *testing.T) {
	var sent [][]byte
	s, port, _ := newReassembling(t, Config{Output: func(p *Packet) error {
		b := make([]byte, p.SegmentLen(0))
		p.CopySegment(b, 0)
		sent = append(sent, b)
		return nil
	}})
	packet4 := summedUDPPacket(netip.AddrPortFrom(b4, 1), netip.AddrPortFrom(a4, port), make([]byte, 2000), 0)
	packet6 := summedUDPPacket(netip.AddrPortFrom(b6, 1), netip.AddrPortFrom(a6, port), make([]byte, 2000), 0)
	synctest.Test(t, func(t *testing.T) {
		r := &reassembly{stack: s, shares: shares{size: maxReassembly}}
		add := func(b []byte) *partialDatagram {
			f, ok := parseFragment(b)
			if !ok {
				t.Fatal("not a fragment")
			}
			d, _ := r.addFragment(f, nil, time.Now())
			return d
		}
		want := func(n int) {
			t.Helper()
			synctest.Wait()
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(r.datagrams) != n {
				t.Errorf("%d datagrams wait, want %d", len(r.datagrams), n)
			}
		}
		add(fragmentOf(packet4, 9, 1024, 2048)) // the searches begin
		time.Sleep(2 * time.Second)
		add(fragmentOf(packet4, 1, 0, 1024))
		add(fragmentOf(packet4, 2, 1024, 2048))
		add(fragmentOf(packet6, 1, 0, 1024))
		time.Sleep(reassemblyTimeout - time.Second)
		want(3)
		time.Sleep(2 * time.Second)
		if add(fragmentOf(packet4, 1, 1024, 2048)) != nil {
			t.Error("a datagram is whole after its time")
		}
		want(3)
		time.Sleep(reassemblyInterval)
		want(1) // the one begun anew
		time.Sleep(reassemblyTimeout)
		want(0)
		if r.shares.used != 0 || r.timer != nil {
			t.Errorf("%d bytes are held", r.shares.used)
		}
		r.close()
		add(fragmentOf(packet4, 3, 0, 1024))
		want(0)
	})
	if len(sent) != 1 {
		t.Fatalf("%d errors were sent, want one", len(sent))
	}
	if m := sent[0][ipv6HeaderLen:]; m[0] != icmp6TimeExceeded || m[1] != icmpReassembly {
		t.Errorf("sent %x, want an error about the IPv6 datagram", sent[0][:48])
	}
}
