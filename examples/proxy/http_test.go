package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// startHTTP runs the program with an HTTP proxy, and a web server in the tunnel.
func startHTTP(t *testing.T, keys ...string) (proxy *url.URL, server string) {
	t.Helper()
	dev, tunnel := startFar(t)
	l, err := dev.Listen(t.Context(), "tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	web := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %q, authorization %q", r.Method, r.URL, body, r.Header.Get("Proxy-Authorization"))
	})}
	go web.Serve(l)
	t.Cleanup(func() { web.Close() })
	match := startSections(t, tunnel, `^HTTP on (\S+)$`, append([]string{"[http]", "BindAddress = 127.0.0.1:0"}, keys...)...)
	return &url.URL{Scheme: "http", Host: match[1]}, farAddr4.String()
}

// TestHTTPMethods checks requests of several methods over one connection.
func TestHTTPMethods(t *testing.T) {
	proxy, server := startHTTP(t)
	dials := 0
	transport := &http.Transport{Proxy: http.ProxyURL(proxy), DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		dials++
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: 20 * time.Second}
	for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS"} {
		req, err := http.NewRequest(method, "http://"+server+"/path?q", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := method + ` /path?q "body", authorization ""`; string(got) != want || err != nil {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	if dials != 1 {
		t.Errorf("%d connections to the proxy, want one", dials)
	}
}

// TestHTTPConnect sends data right after the request, and ends its direction.
func TestHTTPConnect(t *testing.T) {
	proxy, server := startHTTP(t)
	c, err := net.Dial("tcp", proxy.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(c, "CONNECT %s:80 HTTP/1.1\r\nHost: x\r\n\r\nGET /early HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", server)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, &http.Request{Method: "CONNECT"})
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v, %v", resp, err)
	}
	got, err := io.ReadAll(r)
	if !strings.Contains(string(got), `GET /early ""`) || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestHTTPErrors(t *testing.T) {
	proxy, server := startHTTP(t, "Username = me", "Password = secret")
	const right, wrong = "Proxy-Authorization: basic bWU6c2VjcmV0\r\n", "Proxy-Authorization: Basic bWU6Z3Vlc3M=\r\n"
	for request, want := range map[string]int{
		"GET http://" + server + "/ HTTP/1.1\r\nHost: x\r\n":            http.StatusProxyAuthRequired,
		"GET http://" + server + "/ HTTP/1.1\r\nHost: x\r\n" + wrong:    http.StatusProxyAuthRequired,
		"GET http://" + server + "/ HTTP/1.1\r\nHost: x\r\n" + right:    http.StatusOK,
		"GET / HTTP/1.1\r\nHost: x\r\n" + right:                         http.StatusBadRequest,
		"GET http://" + server + ":81/ HTTP/1.1\r\nHost: x\r\n" + right: http.StatusBadGateway,
		"CONNECT " + server + ":81 HTTP/1.1\r\nHost: x\r\n" + right:     http.StatusBadGateway,
		"CONNECT " + server + ":80 HTTP/1.1\r\nHost: x\r\n":             http.StatusProxyAuthRequired,
	} {
		c, err := net.Dial("tcp", proxy.Host)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, request+"\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		c.Close()
		if err != nil || resp.StatusCode != want {
			t.Errorf("%q: %v, %v; want %d", request, resp, err, want)
		}
	}
}
