//go:build unix

package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// A reloadable is a gateway whose configuration a test changes.
type reloadable struct {
	t     *testing.T
	file  string
	lines chan string // printed and logged
}

func startReloadable(t *testing.T, sections ...string) *reloadable {
	r := &reloadable{t: t, file: clitest.File(t, sections...), lines: make(chan string, 100)}
	reader, writer := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	var program sync.WaitGroup
	program.Go(func() {
		defer writer.Close()
		if err := run(ctx, []string{"-c", r.file}, writer, writer); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	program.Go(func() {
		for s := bufio.NewScanner(reader); s.Scan(); {
			t.Log(s.Text())
			r.lines <- s.Text()
		}
	})
	t.Cleanup(func() {
		cancel()
		program.Wait()
	})
	return r
}

// await waits for a line with a text, and returns what follows in it.
func (r *reloadable) await(text string) string {
	r.t.Helper()
	for timeout := time.After(20 * time.Second); ; {
		select {
		case line := <-r.lines:
			if _, rest, ok := strings.Cut(line, text); ok {
				return rest
			}
		case <-timeout:
			r.t.Fatalf("no line with %q", text)
		}
	}
}

// reload changes the file and sends the signal.
func (r *reloadable) reload(sections ...string) {
	r.t.Helper()
	if err := os.WriteFile(r.file, []byte(strings.Join(sections, "\n")), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		r.t.Fatal(err)
	}
}

// An echo is a connection to a server as of listenFar.
type echo struct {
	t *testing.T
	net.Conn
}

func dialEcho(t *testing.T, addr string) echo {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(c, make([]byte, len("echo: "))); err != nil {
		t.Fatal(err)
	}
	e := echo{t, c}
	e.check()
	return e
}

// check checks that the connection works.
func (e echo) check() {
	e.t.Helper()
	got := make([]byte, 5)
	io.WriteString(e, "hello")
	if _, err := io.ReadFull(e, got); err != nil || string(got) != "hello" {
		e.t.Errorf("got %q, %v", got, err)
	}
}

// checkEnded checks that the connection ends.
func (e echo) checkEnded() {
	e.t.Helper()
	if _, err := e.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		e.t.Errorf("read: %v, want an end", err)
	}
}

func TestReload(t *testing.T) {
	dev, tunnel := startFar(t)
	listenFar(t, dev, 7)
	listenFar(t, dev, 8)
	forward := func(listen, port string) []string {
		return []string{"[TCPClientTunnel]", "BindAddress = " + listen, "Target = " + farAddr4.String() + ":" + port}
	}
	join := func(parts ...[]string) (all []string) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	keep, change, drop := clitest.FreeAddress(t), clitest.FreeAddress(t), clitest.FreeAddress(t)
	first := join(tunnel, forward(keep, "7"), forward(change, "7"), forward(drop, "7"))
	r := startReloadable(t, first...)
	r.await(" on " + drop)
	kept, changed, dropped := dialEcho(t, keep), dialEcho(t, change), dialEcho(t, drop)

	// A bad file, an address in use and a change that is not possible change nothing.
	r.reload(join(tunnel, forward("1080", "7"))...)
	if got := r.await("nothing has changed"); !strings.Contains(got, `:9: [TCPClientTunnel] BindAddress: \"1080\": want host:port`) {
		t.Errorf("logged %s", got)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	r.reload(join(tunnel, forward(change, "8"), forward(taken.Addr().String(), "7"))...)
	if got := r.await("nothing has changed"); !strings.Contains(got, "in use") {
		t.Errorf("logged %s", got)
	}
	r.reload(join([]string{"[Interface]", "MTU = 1300"}, tunnel[1:], forward(drop, "7"))...)
	if got := r.await("nothing has changed"); !strings.Contains(got, "changes to MTU need a restart") {
		t.Errorf("logged %s", got)
	}
	for _, c := range []echo{kept, changed, dropped} {
		c.check()
	}

	added := clitest.FreeAddress(t)
	r.reload(join(tunnel, forward(added, "8"), forward(change, "8"), forward(keep, "7"))...)
	r.await("reloaded ")
	kept.check()
	changed.checkEnded()
	dropped.checkEnded()
	dialEcho(t, added)
	dialEcho(t, change)
	if c, err := net.Dial("tcp", drop); err == nil {
		c.Close()
		t.Error("a listener that was removed still listens")
	}
	kept.check()
}

// TestReloadPeers replaces the peer of a forward, and back.
func TestReloadPeers(t *testing.T) {
	dev, tunnel := startFar(t)
	listenFar(t, dev, 7)
	addr := clitest.FreeAddress(t)
	forward := []string{"[TCPClientTunnel]", "BindAddress = " + addr, "Target = " + farAddr4.String() + ":7"}
	r := startReloadable(t, append(tunnel, forward...)...)
	r.await(" on " + addr)
	c := dialEcho(t, addr)

	other := append([]string(nil), tunnel...)
	for i, line := range other {
		if strings.HasPrefix(line, "PublicKey") {
			other[i] = "PublicKey = " + wireguard.NewPrivateKey().PublicKey().String()
		}
	}
	r.reload(append(other, forward...)...)
	r.await("reloaded ")
	c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	io.WriteString(c, "hello")
	if n, err := c.Read(make([]byte, 5)); err == nil {
		t.Errorf("%d bytes came through a peer that was removed", n)
	}
	r.reload(append(tunnel, forward...)...)
	r.await("reloaded ")
	dialEcho(t, addr)
}

// TestHangupEndsSTDIO checks that the hangup by which ssh ends its ProxyCommand
// ends the program, also while the target sends nothing.
func TestHangupEndsSTDIO(t *testing.T) {
	dev, tunnel := startFar(t)
	l, err := dev.Listen(t.Context(), "tcp", ":22")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sections := append(tunnel, "[STDIOTunnel]", "Target = "+farAddr4.String()+":22")
	r := startReloadable(t, sections...)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r.await("ready")
	r.reload(sections...)
	r.await("ends")
}
