package netstack

import (
	"net"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// Options of TCP connections, with the meaning that package net gives them.

// The keep-alive parameters that package net uses, and what is added to the idle
// time of a new connection for each other one. n idle connections are then not
// probed together, and at most 1000*ln(1+n/15000) of them in a second.
const (
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 9
	keepAliveSpread   = time.Millisecond
)

// keepAliveIdle returns how long a new connection is idle before it is probed.
func (m *memory) keepAliveIdle() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return keepAliveIdle + time.Duration(m.sockets.used)*keepAliveSpread
}

// SetLinger sets what Close does with data that is not acknowledged, as the
// method of *net.TCPConn does: if sec is 0, Close discards the data and resets
// the connection; otherwise it sends the data in the background.
func (c *tcpConn) SetLinger(sec int) error {
	return c.setOption(func() {
		c.endpoint.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: sec >= 0, Timeout: time.Duration(sec) * time.Second})
	})
}

// SetNoDelay sets whether small writes are sent at once, which is the default,
// or wait until those before are acknowledged.
func (c *tcpConn) SetNoDelay(noDelay bool) error {
	return c.setOption(func() { c.endpoint.SocketOptions().SetDelayOption(!noDelay) })
}

// SetKeepAlive sets whether probes are sent on an idle connection, which is the
// default: after 15 s, and a millisecond more for each other connection that the
// stack had.
func (c *tcpConn) SetKeepAlive(keepalive bool) error {
	return c.setOption(func() { c.endpoint.SocketOptions().SetKeepAlive(keepalive) })
}

// SetKeepAlivePeriod sets how long the connection is idle before the first
// probe; 0 means 15 s, and less leaves it as it is.
func (c *tcpConn) SetKeepAlivePeriod(d time.Duration) error {
	return c.setOption(func() { c.setKeepAliveParameters(net.KeepAliveConfig{Idle: d, Interval: -1, Count: -1}) })
}

// SetKeepAliveConfig sets whether and when probes are sent. Zero fields mean
// 15 s, 15 s and 9 probes, and negative ones leave what is set.
func (c *tcpConn) SetKeepAliveConfig(config net.KeepAliveConfig) error {
	return c.setOption(func() {
		c.setKeepAliveParameters(config)
		c.endpoint.SocketOptions().SetKeepAlive(config.Enable)
	})
}

// setKeepAliveParameters is SetKeepAliveConfig without Enable.
func (c *tcpConn) setKeepAliveParameters(config net.KeepAliveConfig) {
	if idle := tcpip.KeepaliveIdleOption(config.Idle); idle >= 0 {
		if idle == 0 {
			idle = tcpip.KeepaliveIdleOption(keepAliveIdle)
		}
		c.endpoint.SetSockOpt(&idle)
	}
	if interval := tcpip.KeepaliveIntervalOption(config.Interval); interval >= 0 {
		if interval == 0 {
			interval = tcpip.KeepaliveIntervalOption(keepAliveInterval)
		}
		c.endpoint.SetSockOpt(&interval)
	}
	if count := config.Count; count >= 0 {
		if count == 0 {
			count = keepAliveCount
		}
		c.endpoint.SetSockOptInt(tcpip.KeepaliveCountOption, count)
	}
}

// SetReadBuffer sets the size of the receive buffer in bytes. It then no longer
// grows by itself.
func (c *tcpConn) SetReadBuffer(bytes int) error {
	c.receiving.chosen.Store(true)
	return c.setReadBuffer(bytes)
}

// SetWriteBuffer sets the size of the send buffer in bytes. It then no longer
// grows by itself.
func (c *tcpConn) SetWriteBuffer(bytes int) error {
	c.sending.chosen.Store(true)
	return c.setWriteBuffer(bytes)
}
