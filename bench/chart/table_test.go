package main

import (
	"bytes"
	"testing"
)

func TestTable(t *testing.T) {
	rows := parseRows(t, "BenchmarkTCP/streams=1/impl=own 1 30 MB/s\n"+
		"BenchmarkTCP/streams=1/impl=wireguard-go 1 10 MB/s\n"+
		"BenchmarkTCP/streams=1/impl=tailscale 1 15 MB/s\n"+
		"BenchmarkLatency/idle/impl=own 1 20 p50-us\n"+
		"BenchmarkLatency/idle/impl=wireguard-go 1 50 p50-us\n")
	const want = "|  | this library | wireguard-go | tailscale | ratio |\n" +
		"| --- | --- | --- | --- | --- |\n" +
		"| TCP, one stream | 30.0 MB/s | 10.0 MB/s | 15.0 MB/s | 3.0× |\n" +
		"| Round trip, median | 20.0 µs | 50.0 µs |  | 2.5× |\n"
	var got bytes.Buffer
	if err := writeMarkdown(&got, rows); err != nil || got.String() != want {
		t.Errorf("table:\n%s%v, want:\n%s", &got, err, want)
	}
}
