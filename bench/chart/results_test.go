package main

import (
	"strings"
	"testing"

	"golang.org/x/perf/benchfmt"
)

// parseRows returns the rows of a run.
func parseRows(t *testing.T, run string) []row {
	t.Helper()
	r, err := read(benchfmt.NewReader(strings.NewReader(run), "run"))
	if err != nil {
		t.Fatal(err)
	}
	return r.rows()
}

func TestRows(t *testing.T) {
	for _, test := range []struct {
		name, run  string
		own, rival float64
		ratio      float64
	}{
		{
			"more is better",
			"BenchmarkTCP/streams=1/impl=own-8 1 30 MB/s\n" +
				"BenchmarkTCP/streams=1/impl=wireguard-go-8 1 10 MB/s\n",
			30, 10, 3,
		},
		{
			"less is better",
			"BenchmarkLatency/idle/impl=own 1 20 p50-us\n" +
				"BenchmarkLatency/idle/impl=wireguard-go 1 50 p50-us\n",
			20, 50, 2.5,
		},
		{
			"medians, whatever the order",
			"BenchmarkTCP/streams=1/impl=wireguard-go-8 1 9 MB/s\n" +
				"BenchmarkTCP/streams=1/impl=own-8 1 90 MB/s\n" +
				"BenchmarkTCP/streams=1/impl=own-8 1 10 MB/s\n" +
				"BenchmarkTCP/streams=1/impl=wireguard-go-8 1 11 MB/s\n" +
				"BenchmarkTCP/streams=1/impl=own-8 1 30 MB/s\n",
			30, 10, 3,
		},
		{
			"the benchmark's own ratio",
			"BenchmarkLatency/idle/impl=own 1 20 p50-us 0.5 x-p50-us\n" +
				"BenchmarkLatency/idle/impl=wireguard-go 1 50 p50-us\n",
			20, 50, 2,
		},
		{
			"another rival",
			"BenchmarkTUN/streams=1/impl=own-8 1 30 MB/s 4 x-tun-MB/s\n" +
				"BenchmarkTUN/streams=1/impl=wireguard-go-tun-8 1 10 MB/s\n",
			30, 10, 4,
		},
	} {
		rows := parseRows(t, test.run)
		if len(rows) != 1 {
			t.Errorf("%s: %d rows", test.name, len(rows))
			continue
		}
		if r := rows[0]; r.own != test.own || r.rival != test.rival || r.ratio != test.ratio {
			t.Errorf("%s: %v to %v is %v, want %v to %v is %v", test.name, r.own, r.rival, r.ratio, test.own, test.rival, test.ratio)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, test := range []struct{ run, want string }{
		{"ok\nBenchmarkTCP/streams=1/impl=own-2 1 fast MB/s\n", "run:2: "},
		{"BenchmarkTCP/streams=1/impl=own-2 1 5\n", "run:1: missing units"},
		{"BenchmarkTCP/streams=1/impl=own-2 1 0 MB/s\n", "run:1: MB/s of TCP/streams=1 is 0"},
		{"\n\nBenchmarkTCP/streams=1/impl=own-2 1 NaN MB/s\n", "run:3: MB/s of TCP/streams=1 is NaN"},
		{
			"cpu: a\nBenchmarkTCP/streams=1/impl=own-2 1 5 MB/s\ncpu: b\nBenchmarkTCP/streams=1/impl=own-2 1 5 MB/s\n",
			`run:4: results of "b" among those of "a"`,
		},
	} {
		_, err := read(benchfmt.NewReader(strings.NewReader(test.run), "run"))
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%q: %v, want %q", test.run, err, test.want)
		}
	}
}

// A stream that stood still leaves its scenario out of the chart, and is in the
// matrix.
func TestStalledStream(t *testing.T) {
	rows := parseRows(t, "BenchmarkPath/rtt=5ms/loss=1%/impl=own 1 0 B/s\n"+
		"BenchmarkPath/rtt=5ms/loss=1%/impl=wireguard-go 1 4 B/s\n"+
		"BenchmarkTCP/streams=1/impl=own 1 3 MB/s\n"+
		"BenchmarkTCP/streams=1/impl=wireguard-go 1 1 MB/s\n")
	if len(rows) != 1 || rows[0].name != "TCP/streams=1" {
		t.Errorf("rows: %+v", rows)
	}
}
