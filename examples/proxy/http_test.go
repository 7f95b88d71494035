package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/wgstack/wireguard/examples/internal/clitest"
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

// newCertificate writes a certificate for localhost and its key to files.
func newCertificate(t *testing.T) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	certFile = clitest.File(t, string(certificate))
	keyFile = clitest.File(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	return certFile, keyFile, roots
}

// TestHTTPOverTLS uses the proxy by TLS, as a client that would rather have
// HTTP/2, in which a connection cannot be taken over for CONNECT.
func TestHTTPOverTLS(t *testing.T) {
	certFile, keyFile, roots := newCertificate(t)
	proxy, server := startHTTP(t, "CertFile = "+certFile, "KeyFile = "+keyFile)
	for _, request := range []string{
		"GET http://" + server + "/path HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"CONNECT " + server + ":80 HTTP/1.1\r\nHost: x\r\n\r\nGET /path HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	} {
		c, err := tls.Dial("tcp", proxy.Host, &tls.Config{RootCAs: roots, NextProtos: []string{"h2", "http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, request)
		if got, err := io.ReadAll(c); !strings.Contains(string(got), "/path \"\"") || err != nil {
			t.Errorf("%q by %q: %q, %v", request, c.ConnectionState().NegotiatedProtocol, got, err)
		}
	}
}
