package netstack

import (
	"net"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// tcpOptions are the methods of *net.TCPConn that programs ask for.
type tcpOptions interface {
	SetNoDelay(bool) error
	SetLinger(int) error
	SetKeepAlive(bool) error
	SetKeepAlivePeriod(time.Duration) error
	SetKeepAliveConfig(net.KeepAliveConfig) error
	SetReadBuffer(int) error
	SetWriteBuffer(int) error
}

var _ tcpOptions = (*net.TCPConn)(nil)

func TestTCPOptions(t *testing.T) {
	a, b := join(t, nil).connect(t, b4)
	c := a.(tcpOptions)
	ep := a.(*tcpConn).endpoint
	opts := ep.SocketOptions()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	wantKeepAlive := func(what string, enable bool, idle, interval time.Duration, count int) {
		t.Helper()
		var gotIdle tcpip.KeepaliveIdleOption
		var gotInterval tcpip.KeepaliveIntervalOption
		ep.GetSockOpt(&gotIdle)
		ep.GetSockOpt(&gotInterval)
		gotCount, _ := ep.GetSockOptInt(tcpip.KeepaliveCountOption)
		if opts.GetKeepAlive() != enable || time.Duration(gotIdle) != idle || time.Duration(gotInterval) != interval || gotCount != count {
			t.Errorf("%s: keep-alive %v, %v, %v, %d", what, opts.GetKeepAlive(), time.Duration(gotIdle), time.Duration(gotInterval), gotCount)
		}
	}
	wantKeepAlive("at first", true, 15*time.Second, 15*time.Second, 9)
	check("SetKeepAlive", c.SetKeepAlive(false))
	wantKeepAlive("SetKeepAlive", false, 15*time.Second, 15*time.Second, 9)
	check("SetKeepAliveConfig", c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: time.Second, Count: 3}))
	wantKeepAlive("SetKeepAliveConfig", true, time.Minute, time.Second, 3)
	check("SetKeepAliveConfig", c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: -1, Interval: 2 * time.Second, Count: -1}))
	wantKeepAlive("SetKeepAliveConfig with negative fields", true, time.Minute, 2*time.Second, 3)
	check("SetKeepAlivePeriod", c.SetKeepAlivePeriod(time.Hour))
	wantKeepAlive("SetKeepAlivePeriod", true, time.Hour, 2*time.Second, 3)
	check("SetKeepAliveConfig", c.SetKeepAliveConfig(net.KeepAliveConfig{}))
	wantKeepAlive("SetKeepAliveConfig with zero fields", false, 15*time.Second, 15*time.Second, 9)

	for _, noDelay := range []bool{false, true} {
		check("SetNoDelay", c.SetNoDelay(noDelay))
		if opts.GetDelayOption() == noDelay {
			t.Errorf("SetNoDelay(%v) sets the opposite", noDelay)
		}
	}

	check("SetReadBuffer", c.SetReadBuffer(100_000))
	check("SetWriteBuffer", c.SetWriteBuffer(50_000))
	if r, w := opts.GetReceiveBufferSize(), opts.GetSendBufferSize(); r != 100_000 || w != 50_000 {
		t.Errorf("buffers of %d and %d bytes", r, w)
	}
	// Data goes both ways through the smaller buffers, and a write beyond them
	// waits.
	transfer(t, a, b, 1<<20)
	transfer(t, b, a, 1<<20)
	b.(tcpOptions).SetReadBuffer(10_000)
	a.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := a.Write(make([]byte, 3<<20)); err == nil || n >= 3<<20 {
		t.Errorf("wrote %d bytes, %v", n, err)
	}

	check("SetReadBuffer", c.SetReadBuffer(1<<30))
	check("SetWriteBuffer", c.SetWriteBuffer(-1))
	if r, w := opts.GetReceiveBufferSize(), opts.GetSendBufferSize(); r != tcpMaxReceive || w < 1 || w > 50_000 {
		t.Errorf("buffers of %d and %d bytes", r, w)
	}

	a.Close()
	for what, err := range map[string]error{
		"SetNoDelay":         c.SetNoDelay(true),
		"SetKeepAlive":       c.SetKeepAlive(true),
		"SetKeepAlivePeriod": c.SetKeepAlivePeriod(0),
		"SetKeepAliveConfig": c.SetKeepAliveConfig(net.KeepAliveConfig{}),
		"SetReadBuffer":      c.SetReadBuffer(1),
		"SetWriteBuffer":     c.SetWriteBuffer(1),
	} {
		t.Run(what, func(t *testing.T) { wantOpError(t, err, "set", "tcp", net.ErrClosed) })
	}
}

// Connections are not probed together, and less often when there are many.
func TestKeepAliveIsSpread(t *testing.T) {
	var m memory
	m.init(defaultMemoryLimit)
	rate := 0.0
	for range 100_000 {
		rate += 1 / m.keepAliveIdle().Seconds()
		m.takePlace(nil)
	}
	if rate > 2100 {
		t.Errorf("100,000 connections send %.0f probes a second", rate)
	}
	p := join(t, nil)
	first, _ := p.connect(t, b4)
	second, _ := p.connect(t, b4)
	idle := func(c net.Conn) time.Duration {
		var o tcpip.KeepaliveIdleOption
		c.(*tcpConn).endpoint.GetSockOpt(&o)
		return time.Duration(o)
	}
	if a, b := idle(first), idle(second); a != keepAliveIdle || b != a+keepAliveSpread {
		t.Errorf("the connections are probed after %v and %v", a, b)
	}
}
