package wsudp

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// startEcho returns the address of a UDP socket that sends back what it receives.
func startEcho(t *testing.T) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		b := make([]byte, maxDatagram)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(b[:n], from)
		}
	}()
	return pc.LocalAddr().String()
}

// startRelay serves a relay and returns its server and URL.
func startRelay(t *testing.T, r http.Handler) (srv *httptest.Server, url string) {
	t.Helper()
	srv = httptest.NewServer(r)
	t.Cleanup(srv.Close)
	return srv, "ws" + strings.TrimPrefix(srv.URL, "http")
}

func dial(t *testing.T, url string) net.PacketConn {
	t.Helper()
	c, err := Dial(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func wantEcho(t *testing.T, c net.PacketConn, payload string) {
	t.Helper()
	if n, err := c.WriteTo([]byte(payload), net.UDPAddrFromAddrPort(Remote)); n != len(payload) || err != nil {
		t.Fatalf("wrote %d bytes, %v", n, err)
	}
	b := make([]byte, maxDatagram)
	n, from, err := c.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	if string(b[:n]) != payload || from.String() != Remote.String() {
		t.Fatalf("read %d bytes from %v, want the %d that were sent, from %v", n, from, len(payload), Remote)
	}
}

func TestDatagramsKeepTheirBounds(t *testing.T) {
	_, url := startRelay(t, &Relay{Target: startEcho(t), MaxClients: 2})
	c, other := dial(t, url), dial(t, url)
	for _, payload := range []string{"a", "bc", strings.Repeat("d", 1500), strings.Repeat("e", 60000)} {
		wantEcho(t, c, payload)
	}
	wantEcho(t, other, "another client has a socket of its own")
	if _, ok := c.LocalAddr().(*net.UDPAddr); !ok {
		t.Errorf("local address %v", c.LocalAddr())
	}
}

func TestCloseUnblocksReadFrom(t *testing.T) {
	_, url := startRelay(t, &Relay{Target: startEcho(t), MaxClients: 1})
	c := dial(t, url)
	read := make(chan error)
	go func() {
		_, _, err := c.ReadFrom(make([]byte, 1))
		read <- err
	}()
	c.Close()
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if _, err := c.WriteTo([]byte("x"), nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v", err)
	}
}

func TestFailureOfTheRelayIsReported(t *testing.T) {
	_, url := startRelay(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		ws.Write(r.Context(), websocket.MessageText, []byte("not a datagram"))
		ws.Write(r.Context(), websocket.MessageBinary, []byte("last"))
		ws.Close(websocket.StatusGoingAway, "end of the relay")
	}))
	c := dial(t, url)
	b := make([]byte, 10)
	n, _, err := c.ReadFrom(b)
	if err == nil { // the failure may be noticed first
		if string(b[:n]) != "last" {
			t.Errorf("read %q", b[:n])
		}
		_, _, err = c.ReadFrom(b)
	}
	if !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), "end of the relay") {
		t.Errorf("read: %v", err)
	}
}

func TestDialFailsWithoutARelay(t *testing.T) {
	srv, url := startRelay(t, http.NotFoundHandler())
	if _, err := Dial(t.Context(), url); err == nil {
		t.Error("connected to a server without a relay")
	}
	srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := Dial(ctx, url); err == nil {
		t.Error("connected to nobody")
	}
}
