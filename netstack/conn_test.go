package netstack

import (
	"net"
	"testing"

	"golang.org/x/net/nettest"
)

func TestConn(t *testing.T) {
	for _, host := range []string{"10.0.0.2", "fd00::2"} {
		t.Run(host, func(t *testing.T) {
			p := join(t, nil)
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				l, err := p.b.Listen(t.Context(), "tcp", net.JoinHostPort(host, "0"))
				if err != nil {
					return nil, nil, nil, err
				}
				defer l.Close()
				c1, err = p.a.DialContext(t.Context(), "tcp", l.Addr().String())
				if err != nil {
					return nil, nil, nil, err
				}
				c2, err = l.Accept()
				if err != nil {
					return nil, nil, nil, err
				}
				return c1, c2, func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}
