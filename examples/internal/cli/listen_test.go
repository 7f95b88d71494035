package cli

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestListen(t *testing.T) {
	dir, err := os.MkdirTemp("", "cli") // a short path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for address, network := range map[string]string{"127.0.0.1:0": "tcp", "unix:" + filepath.Join(dir, "s"): "unix"} {
		l, err := Listen(t.Context(), address)
		if err != nil {
			t.Error(err)
			continue
		}
		c, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Error(err)
		} else {
			c.Close()
		}
		l.Close()
	}
}
