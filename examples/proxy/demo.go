package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/wgstack/wireguard"
)

const demoName = "demo.wg"

var (
	farAddr4  = netip.MustParseAddr("10.66.0.1")
	farAddr6  = netip.MustParseAddr("fd66:de:30::1")
	nearAddr4 = netip.MustParseAddr("10.66.0.2")
	nearAddr6 = netip.MustParseAddr("fd66:de:30::2")
)

// A farEnd is the other end of the demonstration's tunnel: a device reached by
// UDP over loopback, with a name server and a web server in its tunnel.
type farEnd struct {
	near wireguard.Config // of the near end

	dev     *wireguard.Device
	web     http.Server
	cancel  context.CancelFunc
	servers sync.WaitGroup
}

func startFarEnd(log *slog.Logger) (_ *farEnd, err error) {
	nearKey, farKey := wireguard.NewPrivateKey(), wireguard.NewPrivateKey()
	dev, err := wireguard.New(wireguard.Config{
		PrivateKey: farKey,
		Address:    []netip.Prefix{hostPrefix(farAddr4), hostPrefix(farAddr6)},
		Peers: []wireguard.PeerConfig{{
			PublicKey:  nearKey.PublicKey(),
			AllowedIPs: []netip.Prefix{hostPrefix(nearAddr4), hostPrefix(nearAddr6)},
		}},
		Logger: log.With("device", "far"),
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &farEnd{dev: dev, cancel: cancel}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()

	names, err := dev.ListenPacket(ctx, "udp", ":53")
	if err != nil {
		return nil, err
	}
	namesTCP, err := dev.Listen(ctx, "tcp", ":53")
	if err != nil {
		return nil, err
	}
	web, err := dev.Listen(ctx, "tcp", ":80")
	if err != nil {
		return nil, err
	}
	f.web = http.Server{
		Handler:           demoSite(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	f.servers.Go(func() { serveNames(names) })
	f.servers.Go(func() { serveNamesTCP(namesTCP, &f.servers) })
	f.servers.Go(func() { f.web.Serve(web) })

	f.near = wireguard.Config{
		PrivateKey: nearKey,
		Address:    []netip.Prefix{hostPrefix(nearAddr4), hostPrefix(nearAddr6)},
		DNS:        []netip.Addr{farAddr4, farAddr6},
		Peers: []wireguard.PeerConfig{{
			PublicKey:  farKey.PublicKey(),
			Endpoint:   fmt.Sprintf("127.0.0.1:%d", dev.Stats().ListenPort),
			AllowedIPs: []netip.Prefix{hostPrefix(farAddr4), hostPrefix(farAddr6)},
		}},
		Logger: log.With("device", "near"),
	}
	return f, nil
}

// hostPrefix returns the prefix of one address.
func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// Close closes the device, and with it the connections of the servers.
func (f *farEnd) Close() {
	f.cancel()
	f.web.Close()
	f.dev.Close()
	f.servers.Wait()
}

// printDemo prints commands to try.
func printDemo(w io.Writer, at netip.AddrPort, user string) {
	curl := "curl --socks5-hostname " + at.String()
	if at.Addr().IsUnspecified() {
		curl = fmt.Sprintf("curl --socks5-hostname localhost:%d", at.Port())
	}
	if user != "" {
		curl += fmt.Sprintf(` --proxy-user "%s:$SOCKS_PASSWORD"`, user)
	}
	fmt.Fprintf(w, `
Try, in another terminal:

  %[1]s http://%[2]s/
  %[1]s 'http://[%[3]s]/'
  %[1]s http://%[4]s/
  %[1]s -D- -o 1g http://%[2]s/bytes/1073741824 && sha256sum 1g

`, curl, demoName, farAddr6, farAddr4)
}
