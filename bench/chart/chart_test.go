package main

import (
	"bytes"
	"encoding/xml"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/perf/benchfmt"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden reads an invented run, with repetitions, with benchmarks and
// implementations that are unknown and with scenarios that lack a side.
func TestGolden(t *testing.T) {
	svg := filepath.Join(t.TempDir(), "run.svg")
	var table bytes.Buffer
	if err := run(&table, svg, []string{"testdata/run.txt"}); err != nil {
		t.Fatal(err)
	}
	chart, err := os.ReadFile(svg)
	if err != nil {
		t.Fatal(err)
	}
	for path, got := range map[string][]byte{"testdata/run.svg": chart, "testdata/run.md": table.Bytes()} {
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("not what is in %s; -update rewrites it", path)
		}
	}
}

// parse returns the rows of a run.
func parse(t *testing.T, run string) []row {
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
		rows := parse(t, test.run)
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

func TestNothingToCompare(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run.txt")
	lone := "BenchmarkTCP/streams=1/impl=own-2 1 5 MB/s\nBenchmarkOther-2 1 NaN MB/s\n"
	if err := os.WriteFile(path, []byte(lone), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(io.Discard, "", []string{path}); err == nil || !strings.Contains(err.Error(), "no results") {
		t.Errorf("a run without a rival: %v", err)
	}
	if err := run(io.Discard, "", []string{path + ".absent"}); err == nil {
		t.Error("no error for a file that does not exist")
	}
}

// What comes from the input is text in the picture.
func TestChartIsXML(t *testing.T) {
	rows := parse(t, "BenchmarkTCP/streams=1/impl=own-8 1 3 MB/s\nBenchmarkTCP/streams=1/impl=wireguard-go-8 1 900 MB/s\n")
	d := xml.NewDecoder(bytes.NewReader(draw(rows, `<CPU & "more">`)))
	found := false
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, ok := token.(xml.CharData)
		found = found || ok && strings.Contains(string(text), `<CPU & "more">`)
	}
	if !found {
		t.Error("the processor's name is not in the chart")
	}
}

func TestFormat(t *testing.T) {
	for _, test := range []struct {
		unit string
		v    float64
		want string
	}{
		{"MB/s", 846.2, "846 MB/s"},
		{"MB/s", 999.7, "1.00 GB/s"},
		{"MB/s", 0.5, "500 kB/s"},
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
		if got := times(v); got != want {
			t.Errorf("ratio %v: %q, want %q", v, got, want)
		}
	}
}
