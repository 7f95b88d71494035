package main

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden reads a made-up run with repetitions, unknown benchmarks and
// implementations, and scenarios without a rival.
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
