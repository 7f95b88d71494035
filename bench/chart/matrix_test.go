package main

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/perf/benchfmt"
)

func TestMatrix(t *testing.T) {
	const run = `
BenchmarkPath/rtt=20ms/loss=1%/impl=own-2 1 4000000 B/s 20000 p50-us 30000 p90-us 40000 p99-us 0 stalls
BenchmarkPath/rtt=20ms/loss=1%/impl=wireguard-go-2 1 1000000 B/s 21000 p50-us 31000 p90-us 80000 p99-us 0 stalls
BenchmarkPath/rtt=20ms/loss=1%/impl=tailscale-2 1 2000000 B/s 22000 p50-us 32000 p90-us 160000 p99-us 0 stalls
BenchmarkPath/rtt=0s/late=1%/impl=own-2 1 6000000 B/s 0 stalls
BenchmarkPath/rtt=0s/late=1%/impl=own-2 1 8000000 B/s 0 stalls
BenchmarkPath/rtt=0s/late=1%/impl=own-2 1 9000000 B/s 0 stalls
BenchmarkPath/rtt=0s/late=1%/impl=wireguard-go-2 1 1000000 B/s 0 stalls
BenchmarkPath/rtt=0s/late=1%/impl=wireguard-go-2 1 4000000 B/s 0 stalls
BenchmarkPath/rtt=0s/late=1%/impl=wireguard-go-2 1 0 B/s 1 stalls
BenchmarkPath/rtt=0s/late=1%/impl=tailscale-2 1 3000000 B/s 0 stalls
BenchmarkPath/rtt=0s/late=1%/impl=tailscale-2 1 2000000 B/s 0 stalls
BenchmarkPath/rtt=0s/late=1%/impl=tailscale-2 1 3000000 B/s 0 stalls
BenchmarkPath/rtt=0s/loss=0%/impl=own-2 1 100000000 B/s
BenchmarkPath/rtt=0s/loss=0%/impl=own-to-kernel-2 1 50000000 B/s
BenchmarkPath/rtt=0s/loss=0%/impl=kernel-to-own-2 1 30000000 B/s
BenchmarkPath/rtt=0s/loss=0%/impl=kernel-2 1 40000000 B/s
`
	const want = `
| one stream, MB/s | this library | wireguard-go | tailscale | ratio | to a kernel | from a kernel | kernel to kernel | ratios |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| 0 ms, no loss | 100 |  |  |  | 50.0 | 30.0 | 40.0 | 1.25 / 0.75 |
| 0 ms, 1 % late by 2 ms | 8.00 | 1.00 † | 3.00 | 2.00 |  |  |  |  |
| 20 ms, 1 % lost | 4.00 | 1.00 | 2.00 | 2.00 |  |  |  |  |

| 20 KB answer, ms: median / 90 % / 99 % | this library | wireguard-go | tailscale | ratio of 99 % | to a kernel | from a kernel | kernel to kernel |
| --- | --- | --- | --- | --- | --- | --- | --- |
| 0 ms, no loss |  |  |  |  |  |  |  |
| 0 ms, 1 % late by 2 ms |  |  |  |  |  |  |  |
| 20 ms, 1 % lost | 20.0 / 30.0 / 40.0 | 21.0 / 31.0 / 80.0 | 22.0 / 32.0 / 160 | 0.50 |  |  |  |

† a stream or an answer stood still for 2 s in at least one round
`
	r, err := read(benchfmt.NewReader(strings.NewReader(run), "run"))
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := r.writeMatrix(&got); err != nil || got.String() != want {
		t.Errorf("tables:\n%s%v, want:\n%s", &got, err, want)
	}
	if r, err = read(benchfmt.NewReader(strings.NewReader("BenchmarkPath/impl=own 1 5 B/s\n"), "run")); err != nil {
		t.Fatal(err)
	}
	got.Reset()
	if err := r.writeMatrix(&got); err != nil || got.Len() > 0 {
		t.Errorf("without a cell: %q, %v", &got, err)
	}
}
