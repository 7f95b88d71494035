package socks

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/wgstack/wireguard/examples/internal/relay"
)

func TestConnectLibraryClient(t *testing.T) {
	addr, port := start(t, &Server{}), echo(t)
	d, err := proxy.SOCKS5("tcp", addr, nil, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"here", "127.0.0.1"} {
		c, err := d.Dial("tcp", address{name: host, port: port}.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		want := bytes.Repeat([]byte("0123456789abcde"), 100000)
		go func() {
			c.Write(want)
			c.(interface{ CloseWrite() error }).CloseWrite()
		}()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %d bytes, %v; want %d", host, len(got), err, len(want))
		}
	}
}

func TestConnectTranscript(t *testing.T) {
	addr, port := start(t, &Server{}), echo(t)
	c := dial(t, addr)
	// All at once, data included: a client need not wait for the replies.
	c.send(greeting + request(cmdConnect, address{name: "here", port: port}) + "early")
	c.want("\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01")
	var boundPort [2]byte
	if _, err := io.ReadFull(c.TCPConn, boundPort[:]); err != nil || boundPort == [2]byte{} {
		t.Fatalf("bound port %x, %v", boundPort, err)
	}
	c.want("early")
	c.send("late")
	c.want("late")
	c.CloseWrite()
	c.wantEnd()
}

func TestConnectReplies(t *testing.T) {
	addr := start(t, &Server{})
	for host, want := range map[string]reply{
		"refused":     replyRefused,
		"unreachable": replyHostUnreachable,
		"no-network":  replyNetworkUnreachable,
		"denied":      replyNotAllowed,
		"timeout":     replyTTLExpired,
		"late":        replyTTLExpired,
		"no-peer":     replyNetworkUnreachable,
		"no-endpoint": replyHostUnreachable,
		"no-answer":   replyHostUnreachable,
		"unknown":     replyHostUnreachable,
		"broken":      replyFailure,
	} {
		t.Run(host, func(t *testing.T) {
			c := dial(t, addr)
			c.send(greeting + request(cmdConnect, address{name: host, port: 80}) + "early data")
			c.want("\x05\x00\x05" + string(rune(want)) + failed)
			c.wantEnd()
		})
	}
}

func TestDialTimeout(t *testing.T) {
	n := &loopback{dialing: make(chan struct{}, 1)}
	addr := start(t, &Server{Network: n, DialTimeout: time.Millisecond})
	c := dial(t, addr)
	c.send(greeting + request(cmdConnect, address{name: "silent", port: 80}))
	c.want("\x05\x00\x05\x06" + failed)
	c.wantEnd()
}

// TestConnect4 connects by SOCKS 4, and by 4a to a name.
func TestConnect4(t *testing.T) {
	addr, port := start(t, &Server{}), echo(t)
	portBytes := string([]byte{byte(port >> 8), byte(port)})
	for _, to := range []string{"\x7f\x00\x00\x01user\x00", "\x00\x00\x00\x01\x00here\x00"} {
		c := dial(t, addr)
		c.send("\x04\x01" + portBytes + to + "early")
		c.want("\x00\x5a")
		if _, err := io.ReadFull(c.TCPConn, make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		c.want("early")
	}
	c := dial(t, addr)
	c.send("\x04\x01\x00\x50\x00\x00\x00\x01\x00refused\x00")
	c.want("\x00\x5b\x00\x00\x00\x00\x00\x00")
	c.wantEnd()
}

// TestConnectPassesOnReset checks that a reset of either side is one for the
// other, after data that makes the stream look complete.
func TestConnectPassesOnReset(t *testing.T) {
	addr := start(t, &Server{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, from := range []string{"client", "target"} {
		c := dial(t, addr)
		c.send(greeting + request(cmdConnect, address{name: "here", port: addrPort(l.Addr()).Port()}))
		if _, err := io.ReadFull(c.TCPConn, make([]byte, 2+10)); err != nil {
			t.Fatal(err)
		}
		target, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer target.Close()
		target.SetDeadline(time.Now().Add(10 * time.Second))
		resetter, other := net.Conn(c.TCPConn), target
		if from == "target" {
			resetter, other = other, resetter
		}
		resetter.Write([]byte("part"))
		if _, err := io.ReadFull(other, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		relay.Reset(resetter)
		if n, err := other.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("reset by the %s: read %d, %v; want ECONNRESET", from, n, err)
		}
	}
}

// TestFailedDialIsLogged checks that a dial that fails makes one line at level
// Warn, however often it is repeated.
func TestFailedDialIsLogged(t *testing.T) {
	var log syncBuffer
	addr := start(t, &Server{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	for _, host := range []string{"refused", "refused", "unknown"} {
		c := dial(t, addr)
		c.send(greeting + request(cmdConnect, address{name: host, port: 80}))
		if _, err := io.ReadAll(c.TCPConn); err != nil {
			t.Fatal(err)
		}
	}
	got := log.String()
	for _, want := range []string{`to=refused:80 err="dial tcp: connect: connection refused"`, "to=unknown:80", "client=127.0.0.1"} {
		if !strings.Contains(got, want) {
			t.Errorf("logged %q, want %q in it", got, want)
		}
	}
	if n := strings.Count(got, "level=WARN"); n != 2 {
		t.Errorf("logged %d warnings, want 2:\n%s", n, got)
	}
}

// A syncBuffer is a bytes.Buffer for concurrent use.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
