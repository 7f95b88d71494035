package wsudp

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"syscall"

	"github.com/coder/websocket"
)

// A Relay is an http.Handler that accepts WebSockets and exchanges the datagrams
// in each with one UDP address, from a UDP socket of its own. Pages of other
// sites cannot use it: the Origin of a request must be its Host.
type Relay struct {
	// Target is the UDP address: host:port.
	Target string
	// MaxClients is how many WebSockets there may be at once. Others are answered
	// with the status 503.
	MaxClients int

	mu      sync.Mutex
	clients int
}

func (r *Relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !r.addClient() {
		http.Error(w, "too many clients", http.StatusServiceUnavailable)
		return
	}
	defer r.removeClient()
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()
	var dialer net.Dialer
	udp, err := dialer.DialContext(ctx, "udp", r.Target)
	if err != nil {
		http.Error(w, "the other end cannot be reached", http.StatusBadGateway)
		return
	}
	defer udp.Close()
	ws, err := websocket.Accept(w, req, nil)
	if err != nil {
		return // answered
	}
	defer ws.CloseNow()
	ws.SetReadLimit(maxDatagram)
	go func() {
		defer cancel()
		sendReceived(ctx, ws, udp)
	}()
	for {
		kind, b, err := ws.Read(ctx)
		if err != nil {
			return
		}
		if kind == websocket.MessageBinary {
			udp.Write(b) // an error is that of this datagram, or an earlier one
		}
	}
}

// sendReceived sends what udp receives over ws, until one of them fails. While
// ws is slow, the UDP socket drops what does not fit its buffer.
func sendReceived(ctx context.Context, ws *websocket.Conn, udp net.Conn) {
	b := make([]byte, maxDatagram)
	for {
		n, err := udp.Read(b)
		if errors.Is(err, syscall.ECONNREFUSED) {
			continue // nobody receives there now
		}
		if err != nil || ws.Write(ctx, websocket.MessageBinary, b[:n]) != nil {
			return
		}
	}
}

// addClient counts a client, unless there are too many.
func (r *Relay) addClient() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.clients >= r.MaxClients {
		return false
	}
	r.clients++
	return true
}

func (r *Relay) removeClient() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients--
}
