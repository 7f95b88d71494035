package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// serveFar is a far end in a process of its own, so that measurements do not
// include it. It sends to each connection as many bytes as that asks for.
func serveFar(keys string) error {
	var private wireguard.PrivateKey
	var peer wireguard.PublicKey
	privateText, peerText, _ := strings.Cut(keys, " ")
	if err := private.UnmarshalText([]byte(privateText)); err != nil {
		return err
	}
	if err := peer.UnmarshalText([]byte(peerText)); err != nil {
		return err
	}
	dev, err := wireguard.New(wireguard.Config{
		PrivateKey: private,
		Address:    []netip.Prefix{hostPrefix(farAddr4)},
		Peers:      []wireguard.PeerConfig{{PublicKey: peer, AllowedIPs: []netip.Prefix{hostPrefix(nearAddr4)}}},
	})
	if err != nil {
		return err
	}
	l, err := dev.Listen(context.Background(), "tcp", ":80")
	if err != nil {
		return err
	}
	fmt.Println(dev.Stats().ListenPort)
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			var n int64
			if _, err := fmt.Fscanln(c, &n); err == nil && writeBytes(c, n) == nil {
				io.Copy(io.Discard, c)
			}
		}()
	}
}

// startWithFar runs the gateway with a far end in another process.
func startWithFar(t testing.TB, args ...string) (addr string) {
	t.Helper()
	near, far := wireguard.NewPrivateKey(), wireguard.NewPrivateKey()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PROXY_TEST_FAR="+far.Base64()+" "+near.PublicKey().String())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	port, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	file := clitest.File(t,
		"[Interface]",
		"PrivateKey = "+near.Base64(),
		"Address = "+nearAddr4.String(),
		"[Peer]",
		"PublicKey = "+far.PublicKey().String(),
		"AllowedIPs = "+farAddr4.String()+"/32",
		"Endpoint = 127.0.0.1:"+strings.TrimSpace(port),
	)
	match, _ := clitest.Start(t, run, `^SOCKS and HTTP on (\S+)$`, append([]string{"-socks", "127.0.0.1:0", "-config", file}, args...)...)
	return match[1]
}

// fetch connects through the gateway and asks the far end for n bytes.
func fetch(t testing.TB, addr string, n int64) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(c, "\x05\x01\x00\x05\x01\x00\x01%s\x00\x50%d\n", farAddr4.AsSlice(), n)
	if _, err := io.ReadFull(c, make([]byte, 2+10)); err != nil {
		t.Fatal(err)
	}
	return c
}

// heap returns the memory of live objects and of stacks.
func heap() float64 {
	runtime.GC()
	runtime.GC() // pools survive one collection
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse)
}

// reportHeap reports what each of n connections takes since before, and fails if
// that is more than a limit in KiB. Buffers are filled and released in a while.
func reportHeap(b *testing.B, before float64, n int, limit float64) {
	b.Helper()
	time.Sleep(3 * time.Second)
	perConnection := func() float64 { return (heap() - before) / float64(n) / 1024 }
	got := perConnection()
	for end := time.Now().Add(time.Minute); got > limit && time.Now().Before(end); got = perConnection() {
		time.Sleep(100 * time.Millisecond)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(got, "KiB/connection")
	if got > limit {
		b.Errorf("a connection takes %.0f KiB, want at most %.0f", got, limit)
	}
}

// BenchmarkMemory measures what the gateway holds for a connection that has
// fetched 256 KiB and is idle, and for a download of which the client reads
// nothing.
func BenchmarkMemory(b *testing.B) {
	for _, test := range []struct {
		name        string
		connections int
		size        int64
		read        bool
		limit       float64 // a quarter more than README.md states
	}{
		{"idle", 1000, 256 << 10, true, 53},
		{"paused", 100, 1 << 40, false, 6 << 10},
	} {
		b.Run(test.name, func(b *testing.B) {
			addr := startWithFar(b)
			io.CopyN(io.Discard, fetch(b, addr, 1<<20), 1<<20) // establishes the session
			before := heap()
			for range test.connections {
				c := fetch(b, addr, test.size)
				if !test.read {
					c.(*net.TCPConn).SetReadBuffer(64 << 10)
					continue
				}
				if _, err := io.CopyN(io.Discard, c, test.size); err != nil {
					b.Fatal(err)
				}
			}
			reportHeap(b, before, test.connections, test.limit)
		})
	}
}

// BenchmarkManyConnections measures what the gateway holds for 10,000 connections
// that have fetched 1 KiB and are idle. Their clients are a process of their own,
// for which the limit of open files is enough then.
func BenchmarkManyConnections(b *testing.B) {
	cmd := exec.Command(os.Args[0])
	b.Cleanup(func() { // when the gateway has ended
		if cmd.Process != nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	addr := startWithFar(b, "-max-clients", "0", "-max-clients-per-address", "0")
	io.CopyN(io.Discard, fetch(b, addr, 1<<20), 1<<20)
	before := heap()
	cmd.Env = append(os.Environ(), "PROXY_TEST_CLIENTS="+addr)
	cmd.Stderr = b.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "connected\n" {
		b.Fatalf("the clients print %q, %v", line, err)
	}
	reportHeap(b, before, manyConnections, 53) // README.md states 41
}

const manyConnections = 10000

// holdConnections is the process of the clients.
func holdConnections(addr string) error {
	var open []net.Conn
	for range manyConnections {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		fmt.Fprintf(c, "\x05\x01\x00\x05\x01\x00\x01%s\x00\x501024\n", farAddr4.AsSlice())
		if _, err := io.ReadFull(c, make([]byte, 2+10+1024)); err != nil {
			return err
		}
		open = append(open, c)
	}
	fmt.Println("connected")
	time.Sleep(time.Hour)
	return open[0].Close()
}

// TestMemoryLimit has clients that read nothing hold more than the limit, and
// checks that an honest client is served, and that memory stays near the limit.
func TestMemoryLimit(t *testing.T) {
	const limit = 32 << 20
	before := heap()
	addr := startWithFar(t, "-memory", fmt.Sprint(int64(before)+limit))
	var paused []net.Conn
	for range 20 {
		paused = append(paused, fetch(t, addr, 1<<40))
	}
	deadline := time.Now().Add(30 * time.Second)
	for ended := 0; ended == 0; {
		if time.Now().After(deadline) {
			t.Fatalf("no connection ended, with %.0f MiB in use", (heap()-before)/(1<<20))
		}
		time.Sleep(50 * time.Millisecond)
		for _, c := range paused {
			// A write fails when the gateway has reset the connection.
			if _, err := c.Write([]byte("x")); err != nil {
				ended++
			}
		}
	}
	const n = 1 << 20
	if got, err := io.CopyN(io.Discard, fetch(t, addr, n), n); err != nil {
		t.Errorf("an honest client received %d bytes: %v", got, err)
	}
	// Connections end one after another, until there is room.
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		used := heap() - before
		if used <= 1.5*limit {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%.0f MiB in use, limit %d", used/(1<<20), limit>>20)
		}
	}
}
