// Package relay joins two connections: what one sends the other gets.
package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// streamBuffer is large for the sake of bulk transfers: each read from a
	// tunnel may take several segments at once.
	streamBuffer = 128 << 10

	datagramBuffer = 65535
)

// HalfClosedIdle is how long a stream of which one way has ended may be silent
// on the other until it is given up: a client that is gone looks like one that
// only stopped sending.
const HalfClosedIdle = 15 * time.Minute

var (
	streamBuffers   = sync.Pool{New: func() any { return new([streamBuffer]byte) }}
	datagramBuffers = sync.Pool{New: func() any { return new([datagramBuffer]byte) }}
)

// Streams copies both ways between a and b until both ways have ended, and
// closes them. The end of one way is passed on by CloseWrite, the other goes
// on. An error, such as a reset, ends both ways at once and is returned.
//
// To stop it from outside, close either connection.
func Streams(a, b net.Conn) error {
	s := streams{}
	var back error
	done := make(chan struct{})
	go func() {
		defer close(done)
		back = s.copy(b, a)
	}()
	err := s.copy(a, b)
	<-done
	a.Close()
	b.Close()
	if err == nil {
		err = back
	}
	return err
}

type streams struct {
	half   atomic.Bool // one way has ended
	failed atomic.Bool // by an error
}

func (s *streams) copy(dst, src net.Conn) error {
	buf := streamBuffers.Get().(*[streamBuffer]byte)
	defer streamBuffers.Put(buf)
	// io.CopyBuffer would not use the buffer, as *net.TCPConn brings its own
	// way of copying, with a smaller one.
	for {
		if s.half.Load() {
			src.SetReadDeadline(time.Now().Add(HalfClosedIdle))
		}
		n, err := src.Read(buf[:])
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return s.fail(dst, src, err)
			}
		}
		switch {
		case err == io.EOF:
			// From here on the other way is on the clock.
			s.half.Store(true)
			dst.SetReadDeadline(time.Now().Add(HalfClosedIdle))
			if err := closeWrite(dst); err != nil {
				return s.fail(dst, src, err)
			}
			return nil
		case err != nil:
			return s.fail(dst, src, err)
		}
	}
}

// fail ends both ways. What the other side has not read yet is lost to it, and
// it must not take that for the proper end of the stream: where the connection
// can be reset it is. Only the first failure counts; the second is its echo.
func (s *streams) fail(dst, src net.Conn, err error) error {
	if s.failed.Swap(true) {
		return nil
	}
	for _, c := range []net.Conn{dst, src} {
		if c, ok := c.(interface{ SetLinger(sec int) error }); ok {
			c.SetLinger(0)
		}
		c.Close()
	}
	return err
}

func closeWrite(c net.Conn) error {
	if c, ok := c.(interface{ CloseWrite() error }); ok {
		// The peer may have closed the whole connection already.
		c.CloseWrite()
		return nil
	}
	return c.Close()
}

// Datagrams copies datagrams both ways between a and b until neither has sent
// one for the time idle, or one fails, and closes them. It returns nil in the
// first case.
//
// To stop it from outside, close either connection.
func Datagrams(a, b net.Conn, idle time.Duration) error {
	d := datagrams{start: time.Now(), idle: idle}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.copy(b, a)
	}()
	d.copy(a, b)
	<-done
	return d.err
}

type datagrams struct {
	start time.Time
	idle  time.Duration
	last  atomic.Int64 // when the latest datagram came, in nanoseconds after start
	once  sync.Once
	err   error // written once: why the first of the two ways ended
}

func (d *datagrams) copy(dst, src net.Conn) {
	err := d.copyUntil(dst, src)
	d.once.Do(func() { d.err = err })
	dst.Close()
	src.Close()
}

func (d *datagrams) copyUntil(dst, src net.Conn) error {
	buf := datagramBuffers.Get().(*[datagramBuffer]byte)
	defer datagramBuffers.Put(buf)
	src.SetReadDeadline(time.Now().Add(d.idle))
	for {
		n, err := src.Read(buf[:])
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			// The other way may have been busy meanwhile.
			end := d.start.Add(time.Duration(d.last.Load()) + d.idle)
			if !time.Now().Before(end) {
				return nil
			}
			src.SetReadDeadline(end)
			continue
		case err != nil:
			return err
		}
		d.last.Store(int64(time.Since(d.start)))
		if _, err := dst.Write(buf[:n]); errors.Is(err, net.ErrClosed) {
			return err
		}
		// Other errors are of this datagram, or of an earlier one: UDP may
		// lose some.
	}
}
