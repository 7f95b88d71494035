package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/proxy"

	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// TestMain makes the test binary the program itself where a test asks for it.
func TestMain(m *testing.M) {
	if os.Getenv("PROXY_TEST_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

// gateway runs the program and returns the address that it serves on, and a
// function that ends it, which the end of the test does too.
func gateway(t *testing.T, args ...string) (addr string, end func()) {
	t.Helper()
	m, end := clitest.Start(t, run, `^SOCKS 5 on (\S+)$`, append([]string{"-socks", "127.0.0.1:0"}, args...)...)
	return m[1], end
}

// httpClient returns a client of the gateway.
func httpClient(t *testing.T, addr string, auth *proxy.Auth) *http.Client {
	t.Helper()
	d, err := proxy.SOCKS5("tcp", addr, auth, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: d.(proxy.ContextDialer).DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

func get(t *testing.T, c *http.Client, url string) []byte {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v, %q", url, resp.Status, err, body)
	}
	if resp.ContentLength >= 0 && resp.ContentLength != int64(len(body)) {
		t.Errorf("GET %s: %d bytes, Content-Length %d", url, len(body), resp.ContentLength)
	}
	return body
}

func TestDemo(t *testing.T) {
	addr, _ := gateway(t, "-demo")
	c := httpClient(t, addr, nil)

	for url, from := range map[string][]netip.Addr{
		"http://demo.wg/":                     {nearAddr4, nearAddr6},
		"http://DEMO.wg/":                     {nearAddr4, nearAddr6},
		fmt.Sprintf("http://%s/", farAddr4):   {nearAddr4},
		fmt.Sprintf("http://[%s]/", farAddr6): {nearAddr6},
	} {
		page := string(get(t, c, url))
		ok := false
		for _, a := range from {
			ok = ok || strings.Contains(page, a.String())
		}
		if !ok {
			t.Errorf("GET %s: %q, want one of %v in it", url, page, from)
		}
	}

	const n = 5<<20 + 3
	resp, err := c.Get(fmt.Sprintf("http://demo.wg/bytes/%d", n))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(got))
	if want := resp.Header.Get(checksumHeader); len(got) != n || sum != want {
		t.Errorf("%d bytes of checksum %q, want %d of %q", len(got), sum, n, want)
	}

	for _, url := range []string{
		"http://nowhere.wg/",                   // no such name
		fmt.Sprintf("http://%s:81/", farAddr4), // refused
		"http://192.0.2.1/",                    // no such peer
	} {
		if resp, err := c.Get(url); err == nil {
			resp.Body.Close()
			t.Errorf("GET %s: %s", url, resp.Status)
		}
	}
}

// TestSum checks the bytes of the demonstration against a digest from another
// implementation: openssl enc -aes-128-ctr.
func TestSum(t *testing.T) {
	var b bytes.Buffer
	if err := writeBytes(&b, 1000003); err != nil {
		t.Fatal(err)
	}
	const want = "bc1be9b86f5d9bd4bd68c3b5415edd5721272d436418518b9795f721f86bf18d"
	if got := fmt.Sprintf("%x", sha256.Sum256(b.Bytes())); b.Len() != 1000003 || got != want {
		t.Errorf("%d bytes of digest %s, want %s", b.Len(), got, want)
	}
}

func TestBytesErrors(t *testing.T) {
	addr, _ := gateway(t, "-demo")
	c := httpClient(t, addr, nil)
	for path, want := range map[string]int{
		"/bytes/x":    http.StatusBadRequest,
		"/bytes/-1":   http.StatusBadRequest,
		"/bytes/0":    http.StatusOK,
		"/else":       http.StatusNotFound,
		"/bytes/1e10": http.StatusBadRequest,
	} {
		resp, err := c.Get("http://demo.wg" + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: %s, want %d", path, resp.Status, want)
		}
	}
}

// TestDemoUDP asks the name server of the far end through UDP ASSOCIATE, by its
// addresses and by its name.
func TestDemoUDP(t *testing.T) {
	addr, _ := gateway(t, "-demo")
	control, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	control.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(control, "\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")
	var answer [2 + 10]byte
	if _, err := io.ReadFull(control, answer[:]); err != nil || string(answer[:10]) != "\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01" {
		t.Fatalf("answer %x, %v", answer, err)
	}
	relay := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(binary.BigEndian.Uint16(answer[10:]))}
	udp, err := net.DialUDP("udp", nil, relay)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	udp.SetDeadline(time.Now().Add(20 * time.Second))

	ip4 := "\x01" + string(farAddr4.AsSlice()) + "\x00\x35"
	ip6 := "\x04" + string(farAddr6.AsSlice()) + "\x00\x35"
	for id, test := range []struct {
		to, from string
		typ      dnsmessage.Type
		want     []byte
	}{
		{ip4, ip4, dnsmessage.TypeA, farAddr4.AsSlice()},
		{ip6, ip6, dnsmessage.TypeAAAA, farAddr6.AsSlice()},
		{"\x03\x07demo.wg\x00\x35", "", dnsmessage.TypeA, farAddr4.AsSlice()},
	} {
		query := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: uint16(id), RecursionDesired: true},
			Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("demo.wg."), Type: test.typ, Class: dnsmessage.ClassINET}},
		}
		b, err := query.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := udp.Write(append([]byte("\x00\x00\x00"+test.to), b...)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2048)
		n, err := udp.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got := buf[:n]
		if header := "\x00\x00\x00" + test.from; !bytes.HasPrefix(got, []byte(header)) {
			t.Fatalf("answer %x, want it to begin with %x", got, header)
		}
		headerLen := len("\x00\x00\x00") + len(ip4)
		if got[3] == 4 {
			headerLen = len("\x00\x00\x00") + len(ip6)
		}
		var m dnsmessage.Message
		if err := m.Unpack(got[headerLen:]); err != nil || m.ID != uint16(id) || len(m.Answers) != 1 {
			t.Fatalf("answer %+v, %v", m, err)
		}
		switch r := m.Answers[0].Body.(type) {
		case *dnsmessage.AResource:
			if !bytes.Equal(r.A[:], test.want) {
				t.Errorf("A %v", r.A)
			}
		case *dnsmessage.AAAAResource:
			if !bytes.Equal(r.AAAA[:], test.want) {
				t.Errorf("AAAA %v", r.AAAA)
			}
		}
	}
}

func TestAuthentication(t *testing.T) {
	t.Setenv("SOCKS_PASSWORD", "secret")
	addr, _ := gateway(t, "-demo", "-user", "me")
	get(t, httpClient(t, addr, &proxy.Auth{User: "me", Password: "secret"}), "http://demo.wg/")
	for _, auth := range []*proxy.Auth{nil, {User: "me", Password: "guess"}, {User: "you", Password: "secret"}, {User: "me", Password: "secret2"}} {
		if resp, err := httpClient(t, addr, auth).Get("http://demo.wg/"); err == nil {
			resp.Body.Close()
			t.Errorf("%+v got in", auth)
		}
	}
}

func TestPasswordFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	check, err := credentials("me", file)
	if err != nil || !check("me", "from a file") || check("me", "from a file\n") {
		t.Errorf("the password of the file does not do: %v", err)
	}
}

func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.conf")
	if err := os.WriteFile(bad, []byte("[Interface]\nColour = blue\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, args := range [][]string{
		{},
		{"-demo", "-config", bad},
		{"-demo", "argument"},
		{"-colour", "blue"},
		{"-config", bad},
		{"-config", filepath.Join(dir, "missing.conf")},
		{"-demo", "-user", "me"}, // no password
		{"-demo", "-password-file", bad},
		{"-demo", "-user", "me", "-password-file", filepath.Join(dir, "missing")},
		{"-demo", "-socks", taken.Addr().String()},
	} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}

// TestEnd checks that nothing is left when the program ends in the middle of
// everything.
func TestEnd(t *testing.T) {
	before := runtime.NumGoroutine()
	addr, end := gateway(t, "-demo")
	transport := httpClient(t, addr, nil)
	resp, err := transport.Get("http://demo.wg/bytes/1000000000")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, resp.Body, 1<<20); err != nil {
		t.Fatal(err)
	}
	end()
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the transfer came to its end")
	}
	resp.Body.Close()
	transport.CloseIdleConnections()
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("the gateway is still there")
	}
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(time.Millisecond)
	}
}

// TestSignals checks the program as such: a signal ends it with status 0.
func TestSignals(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no signals")
	}
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-demo", "-socks", "127.0.0.1:0")
			cmd.Env = append(os.Environ(), "PROXY_TEST_MAIN=1")
			cmd.Stderr = t.Output()
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			addr := strings.TrimPrefix(strings.TrimSpace(line), "SOCKS 5 on ")
			get(t, httpClient(t, addr, nil), "http://demo.wg/")
			cmd.Process.Signal(sig)
			if err := cmd.Wait(); err != nil {
				t.Errorf("ended with %v", err)
			}
		})
	}
}
