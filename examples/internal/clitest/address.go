package clitest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
)

// FreeAddress returns a loopback address on which nothing listens. On Linux
// nothing else uses its IP address either, so that the port stays free.
func FreeAddress(t testing.TB) string {
	t.Helper()
	host := "127.0.0.1"
	if runtime.GOOS == "linux" { // has all of 127.0.0.0/8
		host = fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
