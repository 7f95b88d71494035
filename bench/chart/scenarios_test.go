package main

import (
	"testing"
)

func TestFormat(t *testing.T) {
	for _, test := range []struct {
		unit string
		v    float64
		want string
	}{
		{"MB/s", 846.2, "846 MB/s"},
		{"MB/s", 999.7, "1.00 GB/s"},
		{"MB/s", 0.5, "500 kB/s"},
		{"B/s", 290_000, "290 kB/s"},
		{"p50-us", 49.12, "49.1 µs"},
		{"p99-us", 4100, "4.10 ms"},
		{"heap-B", 1358, "1.36 kB"},
		{"heap-B", 25435836, "25.4 MB"},
		{"CPU-s/GB", 2.1, "2.10 s/GB"},
		{"packets/s", 142490, "142 k/s"},
		{"handshakes/s", 99.96, "100 /s"},
		{"allocs/packet", 13.12, "13.1"},
	} {
		if got := (scenario{unit: test.unit}).format(test.v); got != test.want {
			t.Errorf("%v %s: %q, want %q", test.v, test.unit, got, test.want)
		}
	}
	for v, want := range map[float64]string{0.94: "0.9×", 7.11: "7.1×", 9.96: "10×", 76.3: "76×"} {
		if got := formatRatio(v); got != want {
			t.Errorf("ratio %v: %q, want %q", v, got, want)
		}
	}
}
