//go:build js

// Tab is the program in the browser tab: a WireGuard device whose packets travel
// in a WebSocket. It offers one function to the page:
//
//	const tunnel = await wireguard(config, relay)
//	const text = await tunnel.fetch("http://10.0.0.1/")
//	tunnel.close()
//
// config is the text of a wg-quick file, and relay the URL of the relay, which
// decides where packets go: Endpoint in the file has no effect.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall/js"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/browser/wsudp"
)

const (
	fetchTimeout = 30 * time.Second
	maxBody      = 1 << 20
)

func main() {
	js.Global().Set("wireguard", js.FuncOf(func(_ js.Value, args []js.Value) any {
		config, relay := args[0].String(), args[1].String()
		return promise(func() (any, error) { return start(config, relay) })
	}))
	select {}
}

// start starts a device and returns the object that the page uses it with.
func start(config, relay string) (js.Value, error) {
	cfg, err := wireguard.ParseConfig(strings.NewReader(config))
	if err != nil {
		return js.Null(), err
	}
	for i := range cfg.Peers {
		cfg.Peers[i].Endpoint = wsudp.Remote.String()
	}
	cfg.ListenPort = 0
	// The device calls this again when the WebSocket has failed.
	cfg.ListenPacket = func(ctx context.Context, _, _ string) (net.PacketConn, error) {
		return wsudp.Dial(ctx, relay)
	}
	dev, err := wireguard.New(cfg)
	if err != nil {
		return js.Null(), err
	}
	client := http.Client{Timeout: fetchTimeout, Transport: &http.Transport{DialContext: dev.DialContext}}
	tunnel := js.Global().Get("Object").New()
	tunnel.Set("fetch", js.FuncOf(func(_ js.Value, args []js.Value) any {
		url := args[0].String()
		return promise(func() (any, error) { return fetch(&client, url) })
	}))
	tunnel.Set("close", js.FuncOf(func(js.Value, []js.Value) any {
		return promise(func() (any, error) { return nil, dev.Close() })
	}))
	return tunnel, nil
}

// fetch returns the text at url.
func fetch(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}

// promise returns a Promise of what f returns. f runs in a goroutine, as a
// function that JavaScript calls must not block.
func promise(f func() (any, error)) js.Value {
	executor := js.FuncOf(func(_ js.Value, args []js.Value) any {
		resolve, reject := args[0], args[1]
		go func() {
			v, err := f()
			if err != nil {
				reject.Invoke(js.Global().Get("Error").New(err.Error()))
				return
			}
			resolve.Invoke(v)
		}()
		return nil
	})
	defer executor.Release()
	return js.Global().Get("Promise").New(executor)
}
