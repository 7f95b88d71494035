package main

import (
	"net"
	"testing"
	"time"

	"golang.org/x/net/proxy"
)

// TestSilentClients connects many clients that send nothing, and checks that an
// honest one is served among them. Each request of it has the time of a test to
// begin, since the machine may be busy; what a silent client could cost it is the
// handshake timeout, which is longer here than the test.
func TestSilentClients(t *testing.T) {
	silent := 10000
	if testing.Short() {
		silent = 1000
	}
	addr, _ := startGateway(t, "-demo", "-handshake-timeout", "10m")
	honest := httpClient(t, addr, &proxy.Auth{})
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	var slowest time.Duration
	for i := range silent {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		if len(open) > 2000 {
			// The gateway has disconnected it long ago.
			open[0].Close()
			open = open[1:]
		}
		if i%500 == 499 {
			start := time.Now()
			get(t, honest, "http://demo.wg/")
			honest.CloseIdleConnections()
			slowest = max(slowest, time.Since(start))
		}
	}
	t.Logf("among %d silent clients, the slowest request took %v", silent, slowest)
}
