//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkTUN compares this library with wireguard-go in its usual form: a
// daemon run by root in each of two network namespaces, with interfaces and the
// kernel's TCP/IP, measured by iperf3.
func BenchmarkTUN(b *testing.B) {
	for _, streams := range []int{1, 4} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			u := newTUN(b)
			r := tunnel{kinds: [2]kind{kindOwn, kindOwn}}.start(b)
			r.establishSession(b)
			compare(b, []contestant{
				{kindOwn.name, newBulkLoad(b, r, streams, false).round},
				{nameTUN, func() []metric { return u.round(streams) }},
			})
		})
	}
}

// A tun is a tunnel between two daemons with an iperf3 server at its second
// end.
type tun struct {
	b         *testing.B
	client    namespace
	processes []int // the daemons and the server
}

// newTUN starts the wireguard-go that this module requires: unlike some
// packaged versions, it has segmentation offload.
func newTUN(b *testing.B) *tun {
	b.Helper()
	for _, program := range []string{"go", "iperf3"} {
		if _, err := exec.LookPath(program); err != nil {
			b.Skip(err)
		}
	}
	if os.Geteuid() != 0 {
		b.Skip("not root")
	}
	dir := b.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "wireguard-go"), "golang.zx2c4.com/wireguard")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %v\n%s", build, err, out)
	}
	b.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))

	ns := [2]namespace{newNamespace(b), newNamespace(b)}
	if err := ns[0].ip("link", "add", "outer", "type", "veth", "peer", "outer", "netns", string(ns[1])); err != nil {
		b.Skip(err)
	}
	outer := [2]string{"192.0.2.1", "192.0.2.2"}
	for i, ns := range ns {
		for _, args := range [][]string{{"addr", "add", outer[i] + "/24", "dev", "outer"}, {"link", "set", "outer", "up"}} {
			if err := ns.ip(args...); err != nil {
				b.Fatal(err)
			}
		}
	}
	r := tunnel{kinds: [2]kind{kindDaemon(ns[0]), kindDaemon(ns[1])}, outer: outer[1]}.start(b)
	r.establishSession(b)

	u := &tun{b: b, client: ns[0]}
	for _, e := range r.ends {
		u.processes = append(u.processes, e.(*daemon).cmd.Process.Pid)
	}
	u.processes = append(u.processes, u.serve(ns[1]))
	return u
}

// serve starts an iperf3 server and returns its process ID.
func (u *tun) serve(ns namespace) int {
	u.b.Helper()
	server := exec.Command("ip", "netns", "exec", string(ns), "iperf3", "--server", "--forceflush")
	out, err := server.StdoutPipe()
	if err != nil {
		u.b.Fatal(err)
	}
	if err := server.Start(); err != nil {
		u.b.Fatal(err)
	}
	lines := bufio.NewReader(out)
	drained := make(chan struct{})
	u.b.Cleanup(func() {
		server.Process.Signal(unix.SIGTERM)
		<-drained
		server.Wait()
	})
	for line := ""; err == nil && !strings.Contains(line, "listening"); {
		line, err = lines.ReadString('\n')
	}
	go func() {
		io.Copy(io.Discard, lines)
		close(drained)
	}()
	if err != nil {
		u.b.Fatalf("iperf3 does not listen: %v", err)
	}
	return server.Process.Pid
}

// round has iperf3 move bytes: more than a bulkLoad, since its connections are
// new each time.
func (u *tun) round(streams int) []metric {
	const size = 4 * bulkRound
	bound := cipherBound()
	before := u.cpuTime()
	client := exec.Command("ip", "netns", "exec", string(u.client), "iperf3", "--client", inner(1, 4).String(),
		"--json", "--bytes", strconv.Itoa(size), "--parallel", strconv.Itoa(streams))
	var errs bytes.Buffer
	client.Stderr = &errs
	out, err := client.Output()
	var result struct {
		Error string
		End   struct {
			Received struct {
				Bytes         float64
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if jsonErr := json.Unmarshal(out, &result); err != nil || jsonErr != nil || result.Error != "" {
		u.b.Fatalf("iperf3: %v, %v, %s\n%s", err, jsonErr, result.Error, errs.String())
	}
	cpu := u.cpuTime() - before + client.ProcessState.UserTime() + client.ProcessState.SystemTime()
	speed := result.End.Received.BitsPerSecond / 8e6
	return []metric{
		{"MB/s", speed},
		{"%cipher", 100 * speed / bound},
		{"CPU-s/GB", cpu.Seconds() / (result.End.Received.Bytes / 1e9)},
	}
}

// cpuTime returns the processor time of the daemons and the server; see
// proc_pid_stat(5).
func (u *tun) cpuTime() time.Duration {
	const tick = 10 * time.Millisecond // USER_HZ is 100 wherever Go runs
	var ticks int
	for _, pid := range u.processes {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			u.b.Fatal(err)
		}
		_, numbers, _ := bytes.Cut(stat, []byte(") ")) // after the name
		for _, field := range bytes.Fields(numbers)[11:13] {
			n, err := strconv.Atoi(string(field))
			if err != nil {
				u.b.Fatal(err)
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * tick
}
