package main

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// TestQueries sends a hundred queries a second, each from a port of its own as
// dig does, while the limits leave room for far fewer flows: the longest idle
// make room.
func TestQueries(t *testing.T) {
	dev := startExit(t, 1, "-allow-local", "-max-udp", "64", "-max-udp-per-peer", "64").peers[0]
	port := answerer(t)
	const queries = 200
	var pending sync.WaitGroup
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	lost := make(chan error, queries)
	for i := range queries {
		<-tick.C
		c, err := dev.DialContext(context20s(t), "udp", net.JoinHostPort("10.9.0.1", fmt.Sprint(port)))
		if err != nil {
			t.Fatal(err)
		}
		pending.Go(func() {
			defer c.Close()
			query := fmt.Sprintf("query %d", i)
			b := make([]byte, 64)
			for range 3 { // as dig does
				c.SetDeadline(time.Now().Add(5 * time.Second))
				c.Write([]byte(query))
				if n, err := c.Read(b); err == nil && string(b[:n]) == "re: "+query {
					return
				}
			}
			lost <- fmt.Errorf("%s: no answer", query)
		})
	}
	pending.Wait()
	if len(lost) > 0 {
		t.Errorf("%d of %d, such as %v", len(lost), queries, <-lost)
	}
}
