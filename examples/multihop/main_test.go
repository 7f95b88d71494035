package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// TestMultihop connects to first, and through its tunnel to second, which can
// be reached only there.
//
// Covers N08.
func TestMultihop(t *testing.T) {
	outerKey, innerKey, firstKey, secondKey := wireguard.NewPrivateKey(), wireguard.NewPrivateKey(), wireguard.NewPrivateKey(), wireguard.NewPrivateKey()
	first := clitest.Device(t, wireguard.Config{
		PrivateKey: firstKey,
		Address:    clitest.Prefixes("10.1.0.1/32"),
		Peers: []wireguard.PeerConfig{{
			PublicKey:  outerKey.PublicKey(),
			AllowedIPs: clitest.Prefixes("10.1.0.2/32"),
		}},
	})
	second := clitest.Device(t, wireguard.Config{
		PrivateKey:   secondKey,
		Address:      clitest.Prefixes("10.2.0.1/32", "fd02::1/128"),
		MTU:          1340,
		ListenPacket: first.ListenPacket,
		Peers: []wireguard.PeerConfig{{
			PublicKey:  innerKey.PublicKey(),
			AllowedIPs: clitest.Prefixes("10.2.0.2/32", "fd02::2/128"),
		}},
	})
	l, err := second.Listen(t.Context(), "tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	page := bytes.Repeat([]byte("0123456789abcdef\n"), 20000)
	srv := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		from := netip.MustParseAddrPort(r.RemoteAddr).Addr().String()
		if from != "10.2.0.2" && from != "fd02::2" {
			t.Errorf("request from %s", from)
		}
		w.Write(page)
	})}
	go srv.Serve(l)
	defer srv.Close()

	outer := clitest.File(t,
		"[Interface]",
		"PrivateKey = "+outerKey.Base64(),
		"Address = 10.1.0.2/32",
		"[Peer]",
		"PublicKey = "+firstKey.PublicKey().String(),
		fmt.Sprintf("Endpoint = 127.0.0.1:%d", first.Stats().ListenPort),
		"AllowedIPs = 10.1.0.1/32",
	)
	inner := clitest.File(t,
		"[Interface]",
		"PrivateKey = "+innerKey.Base64(),
		"Address = 10.2.0.2/32, fd02::2/128",
		"[Peer]",
		"PublicKey = "+secondKey.PublicKey().String(),
		fmt.Sprintf("Endpoint = 10.1.0.1:%d", second.Stats().ListenPort),
		"AllowedIPs = 10.2.0.1/32, fd02::1/128",
	)
	for _, url := range []string{"http://10.2.0.1/", "http://[fd02::1]/"} {
		var out bytes.Buffer
		if err := run(t.Context(), []string{"-outer", outer, "-inner", inner, url}, &out, t.Output()); err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		if sha256.Sum256(out.Bytes()) != sha256.Sum256(page) {
			t.Errorf("%s: %d bytes, not the %d of the page", url, out.Len(), len(page))
		}
	}
	err = run(t.Context(), []string{"-outer", outer, "-inner", inner, "http://10.2.0.1/missing"}, new(bytes.Buffer), t.Output())
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a missing page: %v", err)
	}
}
