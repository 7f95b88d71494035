package netstack_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/wgstack/wireguard/netstack"
)

// newPair returns two stacks, each of which delivers what the other sends.
func newPair() (a, b *netstack.Stack) {
	fromA, fromB := make(chan []byte, 100), make(chan []byte, 100)
	a, b = newStack("10.0.0.1/24", fromA), newStack("10.0.0.2/24", fromB)
	carry := func(packets <-chan []byte, to *netstack.Stack) {
		for packet := range packets {
			to.Deliver([][]byte{packet})
		}
	}
	go carry(fromA, b)
	go carry(fromB, a)
	return a, b
}

// newStack returns a stack that sends its segments to a channel.
func newStack(address string, segments chan<- []byte) *netstack.Stack {
	stack, err := netstack.New(netstack.Config{
		Addresses: []netip.Prefix{netip.MustParsePrefix(address)},
		Output: func(p *netstack.Packet) error {
			for i := range p.Segments() {
				segment := make([]byte, p.SegmentLen(i))
				p.CopySegment(segment, i)
				select {
				case segments <- segment:
				default: // as a full queue does in any network
				}
			}
			return nil
		},
	})
	if err != nil {
		panic(err)
	}
	return stack
}

// Two stacks whose Output functions deliver to each other.
func Example() {
	a, b := newPair()
	defer a.Close()
	defer b.Close()
	ctx := context.Background()

	listener, err := b.Listen(ctx, "tcp", ":80")
	if err != nil {
		panic(err)
	}
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "hello from %v", conn.LocalAddr())
	}()

	conn, err := a.DialContext(ctx, "tcp", "10.0.0.2:80")
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	greeting, err := io.ReadAll(conn)
	fmt.Println(string(greeting), err)
	// Output: hello from 10.0.0.2:80 <nil>
}

// An exit node accepts connections to any address. It would dial
// flow.Destination in the host's network, and copy between the connections.
func ExampleStack_HandleTCP() {
	a, b := newPair()
	defer a.Close()
	defer b.Close()

	b.HandleTCP(func(flow *netstack.TCPFlow) {
		if flow.Destination.Port() != 80 {
			flow.Reject()
			return
		}
		conn, err := flow.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "accepted for %v", flow.Destination)
	})

	conn, err := a.DialContext(context.Background(), "tcp", "192.0.2.1:80")
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	answer, err := io.ReadAll(conn)
	fmt.Println(string(answer), err)

	_, err = a.DialContext(context.Background(), "tcp", "192.0.2.1:25")
	fmt.Println(err)
	// Output:
	// accepted for 192.0.2.1:80 <nil>
	// dial tcp 192.0.2.1:25: connect: connection refused
}

// The methods of UDP sockets are those of package net.
func ExampleStack_ListenPacket() {
	a, b := newPair()
	defer a.Close()
	defer b.Close()
	ctx := context.Background()

	server, err := b.ListenPacket(ctx, "udp", ":53")
	if err != nil {
		panic(err)
	}
	client, err := a.DialContext(ctx, "udp", "10.0.0.2:53")
	if err != nil {
		panic(err)
	}
	client.Write([]byte("question"))
	buf := make([]byte, 100)
	n, from, err := server.ReadFrom(buf)
	fmt.Println(string(buf[:n]), from.(*net.UDPAddr).IP, err)
	// Output: question 10.0.0.1 <nil>
}
