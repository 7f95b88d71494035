package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/wgstack/wireguard"
)

// demo is a WireGuard server whose clients get their keys from it, and a web
// server in its tunnel that greets them. The device learns of a client when that
// first sends a handshake, and forgets it when it is idle.
type demo struct {
	dev *wireguard.Device
	web http.Server

	mu      sync.Mutex
	clients []client // number n has the address 10.73.x.y, where n+2 = 256x+y
}

// client is one that demo made a configuration for.
type client struct {
	key  wireguard.PublicKey
	addr netip.Addr
}

const maxDemoClients = 1 << 12

var demoAddr = netip.AddrFrom4([4]byte{10, 73, 0, 1})

func startDemo(ctx context.Context, log *slog.Logger) (*demo, error) {
	d := new(demo)
	var err error
	d.dev, err = wireguard.New(wireguard.Config{
		PrivateKey: wireguard.NewPrivateKey(),
		Address:    []netip.Prefix{netip.PrefixFrom(demoAddr, 32)},
		PeerFor:    d.peerFor,
		Logger:     log,
	})
	if err != nil {
		return nil, err
	}
	l, err := d.dev.Listen(ctx, "tcp", ":80")
	if err != nil {
		d.dev.Close()
		return nil, err
	}
	d.web.ReadHeaderTimeout = 10 * time.Second
	d.web.Handler = http.HandlerFunc(d.greet)
	go d.web.Serve(l)
	return d, nil
}

func (d *demo) close() {
	d.web.Close()
	d.dev.Close()
}

// endpoint returns the UDP address of the server.
func (d *demo) endpoint() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(d.dev.Stats().ListenPort)))
}

var errNoClient = errors.New("no client has this key")

// peerFor is the device's Config.PeerFor.
func (d *demo) peerFor(_ context.Context, key wireguard.PublicKey) (wireguard.PeerConfig, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.clients {
		if c.key == key {
			return wireguard.PeerConfig{PublicKey: key, AllowedIPs: []netip.Prefix{netip.PrefixFrom(c.addr, 32)}}, nil
		}
	}
	return wireguard.PeerConfig{}, errNoClient
}

// addClient makes a client.
func (d *demo) addClient() (key wireguard.PrivateKey, addr netip.Addr, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.clients) + 2
	if n > maxDemoClients {
		return key, addr, false
	}
	key, addr = wireguard.NewPrivateKey(), netip.AddrFrom4([4]byte{10, 73, byte(n >> 8), byte(n)})
	d.clients = append(d.clients, client{key.PublicKey(), addr})
	return key, addr, true
}

// ServeHTTP answers with the configuration of a new client. A real server would
// send it to those it knows, over HTTPS, or never see the private key.
func (d *demo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key, addr, ok := d.addClient()
	if !ok {
		http.Error(w, "too many clients", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	fmt.Fprintf(w, "[Interface]\nPrivateKey = %s\nAddress = %s/32\n\n[Peer]\nPublicKey = %s\nAllowedIPs = %s/32\n",
		key.Base64(), addr, d.dev.Stats().PublicKey, demoAddr)
}

// greet answers requests in the tunnel.
func (d *demo) greet(w http.ResponseWriter, r *http.Request) {
	caller, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	key, ok := d.dev.PeerOf(caller.Addr())
	if !ok {
		http.Error(w, "no peer", http.StatusForbidden)
		return
	}
	fmt.Fprintf(w, "Hello %s at %s, through the tunnel.\n", key, caller.Addr())
}
