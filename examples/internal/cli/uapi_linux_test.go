package cli

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/wgstack/wireguard/examples/internal/clitest"

	"github.com/wgstack/wireguard"
)

func TestServeUAPI(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for the socket")
	}
	name := fmt.Sprintf("wgcli%d", os.Getpid())
	cancelled := make(chan struct{})
	stop, err := ServeUAPI(clitest.Device(t, wireguard.Config{}), name, func() { close(cancelled) }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", "/var/run/wireguard/"+name+".sock")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "get=1\n\n")
	c.(*net.UnixConn).CloseWrite()
	if got, err := io.ReadAll(c); !strings.Contains(string(got), "listen_port=") || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	stop()
	<-cancelled
}
