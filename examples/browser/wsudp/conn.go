// Package wsudp carries UDP datagrams in a WebSocket, each in a binary message,
// for programs that have no UDP: those in a browser. A relay, [Relay], exchanges
// them with one UDP address.
package wsudp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Remote is the address that datagrams of a [Dial] connection seem to come from:
// which one is behind the relay is the relay's business.
var Remote = netip.MustParseAddrPort("192.0.2.1:51820") // reserved for documentation

const (
	maxDatagram = 1 << 16
	// maxQueued is how many received datagrams wait to be read. Further ones are
	// dropped, as a UDP socket does.
	maxQueued   = 512
	dialTimeout = 10 * time.Second
)

// conn is the program's end of a WebSocket to a relay.
type conn struct {
	ws       *websocket.Conn
	ctx      context.Context // ends when the connection does; its cause says why
	cancel   context.CancelCauseFunc
	received chan []byte
	closing  sync.Once
}

// Dial connects to the relay at a ws or wss URL. What is written to the
// connection goes to the UDP address of the relay, whatever address is given.
// Deadlines are not supported. When the WebSocket fails, ReadFrom and WriteTo
// return an error that wraps [net.ErrClosed].
func Dial(ctx context.Context, url string) (net.PacketConn, error) {
	dialing, cancelDial := context.WithTimeout(ctx, dialTimeout)
	defer cancelDial()
	ws, _, err := websocket.Dial(dialing, url, nil)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(maxDatagram)
	c := &conn{ws: ws, received: make(chan []byte, maxQueued)}
	c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	go c.receive()
	return c, nil
}

// receive queues what arrives, until the WebSocket fails.
func (c *conn) receive() {
	for {
		kind, b, err := c.ws.Read(c.ctx)
		if err != nil {
			c.end(fmt.Errorf("relay: %w: %w", net.ErrClosed, err))
			return
		}
		if kind != websocket.MessageBinary {
			continue
		}
		select {
		case c.received <- b:
		default:
		}
	}
}

// end closes the WebSocket. In a browser that waits for the relay to answer, so
// it runs beside the caller.
func (c *conn) end(cause error) {
	c.closing.Do(func() {
		c.cancel(cause)
		go c.ws.CloseNow()
	})
}

func (c *conn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case datagram := <-c.received:
		return copy(b, datagram), net.UDPAddrFromAddrPort(Remote), nil
	case <-c.ctx.Done():
		return 0, nil, context.Cause(c.ctx)
	}
}

func (c *conn) WriteTo(b []byte, _ net.Addr) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	if err := c.ws.Write(c.ctx, websocket.MessageBinary, b); err != nil {
		return 0, fmt.Errorf("relay: %w: %w", net.ErrClosed, err)
	}
	return len(b), nil
}

func (c *conn) Close() error {
	c.end(net.ErrClosed)
	return nil
}

// LocalAddr returns an address with a port, for programs that ask for one. It
// means nothing.
func (c *conn) LocalAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4zero, Port: 1} }

func (c *conn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (c *conn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (c *conn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
