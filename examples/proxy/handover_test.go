package main

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/proxy"
)

// TestOnePort uses one port for SOCKS and HTTP, with and without the password.
func TestOnePort(t *testing.T) {
	dev, tunnel := startFar(t)
	listenFar(t, dev, 7)
	l, err := dev.Listen(t.Context(), "tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	web := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })}
	go web.Serve(l)
	defer web.Close()
	match := startSections(t, tunnel, `^SOCKS and HTTP on (\S+)$`, "[Socks5]", "BindAddress = 127.0.0.1:0", "Username = me", "Password = secret")

	d, err := proxy.SOCKS5("tcp", match[1], &proxy.Auth{User: "me", Password: "secret"}, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Dial("tcp", farAddr4.String()+":7")
	if err != nil {
		t.Fatal(err)
	}
	checkEcho(t, c)
	for user, want := range map[*url.Userinfo]int{url.UserPassword("me", "secret"): 200, url.UserPassword("me", "guess"): 407} {
		transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: match[1], User: user})}
		client := http.Client{Transport: transport, Timeout: 20 * time.Second}
		resp, err := client.Get("http://" + farAddr4.String() + "/")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		transport.CloseIdleConnections()
		if resp.StatusCode != want || err != nil || want == 200 && !strings.Contains(string(body), "hello") {
			t.Errorf("%v: %s, %q, %v; want %d", user, resp.Status, body, err, want)
		}
	}
}
