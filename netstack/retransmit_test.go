package netstack

import (
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

func isSYN(p []byte) bool {
	f, ok := NewPacket(p).synFlow()
	return ok && f.remote.Port() != 0 && f.remote.Addr() == NewPacket(p).Destination()
}

// A connection attempt whose SYN was lost is woken before gVisor's timer sends it
// again, a second later.
func TestRetransmitSYN(t *testing.T) {
	for _, host := range []netip.Addr{b4, b6} {
		p := join(t, nil)
		l := listen(t, p.b, "tcp", ":0")
		var lost atomic.Int32
		p.fromA.setFilter(func(b []byte) bool { return !isSYN(b) || lost.Add(1) > 1 })
		connected := make(chan time.Time, 1)
		start := time.Now()
		go func() {
			_, port, _ := net.SplitHostPort(l.Addr().String())
			c, err := p.a.DialContext(testContext(t), "tcp", net.JoinHostPort(host.String(), port))
			if err != nil {
				t.Error(err)
			} else {
				c.Close()
			}
			connected <- time.Now()
		}()
		for lost.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(unansweredAfter)
		p.a.Retransmit(func(a netip.Addr) bool { return a != host })
		if n := lost.Load(); n != 1 {
			t.Errorf("%v: a SYN to another address was sent again", host)
		}
		p.a.Retransmit(func(a netip.Addr) bool { return a == host })
		if n := lost.Load(); n < 2 {
			t.Errorf("%v: sent %d SYNs", host, n)
		}
		if took := (<-connected).Sub(start); took >= time.Second {
			t.Logf("%v: connected after %v, so perhaps by the timer", host, took)
		}
	}
}

func TestRetransmitForgetsAttemptsThatAreOver(t *testing.T) {
	p := join(t, nil)
	l := listen(t, p.b, "tcp", ":0")
	_, port, _ := net.SplitHostPort(l.Addr().String())
	dial(t, p.a, "tcp", net.JoinHostPort(b4.String(), port)).Close()
	if c, err := p.a.DialContext(testContext(t), "tcp", net.JoinHostPort(b4.String(), "1")); err == nil {
		c.Close()
		t.Error("connected to a closed port")
	}
	p.fromA.setFilter(func([]byte) bool { return false })
	ctx, cancel := contextWithTimeout(t, 300*time.Millisecond)
	defer cancel()
	if _, err := p.a.DialContext(ctx, "tcp", net.JoinHostPort(b6.String(), port)); err == nil {
		t.Error("connected without a wire")
	}
	p.a.syns.mu.Lock()
	defer p.a.syns.mu.Unlock()
	if n := len(p.a.syns.syns); n != 0 {
		t.Errorf("%d SYNs are remembered", n)
	}
}

// A stream whose packets are lost goes on soon after it is woken, though the
// timers wait for seconds.
func TestRetransmitStream(t *testing.T) {
	for _, host := range []netip.Addr{b4, b6} {
		p := join(t, nil)
		a, b := p.connect(t, host)
		transfer(t, a, b, 1000)
		p.fromA.setFilter(func([]byte) bool { return false })
		if _, err := a.Write([]byte("late")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1800 * time.Millisecond) // gVisor's timer expires after 0.2, 0.6, 1.4 and 3 s
		var carried atomic.Int32
		p.fromA.setFilter(func([]byte) bool { carried.Add(1); return true })
		p.a.Retransmit(func(a netip.Addr) bool { return a != host })
		if n := carried.Load(); n != 0 {
			t.Errorf("%v: woken for another address", host)
		}
		start := time.Now()
		p.a.Retransmit(func(a netip.Addr) bool { return a == host })
		buf := make([]byte, 4)
		b.SetReadDeadline(start.Add(20 * time.Second))
		if _, err := io.ReadFull(b, buf); err != nil || string(buf) != "late" {
			t.Fatalf("%v: %q, %v", host, buf, err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("%v: only after %v", host, took)
		}
		if p.a.Stats().Retransmits == 0 {
			t.Errorf("%v: no segment counts as sent again", host)
		}
	}
}

func TestTrackerWakes(t *testing.T) {
	const least = 50 * time.Millisecond
	s := newScript(t)
	resends := func() (at []uint32) {
		for _, r := range s.tr.wakeAfterSilence(s.now, least).resends {
			at = append(at, r.seq)
		}
		return at
	}
	if r := resends(); len(r) > 0 {
		t.Errorf("resent %v of nothing", r)
	}
	s.at(0).send(0, 3)
	s.at(least - 1)
	if r := resends(); len(r) > 0 {
		t.Errorf("resent %v too early", r)
	}
	s.tr.backoff = 5
	s.at(least)
	if r := resends(); len(r) != 1 || r[0] != seqOf(0) || s.tr.backoff != 0 {
		t.Errorf("resent %v, back-off %d", r, s.tr.backoff)
	}
	if r := resends(); len(r) > 0 {
		t.Errorf("resent %v at once again", r)
	}
}

func TestRemoteAddrOfFlow(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		p := NewPacket(largeTCP(v6, 0, 0, 10, flagACK))
		h, _ := readTCP(p.parts[0])
		k := h.key()
		if a := k.remoteAddr(); a != p.Destination() {
			t.Errorf("%v, want %v", a, p.Destination())
		}
	}
}

func TestYoungSYNIsNotDue(t *testing.T) {
	all := func(netip.Addr) bool { return true }
	var u unansweredSYNs
	now := time.Now()
	u.syns = map[flow]*unansweredSYN{{}: {packet: []byte{1}, sent: now}}
	for _, c := range []struct {
		after time.Duration
		due   int
	}{{unansweredAfter - 1, 0}, {unansweredAfter, 1}, {unansweredAfter + 1, 0}, {2 * unansweredAfter, 1}} {
		if due := u.takeDue(now.Add(c.after), all); len(due) != c.due {
			t.Errorf("%d SYNs are due after %v", len(due), c.after)
		}
	}
}

func TestUnansweredSYNsAreBounded(t *testing.T) {
	var u unansweredSYNs
	b := make([]byte, ipv4HeaderLen+tcpHeaderLen)
	b[0], b[3], b[9], b[ipv4HeaderLen+12], b[ipv4HeaderLen+13] = 0x45, byte(len(b)), protoTCP, 5<<4, flagSYN
	for i := range maxUnansweredSYNs + 10 {
		b[16], b[17], b[18] = byte(i>>16), byte(i>>8), byte(i)
		u.noteSYN(NewPacket(b))
	}
	if n := len(u.syns); n != maxUnansweredSYNs {
		t.Errorf("%d SYNs are remembered", n)
	}
	b[ipv4HeaderLen+13] |= flagACK
	if _, ok := NewPacket(b).synFlow(); ok {
		t.Error("the answer to a SYN counts as one")
	}
}
