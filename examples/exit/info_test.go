package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// TestInfo checks that the status server shows a flow.
func TestInfo(t *testing.T) {
	info := clitest.FreeAddress(t)
	x := startExit(t, 1, "-allow-local", "-info", info)
	c := dial(t, x.peers[0], "udp", answerer(t))
	c.Write([]byte("hello"))
	if _, err := c.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/status.json": fmt.Sprintf(`"client":"%s","target":"UDP 127.0.0.1:`, x.peers[0].Stats().PublicKey),
		"/metrics":     "gateway_client_sent_bytes_total 5\n",
		"/readyz":      "{}",
	} {
		resp, err := http.Get("http://" + info + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s\n%s\nwant %s", path, resp.Status, body, want)
		}
	}
}
