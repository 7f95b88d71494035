package netstack

import (
	"io"
	"net"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
)

// Copying whole streams, as io.Copy does.

// copyChunk is how much is copied at a time, in bytes: gVisor puts as much into
// one piece of memory.
const copyChunk = buffer.MaxChunkSize

// copyBuffers are the buffers of copies between a connection and anything else.
var copyBuffers = sync.Pool{New: func() any { return new([copyChunk]byte) }}

// WriteTo writes to w what it reads, until the end of the stream, as the method
// of *net.TCPConn does. If w is a connection of a stack too, the data goes from
// one's receive buffer to the other's send buffer.
func (c *tcpConn) WriteTo(w io.Writer) (int64, error) {
	if to, ok := w.(*tcpConn); ok {
		return to.readFromConn(c)
	}
	return copyStream(w, struct{ io.Reader }{c})
}

// ReadFrom writes what it reads from r, until the end of r, as the method of
// *net.TCPConn does. If r is a connection of a stack too, the data goes from
// one's receive buffer to the other's send buffer.
func (c *tcpConn) ReadFrom(r io.Reader) (int64, error) {
	if from, ok := r.(*tcpConn); ok {
		return c.readFromConn(from)
	}
	return copyStream(struct{ io.Writer }{c}, r)
}

// copyStream copies through a buffer of copyBuffers. gVisor leaves no other
// way: to write to w from a receive buffer it would hold the lock of the
// connection for as long as w blocks, and to read from r into a send buffer it
// must know the length before.
func copyStream(w io.Writer, r io.Reader) (int64, error) {
	b := copyBuffers.Get().(*[copyChunk]byte)
	defer copyBuffers.Put(b)
	return io.CopyBuffer(w, r, b[:])
}

// readFromConn is ReadFrom for another connection of a stack, or for c itself.
// It reads as one call does, and writes as many: other writes get their turn
// while it waits for data.
func (c *tcpConn) readFromConn(from *tcpConn) (total int64, err error) {
	from.readMu.Lock()
	defer from.readMu.Unlock()
	for {
		// A read into nothing waits for data, or for the end.
		if _, err := from.receive(noRoomWriter{}); err == io.EOF {
			return total, nil
		} else if err != nil {
			return total, from.opError("read", err)
		}
		n, err := c.writeReceived(from)
		total += int64(n)
		if err != nil {
			return total, c.opError("write", err)
		}
	}
}

// writeReceived writes some of the data that from has received. It writes
// nothing, without an error, if the data was lost because from was closed.
// from.readMu is held.
func (c *tcpConn) writeReceived(from *tcpConn) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	n, err := c.send(&receivedPayload{from: from}, c.writeDeadline.passedChannel())
	if n > 0 {
		left := discardWriter(n)
		from.endpoint.Read(&left, tcpip.ReadOptions{})
		from.noteRead(n)
	}
	return n, err
}

// A receivedPayload is the data in the receive buffer of a connection. Its
// methods are called by gVisor, which may copy more than it then takes: the data
// stays in the buffer. from.readMu is held.
type receivedPayload struct {
	from *tcpConn
	into tcpip.SliceWriter
}

// Len returns how much there is to read. gVisor then reads exactly as much, and
// up to copyChunk bytes at once.
func (p *receivedPayload) Len() int {
	n, err := p.from.endpoint.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	if err != nil {
		return 0
	}
	return min(n, copyChunk)
}

// Read fills b, or fails.
func (p *receivedPayload) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	p.into = b
	_, err := p.from.endpoint.Read(&p.into, tcpip.ReadOptions{Peek: true})
	if err != nil || len(p.into) > 0 {
		return 0, net.ErrClosed
	}
	return len(b), nil
}

// A noRoomWriter has no room for anything.
type noRoomWriter struct{}

func (noRoomWriter) Write(b []byte) (int, error) { return 0, io.ErrShortWrite }

// A discardWriter has room for a number of bytes, which it discards.
type discardWriter int

func (w *discardWriter) Write(b []byte) (int, error) {
	n := min(len(b), int(*w))
	*w -= discardWriter(n)
	if n < len(b) {
		return n, io.ErrShortWrite
	}
	return n, nil
}
