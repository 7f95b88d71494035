package wireguard

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A pipeListener accepts the pipes that dialClient makes.
type pipeListener struct {
	pipes  chan net.Conn
	done   chan struct{}
	closed sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{pipes: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.pipes:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.closed.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (l *pipeListener) dialClient(t testing.TB) *uapiClient {
	c, served := net.Pipe()
	select {
	case l.pipes <- served:
	case <-l.done:
		served.Close()
	}
	return newUAPIClient(t, c)
}

// A uapiClient is the client end of a UAPI connection.
type uapiClient struct {
	testing.TB
	net.Conn
	in *bufio.Reader
}

func newUAPIClient(t testing.TB, c net.Conn) *uapiClient {
	return &uapiClient{t, c, bufio.NewReader(c)}
}

// dialUAPI returns a UAPI connection to the device.
func (b *testbed) dialUAPI() *uapiClient {
	b.Helper()
	l := newPipeListener()
	go func() {
		if err := b.dev.ServeUAPI(l); err != nil {
			b.Errorf("ServeUAPI: %v", err)
		}
	}()
	return l.dialClient(b)
}

func (c *uapiClient) sendText(text string) { go io.WriteString(c, text) }

// readReply returns the lines of the next reply, and its errno.
func (c *uapiClient) readReply() (lines []string, errno int) {
	c.Helper()
	lines, errno, err := readReply(c.in)
	if err != nil {
		c.Fatal(err)
	}
	return lines, errno
}

func readReply(in *bufio.Reader) (lines []string, errno int, err error) {
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return lines, 0, err
		}
		line = strings.TrimSuffix(line, "\n")
		if value, ok := strings.CutPrefix(line, "errno="); ok {
			if errno, err = strconv.Atoi(value); err != nil {
				return lines, 0, err
			}
			if blank, err := in.ReadString('\n'); blank != "\n" {
				return lines, 0, fmt.Errorf("errno is followed by %q, %v", blank, err)
			}
			return lines, errno, nil
		}
		lines = append(lines, line)
	}
}

// setLines performs a set operation with the given lines.
func (c *uapiClient) setLines(lines ...string) (errno int) {
	c.Helper()
	c.sendText("set=1\n" + joinLines(lines) + "\n")
	reply, errno := c.readReply()
	if len(reply) != 0 {
		c.Fatalf("reply to set: %q", reply)
	}
	return errno
}

func (c *uapiClient) mustSetLines(lines ...string) {
	c.Helper()
	if errno := c.setLines(lines...); errno != 0 {
		c.Fatalf("set %q: errno %d", lines, errno)
	}
}

func (c *uapiClient) getLines() []string {
	c.Helper()
	c.sendText("get=1\n\n")
	lines, errno := c.readReply()
	if errno != 0 {
		c.Fatalf("get: errno %d", errno)
	}
	return lines
}

// wantClosed expects the device to close the connection without another byte.
func (c *uapiClient) wantClosed(what string) {
	c.Helper()
	if b, err := c.in.ReadByte(); err != io.EOF {
		c.Fatalf("%s: got byte %q, %v, want EOF", what, b, err)
	}
}

func joinLines(lines []string) string {
	var s strings.Builder
	for _, l := range lines {
		s.WriteString(l + "\n")
	}
	return s.String()
}

// settableLines returns the lines of a get that a set operation accepts.
func settableLines(lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(l string) bool {
		key, _, _ := strings.Cut(l, "=")
		switch key {
		case "last_handshake_time_sec", "last_handshake_time_nsec", "tx_bytes", "rx_bytes":
			return true
		}
		return false
	})
}

// peerLines returns the lines of a get that describe a peer, without its public
// key.
func peerLines(lines []string, public PublicKey) []string {
	i := slices.Index(lines, "public_key="+hexKey(public))
	if i < 0 {
		return nil
	}
	lines = lines[i+1:]
	if end := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "public_key=") }); end >= 0 {
		lines = lines[:end]
	}
	return lines
}

// valuesOf returns the values of a key in lines.
func valuesOf(lines []string, key string) []string {
	var vs []string
	for _, l := range lines {
		if k, v, _ := strings.Cut(l, "="); k == key {
			vs = append(vs, v)
		}
	}
	return vs
}

func wantValues(t testing.TB, lines []string, key string, want ...string) {
	t.Helper()
	if got := valuesOf(lines, key); !slices.Equal(got, want) {
		t.Fatalf("%s = %q, want %q", key, got, want)
	}
}

func hexKey[K ~[32]byte](k K) string { return hex.EncodeToString(k[:]) }

// key32 returns a key of 32 equal bytes.
func key32(b byte) (k PublicKey) {
	for i := range k {
		k[i] = b
	}
	return k
}

const zeroHex = "0000000000000000000000000000000000000000000000000000000000000000"

// runUAPI serves a connection that ends after input, and returns the replies.
func runUAPI(d *Device, input string) string {
	c := &textConn{in: strings.NewReader(input)}
	d.serveUAPI(c)
	return c.out.String()
}

// textConn is a connection whose client sends a text and never waits.
type textConn struct {
	net.Conn // nil
	in       io.Reader
	out      strings.Builder
}

func (c *textConn) Read(b []byte) (int, error)       { return c.in.Read(b) }
func (c *textConn) Write(b []byte) (int, error)      { return c.out.Write(b) }
func (c *textConn) SetReadDeadline(time.Time) error  { return nil }
func (c *textConn) SetWriteDeadline(time.Time) error { return nil }
