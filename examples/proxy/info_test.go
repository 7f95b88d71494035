package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// getInfo fetches a page of the status server.
func getInfo(t *testing.T, addr, path string) (status int, body string) {
	t.Helper()
	resp, err := http.Get("http://" + addr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// TestInfo checks what the status server says about a tunnel with traffic.
func TestInfo(t *testing.T) {
	dev, tunnel := startFar(t)
	listenFar(t, dev, 7)
	tunnel = append([]string{"[Interface]", "CheckAlive = " + farAddr4.String(), "CheckAliveInterval = 1"}, tunnel[1:]...)
	info := clitest.FreeAddress(t)
	file := clitest.File(t, append(tunnel, "[TCPClientTunnel]", "BindAddress = 127.0.0.1:0", "Target = "+farAddr4.String()+":7")...)
	match, _ := clitest.Start(t, run, `^TCP for \S+ on (\S+)$`, "-c", file, "-i", info)
	c, err := net.Dial("tcp", match[1])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(c, "hello")
	if _, err := io.ReadFull(c, make([]byte, len("echo: hello"))); err != nil {
		t.Fatal(err)
	}

	if status, body := getInfo(t, info, "/healthz"); status != 200 || body != "ok\n" {
		t.Errorf("/healthz: %d, %q", status, body)
	}
	deadline := time.Now().Add(20 * time.Second)
	for status := 0; status != 200; {
		var body string
		if status, body = getInfo(t, info, "/readyz"); time.Now().After(deadline) {
			t.Fatalf("/readyz: %d, %s", status, body)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if status, body := getInfo(t, info, "/"); status != 200 || !strings.Contains(body, "<title>") {
		t.Errorf("/: %d, %s", status, body)
	}
	if status, body := getInfo(t, info, "/metrics"); status != 200 || !strings.Contains(body, "\ngateway_client_received_bytes_total 11\n") {
		t.Errorf("/metrics: %d, %s", status, body)
	}
	_, body := getInfo(t, info, "/status.json")
	var got struct {
		Peers       []struct{ Received int }
		Connections []struct {
			Target         string
			Sent, Received int
		}
		Events []struct{ Text string }
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Peers) != 1 || got.Peers[0].Received == 0 || len(got.Connections) != 1 || got.Connections[0].Target != farAddr4.String()+":7" ||
		got.Connections[0].Sent != 5 || got.Connections[0].Received != 11 || !strings.Contains(body, "session up") {
		t.Errorf("/status.json: %s", body)
	}
}

// TestHTTPIsCounted checks the bytes of a request that is not CONNECT.
func TestHTTPIsCounted(t *testing.T) {
	info := clitest.FreeAddress(t)
	addr, _ := startGateway(t, "-demo", "-i", info)
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: addr})}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: 20 * time.Second}
	get(t, &client, "http://demo.wg/bytes/100000")
	if _, body := getInfo(t, info, "/status.json"); !strings.Contains(body, `"target":"demo.wg"`) || !strings.Contains(body, `"received":100000`) {
		t.Errorf("/status.json: %s", body)
	}
}
