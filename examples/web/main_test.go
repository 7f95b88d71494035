package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

func TestWeb(t *testing.T) {
	near, far := wireguard.NewPrivateKey(), wireguard.NewPrivateKey()
	file := clitest.File(t,
		"[Interface]",
		"PrivateKey = "+far.Base64(),
		"Address = 10.8.0.1/24, fd08::1/64",
		"PostUp = false # never run",
		"[Peer]",
		"PublicKey = "+near.PublicKey().String(),
		"AllowedIPs = 10.8.0.2/32, fd08::2/128",
	)
	names := clitest.File(t, near.PublicKey().String()+" Ada Lovelace")
	match, _ := clitest.Start(t, run, `^peer (\S+), UDP port (\d+)$`, "-config", file, "-names", names)
	dev := clitest.Device(t, wireguard.Config{
		PrivateKey: near,
		Address:    clitest.Prefixes("10.8.0.2/32", "fd08::2/128"),
		Peers: []wireguard.PeerConfig{{
			PublicKey:  far.PublicKey(),
			Endpoint:   "127.0.0.1:" + match[2],
			AllowedIPs: clitest.Prefixes("10.8.0.0/24", "fd08::/64"),
		}},
	})
	client := http.Client{Transport: &http.Transport{DialContext: dev.DialContext}, Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	for url, prefix := range map[string]string{
		"http://10.8.0.1/":  "Hello, Ada Lovelace at 10.8.0.2.",
		"http://[fd08::1]/": "Hello, Ada Lovelace at fd08::2.",
	} {
		resp, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || len(body) < len(prefix) || string(body[:len(prefix)]) != prefix {
			t.Errorf("GET %s: %q, %v; want it to begin with %q", url, body, err, prefix)
		}
	}
}

func TestNames(t *testing.T) {
	if names, err := readNames(""); len(names) > 0 || err != nil {
		t.Errorf("%v, %v", names, err)
	}
	path := clitest.File(t, wireguard.NewPrivateKey().PublicKey().String()+" one", "not-a-key two")
	if _, err := readNames(path); err == nil || !strings.HasPrefix(err.Error(), path+":2: ") {
		t.Errorf("error %v, want one about line 2", err)
	}
}
