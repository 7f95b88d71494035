//go:build !js

package wsudp

import (
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// wantRefused expects that a WebSocket is refused with the given status.
func wantRefused(t *testing.T, what, url string, header http.Header, status int) {
	t.Helper()
	ws, resp, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPHeader: header})
	if err == nil {
		ws.CloseNow()
		t.Fatalf("%s: accepted", what)
	}
	if resp == nil || resp.StatusCode != status {
		t.Errorf("%s: %v, want status %d", what, err, status)
	}
}

func TestRelayIsNotForOtherSites(t *testing.T) {
	_, url := startRelay(t, &Relay{Target: startEcho(t), MaxClients: 1})
	wantRefused(t, "page of another site", url, http.Header{"Origin": {"http://evil.example"}}, http.StatusForbidden)
}

func TestRelayLimitsItsClients(t *testing.T) {
	_, url := startRelay(t, &Relay{Target: startEcho(t), MaxClients: 1})
	c := dial(t, url)
	wantEcho(t, c, "first")
	wantRefused(t, "second", url, nil, http.StatusServiceUnavailable)
	wantEcho(t, c, "first again")
	c.Close()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := Dial(t.Context(), url)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("after the first has left: %v", err)
		}
	}
}

func TestRelayWithoutTarget(t *testing.T) {
	_, url := startRelay(t, &Relay{Target: "127.0.0.1:none", MaxClients: 1})
	wantRefused(t, "target that is no address", url, nil, http.StatusBadGateway)
}

func TestRelaySurvivesATargetThatIsNotThereYet(t *testing.T) {
	vacant, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := vacant.LocalAddr().String()
	vacant.Close()
	_, url := startRelay(t, &Relay{Target: target, MaxClients: 1})
	c := dial(t, url)
	for range 3 { // each refused by ICMP
		if _, err := c.WriteTo([]byte("lost"), nil); err != nil {
			t.Fatal(err)
		}
	}
	pc, err := net.ListenPacket("udp", target)
	if err != nil {
		t.Skip("another program has the port now:", err)
	}
	defer pc.Close()
	answered := make(chan struct{})
	go func() {
		b := make([]byte, 100)
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			t.Error(err)
			return
		}
		pc.WriteTo(b[:n], from)
		close(answered)
	}()
	// Sent until it arrives, as the answers to earlier ones may fail the socket once.
	for done := false; !done; {
		c.WriteTo([]byte("found"), nil)
		select {
		case <-answered:
			done = true
		case <-time.After(10 * time.Millisecond):
		}
	}
	b := make([]byte, 100)
	if n, _, err := c.ReadFrom(b); err != nil || string(b[:n]) != "found" && string(b[:n]) != "lost" {
		t.Errorf("read %q, %v", b[:n], err)
	}
}
