// Package relay joins two connections: what one sends, the other receives.
package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// HalfClosedIdle is how long a stream of which one direction has ended may be
// idle in the other: a client that has disappeared looks like one that has only
// stopped sending.
const HalfClosedIdle = 15 * time.Minute

// Streams copies in both directions between a and b until both have ended, and
// closes them. The end of one direction is passed on by CloseWrite, and the
// other continues. An error, such as a reset, ends both directions at once, is
// passed on as a reset, and is returned. So is the end of ctx.
//
// It tells activity, which may be nil, what happens.
func Streams(ctx context.Context, a, b net.Conn, activity Activity) error {
	if activity == nil {
		activity = noActivity{}
	}
	s := &streams{a: a, b: b, activity: activity}
	defer context.AfterFunc(ctx, func() { s.fail(context.Cause(ctx)) })()
	var opposite sync.WaitGroup
	opposite.Go(func() { s.copyStream(b, a, activity.CountSent) })
	s.copyStream(a, b, activity.CountReceived)
	opposite.Wait()
	a.Close()
	b.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// An Activity is told when data moves. Its methods are called concurrently and
// must not block.
type Activity interface {
	CountSent(n int)     // n bytes have been read from a
	CountReceived(n int) // n bytes have been read from b
	Block(n int)         // 1: a write begins, which may have to wait; -1: it has ended
}

type noActivity struct{}

func (noActivity) CountSent(int)     {}
func (noActivity) CountReceived(int) {}
func (noActivity) Block(int)         {}

// Reset closes connections so that their other ends do not take it for the end
// of the stream.
func Reset(conns ...net.Conn) {
	for _, c := range conns {
		if c, ok := c.(interface{ SetLinger(sec int) error }); ok {
			c.SetLinger(0)
		}
		c.Close()
	}
}

// streams is the state of one call of Streams.
type streams struct {
	a, b     net.Conn
	activity Activity

	mu     sync.Mutex
	half   bool  // guarded by mu: one direction has ended
	failed bool  // guarded by mu
	err    error // guarded by mu: why both directions ended
}

// fail ends both directions. It keeps the first error only: the second is a
// consequence.
func (s *streams) fail(err error) {
	s.mu.Lock()
	first := !s.failed
	if first {
		s.failed, s.err = true, err
	}
	s.mu.Unlock()
	if first {
		Reset(s.a, s.b)
	}
}

// copyStream copies from src to dst until the end of the stream or an error, and
// counts the bytes.
func (s *streams) copyStream(dst, src net.Conn, count func(int)) {
	d := direction{streams: s, src: src, last: time.Now()}
	defer d.buffer.release()
	for {
		d.setReadDeadline()
		n, err := src.Read(d.buffer.bytes())
		if n > 0 {
			count(n)
			s.activity.Block(1)
			_, err := dst.Write(d.buffer.bytes()[:n])
			s.activity.Block(-1)
			if err != nil {
				s.fail(err)
				return
			}
			d.last = time.Now()
			d.buffer.adapt(n)
		}
		switch {
		case err == nil:
		case err == io.EOF:
			if err := s.endHalf(dst, src); err != nil {
				s.fail(err)
			}
			return
		case errors.Is(err, os.ErrDeadlineExceeded) && !d.expired():
		default:
			s.fail(err)
			return
		}
	}
}

// endHalf passes the end of src's direction on to dst.
func (s *streams) endHalf(dst, src net.Conn) error {
	s.mu.Lock()
	if !s.half && isHungUp(src) {
		// The kernel reported the reset to a write in the other direction.
		s.mu.Unlock()
		return &net.OpError{Op: "read", Net: "tcp", Source: src.LocalAddr(), Addr: src.RemoteAddr(), Err: syscall.ECONNRESET}
	}
	s.half = true
	dst.SetReadDeadline(time.Now()) // wakes the other direction
	s.mu.Unlock()
	if c, ok := dst.(interface{ CloseWrite() error }); ok {
		c.CloseWrite() // fails if the peer has closed or reset the connection
		return nil
	}
	return dst.Close()
}

// A direction is the state of copying in one direction. Its goroutine owns it.
type direction struct {
	*streams
	src    net.Conn
	buffer buffer

	last     time.Time // when the latest data was passed on, or the other direction ended
	deadline time.Time // of reads, as set; zero means none
	half     bool      // the other direction has ended
}

// setReadDeadline sets how long the next read may wait: in a half-closed stream
// for HalfClosedIdle, with a large buffer for holdLarge, otherwise without
// limit.
func (d *direction) setReadDeadline() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.streams.half && !d.half {
		d.half, d.last = true, time.Now()
	}
	var deadline time.Time
	switch {
	case d.buffer.large != nil:
		deadline = d.last.Add(holdLarge)
		if wait := d.deadline.Sub(d.last); holdLarge/2 < wait && wait <= holdLarge {
			return // near enough: setting a deadline costs more than reading the clock
		}
	case d.half:
		deadline = d.last.Add(HalfClosedIdle)
	}
	if !deadline.Equal(d.deadline) {
		d.deadline = deadline
		d.src.SetReadDeadline(deadline)
	}
}

// expired is called when a read deadline has passed. It reports whether the
// stream is to end for that, and otherwise releases the large buffer.
func (d *direction) expired() bool {
	d.buffer.release()
	d.deadline = time.Now().Add(-time.Hour) // not one that setReadDeadline would choose
	return d.half && time.Since(d.last) >= HalfClosedIdle
}
