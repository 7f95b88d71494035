package wireguard

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// A pipeListener accepts the pipes that dial makes.
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

func (l *pipeListener) dial(t testing.TB) *uapiClient {
	c, served := net.Pipe()
	select {
	case l.pipes <- served:
	case <-l.done:
		served.Close()
	}
	return newUAPIClient(t, c)
}

// A uapiClient is the other end of a control connection.
type uapiClient struct {
	testing.TB
	net.Conn
	in *bufio.Reader
}

func newUAPIClient(t testing.TB, c net.Conn) *uapiClient {
	return &uapiClient{t, c, bufio.NewReader(c)}
}

// control returns a connection to the device of the bed.
func (b *bed) control() *uapiClient {
	b.Helper()
	l := newPipeListener()
	go func() {
		if err := b.dev.ServeUAPI(l); err != nil {
			b.Errorf("ServeUAPI: %v", err)
		}
	}()
	return l.dial(b)
}

func (c *uapiClient) send(text string) { go io.WriteString(c, text) }

// reply returns the lines of the next reply, and its errno.
func (c *uapiClient) reply() (lines []string, errno int) {
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

// set carries out a set operation of the given lines.
func (c *uapiClient) set(lines ...string) (errno int) {
	c.Helper()
	c.send("set=1\n" + joinLines(lines) + "\n")
	reply, errno := c.reply()
	if len(reply) != 0 {
		c.Fatalf("reply to set: %q", reply)
	}
	return errno
}

func (c *uapiClient) mustSet(lines ...string) {
	c.Helper()
	if errno := c.set(lines...); errno != 0 {
		c.Fatalf("set %q: errno %d", lines, errno)
	}
}

func (c *uapiClient) get() []string {
	c.Helper()
	c.send("get=1\n\n")
	lines, errno := c.reply()
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

// settable are the lines that a set operation accepts.
func settable(lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(l string) bool {
		key, _, _ := strings.Cut(l, "=")
		switch key {
		case "last_handshake_time_sec", "last_handshake_time_nsec", "tx_bytes", "rx_bytes":
			return true
		}
		return false
	})
}

// block returns the lines of a get that describe a peer, but its public key.
func block(lines []string, public PublicKey) []string {
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

// values returns the values of a key in lines.
func values(lines []string, key string) []string {
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
	if got := values(lines, key); !slices.Equal(got, want) {
		t.Fatalf("%s = %q, want %q", key, got, want)
	}
}

func hexKey[K ~[32]byte](k K) string { return hex.EncodeToString(k[:]) }

// key32 is a key of 32 equal bytes.
func key32(b byte) (k PublicKey) {
	for i := range k {
		k[i] = b
	}
	return k
}

const zeroHex = "0000000000000000000000000000000000000000000000000000000000000000"

// uapiReplies serves a connection on which input arrives and then ends.
func (b *bed) uapiReplies(input io.Reader) string {
	var out bytes.Buffer
	b.dev.serveUAPI(struct {
		io.Reader
		io.Writer
	}{input, &out})
	return out.String()
}

// uapi sends text to a device and returns its answer.
func uapi(d *Device, text string) string {
	var out strings.Builder
	d.serveUAPI(struct {
		io.Reader
		io.Writer
	}{strings.NewReader(text), &out})
	return out.String()
}
