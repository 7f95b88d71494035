package simnet

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestTrace(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		a := listen(t, n, port(addrA, 1))
		n.SetLink(anyAddr, anyAddr, Link{Latency: time.Second})
		send(t, a, port(addrB, 1), "before")
		tr := n.Trace()
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		go func() {
			for i := range 3 {
				time.Sleep(time.Second)
				send(t, a, port(addrB, 1), fmt.Sprint(i))
			}
			n.Block(anyAddr, anyAddr)
			send(t, a, port(addrB, 1), "last")
		}()
		d, err := tr.Wait(ctx, func(d Datagram) bool { return string(d.Payload) == "1" })
		if err != nil || d.From != port(addrA, 1) || d.To != port(addrB, 1) || d.Time.Sub(start) != 2*time.Second || time.Since(start) != 2*time.Second {
			t.Errorf("Wait = %+v, %v", d, err)
		}
		if d, err = tr.Wait(ctx, nil); err != nil || string(d.Payload) != "2" {
			t.Errorf("Wait = %+v, %v", d, err)
		}
		if _, err := tr.Wait(ctx, func(d Datagram) bool { return string(d.Payload) == "0" }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait for what was there before: %v", err)
		}
		if got := tr.All(); len(got) != 4 || got[3].Fate != Blocked || got[0].Fate != Passed {
			t.Errorf("trace: %v", got)
		}
		if got := tr.Select(func(d Datagram) bool { return d.Fate == Blocked }); len(got) != 1 {
			t.Errorf("blocked: %v", got)
		}
		tr.Stop()
		send(t, a, port(addrB, 1), "after")
		if len(tr.All()) != 4 {
			t.Error("the trace did not stop")
		}
	})
}
